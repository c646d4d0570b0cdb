"""Meter: what a search really costs, in the unit of `effort`, whatever its method does."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pipeline.search.effort import TRAINING


class Meter:
    """Counts images through networks while it is entered; a pass that will be differentiated counts thrice.

    Only the outermost module of a call counts, and only where it takes images (n, c, h, w). A module that runs
    several architectures at once says how many (`paths_of` of what it is called with besides the images).
    `passes` may start from what was counted before an interruption.
    """

    def __init__(self, passes: int = 0) -> None:
        self.passes = passes
        self._calls = threading.local()  # methods may train several networks at once
        self._lock = threading.Lock()
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [
            register_module_forward_pre_hook(self._before),
            register_module_forward_hook(self._after, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._calls.depth = getattr(self._calls, "depth", 0) + 1

    def _after(self, module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        self._calls.depth -= 1
        images = given[0] if given else None
        if self._calls.depth == 0 and isinstance(images, torch.Tensor) and images.ndim == 4:
            trained = isinstance(out, torch.Tensor) and out.requires_grad
            paths = module.paths_of(*given[1:]) if hasattr(module, "paths_of") else 1
            with self._lock:
                self.passes += len(images) * paths * (TRAINING if trained else 1)
