"""Training: data sets, the optimiser and its schedules, the loop, checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .batch_sources import Batches, Source, Synthetic
from .checkpoint import load_checkpoint, save_checkpoint, state_sha256
from .data import Dataset, load_dataset
from .loop import DivergedError, TrainingInterrupted, TrainOptions, TrainResult, train
from .optim import SGD
from .schedules import Schedule

if TYPE_CHECKING:
    from .augment import Augmentation
    from .pictures import PictureFolder

__all__ = [
    "SGD",
    "Augmentation",
    "Batches",
    "Dataset",
    "DivergedError",
    "PictureFolder",
    "Schedule",
    "Source",
    "Synthetic",
    "TrainOptions",
    "TrainResult",
    "TrainingInterrupted",
    "load_checkpoint",
    "load_dataset",
    "save_checkpoint",
    "state_sha256",
    "train",
]

_HOME = {"Augmentation": "augment", "PictureFolder": "pictures"}


def __getattr__(name: str) -> Any:
    """Import on first use what needs Pillow or torch."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module 'tricnn.training' has no attribute {name!r}")
