"""Getting accuracy back after slimming: batch-norm recalibration, fine-tuning, distillation; and scoring."""

from pipeline.recover.batch_norm import batch_statistics, recalibrate_batch_norm
from pipeline.recover.score import accuracy
from pipeline.recover.train import EpochRecord, TrainResult, train

__all__ = ["EpochRecord", "TrainResult", "accuracy", "batch_statistics", "recalibrate_batch_norm", "train"]
