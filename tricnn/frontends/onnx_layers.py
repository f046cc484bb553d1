"""ONNX operators in our words: products, normalisation, windows and reductions.

A reader takes the assembler, the node, its inputs and its attributes (onnx_ops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Any

import numpy as np

from . import torch_layers, torch_reductions
from .assembler import BATCH, Stored, Tensor, Unsupported, described
from .onnx_inputs import given, ints, two_dimensional
from .onnx_shapes import seen_as
from .readers import Reader, entering
from .torch_layers import windowed
from .views import View

READERS: dict[str, Reader] = {}
reads = entering(READERS)


def around(
    x: Any, attributes: Any, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The padding (top, bottom, left, right) that ``pads`` or ``auto_pad`` amounts to."""
    auto = attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        before_and_after = attributes.get("pads", [0, 0, 0, 0])
        top, left, bottom, right = before_and_after
        return [top, bottom, left, right]
    result = []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations):
        total = 0 if auto == "VALID" else max((ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        result += [small, total - small] if auto == "SAME_UPPER" else [total - small, small]
    return result


def signals(read: Reader) -> Reader:
    """A reader of images that takes signals [N, C, L] too, as images of one column."""
    more = {"strides": 1, "dilations": 1, "kernel_shape": 1, "output_padding": 0}

    def wide(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
        x = inputs[0]
        if not isinstance(x, Tensor) or len(x.shape) != 3:
            return read(a, node, inputs, attributes)
        attributes = {k: [*v, more[k]] if k in more else v for k, v in attributes.items()}
        if "pads" in attributes:
            before, after = attributes["pads"]
            attributes["pads"] = [before, 0, after, 0]
        x = a.tensor(x)
        column = replace(x, view=View(x.view.base, (*x.view.dims, ())))
        weights = [a.weight(w) for w in inputs[1:2] if w is not None and len(w.shape) == 3]
        weights = [Stored(w.name, (*w.shape, 1)) for w in weights] or inputs[1:2]
        found = read(a, node, [column, *weights, *inputs[2:]], attributes)
        y = found[0] if isinstance(found, list) else found
        return replace(y, view=y.view.without([3], keep=False))

    return wide


@reads("Conv")
@signals
def conv(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    two_dimensional(x)
    weight = a.weight(weight, f"{a.site.path or 'conv'}.weight")
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    image, pads = windowed(a, x, around(x, attributes, weight.shape[2:], strides, dilations))
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv2d", image, *operands, owner=owner(weight), stride=tuple(strides), padding=tuple(pads),
                        dilation=tuple(dilations), groups=attributes.get("group", 1)))  # fmt: skip


def owner(weight: Stored) -> str | None:
    """The name that a layer may take from its weight."""
    return weight.name if weight.name.endswith(".weight") else None


def around_transposed(x: Tensor, attributes: Any, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """The padding (top, bottom, left, right) and output padding of a transposed convolution.
    ``auto_pad`` wants outputs of ``size * stride``; more than the filters reach is output padding."""
    auto, extra = attributes.get("auto_pad", "NOTSET"), list(attributes.get("output_padding", [0, 0]))
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    wanted = attributes.get("output_shape")
    if auto in ("NOTSET", "VALID") and wanted is None:
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        return [top, bottom, left, right], extra
    pads = []
    for i, (size, k, s, d) in enumerate(zip(x.shape[2:], kernel, strides, dilations)):
        total = s * (size - 1) + extra[i] + (k - 1) * d + 1 - (size * s if wanted is None else wanted[i])
        if total < 0:
            extra[i], total = extra[i] - total, 0
        small = total // 2
        pads += [small, total - small] if auto == "SAME_UPPER" else [total - small, small]
    return pads, extra


@reads("ConvTranspose")
@signals
def conv_transpose(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    two_dimensional(x)
    weight = a.weight(weight, f"{a.site.path or 'conv'}.weight")
    (top, bottom, left, right), extra = around_transposed(x, attributes, weight.shape[2:])
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv_transpose2d", a.image(x), *operands, owner=owner(weight),
                        stride=tuple(attributes.get("strides", [1, 1])), padding=(top, bottom, left, right),
                        output_padding=tuple(extra), dilation=tuple(attributes.get("dilations", [1, 1])),
                        groups=attributes.get("group", 1)))  # fmt: skip


@reads("MaxPool", "AveragePool")
@signals
def pool(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    (x,) = inputs
    two_dimensional(x)
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    if set(attributes.get("dilations", [1])) != {1}:
        raise Unsupported("pooling with dilation", "poolings are supported with dilations of 1")
    pads = around(x, attributes, kernel, strides, [1, 1])
    same = dict(kernel_size=tuple(kernel), stride=tuple(strides), ceil_mode=bool(attributes.get("ceil_mode", 0)))
    if node.op_type == "MaxPool":
        return a.made(a.add("max_pool2d", a.image(x), padding=tuple(pads), **same))
    counted = bool(attributes.get("count_include_pad", 0))
    return a.made(a.add("avg_pool2d", a.image(x), padding=tuple(pads), count_include_pad=counted, **same))


@reads("GlobalAveragePool")
@signals
def global_average(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return a.made(a.add("global_avg_pool", a.image(inputs[0])))


@reads("GlobalMaxPool")
@signals
def global_max(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return torch_reductions.amax(a, inputs[0], (2, 3), True)


@reads("ReduceMean", "ReduceMax", "ReduceSum")
def reduced(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    axes = given(a, inputs, 1, attributes.get("axes"))
    if axes is None or not np.size(axes):
        if axes is not None and attributes.get("noop_with_empty_axes", 0):
            return a.tensor(inputs[0])
        raise Unsupported("a reduction over everything", "supported are those over height and width, or channels")
    reader = {
        "ReduceMean": torch_reductions.mean,
        "ReduceMax": torch_reductions.amax,
        "ReduceSum": torch_reductions.total,
    }[node.op_type]
    return reader(a, inputs[0], ints(axes), bool(attributes.get("keepdims", 1)))


# --- products and normalisation ---------------------------------------------------------------------------------------


@reads("Gemm")
def gemm(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    if attributes.get("transA", 0) or isinstance(weight, Tensor) or not isinstance(x, Tensor):
        raise Unsupported("a product of two layers", "supported is x * weight")
    factors = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return dense(a, x, weight, bias, transposed=not attributes.get("transB", 0), factors=factors)


@reads("MatMul")
def matmul(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight = inputs
    if isinstance(weight, Tensor) or not isinstance(x, Tensor):
        raise Unsupported("a product of two layers", "supported is x * weight")
    return dense(a, x, weight, None, transposed=True)


def dense(a: Any, x: Tensor, weight: Any, bias: Any, *, transposed: bool, factors: tuple[float, float] = (1.0, 1.0)
) -> Tensor:  # fmt: skip
    """x W' + b. A weight [F, O] is kept as [O, F], times a factor."""
    pixels = torch_layers.channels_last(x)
    if (len(x.shape) != 2 and not pixels) or len(weight.shape) != 2:
        raise Unsupported(
            f"a dense layer on {described(x.shape)}", "dense layers take [N, F], or images transposed to [N, H, W, C]"
        )
    weight = a.weight(weight, f"{a.site.path or 'linear'}.weight")
    alpha, beta = factors
    if transposed or alpha != 1:
        numbers = a.numbers(weight) * np.float32(alpha)
        weight = changed(a, weight, numbers.T.copy() if transposed else numbers)
    operands = [a.parameter(weight, "weight")]
    if bias is not None:
        bias = a.weight(bias, f"{a.site.path or 'linear'}.bias")
        if prod(bias.shape) not in (1, weight.shape[0]):
            raise Unsupported(f"a bias {list(bias.shape)}", f"supported is one number for each of {weight.shape[0]}")
        numbers = np.broadcast_to(a.numbers(bias).reshape(-1) * np.float32(beta), weight.shape[:1])
        if bias.shape != weight.shape[:1] or beta != 1:
            bias = changed(a, bias, numbers.copy())
        operands.append(a.parameter(bias, "bias"))
    if pixels:
        return torch_layers.linear(a, x, weight, bias)
    return a.made(a.add("linear", a.plain(x), *operands, owner=owner(weight)))


def changed(a: Any, x: Stored, numbers: np.ndarray) -> Stored:
    """A parameter with other numbers, under its own name, if nobody has it yet."""
    if x.name not in a.builder.types:
        del a.stored[x.name]
    return a.keep(numbers, x.name)


@reads("BatchNormalization")
@signals
def batch_norm(a: Any, node: Any, inputs: Any, attributes: Any) -> list[Any]:
    x, *vectors = inputs
    names = ("weight", "bias", "running_mean", "running_var")
    stored = [a.weight(v, f"{a.site.path or 'bn'}.{n}") for v, n in zip(vectors, names, strict=True)]
    for v in stored[2:]:
        a.untrained(v)
    operands = [a.parameter(v, n) for v, n in zip(stored, names)]
    value = a.add("batch_norm", a.plain(x), *operands, owner=owner(stored[0]), eps=attributes.get("epsilon", 1e-5),
                  momentum=1 - attributes.get("momentum", 0.9))  # fmt: skip
    return [a.made(value)]


@reads("LayerNormalization")
def layer_norm(a: Any, node: Any, inputs: Any, attributes: Any) -> list[Any]:
    x, weight, bias = (*inputs, None)[:3]
    axis, rank = attributes.get("axis", -1), len(a.tensor(x).shape)
    if axis % rank != rank - 1:
        raise Unsupported(f"a layer norm over the axes from {axis} on", "supported is that over the last axis")
    path = a.site.path or "norm"
    weight = a.weight(weight, f"{path}.weight")
    bias = a.keep(np.zeros(weight.shape, np.float32), f"{path}.bias") if bias is None else bias
    bias = a.weight(bias, f"{path}.bias")
    return [torch_layers.layer_norm(a, x, weight.shape, weight, bias, attributes.get("epsilon", 1e-5))]


@reads("InstanceNormalization")
def instance_norm(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """Each image's channels normalised; of [N, groups, -1], as exporters write group norm, the groups of an image's."""
    x, scale, bias = inputs
    x = a.tensor(x)
    groups, whole = x.shape[1], len(x.view.base) == 4 and x.view.in_order and x.shape[0] == BATCH
    if not whole or x.view.base[1] % groups:
        raise Unsupported(f"instance norm of {described(x.shape)}", "supported is that of [N, C, H, W], or its groups")
    parts = groups < x.view.base[1]
    image = Tensor(x.value, View.of(x.view.base), site=x.site)
    found = of_groups(a, image, groups, scale, bias, attributes, unless_trivial=parts)
    return Tensor(found.value, x.view, site=a.site)


@reads("GroupNormalization")
def group_norm(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """Groups of channels normalised; before operator set 21 scale and bias are of groups."""
    x, scale, bias = inputs
    return of_groups(a, a.made(a.image(x)), attributes["num_groups"], scale, bias, attributes)


def of_groups(
    a: Any, x: Tensor, groups: int, scale: Any, bias: Any, attributes: Any, unless_trivial: bool = False
) -> Tensor:
    """Groups of channels normalised, times a scale plus a bias: a number for each channel, or for each group.
    ``unless_trivial`` leaves out a scale of ones and a bias of zeros."""
    channels, path = x.shape[1], a.site.path or "norm"
    operands: list[Stored | None] = []
    for v, what, nothing in ((scale, "weight", 1.0), (bias, "bias", 0.0)):
        numbers = a.numbers(v).reshape(-1)
        if unless_trivial and np.all(numbers == nothing):
            operands.append(None)
        elif numbers.size == channels:
            operands.append(a.weight(v if isinstance(v, Stored) else numbers, f"{path}.{what}"))
        else:
            operands.append(a.keep(np.repeat(numbers, channels // numbers.size), f"{path}.{what}"))
    return torch_layers.group_norm(a, x, groups, *operands, attributes.get("epsilon", 1e-5))


@reads("RMSNormalization")
def rms_norm(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight = inputs
    rank = len(a.tensor(x).shape)
    axis = attributes.get("axis", -1)
    if axis % rank != rank - 1:
        raise Unsupported(f"an RMS norm over the axes from {axis} on", "supported is that over the last axis")
    weight = a.weight(weight, f"{a.site.path or 'norm'}.weight")
    return torch_layers.rms_norm(a, x, weight.shape, weight, attributes.get("epsilon", 1e-5))


@reads("LRN")
def lrn(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    if attributes["size"] % 2 == 0:
        raise Unsupported(f"size {attributes['size']}", "the size of a normalisation is odd")
    return a.made(a.add("local_response_norm", a.image(inputs[0]), size=attributes["size"],
                        alpha=attributes.get("alpha", 1e-4), beta=attributes.get("beta", 0.75),
                        k=attributes.get("bias", 1.0)))  # fmt: skip


@reads("Softmax", "LogSoftmax")
def softmax(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """Softmax along ``axis``, or its logarithm; before operator set 13 it is that of everything from ``axis`` on."""
    x, axis = a.tensor(inputs[0]), attributes.get("axis", 1 if a.version < 13 else -1)
    along = torch_reductions.softmax if node.op_type == "Softmax" else torch_reductions.log_softmax
    axis %= len(x.shape)
    if axis and (a.version < 13 or (axis == 1 and prod(x.shape[2:]) == 1)):
        flat = seen_as(a, x, (*x.shape[:axis], prod(x.shape[axis:])))
        return seen_as(a, along(a, flat, axis), x.shape)
    return along(a, x, axis)
