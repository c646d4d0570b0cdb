"""Where a search computes: the CPU, or one GPU with the images on it.

Random numbers always come from NumPy on the CPU, so the course of a search is the same on both up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from pipeline.search.config import SearchConfig
from pipeline.search.data import SearchData
from pipeline.train.device import choose as choose_device
from pipeline.train.device import exact_arithmetic, memory_as_error

_LOWER = "search.batch_size, search.validation_batch_size or search.workers"


@dataclass(frozen=True, slots=True, eq=False)
class _Resident:
    """Both splits as tensors on one device, in the types and layouts of `SearchData`."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor


def choose(name: str) -> torch.device:
    """The device that `search.device` names; raises ConfigError where this machine has none such."""
    return choose_device(name, "search.device")


def turn(name: str, place: int) -> str:
    """`name`, or the GPU of this machine that search number `place` takes where `name` leaves open which of several."""
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    count = torch.cuda.device_count()
    return f"cuda:{place % count}" if count > 1 else name


def resident(data: SearchData, device: torch.device) -> SearchData:
    """`data` with its images on `device`, copied once: a step then waits for no transfer."""
    if device.type == "cpu":
        return data
    arrays = (data.x_train, data.y_train, data.x_val, data.y_val)
    return cast(SearchData, _Resident(*(torch.as_tensor(array).to(device) for array in arrays)))


def precision(device: torch.device, mixed: bool) -> torch.autocast:
    """Context in which convolutions run in bfloat16 on a GPU, if `mixed`; on the CPU all stays float32."""
    # Weights change between steps of one context, so none of their casts may be kept.
    return torch.autocast(
        device.type, torch.bfloat16, enabled=mixed and device.type == "cuda", cache_enabled=False
    )


@contextmanager
def computing(config: SearchConfig) -> Iterator[torch.device]:
    """The device of `config`, with its threads and precision meanwhile.

    A GPU repeats its results too, or a resumed search would not end as one that was not interrupted. Raises
    ConfigError where this machine has no such device, or one whose memory is used up.
    """
    where, threads = choose(config.device), torch.get_num_threads()
    torch.set_num_threads(config.torch_threads)
    try:
        with exact_arithmetic(), memory_as_error(_LOWER), precision(where, config.mixed_precision):
            yield where
    finally:
        torch.set_num_threads(threads)
