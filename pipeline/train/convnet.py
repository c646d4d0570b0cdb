"""A plain convolutional network that learns within few epochs, to teach with: it never reaches a device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STAGES = (32, 96, 96)
_LARGE = 64  # images of this side or more are halved by the first convolution
_PATCH = 2
_SCALE = 9.0  # divides the logits, which maxima over the image make large (Jordan 2024, section 3.1)
_NOISE = 5e-4  # added to the variances, so that directions in which patches hardly differ are not blown up


class ConvNet(nn.Module):
    """Whitened patches and six 3x3 convolutions without shortcuts (after Jordan 2024, arXiv:2404.00498, section 3).

    Three stages with 32, 96 and 96 channels times `width`; the image is halved in each. Logits (n, classes) of images
    (n, c, h, w) in [0, 1]. `whiten` sets the first convolution, which is not trained.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float) -> None:
        super().__init__()
        self.stride = 2 if min(shape[:2]) >= _LARGE else 1
        inputs = _PATCH * _PATCH * shape[2]
        self.register_buffer("patches", torch.zeros(2 * inputs, shape[2], _PATCH, _PATCH))
        self.register_buffer("offset", torch.zeros(2 * inputs))
        layers: list[nn.Module] = []
        before = 2 * inputs
        for stage in _STAGES:
            after = max(8, round(stage * width / 8) * 8)
            layers += [_convolution(before, after), nn.MaxPool2d(2, ceil_mode=True), *_activated(after)]
            layers += [_convolution(after, after), *_activated(after)]
            before = after
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes, bias=False)

    @torch.no_grad()
    def whiten(self, x: Tensor) -> None:
        """Set the first convolution so that its first half gives the patches of images `x` with covariance 1.

        Its second half is the negative of the first, so that nothing is lost behind the rectifier.
        """
        patches = F.unfold(x.cpu().double(), _PATCH).transpose(1, 2).flatten(0, 1)
        mean = patches.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((patches - mean).T, correction=0))
        filters = (axes / (variances.clamp_min(0.0) + _NOISE).sqrt()).T
        both = torch.cat((filters, -filters))
        self.get_buffer("patches").copy_(both.view(self.get_buffer("patches").shape))
        self.get_buffer("offset").copy_(-both @ mean)

    def forward(self, x: Tensor) -> Tensor:
        first = F.conv2d(x, self.get_buffer("patches"), self.get_buffer("offset"), self.stride)
        y = self.layers(F.relu(first, inplace=True))
        result: Tensor = self.classifier(y.amax((2, 3)))
        return result / _SCALE


def _convolution(before: int, after: int) -> nn.Conv2d:
    """Its first filters pass their channels on, where there are enough of them."""
    layer = nn.Conv2d(before, after, 3, 1, 1, bias=False)
    if after >= before:
        nn.init.dirac_(layer.weight[:before])
    return layer


def _activated(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
