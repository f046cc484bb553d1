"""Normalisations that are made of other operations: of groups of channels, of pixels, and by the global response.

Each is written with ``add(operation, *values, **attributes) -> value``, which a builder and an importer have. Means are
values like any others, so 16-bit networks round them as they round activations; fp32 networks do not.
"""

from __future__ import annotations

from collections.abc import Callable

from .types import TensorType

Add = Callable[..., str]


def group_normalized(add: Add, x: str, type_: TensorType, groups: int, eps: float) -> str:
    """The nodes of ``(x - mean) / sqrt(var + eps)``, by each image's groups of C/groups channels and all their pixels.
    The variance is the biased one (Wu & He, "Group normalization", 2018, equations 1 and 3); as many groups as channels
    are instance normalisation."""
    centred = add("sub", x, _mean_of_groups(add, x, type_.channels, groups))
    variance = _mean_of_groups(add, add("square", centred), type_.channels, groups)
    return add("div", centred, add("sqrt", add("shift", variance, amount=eps)))


def pixels_normalized(add: Add, x: str, eps: float) -> str:
    """The nodes of ``(x - mean) / sqrt(var + eps)`` over the channels of each pixel: a layer norm without parameters.
    The variance is the biased one (Ba et al., "Layer normalization", 2016, equation 3)."""
    centred = add("sub", x, add("mean_channels", x))
    variance = add("mean_channels", add("square", centred))
    return add("div", centred, add("sqrt", add("shift", variance, amount=eps)))


def response_normalized(add: Add, x: str, type_: TensorType, eps: float) -> str:
    """The nodes of ``x * G / (mean over channels of G + eps)``, G the root of the sum of squares of a channel's pixels.
    Source: Woo et al., "ConvNeXt V2", 2023, equations 1 to 3."""
    squares = add("scale", add("global_avg_pool", add("square", x)), factor=float(type_.pixels))
    response = add("sqrt", squares)
    mean = _mean_of_groups(add, response, type_.channels, 1)
    return add("mul", x, add("div", response, add("shift", mean, amount=eps)))


def _mean_of_groups(add: Add, x: str, channels: int, groups: int) -> str:
    """[N, C, 1, 1]: for each channel the mean over its group and all pixels."""
    mean = add("global_avg_pool", x)
    if groups == channels:
        return mean
    # a group's channels side by side, as if they were an image's rows
    rows = add("unflatten", add("flatten", mean), shape=(groups, channels // groups, 1))
    alike = add("upsample_nearest2d", add("global_avg_pool", rows), size=(channels // groups, 1))
    return add("unflatten", add("flatten", alike), shape=(channels, 1, 1))
