"""Training: data sets, the optimiser and its schedules, the loop, checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .batch_sources import Batches, Source, Synthetic
from .checkpoint import load_checkpoint, save_checkpoint, state_sha256
from .data import Dataset, load_dataset
from .interrupts import TrainingInterrupted
from .loop import DivergedError, TrainOptions, TrainResult, train
from .loss_scaling import LossScaling
from .mixing import Mixing
from .optim import LAMB, LARS, SGD, AdamW, Average
from .options import ParameterGroup
from .schedules import Schedule

if TYPE_CHECKING:
    from .augment import Augmentation
    from .pictures import PictureFolder
    from .trainer import Trainer

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "AdamW",
    "Augmentation",
    "Average",
    "Batches",
    "Dataset",
    "DivergedError",
    "LossScaling",
    "Mixing",
    "ParameterGroup",
    "PictureFolder",
    "Schedule",
    "Source",
    "Synthetic",
    "TrainOptions",
    "TrainResult",
    "Trainer",
    "TrainingInterrupted",
    "load_checkpoint",
    "load_dataset",
    "save_checkpoint",
    "state_sha256",
    "train",
]

_HOME = {"Augmentation": "augment", "PictureFolder": "pictures", "Trainer": "trainer"}


def __getattr__(name: str) -> Any:
    """Import on first use what needs Pillow, torch or the compiler."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module 'tricnn.training' has no attribute {name!r}")
