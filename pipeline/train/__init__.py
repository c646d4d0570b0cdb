"""Training and quantization-aware fine-tuning. torch is loaded only when training is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pipeline.train.config import TrainConfig

if TYPE_CHECKING:
    from pipeline.train.network import QatNetwork
    from pipeline.train.trainer import Progress, QatResult, train_qat

# Read by the OpenMP library when torch is loaded. Threads that spin while they wait make training ten times
# slower as soon as another process wants the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["Progress", "QatNetwork", "QatResult", "TrainConfig", "train_qat"]


def __getattr__(name: str) -> Any:
    # A run file is read without torch; only its [train] section's defaults are needed then.
    if name == "QatNetwork":
        from pipeline.train.network import QatNetwork

        return QatNetwork
    if name in ("Progress", "QatResult", "train_qat"):
        from pipeline.train import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
