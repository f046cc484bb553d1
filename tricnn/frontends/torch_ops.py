"""One table: what each ATen operation is in our words.

``ATEN["aten.relu.default"](a, x)`` reads one call: ``a`` is the :class:`~tricnn.frontends.assembler.Assembler`, the
others are the call's arguments as its schema has them, each a :class:`Tensor`, a :class:`Stored` parameter, a number, a
list of those, or None. ``a.shape`` is the shape of what PyTorch computes there. A reader raises
:class:`~tricnn.frontends.assembler.Unsupported` where tricnn has no words.

To teach the importer an operation, add a name to ``SAME_NAME``, or a function under ``@reads(...)``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from numbers import Number
from typing import Any

from ..ir.ops.pool import LARGEST_WINDOW
from .assembler import BATCH, Assembler, Stored, Tensor, Unsupported, described
from .views import View

Reader = Callable[..., Any]
ATEN: dict[str, Reader] = {}


def reads(*targets: str) -> Callable[[Reader], Reader]:
    """Enter a function into the table under some targets, of ``aten`` unless they say another namespace."""

    def enter(reader: Reader) -> Reader:
        for target in targets:
            ATEN[target if target.count(".") > 1 else f"aten.{target}"] = reader
        return reader

    return enter


# --- products -------------------------------------------------------------------------------------------------------


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
    """The value that was padded."""
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
    """``padding="same"``: an odd one out is at the end, as PyTorch has it."""
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
    if len(x.shape) != 2:
        raise Unsupported(f"a dense layer on {described(x.shape)}", "dense layers take [N, F]: flatten before")
    features = a.plain(x)
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("linear", features, *operands, owner=weight.name))


# --- normalisation --------------------------------------------------------------------------------------------------


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
               eps: float, cudnn: bool = True) -> Tensor:  # fmt: skip
    return _batch_norm(a, x, weight, bias, mean, var, momentum, eps, frozen=not training)


def _batch_norm(a: Assembler, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float, *,
                frozen: bool) -> Tensor:  # fmt: skip
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
    return [a.made(_largest(a, image, (h // p, w // q))), None]


def _largest(a: Assembler, image: str, window: tuple[int, int]) -> str:
    """The largest pixel of windows side by side; of their rows, then of columns, where they are large."""
    h, w = window
    if h * w > LARGEST_WINDOW:
        image, w = a.add("max_pool2d", image, stem="rows", kernel_size=(1, w), stride=(1, w)), 1
    return a.add("max_pool2d", image, kernel_size=(h, w), stride=(h, w))


@reads("mean.dim")
def mean(a: Assembler, x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return _over_pixels(a, "global_avg_pool", x, dims, keepdim)


@reads("amax.default")
def amax(a: Assembler, x: Any, dims: Any = (), keepdim: bool = False) -> Tensor:
    return _over_pixels(a, "amax", x, dims or None, keepdim)


@reads("sum.dim_IntList")
def total(a: Assembler, x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean times the number of pixels."""
    x = a.tensor(x)
    pixels = prod(x.view.base[2:])
    return _by_number(a, _over_pixels(a, "global_avg_pool", x, dims, keepdim), pixels, 0)


def _over_pixels(a: Assembler, op: str, x: Any, dims: Any, keepdim: bool) -> Tensor:
    """What a reduction over all pixels is: ``op``, wherever the pixels' axes have been moved to."""
    x = a.tensor(x)
    rank = len(x.shape)
    gone = sorted(d % rank for d in (range(rank) if dims is None else [dims] if isinstance(dims, int) else dims))
    if len(x.view.base) == 4 and x.view.axes(gone) == _pixel_axes(x.view.base):
        left = x.view.without(gone, keep=keepdim)
        value = _largest(a, x.value, a.type(x.value).spatial) if op == "amax" else a.add(op, x.value)
        return a.made(value, View((*x.view.base[:2], 1, 1), left.dims))
    raise Unsupported(
        f"a reduction of {described(x.shape)} over dimensions {gone}", "supported is that over height and width"
    )


def _pixel_axes(shape: Sequence[int]) -> frozenset[int]:
    return frozenset(axis for axis in (2, 3) if shape[axis] > 1)


# --- pointwise ------------------------------------------------------------------------------------------------------

#: activations and functions of one operand, by the name that both have
SAME_NAME = (
    "relu", "relu6", "sigmoid", "tanh", "silu", "hardsigmoid", "hardswish", "mish",
    "neg", "abs", "square", "sqrt", "exp", "log",
)  # fmt: skip


def unary(a: Assembler, op: str, x: Any, **attrs: Any) -> Tensor:
    """A pointwise operation: it takes place on the value as it lies, and its result is seen as its operand was."""
    x = a.tensor(x)
    return a.made(a.add(op, x.value, **attrs), x.view)


def _enter(op: str) -> None:
    @reads(f"{op}.default")
    def read(a: Assembler, x: Any) -> Tensor:
        return unary(a, op, x)


for _name in SAME_NAME:
    _enter(_name)


@reads("leaky_relu.default")
def leaky_relu(a: Assembler, x: Any, negative_slope: float = 0.01) -> Tensor:
    return unary(a, "leaky_relu", x, negative_slope=negative_slope)


@reads("elu.default")
def elu(a: Assembler, x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return _by_number(a, unary(a, "elu", _by_number(a, x, input_scale, 0), alpha=alpha), scale, 0)


@reads("celu.default")
def celu(a: Assembler, x: Any, alpha: float = 1.0) -> Tensor:
    """alpha * elu(x / alpha), for alpha > 0."""
    return _by_number(a, unary(a, "elu", _by_number(a, x, 1 / alpha, 0)), alpha, 0)


@reads("selu.default")
def selu(a: Assembler, x: Any) -> Tensor:
    """Klambauer et al., "Self-normalizing neural networks" (2017), equation 2."""
    return elu(a, x, 1.6732632423543772, 1.0507009873554805)


@reads("gelu.default")
def gelu(a: Assembler, x: Any, *, approximate: str = "none") -> Tensor:
    return unary(a, "gelu" if approximate == "none" else "gelu_tanh", x)


@reads("softplus.default")
def softplus(a: Assembler, x: Any, beta: float = 1, threshold: float = 20) -> Tensor:
    return unary(a, "softplus", x, beta=beta)


@reads("log_sigmoid.default")
def log_sigmoid(a: Assembler, x: Any) -> Tensor:
    """log(sigmoid(x)) = -softplus(-x)."""
    return unary(a, "neg", unary(a, "softplus", unary(a, "neg", x)))


@reads("clamp.default", "hardtanh.default")
def clamp(a: Assembler, x: Any, min: Any = None, max: Any = None, **limits: Any) -> Tensor:
    low, high = limits.get("min_val", min), limits.get("max_val", max)
    if a.site.operation.startswith("aten.hardtanh"):
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    bounds = {"min": low, "max": high}
    return unary(a, "clamp", x, **{key: float(bound) for key, bound in bounds.items() if bound is not None})


@reads("clamp_min.default")
def clamp_min(a: Assembler, x: Any, least: Any) -> Tensor:
    return clamp(a, x, least)


@reads("clamp_max.default")
def clamp_max(a: Assembler, x: Any, most: Any) -> Tensor:
    return clamp(a, x, None, most)


@reads("pow.Tensor_Scalar")
def power(a: Assembler, x: Any, exponent: Any) -> Tensor:
    if exponent == 1:
        return a.tensor(x)
    if exponent == 2:
        return unary(a, "square", x)
    if exponent == 0.5:
        return unary(a, "sqrt", x)
    raise Unsupported(f"a power of {exponent}", "supported are powers of 1, 2 and 0.5")


@reads("prelu.default")
def prelu(a: Assembler, x: Any, weight: Any) -> Tensor:
    value = a.plain(x)
    channels = a.type(value).channels
    if isinstance(weight, Stored) and weight.shape == (1,) != (channels,):
        raise Unsupported("one slope for all channels", f"give it one for each: nn.PReLU({channels})")
    return a.made(a.add("prelu", value, a.parameter(weight, "weight", (channels,)), owner=weight.name))


@reads("native_dropout.default")
def native_dropout(a: Assembler, x: Any, p: float, train: Any = True) -> list[Any]:
    return [dropout(a, x, p, train is not False), None]


@reads("dropout.default")
def dropout(a: Assembler, x: Any, p: float, train: bool) -> Tensor:
    if not train or p == 0:
        return a.tensor(x)
    return unary(a, "dropout", x, p=p)


@reads("softmax.int", "_softmax.default")
def softmax(a: Assembler, x: Any, dim: int, *_: Any) -> Tensor:
    value = a.plain(x)
    if dim not in (1, -1) or len(a.type(value).shape) != 2:
        raise Unsupported(
            f"softmax of {a.type(value)} over dimension {dim}", "supported is that of [N, classes] over 1"
        )
    return a.made(a.add("softmax", value))


def order_of(view: View) -> tuple[int, ...] | None:
    """The order that a view puts whole axes in; None where it does more than that."""
    whole = View.of(view.base).dims
    if len(view.dims) != len(whole):
        return None
    order: list[int] = []
    for dim in view.dims:
        here = next((i for i, other in enumerate(whole) if other == dim and i not in order), None)
        if here is None:
            return None
        order.append(here)
    return tuple(order)


def together(a: Assembler, xs: Sequence[Any]) -> tuple[list[str], View | None]:
    """Values that an operation looks at place by place, and the view that its result is under."""
    tensors = [a.tensor(x) for x in xs]
    first = tensors[0].view
    if all(t.view == first for t in tensors):
        return [t.value for t in tensors], first
    order = order_of(first)
    if order is not None and order != tuple(range(len(order))):
        back = tuple(order.index(i) for i in range(len(order)))
        undone = [Tensor(t.value, t.view.permuted(back), site=t.site) for t in tensors]
        values = [a.plain(t) for t in undone]
        return values, View.of(first.base).permuted(order)
    return [a.plain(t) for t in tensors], None


def _number(x: Any) -> bool:
    return isinstance(x, Number) and not isinstance(x, bool | complex)


def binary(a: Assembler, op: str, x: Any, y: Any) -> Tensor:
    """A pointwise operation of two values, or of a value and a parameter. One may be smaller: [C], [N, C, 1, 1] or
    [N, 1, H, W] beside [N, C, H, W], wherever a permutation has put those axes."""
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        a.tensor(x)
    operands = [v if isinstance(v, Stored) else a.tensor(v) for v in (x, y)]
    tensors = [v for v in operands if isinstance(v, Tensor)]
    if len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
        values, view = together(a, tensors)
        return a.made(a.add(op, *values), view)
    whole = max(tensors, key=lambda v: (len(v.shape), prod(v.shape)))
    place = next(i for i, v in enumerate(operands) if v is whole)
    if order_of(whole.view) is None:
        operands[place] = whole = a.made(a.plain(whole))
    order = order_of(whole.view) or ()
    back = [order.index(i) for i in range(len(order))]
    values = [_beside(a, v, whole, back) for v in operands]
    return a.made(a.add(op, *values), View.of(a.type(values[place]).at(BATCH)).permuted(order))


def _beside(a: Assembler, part: Any, whole: Tensor, back: Sequence[int]) -> str:
    """An operand's name, its axes in the order [N, C, H, W] that ``back`` puts those of the whole in."""
    rank = len(whole.shape)
    shape = (1,) * (rank - len(part.shape)) + tuple(part.shape)
    fits = len(shape) == rank and all(p in (1, w) for p, w in zip(shape, whole.shape))
    if not fits:
        raise Unsupported(
            f"arithmetic between {described(whole.shape)} and {described(part.shape)}",
            "beside [N, C, H, W] may be [C], [N, C, 1, 1] and [N, 1, H, W]",
        )
    if isinstance(part, Stored):
        there = [shape[i] for i in back]
        channels = whole.shape[back[1]]
        if there != [1, channels, *[1] * (rank - 2)]:
            raise Unsupported(
                f"arithmetic with {part.name}, {list(part.shape)}", "a parameter has a number per channel"
            )
        return a.parameter(part, "operand", (channels,))
    view = part.view.reshaped(shape)
    assert view is not None  # dimensions of 1 can be put before any
    return a.plain(Tensor(part.value, view.permuted(back), site=part.site))


@reads("add.Tensor", "add.Scalar")
def add(a: Assembler, x: Any, y: Any, alpha: Any = 1) -> Tensor:
    if alpha != 1:
        y = multiply(a, y, alpha)
    if _number(y):
        return _by_number(a, x, 1, y)
    if _number(x):
        return _by_number(a, y, 1, x)
    return binary(a, "add", x, y)


@reads("sub.Tensor", "sub.Scalar")
def subtract(a: Assembler, x: Any, y: Any, alpha: Any = 1) -> Tensor:
    if alpha != 1:
        y = multiply(a, y, alpha)
    if _number(y):
        return _by_number(a, x, 1, -y)
    if _number(x):
        return _by_number(a, y, -1, x)
    return binary(a, "sub", x, y)


@reads("rsub.Scalar", "rsub.Tensor")
def subtract_from(a: Assembler, x: Any, y: Any, alpha: Any = 1) -> Tensor:
    return subtract(a, y, x, alpha)


@reads("mul.Tensor", "mul.Scalar")
def multiply(a: Assembler, x: Any, y: Any) -> Any:
    if _number(x) and _number(y):
        return x * y
    if _number(y):
        return _by_number(a, x, y, 0)
    if _number(x):
        return _by_number(a, y, x, 0)
    return binary(a, "mul", x, y)


@reads("div.Tensor", "div.Scalar")
def divide(a: Assembler, x: Any, y: Any) -> Tensor:
    if _number(y) and y != 0:
        return _by_number(a, x, 1 / y, 0)
    if _number(x):
        raise Unsupported("a number is divided by a layer", "supported are quotients of two layers, or by a number")
    return binary(a, "div", x, y)


@reads("maximum.default")
def maximum(a: Assembler, x: Any, y: Any) -> Tensor:
    return binary(a, "maximum", x, y)


@reads("minimum.default")
def minimum(a: Assembler, x: Any, y: Any) -> Tensor:
    return binary(a, "minimum", x, y)


def _by_number(a: Assembler, x: Any, factor: Any, term: Any) -> Tensor:
    """``factor * x + term``."""
    x = a.tensor(x)
    if factor == -1:
        x = unary(a, "neg", x)
    elif factor != 1:
        x = unary(a, "scale", x, factor=factor)
    return x if term == 0 else unary(a, "shift", x, amount=term)


# --- shapes ---------------------------------------------------------------------------------------------------------


@reads("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int",
       "squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default")  # fmt: skip
def reshaped(a: Assembler, x: Any, *_: Any) -> Any:
    shape = a.shape
    if isinstance(x, Stored):
        return Stored(x.name, shape)
    x = a.tensor(x)
    if prod(shape) != prod(x.shape):
        raise Unsupported("it fixes the batch size", "write it as x.shape[0] or -1")
    view = x.view.reshaped(shape)
    if view is None:
        raise Unsupported(f"{described(x.shape)} seen as {described(shape)}", "an axis is cut where it cannot be")
    return Tensor(x.value, view, site=a.site)


@reads("permute.default")
def permuted(a: Assembler, x: Any, order: Sequence[int]) -> Any:
    if isinstance(x, Stored):
        raise Unsupported(f"the parameter {x.name} is permuted", "store it as it is used")
    x = a.tensor(x)
    return Tensor(x.value, x.view.permuted([d % len(x.shape) for d in order]), site=a.site)


@reads("transpose.int")
def transposed(a: Assembler, x: Any, first: int, second: int) -> Any:
    order = list(range(len(x.shape) if isinstance(x, Tensor | Stored) else 0))
    order[first], order[second] = order[second], order[first]
    return permuted(a, x, order)


@reads("contiguous.default", "clone.default", "alias.default", "detach.default", "lift_fresh_copy.default",
       "dropout_.default", "expand.default")  # fmt: skip
def as_it_is(a: Assembler, x: Any, *_: Any, **__: Any) -> Any:
    """Memory is nobody's business but the compiler's; what is expanded is as wide as what it meets."""
    return x


@reads("_to_copy.default", "to.dtype", "to.device", "to.dtype_layout", "type_as.default")
def converted(a: Assembler, x: Any, *_: Any, **__: Any) -> Any:
    """Types are chosen when a network is compiled."""
    if a.floating:
        return x
    raise Unsupported("a conversion to integers", "values of a network are real numbers")


@reads("slice.Tensor")
def sliced(a: Assembler, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    x = a.tensor(x)
    dim, extent = dim % len(x.shape), x.shape[dim % len(x.shape)]
    start, end = 0 if start is None else start, extent if end is None else end
    start, end = (min(v if v >= 0 else v + extent, extent) for v in (start, end))
    if (start, end, step) == (0, extent, 1):
        return x
    return _cut(a, x, dim, [(start, end, step)])[0]


def _cut(a: Assembler, x: Tensor, dim: int, ranges: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """Some of the channels; each piece is seen as the whole was."""
    if any(step != 1 for *_, step in ranges):
        return [_every(a, x, dim, *r) for r in ranges]
    whole = len(x.view.base) > 1 and x.view.dims[dim] == View.of(x.view.base).dims[1]
    if dim == 0 or not whole:
        x = a.made(a.plain(x))
        if dim in (2, 3):
            return [_band(a, x, dim, start, stop) for start, stop, _ in ranges]
        if dim != 1:
            raise Unsupported(f"a slice of {described(x.shape)} along the batch", "images are computed one by one")
    pieces = []
    for start, stop, _ in ranges:
        value = a.add("slice_channels", x.value, start=start, stop=stop)
        base = (x.view.base[0], stop - start, *x.view.base[2:])
        like = View.of(base).dims[1]
        pieces.append(a.made(value, View(base, tuple(like if i == dim else d for i, d in enumerate(x.view.dims)))))
    return pieces


def _band(a: Assembler, x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Some of the rows (dim 2) or columns (dim 3) of an image."""
    before, after = -start, stop - x.shape[dim]
    return bordered(a, x, (before, after, 0, 0) if dim == 2 else (0, 0, before, after))


def _every(a: Assembler, x: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    """Every ``step``-th row or column of some: windows of one pixel, ``step`` apart."""
    if dim not in (2, 3):
        raise Unsupported(
            f"a slice of {described(x.shape)} along dimension {dim} with step {step}",
            "supported are those of rows and columns",
        )
    if (start, stop) != (0, x.shape[dim]):
        x = _band(a, a.made(a.plain(x)), dim, start, stop)
    return subsampled(a, x, (step, 1) if dim == 2 else (1, step))


@reads("tricnn.subsampled.default")
def subsampled(a: Assembler, x: Any, steps: tuple[int, int]) -> Tensor:
    """``x[:, :, ::sh, ::sw]``."""
    return a.made(a.add("avg_pool2d", a.image(x), kernel_size=1, stride=steps))


@reads("split.Tensor")
def split(a: Assembler, x: Any, size: int, dim: int = 0) -> list[Any]:
    x = a.tensor(x)
    extent = x.shape[dim]
    return split_with_sizes(a, x, [min(size, extent - start) for start in range(0, extent, size)], dim)


@reads("split_with_sizes.default", "split.sizes")
def split_with_sizes(a: Assembler, x: Any, sizes: Sequence[int], dim: int = 0) -> list[Any]:
    x = a.tensor(x)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    if len(sizes) == 1:
        return [x]
    return _cut(a, x, dim % len(x.shape), [(end - size, end, 1) for end, size in zip(ends, sizes)])


@reads("chunk.default")
def chunk(a: Assembler, x: Any, count: int, dim: int = 0) -> list[Any]:
    x = a.tensor(x)
    return split(a, x, -(-x.shape[dim] // count), dim)


@reads("select.int")
def select(a: Assembler, x: Any, dim: int, index: int) -> Any:
    x = a.tensor(x)
    dim, extent = dim % len(x.shape), x.shape[dim % len(x.shape)]
    index %= extent
    piece = x if extent == 1 else _cut(a, x, dim, [(index, index + 1, 1)])[0]
    return Tensor(piece.value, piece.view.without([dim], keep=False), site=a.site)


@reads("cat.default", "concat.default")
def concat(a: Assembler, xs: Sequence[Any], dim: int = 0) -> Tensor:
    xs = [a.tensor(x) for x in xs]
    if len(xs) == 1:
        return xs[0]
    dim %= len(xs[0].shape)
    order = order_of(xs[0].view)
    channels = dim if order is None else order[dim]
    if channels != 1:
        raise Unsupported(f"a concatenation along dimension {dim}", "supported is that along the channels")
    if order is None or order == tuple(range(len(order))):
        return a.made(a.add("concat", *[a.plain(x) for x in xs]))
    back = tuple(order.index(i) for i in range(len(order)))
    value = a.add("concat", *[a.plain(Tensor(x.value, x.view.permuted(back), site=x.site)) for x in xs])
    return a.made(value, View.of(a.type(value).at(BATCH)).permuted(order))


@reads("pad.default", "constant_pad_nd.default")
def pad(a: Assembler, x: Any, amounts: Sequence[int], mode: Any = "constant", value: Any = None) -> Any:
    if not isinstance(mode, str):
        mode, value = "constant", mode
    if not any(amounts):
        return x
    if mode != "constant":
        raise Unsupported(f"{mode} padding", "supported is padding by a number, most of all by 0")
    amounts = [*amounts, *[0] * (8 - len(amounts))]
    (left, right, top, bottom), others = amounts[:4], amounts[4:]
    fill = 0.0 if value is None else float(value)
    if len(a.shape) != 4 or any(others[2:]) or (any(others) and (any(amounts[:4]) or min(others) < 0 or fill != 0)):
        raise Unsupported(f"padding by {amounts}", "supported is padding of height and width, or of channels by 0")
    if any(others):
        return a.made(a.add("pad_channels", a.image(x), before=others[0], after=others[1]))
    return bordered(a, x, (top, bottom, left, right), fill)


# --- images of another size -------------------------------------------------------------------------------------------


def resized(a: Assembler, op: str, x: Any, scales: Any, **attrs: Any) -> Tensor:
    """An image of the size that PyTorch gives it. ``scales``, where a scale was asked for, must be that of the sizes:
    else PyTorch takes the pixels of another one."""
    image, size = a.image(x), a.shape[2:]
    for scale, before, after in zip(scales or (), a.type(image).spatial, size):
        if scale is not None and scale * before != after:
            raise Unsupported(f"{before} pixels are scaled by {scale:g}", f"give it a size: {after}")
    return a.made(a.add(op, image, size=size, **attrs))


@reads("upsample_nearest2d.vec")
def upsample_nearest2d(a: Assembler, x: Any, size: Any, scales: Any) -> Tensor:
    return resized(a, "upsample_nearest2d", x, scales)


@reads("upsample_nearest2d.default")
def upsample_nearest2d_sized(a: Assembler, x: Any, size: Any, *scales: Any) -> Tensor:
    return resized(a, "upsample_nearest2d", x, scales)


@reads("upsample_bilinear2d.vec")
def upsample_bilinear2d(a: Assembler, x: Any, size: Any, align_corners: bool, scales: Any) -> Tensor:
    return resized(a, "upsample_bilinear2d", x, None if align_corners else scales, align_corners=align_corners)


@reads("upsample_bilinear2d.default")
def upsample_bilinear2d_sized(a: Assembler, x: Any, size: Any, align_corners: bool, *scales: Any) -> Tensor:
    return resized(a, "upsample_bilinear2d", x, None if align_corners else scales, align_corners=align_corners)


@reads("channel_shuffle.default")
def channel_shuffle(a: Assembler, x: Any, groups: int) -> Tensor:
    return a.made(a.add("channel_shuffle", a.image(x), groups=groups))


@reads("pixel_shuffle.default")
def pixel_shuffle(a: Assembler, x: Any, factor: int) -> Tensor:
    return a.made(a.add("pixel_shuffle", a.image(x), upscale_factor=factor))


@reads("pixel_unshuffle.default")
def pixel_unshuffle(a: Assembler, x: Any, factor: int) -> Tensor:
    return a.made(a.add("pixel_unshuffle", a.image(x), downscale_factor=factor))


@reads("getitem")
def getitem(a: Assembler, xs: Any, index: int) -> Any:
    return xs[index]


def target_name(target: Any) -> str:
    """The table's name of what an exported node calls."""
    return "aten.getitem" if target is operator.getitem else str(target)


#: what to do about operations that have no row, by the beginning of their name
ADVICE = {
    "higher_order.wrap_with_autocast": "take autocast out of forward: the type is chosen by tricnn.compile(dtype=)",
    "higher_order.wrap_with_set_grad": "take torch.no_grad out of forward; freeze parameters by requires_grad_(False)",
    "higher_order": "control flow and checkpointing cannot be in forward",
    "aten.conv1d": "networks are of 2-d convolutions",
    "aten.conv3d": "networks are of 2-d convolutions",
    "aten.scaled_dot_product_attention": "attention is not supported",
    "aten.lstm": "recurrent layers are not supported",
    "aten.embedding": "embeddings are not supported",
    "aten.bernoulli": "random numbers are drawn by nn.Dropout only",
    "aten.rand": "random numbers are drawn by nn.Dropout only",
}
#: the end of an error
OTHERWISE = "docs/pytorch.md has the supported operations: write forward with those, or import a part of the module"


def advice(target: str) -> str:
    return next((text for start, text in ADVICE.items() if target.startswith(start)), "")


def supported() -> list[str]:
    """The operations of ATen that are understood, by name."""
    return sorted(name for name in ATEN if name.startswith("aten.") and name.count(".") > 1)
