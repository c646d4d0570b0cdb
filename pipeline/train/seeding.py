"""Random first weights that follow from a seed, whatever else draws random numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# torch's generator belongs to the process, and several networks may be made at once (search/parallel.py).
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What torch draws on the CPU inside follows from `seed`; afterwards its generator goes on as if nothing had been.

    Those of GPUs are left alone, where `torch.manual_seed` would set them too.
    """
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
