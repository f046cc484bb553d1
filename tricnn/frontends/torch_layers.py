"""ATen operations in our words: products, normalisation and pooling.

A reader takes the :class:`~tricnn.frontends.assembler.Assembler` and the call's arguments (torch_ops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..ir.norms import group_normalized, pixels_normalized
from . import torch_weights
from .assembler import BATCH, Assembler, Stored, Tensor, Unsupported, described
from .readers import Reader, entering
from .torch_names import aten_name
from .torch_pointwise import binary, by_number, order_of, power, unary
from .torch_reductions import largest, mean
from .views import View

READERS: dict[str, Reader] = {}
reads = entering(READERS, aten_name)


def two(value: Any) -> tuple[int, int]:
    """An integer or a list of one or two as a pair."""
    values = [value, value] if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)
    return int(values[0]), int(values[1])


def windowed(a: Assembler, x: Any, padding: Sequence[int], value: float = 0.0) -> tuple[str, tuple[int, ...]]:
    """An image and the padding of the windows over it, what was added before by F.pad included."""
    if isinstance(x, Tensor) and x.padded and x.padded_with == value and min(x.padding) >= 0:
        return a.image(unpadded(x)), tuple(p + q for p, q in zip(x.padding, padding))
    return a.image(x), tuple(padding)


def unpadded(x: Tensor) -> Tensor:
    """The value that was padded, without its padding."""
    return Tensor(x.value, x.view, site=x.site)


def bordered(a: Assembler, x: Any, sides: tuple[int, int, int, int], fill: float = 0.0) -> Tensor:
    """An image amid (top, bottom, left, right) more pixels, or fewer; whoever reads it adds them."""
    amid = isinstance(x, Tensor) and x.padded and x.padded_with == fill
    if amid and all(p * q >= 0 for p, q in zip(x.padding, sides)):  # nothing is padded where something was cut off
        top, bottom, left, right = (p + q for p, q in zip(x.padding, sides))
        return Tensor(x.value, x.view, (top, bottom, left, right), fill, a.site)
    image = a.made(a.image(x))
    return Tensor(image.value, image.view, sides, fill, a.site)


def four(padding: Any) -> tuple[int, int, int, int]:
    """PyTorch's padding, alike on both sides, as (top, bottom, left, right)."""
    h, w = two(padding)
    return h, h, w, w


@reads("conv2d.default")
def conv2d(a: Assembler, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1) -> Tensor:  # fmt: skip
    image, pads = windowed(a, x, four(padding))
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv2d", image, *operands, owner=weight.name, stride=two(stride), padding=pads,
                        dilation=two(dilation), groups=groups))  # fmt: skip


@reads("conv2d.padding")
def conv2d_same(a: Assembler, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: str = "valid",
                dilation: Any = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """A convolution with ``padding="same"``; an odd pixel out is at the end, as PyTorch has it."""
    if padding == "valid":
        return conv2d(a, x, weight, bias, stride, 0, dilation, groups)
    pads: list[int] = []
    for size, step in zip(weight.shape[2:], two(dilation)):
        total = (size - 1) * step
        pads += [total // 2, total - total // 2]
    image, around = windowed(a, x, pads)
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv2d", image, *operands, owner=weight.name, stride=two(stride), padding=around,
                        dilation=two(dilation), groups=groups))  # fmt: skip


@reads("conv1d.default")
def conv1d(a: Assembler, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1) -> Tensor:  # fmt: skip
    """A convolution along one axis, as that over the channels of ECA: of an image with one column."""
    x = a.tensor(x)
    if len(x.shape) != 3 or (column := x.view.reshaped((*x.shape, 1))) is None:
        raise Unsupported(f"conv1d of {described(x.shape)}", "supported is that of [N, C, L]")
    w = a.viewed(a.parameter(weight, "weight"), (*weight.shape, 1))
    b = [a.parameter(bias, "bias")] if bias is not None else []
    (step,), (pad,), (apart,) = ([v] if isinstance(v, int) else list(v) for v in (stride, padding, dilation))
    value = a.add("conv2d", a.image(Tensor(x.value, column, site=x.site)), w, *b, owner=weight.name, stride=(step, 1),
                  padding=(pad, pad, 0, 0), dilation=(apart, 1), groups=groups)  # fmt: skip
    shape = a.type(value).at(BATCH)
    seen = View.of(shape).reshaped(shape[:3])
    assert seen is not None
    return a.made(value, seen)


@reads("conv_transpose2d.input")
def conv_transpose2d(a: Assembler, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Tensor:  # fmt: skip
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv_transpose2d", a.image(x), *operands, owner=weight.name, stride=two(stride),
                        padding=four(padding), output_padding=two(output_padding), dilation=two(dilation),
                        groups=groups))  # fmt: skip


@reads("linear.default")
def linear(a: Assembler, x: Any, weight: Any, bias: Any = None) -> Tensor:
    x = a.tensor(x)
    if channels_last(x):
        return _of_each_pixel(a, x, weight, bias)
    if len(x.shape) != 2:
        raise Unsupported(
            f"a dense layer on {described(x.shape)}", "dense layers take [N, F], or images permuted to [N, H, W, C]"
        )
    features = a.plain(x)
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("linear", features, *operands, owner=weight.name))


def channels_last(x: Tensor) -> bool:
    """Is it an image of ours seen as [N, H, W, C]?"""
    return order_of(x.view) == (0, 2, 3, 1)


def _of_each_pixel(a: Assembler, x: Tensor, weight: Any, bias: Any) -> Tensor:
    """A dense layer over the last axis of [N, H, W, C], which is a 1x1 convolution."""
    w = a.viewed(a.parameter(weight, "weight"), (*weight.shape, 1, 1))
    b = [a.parameter(bias, "bias")] if bias is not None else []
    value = a.add("conv2d", x.value, w, *b, owner=weight.name)
    return a.made(value, View.of(a.type(value).at(BATCH)).permuted((0, 2, 3, 1)))


# --- normalisation --------------------------------------------------------------------------------------------------


@reads("native_layer_norm.default")
def native_layer_norm(a: Assembler, x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> list[Any]:
    return [layer_norm(a, x, shape, weight, bias, eps), None, None]


@reads("layer_norm.default")
def layer_norm(a: Assembler, x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5,
               cudnn: bool = True) -> Tensor:  # fmt: skip
    """Layer norm over the last axis of [N, H, W, C], or of [N, F], which is an image of one pixel."""
    x = a.tensor(x)
    flat = len(x.shape) == 2
    if len(shape) != 1 or not (flat or channels_last(x)):
        raise Unsupported(
            f"layer norm over {list(shape)} of {described(x.shape)}",
            "supported is that of [N, F], or of images permuted to [N, H, W, C], over the last axis",
        )
    channels = shape[0]
    image = a.add("unflatten", a.plain(x), shape=(channels, 1, 1), stem="image") if flat else x.value
    given = [a.parameter(p, what, (channels,)) for p, what in ((weight, "weight"), (bias, "bias")) if p is not None]
    if len(given) == 2:
        stats = a.add("pixel_stats", image, stem="stats")
        value = a.add("layer_normalize", image, stats, *given, owner=weight.name, eps=eps)
    else:
        value = pixels_normalized(partial(a.add, stem="part"), image, eps)
        value = value if weight is None else a.add("mul", value, *given, owner=weight.name)
        value = value if bias is None else a.add("add", value, *given, owner=bias.name)
    return a.made(a.add("flatten", value)) if flat else a.made(value, x.view)


@reads("rms_norm.default")
def rms_norm(a: Assembler, x: Any, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    """``x / sqrt(mean of x^2 + eps) * weight`` over the last axis of [N, H, W, C], or of [N, F].
    Zhang & Sennrich, "Root mean square layer normalization", 2019, equation 4; without eps it is fp32's."""
    x = a.tensor(x)
    if len(shape) != 1 or not (len(x.shape) == 2 or channels_last(x)):
        raise Unsupported(
            f"RMS norm over {list(shape)} of {described(x.shape)}",
            "supported is that of [N, F], or of images permuted to [N, H, W, C], over the last axis",
        )
    squares = mean(a, unary(a, "square", x), [-1], True)
    least = float(np.finfo(np.float32).eps) if eps is None else eps
    value = binary(a, "mul", x, power(a, by_number(a, squares, 1, least), -0.5))
    return value if weight is None else binary(a, "mul", value, weight)


@reads("_native_batch_norm_legit.no_stats")
def batch_norm_of_the_batch(a: Assembler, x: Any, weight: Any, bias: Any, training: bool, momentum: float,
                            eps: float) -> list[Any]:  # fmt: skip
    return [_batch_norm(a, x, weight, bias, None, None, momentum, eps, frozen=False), None, None]


def standardized(a: Assembler, x: Stored, scale: Any, bias: Any, eps: float) -> Stored:
    """A weight whose filters have mean 0 and variance 1, times a number each: batch norm of it as [1, K, ...].
    Qiao et al., "Micro-batch training with batch-channel normalization and weight standardization", 2019."""
    filters = a.stored[x.name].shape[0]
    if x.value or x.shape[:2] != (1, filters) or bias is not None:
        raise Unsupported(f"batch norm of {x.name}", "of weights it is supported without bias, of [1, K, ...]")
    factor = scale.factor if isinstance(scale, Stored) else 1.0
    weight = a.parameter(replace(x, shape=a.stored[x.name].shape), "weight")
    value = a.add("standardize_filters", weight, owner=x.name, eps=eps, factor=factor)
    if scale is not None:
        gain = a.parameter(Stored(scale.name, a.stored[scale.name].shape), "gain")
        value = a.add("scale_filters", value, a.viewed(gain, (filters,)), owner=x.name)
    return Stored(x.name, x.shape, value)


@reads("_weight_norm.default", "_weight_norm_interface.default")
def weight_norm(a: Assembler, direction: Any, length: Any, dim: int = 0) -> Any:
    found = torch_weights.normalised(a, direction, length, dim)
    return [found, None] if a.site.operation.startswith("aten._weight_norm_interface") else found


@reads("_native_batch_norm_legit_functional.default")
def batch_norm_training(a: Assembler, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
                        momentum: float, eps: float) -> list[Any]:  # fmt: skip
    return [_batch_norm(a, x, weight, bias, mean, var, momentum, eps, frozen=not training), None, None, mean, var]


@reads("_native_batch_norm_legit_no_training.default")
def batch_norm_frozen(a: Assembler, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float,
                      eps: float) -> list[Any]:  # fmt: skip
    return [_batch_norm(a, x, weight, bias, mean, var, momentum, eps, frozen=True), None, None]


@reads("batch_norm.default")
def batch_norm(a: Assembler, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float,
               eps: float, cudnn: bool = True) -> Tensor | Stored:  # fmt: skip
    return _batch_norm(a, x, weight, bias, mean, var, momentum, eps, frozen=not training)


def _batch_norm(a: Assembler, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float, *,
                frozen: bool) -> Tensor | Stored:  # fmt: skip
    if isinstance(x, Stored):
        return standardized(a, x, weight, bias, eps)
    if mean is None or var is None:
        raise Unsupported("batch norm without running statistics", "give it track_running_stats=True")
    if weight is None or bias is None:
        raise Unsupported("batch norm without weight and bias", "give it affine=True")
    value = a.plain(x)
    vectors = [a.parameter(v, what) for v, what in ((weight, "weight"), (bias, "bias"), (mean, "mean"), (var, "var"))]
    return a.made(a.add("batch_norm", value, *vectors, owner=weight.name, eps=eps, momentum=momentum, frozen=frozen))


@reads("tricnn.local_response_norm.default")
def local_response_norm(a: Assembler, x: Any, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return a.made(a.add("local_response_norm", a.image(x), size=size, alpha=alpha, beta=beta, k=k))


@reads("group_norm.default")
def group_norm(a: Assembler, x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5,
               cudnn: bool = True) -> Tensor:  # fmt: skip
    return _of_groups(a, x, groups, weight, bias, eps)


@reads("instance_norm.default")
def instance_norm(a: Assembler, x: Any, weight: Any, bias: Any, mean: Any, var: Any, use_input_stats: bool,
                  momentum: float, eps: float, cudnn: bool = True) -> Tensor:  # fmt: skip
    if not use_input_stats or mean is not None or var is not None:
        raise Unsupported("instance norm with running statistics", "give it track_running_stats=False")
    return _of_groups(a, x, a.tensor(x).shape[1], weight, bias, eps)


def _of_groups(a: Assembler, x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Tensor:
    """Each image's groups of channels normalised, then ``* weight + bias`` by channel where there are those."""
    image = a.image(x)
    value = group_normalized(partial(a.add, stem="part"), image, a.builder.type(image), groups, eps)
    for what, op, p in (("weight", "mul", weight), ("bias", "add", bias)):
        value = value if p is None else a.add(op, value, a.parameter(p, what), owner=p.name)
    return a.made(value)


# --- pooling --------------------------------------------------------------------------------------------------------


@reads("max_pool2d.default")
def max_pool2d(a: Assembler, x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False) -> Tensor:  # fmt: skip
    if two(dilation) != (1, 1):
        raise Unsupported("pooling with dilation", "poolings are supported with dilation=1")
    image, pads = windowed(a, x, four(padding), -float("inf"))
    size = two(kernel_size)
    step = two(stride) if stride else size
    return a.made(a.add("max_pool2d", image, kernel_size=size, stride=step, padding=pads, ceil_mode=ceil_mode))


@reads("max_pool2d_with_indices.default")
def max_pool2d_with_indices(a: Assembler, *args: Any, **attrs: Any) -> list[Any]:
    return [max_pool2d(a, *args, **attrs), None]


@reads("avg_pool2d.default")
def avg_pool2d(a: Assembler, x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: Any = None) -> Tensor:  # fmt: skip
    if divisor_override is not None:
        raise Unsupported(f"divisor_override={divisor_override}", "average pooling divides by its own count")
    size = two(kernel_size)
    step = two(stride) if stride else size
    if isinstance(x, Tensor) and x.padded and (any(four(padding)) or ceil_mode):
        x = a.with_padding(x)  # two paddings, of which one counts
    elif isinstance(x, Tensor) and x.padded:
        count_include_pad = True
    image, pads = windowed(a, x, four(padding))
    return a.made(a.add("avg_pool2d", image, kernel_size=size, stride=step, padding=pads, ceil_mode=ceil_mode,
                        count_include_pad=count_include_pad))  # fmt: skip


@reads("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(a: Assembler, x: Any, size: Sequence[int]) -> Tensor:
    image = a.image(x)
    if two(size) == (1, 1):
        return a.made(a.add("global_avg_pool", image))
    if two(size) == a.type(image).spatial:
        return a.made(image)
    return a.made(a.add("adaptive_avg_pool2d", image, output_size=two(size)))


@reads("adaptive_max_pool2d.default")
def adaptive_max_pool2d(a: Assembler, x: Any, size: Sequence[int]) -> list[Any]:
    image = a.image(x)
    (h, w), (p, q) = a.type(image).spatial, two(size)
    if (p, q) == (h, w):
        return [a.made(image), None]
    if h % p or w % q:
        raise Unsupported(f"adaptive max pooling of {h}x{w} to {p}x{q}", "the sizes must divide, or be 1x1")
    return [a.made(largest(a, image, (h // p, w // q))), None]
