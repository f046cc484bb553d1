"""The rows of the table of operations, one file per family."""

from . import (
    conv,
    dropout,
    fold,
    layer_norm,
    linear,
    loss,
    lrn,
    norm,
    pointwise,
    pool,
    resample,
    sources,
    target_loss,
    views,
)

__all__ = [
    "conv",
    "dropout",
    "fold",
    "layer_norm",
    "linear",
    "loss",
    "lrn",
    "norm",
    "pointwise",
    "pool",
    "resample",
    "sources",
    "target_loss",
    "views",
]
