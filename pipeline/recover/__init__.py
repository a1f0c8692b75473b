"""Getting accuracy back after slimming: batch norms, reconstruction, fine-tuning, distillation; and scoring."""

from pipeline.recover.batch_norm import batch_statistics, recalibrate_batch_norm
from pipeline.recover.reconstruction import images_to_fit, reconstruct
from pipeline.recover.score import accuracy
from pipeline.recover.train import EpochRecord, TrainResult, train

__all__ = [
    "EpochRecord",
    "TrainResult",
    "accuracy",
    "batch_statistics",
    "images_to_fit",
    "recalibrate_batch_norm",
    "reconstruct",
    "train",
]
