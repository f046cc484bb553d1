"""ONNX operators in our words: products, normalisation, windows and reductions.

A reader takes the assembler, the node, its inputs and its attributes (onnx_ops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import numpy as np

from . import torch_layers, torch_reductions
from .assembler import Stored, Tensor, Unsupported, described
from .onnx_inputs import given, ints, two_dimensional
from .onnx_shapes import seen_as
from .readers import Reader, entering
from .torch_layers import windowed

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


@reads("Conv")
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


@reads("ConvTranspose")
def conv_transpose(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    two_dimensional(x)
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in attributes:
        raise Unsupported("auto_pad and output_shape", "give it pads and output_padding")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    extra = attributes.get("output_padding", [0, 0])
    weight = a.weight(weight, f"{a.site.path or 'conv'}.weight")
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv_transpose2d", a.image(x), *operands, owner=owner(weight),
                        stride=tuple(attributes.get("strides", [1, 1])), padding=(top, bottom, left, right),
                        output_padding=tuple(extra), dilation=tuple(attributes.get("dilations", [1, 1])),
                        groups=attributes.get("group", 1)))  # fmt: skip


@reads("MaxPool", "AveragePool")
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
def global_average(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return a.made(a.add("global_avg_pool", a.image(inputs[0])))


@reads("GlobalMaxPool")
def global_max(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return torch_reductions.amax(a, inputs[0], (2, 3), True)


@reads("ReduceMean", "ReduceMax", "ReduceSum")
def reduced(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    axes = given(a, inputs, 1, attributes.get("axes"))
    if axes is None:
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


@reads("LRN")
def lrn(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    if attributes["size"] % 2 == 0:
        raise Unsupported(f"size {attributes['size']}", "the size of a normalisation is odd")
    return a.made(a.add("local_response_norm", a.image(inputs[0]), size=attributes["size"],
                        alpha=attributes.get("alpha", 1e-4), beta=attributes.get("beta", 0.75),
                        k=attributes.get("bias", 1.0)))  # fmt: skip


@reads("Softmax")
def softmax(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """Softmax along ``axis``; before operator set 13 it is that of everything from ``axis`` on."""
    x, axis = a.tensor(inputs[0]), attributes.get("axis", 1 if a.version < 13 else -1)
    if axis % len(x.shape) == 1 and (a.version < 13 or prod(x.shape[2:]) == 1):
        flat = seen_as(a, x, (x.shape[0], prod(x.shape[1:])))
        return seen_as(a, torch_reductions.softmax(a, flat, 1), x.shape)
    return torch_reductions.softmax(a, x, axis)
