"""Where a training computes, and in which precision.

Random numbers always come from NumPy on the CPU, so its course is the same on both up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError


def choose(name: str, field: str = "train.device") -> torch.device:
    """The device that `field` names; raises ConfigError where this machine has none such."""
    if name == "auto":
        return _usable(torch.device("cuda"), field) if torch.cuda.is_available() else torch.device("cpu")
    device = torch.device(name)
    # There may be a GPU that torch cannot use, for its driver's sake; then it is as if there were none.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        build = f"; torch {torch.__version__} is a build without CUDA" if torch.version.cuda is None else ""
        raise ConfigError(
            f"{field} is '{name}', and this machine has {count} CUDA devices{build}",
            hint='use "auto" or "cpu"' + ("" if count else "; nvidia-smi says whether there is a driver"),
        )
    if device.type == "mps" and (device.index or not torch.backends.mps.is_available()):
        raise ConfigError(
            f"{field} is '{name}', and this machine has no such device", hint='use "auto" or "cpu"'
        )
    return _usable(device, field) if device.type != "cpu" else device


def there(array: NDArray[Any], device: torch.device) -> Tensor:
    """`array` as a tensor on `device`. A GPU is not waited for: what is asked of it next follows the copy."""
    # CUDA has read the array when the call returns; MPS may not have
    return torch.from_numpy(array).to(device, non_blocking=device.type != "mps")


def _usable(device: torch.device, field: str) -> torch.device:
    """`device`, on which a first number was computed: a GPU may be another's alone, full, or too old for this torch."""
    try:
        torch.ones(1, device=device).add(1).cpu()
    except RuntimeError as error:
        raise ConfigError(
            f"{field}: {device} is there, and cannot be used: {_first_line(error)}", hint=f'{field} = "cpu"'
        ) from error
    return device


@contextmanager
def memory_as_error(lower: str) -> Iterator[None]:
    """A GPU whose memory is used up inside ends in a ConfigError; `lower` names the settings that need less."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"the GPU's memory is used up: {_first_line(error)}",
            hint=f"lower {lower}, or end what else uses the GPU; the last checkpoint is kept",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]


def precision(device: torch.device, mixed: bool) -> torch.autocast:
    """Context in which convolutions and matrix products run in bfloat16, if `mixed`."""
    # Weights change between steps of one context, so none of their casts may be kept.
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed, cache_enabled=False)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """cuDNN repeats its results and keeps float32 whole, and so do matrix products: TF32 is too coarse for sums on INT8
    grids. Some machines' environments ask for it (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE)."""
    products = torch.backends.cuda.matmul
    coarse = products.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        if coarse:
            products.allow_tf32 = False
        try:
            yield
        finally:
            if coarse:
                products.allow_tf32 = True
