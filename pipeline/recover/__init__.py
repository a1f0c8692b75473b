"""Getting accuracy back after slimming: batch-norm recalibration, fine-tuning, distillation; and scoring."""

from pipeline.recover.batch_norm import recalibrate_batch_norm
from pipeline.recover.score import accuracy
from pipeline.recover.train import EpochRecord, TrainResult, train

__all__ = ["EpochRecord", "TrainResult", "accuracy", "recalibrate_batch_norm", "train"]
