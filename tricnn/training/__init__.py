"""Training: data sets, the optimiser and its schedules, the loop, checkpoints."""

from .checkpoint import load_checkpoint, save_checkpoint, state_sha256
from .data import Dataset, load_dataset
from .loop import DivergedError, TrainingInterrupted, TrainOptions, TrainResult, train
from .optim import SGD
from .schedules import Schedule

__all__ = [
    "SGD",
    "Dataset",
    "DivergedError",
    "Schedule",
    "TrainOptions",
    "TrainResult",
    "TrainingInterrupted",
    "load_checkpoint",
    "load_dataset",
    "save_checkpoint",
    "state_sha256",
    "train",
]
