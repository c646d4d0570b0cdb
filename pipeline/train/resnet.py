"""A small residual network, to teach with: it never reaches a device."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_STAGES = (16, 32, 64)
_LARGE = 64  # images of this side or more are halved by the stem


class ResNet(nn.Module):
    """Residual network for small images (He et al. 2016, arXiv:1512.03385, section 4.2).

    Three stages of `depth` blocks with 16, 32 and 64 channels times `width`. Logits (n, classes) of images
    (n, c, h, w) in [0, 1].
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float, depth: int) -> None:
        super().__init__()
        channels = [max(8, round(stage * width / 8) * 8) for stage in _STAGES]
        stride = 2 if min(shape[:2]) >= _LARGE else 1
        self.stem = nn.Conv2d(shape[2], channels[0], 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        blocks: list[nn.Module] = []
        before = channels[0]
        for stage, after in enumerate(channels):
            for index in range(depth):
                blocks.append(_Residual(before, after, 2 if stage and not index else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for block in blocks:  # each block starts as the identity
            nn.init.zeros_(block.get_parameter("norm2.weight"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(F.relu(self.norm(self.stem(x)), inplace=True))
        result: Tensor = self.classifier(y.mean((2, 3)))
        return result


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))
