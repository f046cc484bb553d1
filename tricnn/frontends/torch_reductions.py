"""ATen operations in our words: means, sums, largest values and variances.

A reader takes the :class:`~tricnn.frontends.assembler.Assembler` and the call's arguments (torch_ops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from ..ir.ops.pool import LARGEST_WINDOW
from . import torch_parts
from .assembler import Assembler, Tensor, Unsupported, described
from .readers import Reader, entering
from .torch_names import aten_name
from .torch_pointwise import binary, by_number, of_channels, unary
from .views import View, joined

READERS: dict[str, Reader] = {}
reads = entering(READERS, aten_name)


def largest(a: Assembler, image: str, window: tuple[int, int]) -> str:
    """The largest pixel of windows side by side; of parts of their rows, then of columns, where they are large."""
    h, w = window
    while h * w > LARGEST_WINDOW and max(part := _largest_part(h), other := _largest_part(w)) > 1:
        size = (1, other) if other > 1 else (part, 1)
        image = a.add("max_pool2d", image, stem="rows", kernel_size=size, stride=size)
        h, w = h // size[0], w // size[1]
    return a.add("max_pool2d", image, kernel_size=(h, w), stride=(h, w))


def _largest_part(extent: int) -> int:
    """The longest window that some of make up an extent."""
    return max(d for d in range(1, LARGEST_WINDOW + 1) if extent % d == 0)


@reads("mean.dim")
def mean(a: Assembler, x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """A mean over all pixels, over the channels of each pixel, or over all pixels of groups of channels."""
    x, gone = _reducible(a, x, dims)
    if count := _channels_in_a_group(x, gone):
        return _mean_of_groups(a, x, gone, count, keepdim)
    if _over_channels(x, gone):
        return _mask(a, "mean_channels", x, gone, keepdim)
    return _over_pixels(a, "global_avg_pool", x, dims, keepdim)


def _channels_in_a_group(x: Tensor, gone: Sequence[int]) -> int:
    """How many channels side by side a reduction takes together with all their pixels; 0 if it is another reduction."""
    base = x.view.base
    factors = joined(sorted((f for i in gone for f in x.view.dims[i]), key=lambda f: (f.axis, -f.step)))
    channels = [f for f in factors if f.axis == 1]
    pixels = [f for f in factors if f.axis != 1]
    whole = all(f.axis in (2, 3) and f.extent == base[f.axis] for f in pixels)
    if len(base) != 4 or not whole or frozenset(f.axis for f in pixels) != _pixel_axes(base):
        return 0
    if len(channels) != 1 or channels[0].step != 1:
        return 0
    return channels[0].extent


def _mean_of_groups(a: Assembler, x: Tensor, gone: Sequence[int], count: int, keepdim: bool) -> Tensor:
    """The mean of each ``count`` channels side by side and all their pixels, [N, C/count, 1, 1]."""
    n, channels, *_ = x.view.base
    value = a.add("global_avg_pool", x.value) if _pixel_axes(x.view.base) else x.value
    rows = a.add("unflatten", a.add("flatten", value), shape=(channels // count, count, 1))  # channels, as if rows
    left = x.view.without(gone, keep=keepdim)
    dims = tuple(tuple(replace(f, step=f.step // count) if f.axis == 1 else f for f in dim) for dim in left.dims)
    return a.made(a.add("global_avg_pool", rows), View((n, channels // count, 1, 1), dims))


@reads("var.correction")
def variance(a: Assembler, x: Any, dims: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    """The mean square of what is left of a value without its mean, times n / (n - correction) for n numbers."""
    x = a.tensor(x)
    centred = binary(a, "sub", x, mean(a, x, dims, True))
    value = mean(a, unary(a, "square", centred), dims, keepdim)
    n = prod(x.shape) // prod(value.shape)
    unseen = 1 if correction is None else correction
    if n <= unseen:
        raise Unsupported(f"the variance of {n} with correction={unseen}", "it takes more numbers")
    return by_number(a, value, n / (n - unseen), 0)


@reads("var.dim")
def variance_unbiased(a: Assembler, x: Any, dims: Any, unbiased: bool = True, keepdim: bool = False) -> Tensor:
    return variance(a, x, dims, correction=int(unbiased), keepdim=keepdim)


@reads("std.correction")
def deviation(a: Assembler, x: Any, dims: Any = None, **options: Any) -> Tensor:
    return unary(a, "sqrt", variance(a, x, dims, **options))


@reads("std.dim")
def deviation_unbiased(a: Assembler, x: Any, *options: Any, **named: Any) -> Tensor:
    return unary(a, "sqrt", variance_unbiased(a, x, *options, **named))


@reads("var_mean.correction")
def variance_and_mean(a: Assembler, x: Any, dims: Any = None, *, keepdim: bool = False, **options: Any) -> list[Tensor]:
    return [variance(a, x, dims, keepdim=keepdim, **options), mean(a, x, dims, keepdim)]


@reads("amax.default")
def amax(a: Assembler, x: Any, dims: Any = (), keepdim: bool = False) -> Tensor:
    """The largest pixel of each channel, or channel of each pixel: equal channels share the gradient of theirs."""
    x, gone = _reducible(a, x, dims or None)
    if _over_channels(x, gone):
        return _mask(a, "max_channels", x, gone, keepdim, ties="shared")
    return _over_pixels(a, "amax", x, dims or None, keepdim)


@reads("max.dim")
def max_along(a: Assembler, x: Any, dim: int, keepdim: bool = False) -> list[Any]:
    """The largest channel of each pixel; of equal ones the first has the gradient. Where it is, is not known."""
    x, gone = _reducible(a, x, dim)
    if not _over_channels(x, gone):
        raise Unsupported(f"a maximum of {described(x.shape)} over dimension {dim}", "supported is that over channels")
    return [_mask(a, "max_channels", x, gone, keepdim, ties="first"), None]


@reads("sum.dim_IntList")
def total(a: Assembler, x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """A sum over the channels of each pixel, over parts of them, or over all pixels.
    The last is the mean times their number."""
    x = a.tensor(x)
    gone = _gone(x, dims)
    if (found := torch_parts.parts(a, x, gone, keep=keepdim)) is not None:
        return a.made(torch_parts.total(a, found[0]), found[1])
    x, gone = _reducible(a, x, dims)
    if _over_channels(x, gone):
        return _mask(a, "sum_channels", x, gone, keepdim)
    mean_ = mean(a, x, dims, keepdim)
    return by_number(a, mean_, prod(x.shape) // prod(mean_.shape), 0)


@reads("linalg_vector_norm.default")
def vector_norm(a: Assembler, x: Any, order: Any = 2, dims: Any = None, keepdim: bool = False, *,
                dtype: Any = None) -> Tensor:  # fmt: skip
    """The root of the sum of squares over all pixels."""
    if order != 2:
        raise Unsupported(f"a norm of order {order}", "supported is order 2")
    return unary(a, "sqrt", total(a, unary(a, "square", x), dims, keepdim))


def _over_pixels(a: Assembler, op: str, x: Any, dims: Any, keepdim: bool) -> Tensor:
    """A reduction by the layer ``op`` over all pixels, of each row or of each column.
    A view may have moved those."""
    x = a.tensor(x)
    gone = _gone(x, dims)
    axes = x.view.axes(gone) if len(x.view.base) == 4 else None
    if axes is not None and axes <= {2, 3} and (axes or not _pixel_axes(x.view.base)):
        n, c, h, w = x.view.base
        size = (1 if 2 in axes else h, 1 if 3 in axes else w)
        if op == "amax":
            value = largest(a, x.value, (h // size[0], w // size[1]))
        else:
            value = a.add(op, x.value) if size == (1, 1) else a.add("adaptive_avg_pool2d", x.value, output_size=size)
        return a.made(value, View((n, c, *size), x.view.without(gone, keep=keepdim).dims))
    if all(x.shape[i] == 1 for i in gone):
        return a.made(x.value, x.view.without(gone, keep=keepdim))
    if len(x.shape) == 4 and {*gone} <= {2, 3} and not x.view.plain:  # pixels that a view has made, of channels perhaps
        return _over_pixels(a, op, a.made(a.plain(x)), dims, keepdim)
    raise Unsupported(
        f"a reduction of {described(x.shape)} over dimensions {gone}",
        "supported are those over height, width, both, and the channels",
    )


def _over_channels(x: Tensor, gone: Sequence[int]) -> bool:
    """Is a reduction over the channels of each pixel of an image?"""
    return len(x.view.base) == 4 and x.view.axes(gone) == frozenset({1})


def _mask(a: Assembler, op: str, x: Tensor, gone: Sequence[int], keepdim: bool, **attrs: Any) -> Tensor:
    """A number for each pixel, by the layer ``op``, wherever the channels' axis has been moved to."""
    n, _, h, w = x.view.base
    return a.made(a.add(op, x.value, **attrs), View((n, 1, h, w), x.view.without(gone, keep=keepdim).dims))


def _gone(x: Tensor, dims: Any) -> list[int]:
    """The dimensions that a reduction takes away, in order."""
    rank = len(x.shape)
    return sorted(d % rank for d in (range(rank) if dims is None else [dims] if isinstance(dims, int) else dims))


def _reducible(a: Assembler, x: Any, dims: Any) -> tuple[Tensor, list[int]]:
    """A value and the dimensions that a reduction takes away of it: features [N, F] are the channels of one pixel."""
    x = a.tensor(x)
    gone = _gone(x, dims)
    of_features = len(x.view.base) == 2 or (len(x.shape) == 2 and gone == [1])
    return of_channels(a, x) if of_features else x, gone


def _pixel_axes(shape: Sequence[int]) -> frozenset[int]:
    return frozenset(axis for axis in (2, 3) if shape[axis] > 1)


@reads("softmax.int", "_softmax.default")
def softmax(a: Assembler, x: Any, dim: int, *_: Any) -> Tensor:
    """Softmax of [N, classes], of images over their channels or pixels, or over parts of the channels.
    It is exp(x - largest) / sum of these."""
    x = a.tensor(x)
    if (of_parts := torch_parts.softmax(a, x, dim)) is not None:
        return of_parts
    if len(x.shape) == 2 and dim in (1, -1):
        return a.made(a.add("softmax", a.plain(x)))
    gone = [dim % len(x.shape)]
    powers = unary(a, "exp", binary(a, "sub", x, amax(a, x, gone, True)))
    return binary(a, "div", powers, total(a, powers, gone, True))


@reads("log_softmax.int", "_log_softmax.default")
def log_softmax(a: Assembler, x: Any, dim: int, *_: Any) -> Tensor:
    """The logarithm of softmax: x - largest - log(sum of exp(x - largest))."""
    x = a.tensor(x)
    lower = binary(a, "sub", x, amax(a, x, [dim], True))
    return binary(a, "sub", lower, unary(a, "log", total(a, unary(a, "exp", lower), [dim], True)))
