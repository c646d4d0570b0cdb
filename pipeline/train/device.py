"""Where a training computes, and in which precision.

Random numbers always come from NumPy on the CPU, so its course is the same on both up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import ConfigError


def choose(name: str, field: str = "train.device") -> torch.device:
    """The device that `field` names; raises ConfigError where this machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{field} is '{name}', and this machine has {torch.cuda.device_count()} CUDA devices",
            hint='use "auto" or "cpu"; torch from PyPI may also be a build without CUDA',
        )
    if device.type == "mps" and (device.index or not torch.backends.mps.is_available()):
        raise ConfigError(
            f"{field} is '{name}', and this machine has no such device", hint='use "auto" or "cpu"'
        )
    return device


def precision(device: torch.device, mixed: bool) -> torch.autocast:
    """Context in which convolutions and matrix products run in bfloat16, if `mixed`."""
    # Weights change between steps of one context, so none of their casts may be kept.
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed, cache_enabled=False)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """cuDNN repeats its results and keeps float32 whole: TF32 is too coarse for sums on INT8 grids."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
