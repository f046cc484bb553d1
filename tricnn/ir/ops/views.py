"""The same numbers in another shape or place: flatten, concatenation, slices of channels, zero channels around."""

from __future__ import annotations

from math import prod
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ..table import Attr, Kind, integer, register, require
from ..types import N, TensorType

if TYPE_CHECKING:
    import torch


def _concat_shape(a: Any, *xs: TensorType) -> TensorType:
    require(len(xs) > 0, "concat needs at least one input")
    first, axis = xs[0], xs[0].channel_axis
    for x in xs:
        require(
            len(x.shape) in (1, 2, 4) and (*x.shape[:axis], *x.shape[axis + 1 :]) == first.without_channels
            and x.channel_axis == axis,
            lambda: f"inputs must agree in all but the channels, they are {', '.join(map(str, xs))}",
        )  # fmt: skip
    return _with_channels(first, sum(x.channel_count for x in xs))


def _with_channels(x: TensorType, count: int) -> TensorType:
    axis = x.channel_axis
    return TensorType((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)


def _concat_gradient(g: Any, node: Any, dy: str) -> list[str]:
    grads, start = [], 0
    for value in node.inputs:
        stop = start + g.type(value).channel_count
        grads.append(g.add("slice_channels", dy, start=start, stop=stop))
        start = stop
    return grads


def _channel_axis(x: Any) -> int:
    """Of an array: the last axis of vectors and rows, axis 1 of images."""
    return min(x.ndim - 1, 1)


def _concat(env: Any, a: Any, *xs: Any) -> Any:
    if xs[0].ndim < 4:
        return np.concatenate(xs, axis=_channel_axis(xs[0]))
    return np.concatenate([x.transpose(0, 2, 3, 1) for x in xs], axis=3).transpose(0, 3, 1, 2)


def _slice_shape(a: Any, x: TensorType) -> TensorType:
    count = x.channel_count
    require(a["start"] < a["stop"] <= count, f"channels {a['start']} to {a['stop']} are not within {count}")
    return _with_channels(x, a["stop"] - a["start"])


def _slice(env: Any, a: Any, x: Any) -> Any:
    return x[a["start"] : a["stop"]] if x.ndim == 1 else x[:, a["start"] : a["stop"]]


def _slice_gradient(g: Any, node: Any, dy: str) -> list[str]:
    after = g.type(node.inputs[0]).channels - node.attrs["stop"]
    return [g.add("pad_channels", dy, before=node.attrs["start"], after=after)]


def _pad_shape(a: Any, x: TensorType) -> TensorType:
    return TensorType((N, a["before"] + x.channels + a["after"], *x.per_image[1:]), x.dtype)


def _pad_gradient(g: Any, node: Any, dy: str) -> list[str]:
    start = node.attrs["before"]
    return [g.add("slice_channels", dy, start=start, stop=start + g.type(node.inputs[0]).channels)]


def _pad(env: Any, a: Any, x: Any) -> Any:
    width = (a["before"], a["after"])
    if x.ndim == 2:
        return np.pad(x, ((0, 0), width))
    return np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), width)).transpose(0, 3, 1, 2)


def _aten_pad(env: Any, a: Any, x: Any) -> Any:
    import torch.nn.functional as F

    return F.pad(x, (*[0] * (2 * x.dim() - 4), a["before"], a["after"]))


def concat(*xs: torch.Tensor) -> torch.Tensor:
    """Tensors one after the other along the channels: the last axis of vectors and rows, axis 1 of images."""
    import torch

    return torch.cat(xs, dim=min(xs[0].dim() - 1, 1))


def _filters_shape(a: Any, *ws: TensorType) -> TensorType:
    for w in ws:
        require(
            w.is_weight and w.shape[1:] == ws[0].shape[1:] and w.dtype == ws[0].dtype,
            f"weights must be [K, C, R, S] and agree in all but K, they are {', '.join(map(str, ws))}",
        )
    return TensorType((sum(w.per_image[0] for w in ws), *ws[0].shape[1:]), ws[0].dtype)


def _some_filters_shape(a: Any, w: TensorType) -> TensorType:
    require(w.is_weight, f"a weight must be [K, C, R, S], it is {w}")
    count = w.per_image[0]
    require(a["start"] < a["stop"] <= count, f"filters {a['start']} to {a['stop']} are not within {count}")
    return TensorType((a["stop"] - a["start"], *w.shape[1:]), w.dtype)


def _filters_gradient(g: Any, node: Any, dy: str) -> list[str]:
    grads, start = [], 0
    for value in node.inputs:
        stop = start + g.type(value).per_image[0]
        grads.append(g.add("slice_filters", dy, start=start, stop=stop))
        start = stop
    return grads


def concat_filters(*ws: torch.Tensor) -> torch.Tensor:
    """The weights [K, C, R, S] of several convolutions, one after the other along their filters."""
    import torch

    return torch.cat(ws, dim=0)


def slice_filters(w: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Filters start to stop of a weight [K, C, R, S]."""
    return w[start:stop]


def view_weight(w: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A parameter with dimensions of 1 added or left out."""
    return w.reshape(shape)


def _dims(value: Any) -> tuple[int, ...]:
    dims = tuple(value)
    if any(isinstance(d, bool) or not isinstance(d, Integral) or d < 1 for d in dims) or len(dims) not in (1, 3):
        raise ValueError
    return tuple(int(d) for d in dims)


def _unflatten_shape(a: Any, x: TensorType) -> TensorType:
    require(
        len(x.shape) == 2 and prod(a["shape"]) == x.channels,
        f"{x} does not hold {'x'.join(map(str, a['shape']))} numbers per image",
    )
    return TensorType((N, *a["shape"]), x.dtype)


register(
    "flatten", Kind.VIEW, "x",
    shape=lambda a, x: TensorType((N, prod(x.per_image)), x.dtype),
    numpy=lambda env, a, x: np.ascontiguousarray(x).reshape(x.shape[0], -1),
    gradient=lambda g, node, dy: [g.add("unflatten", dy, shape=g.type(node.inputs[0]).per_image)],
    aten=lambda env, a, x: x.flatten(1),
    dense_view="flat",
    doc="[N, C, H, W] as [N, C*H*W], in that order",
)  # fmt: skip
register(
    "unflatten", Kind.VIEW, "x",
    attrs={"shape": Attr(_dims, "[F] or [C, H, W], positive integers")},
    shape=_unflatten_shape,
    numpy=lambda env, a, x: x.reshape(x.shape[0], *a["shape"]),
    gradient=lambda g, node, dy: [g.add("flatten", dy)],
    aten=lambda env, a, x: x.reshape(x.shape[0], *a["shape"]),
    dense_view="image",
    doc="[N, C*H*W] as [N, C, H, W]",
)  # fmt: skip
register(
    "concat", Kind.POINTWISE, "a*",
    shape=_concat_shape,
    numpy=_concat,
    gradient=_concat_gradient,
    torch=concat,
    copies=True, finds_rows=True, finds_vectors=True,
    joins="channels",
    doc="the inputs one after the other along the channels ([N, C, H, W], [N, C], [C] or rows [R, C])",
)  # fmt: skip
register(
    "slice_channels", Kind.POINTWISE, "a",
    attrs={"start": integer(), "stop": integer(least=1)},
    shape=_slice_shape,
    numpy=_slice,
    gradient=_slice_gradient,
    aten=_slice,
    gathers=True, copies=True, keeps_zero=True, finds_rows=True, operations=0,
    cuts="channels",
    doc="channels start to stop",
)  # fmt: skip
register(
    "pad_channels", Kind.POINTWISE, "x",
    attrs={"before": integer(0), "after": integer(0)},
    shape=_pad_shape,
    numpy=_pad,
    gradient=_pad_gradient,
    aten=_aten_pad,
    copies=True,
    pads=True,
    doc="zero channels before and after those of x",
)  # fmt: skip
register(
    "concat_filters", Kind.POINTWISE, "w*",
    shape=_filters_shape,
    numpy=lambda env, a, *ws: np.concatenate(ws, axis=0),
    gradient=_filters_gradient,
    torch=concat_filters,
    copies=True,
    joins="filters",
    doc="the weights [K, C, R, S] of several convolutions, one after the other along their filters",
)  # fmt: skip
register(
    "slice_filters", Kind.VIEW, "w",
    attrs={"start": integer(), "stop": integer(least=1)},
    shape=_some_filters_shape,
    numpy=lambda env, a, w: w[a["start"] : a["stop"]],
    gradient="weights are cut only after differentiation",
    torch=slice_filters,
    cuts="filters",
    doc="filters start to stop of a weight [K, C, R, S]",
)  # fmt: skip


def _weight_dims(value: Any) -> tuple[int, ...]:
    dims = tuple(value)
    if any(isinstance(d, bool) or not isinstance(d, Integral) or d < 1 for d in dims) or len(dims) > 4:
        raise ValueError
    return tuple(int(d) for d in dims)


def _weight_view(a: Any, w: TensorType) -> TensorType:
    require(
        [d for d in a["shape"] if d > 1] == [d for d in w.per_image if d > 1],
        f"{w} is not {list(a['shape'])} but for dimensions of 1",
    )
    return TensorType(a["shape"], w.dtype)


register(
    "view_weight", Kind.VIEW, "w",
    attrs={"shape": Attr(_weight_dims, "at most four positive integers")},
    shape=_weight_view,
    numpy=lambda env, a, w: w.reshape(a["shape"]),
    gradient=lambda g, node, dy: [g.add("view_weight", dy, shape=g.type(node.inputs[0]).per_image)],
    torch=view_weight,
    dense_view="weight",
    doc="a parameter with dimensions of 1 added or left out: the weight [K, C] of a dense layer as that of a 1x1 "
    "convolution, a scale [C, 1, 1] as [C]",
)  # fmt: skip
