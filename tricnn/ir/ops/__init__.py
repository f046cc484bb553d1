"""The rows of the table of operations, one file per family."""

from . import (
    conv,
    dropout,
    filters,
    fold,
    images,
    layer_norm,
    linear,
    losses,
    lrn,
    norm,
    pointwise,
    pool,
    resample,
    softmax,
    sources,
    views,
)

__all__ = [
    "conv",
    "dropout",
    "filters",
    "fold",
    "images",
    "layer_norm",
    "linear",
    "losses",
    "lrn",
    "norm",
    "pointwise",
    "pool",
    "resample",
    "softmax",
    "sources",
    "views",
]
