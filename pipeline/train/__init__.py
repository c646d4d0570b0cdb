"""Training and quantization-aware fine-tuning (torch lives here)."""

from pipeline.train.config import TrainConfig
from pipeline.train.network import QatNetwork
from pipeline.train.trainer import Progress, QatResult, train_qat

__all__ = ["Progress", "QatNetwork", "QatResult", "TrainConfig", "train_qat"]
