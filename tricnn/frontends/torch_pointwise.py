"""ATen operations in our words: activations and arithmetic, element by element.

A reader takes the :class:`~tricnn.frontends.assembler.Assembler` and the call's arguments (torch_ops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import zip_longest
from math import inf, log2, prod
from numbers import Number
from typing import Any

from . import torch_parts, torch_weights
from .assembler import BATCH, Assembler, Stored, Tensor, Unsupported, described
from .readers import Reader, entering
from .torch_names import aten_name
from .views import View

READERS: dict[str, Reader] = {}
reads = entering(READERS, aten_name)


#: activations and functions of one operand, by the name that both have
SAME_NAME = (
    "relu", "relu6", "sigmoid", "tanh", "silu", "hardsigmoid", "hardswish", "mish",
    "neg", "abs", "square", "sqrt", "reciprocal", "exp", "log",
)  # fmt: skip


def unary(a: Assembler, op: str, x: Any, **attrs: Any) -> Any:
    """A pointwise operation: it takes place on the value as it lies, and its result is seen as its operand was.
    Of a parameter it is a weight that forward computes."""
    if isinstance(x, Stored):
        return torch_weights.computed(a, op, [x], **attrs)
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
    return by_number(a, unary(a, "elu", by_number(a, x, input_scale, 0), alpha=alpha), scale, 0)


@reads("celu.default")
def celu(a: Assembler, x: Any, alpha: float = 1.0) -> Tensor:
    """CELU, alpha * elu(x / alpha), for alpha > 0."""
    return by_number(a, unary(a, "elu", by_number(a, x, 1 / alpha, 0)), alpha, 0)


@reads("selu.default")
def selu(a: Assembler, x: Any) -> Tensor:
    """SELU, which is elu with two constants.
    Klambauer et al., "Self-normalizing neural networks" (2017), equation 2."""
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
def power(a: Assembler, x: Any, exponent: Any) -> Any:
    """``x^exponent`` for 1/4, 1/2, 1, 2, 3 and 4, as roots or squares one after the other, and the reciprocals."""
    value = x if isinstance(x, Stored) else a.tensor(x)
    if _number(exponent) and abs(exponent) == 3 and isinstance(value, Tensor):
        cube = binary(a, "mul", unary(a, "square", value), value)
        return unary(a, "reciprocal", cube) if exponent < 0 else cube
    doublings = log2(abs(exponent)) if _number(exponent) and exponent else inf
    if doublings not in (-2, -1, 0, 1, 2):
        what = f"{exponent:g}" if _number(exponent) else "a tensor"
        raise Unsupported(f"a power of {what}", "supported are powers of 1/4, 1/2, 1, 2, 3, 4, and of these negative")
    for _ in range(abs(int(doublings))):
        value = unary(a, "square" if doublings > 0 else "sqrt", value)
    return unary(a, "reciprocal", value) if exponent < 0 else value


@reads("rsqrt.default")
def rsqrt(a: Assembler, x: Any) -> Tensor:
    return power(a, x, -0.5)


@reads("prelu.default")
def prelu(a: Assembler, x: Any, weight: Any) -> Tensor:
    value = a.plain(x)
    channels = a.type(value).channels
    if isinstance(weight, Stored) and weight.shape == (1,) != (channels,):
        slopes = for_all_channels(a, weight, channels)
    else:
        slopes = a.parameter(weight, "weight", (channels,))
    return a.made(a.add("prelu", value, slopes, owner=weight.name))


def for_all_channels(a: Assembler, x: Stored, channels: int) -> str:
    """The vector of a parameter that is one number for all channels."""
    number = a.viewed(a.parameter(x, "operand", a.stored[x.name].shape), (1,))
    return number if channels == 1 else a.add("repeat_number", number, channels=channels)


@reads("native_dropout.default")
def native_dropout(a: Assembler, x: Any, p: float, train: Any = True) -> list[Any]:
    return [dropout(a, x, p, train is not False), None]


@reads("dropout.default")
def dropout(a: Assembler, x: Any, p: float, train: bool) -> Tensor:
    if not train or p == 0:
        return a.tensor(x)
    return unary(a, "dropout", x, p=p)


@reads("feature_dropout.default")
def feature_dropout(a: Assembler, x: Any, p: float, train: bool) -> Tensor:
    """Dropout of whole channels, as nn.Dropout2d has it."""
    return a.tensor(x) if not train or p == 0 else a.made(a.add("dropout2d", a.image(x), p=p))


@reads("tricnn.stochastic_depth.default")
def stochastic_depth(a: Assembler, x: Any, p: float) -> Tensor:
    return unary(a, "stochastic_depth", x, p=p)


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


def binary(a: Assembler, op: str, x: Any, y: Any) -> Any:
    """A pointwise operation of two values, or of a value and a parameter.
    One may be smaller: [C], [N, C, 1, 1] or [N, 1, H, W] beside [N, C, H, W], wherever a permutation has put those
    axes."""
    if isinstance(x, Stored) and isinstance(y, Stored):
        return torch_weights.computed(a, op, [x, y])
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        a.tensor(x)
    operands = [v if isinstance(v, Stored) else a.tensor(v) for v in (x, y)]
    tensors = [v for v in operands if isinstance(v, Tensor)]
    if len(tensors) == 2 and tensors[0].view == tensors[1].view:
        return a.made(a.add(op, *[v.value for v in tensors]), tensors[0].view)
    shape = tuple(map(max, zip_longest(*[v.shape[::-1] for v in operands], fillvalue=1)))[::-1]
    found = _narrowly(a, op, [v if isinstance(v, Stored) else narrowed(v) for v in operands])
    return found if found.shape == shape else Tensor(found.value, found.view.expanded(shape), site=found.site)


def narrowed(x: Tensor) -> Tensor:
    """A value without the copies that it was expanded to."""
    return replace(x, view=x.view.narrow)


def of_channels(a: Assembler, x: Tensor) -> Tensor:
    """A value of features [N, F] as one of channels [N, F, 1, 1], seen as it was; any other one as it is."""
    if len(x.shape) == 2 and len(x.view.base) == 4 and x.shape[1] not in (1, x.view.base[1]):  # a flattened image
        x = a.made(a.plain(x))
    if len(x.view.base) != 2:
        return x
    value = a.add("unflatten", x.value, shape=(x.view.base[1], 1, 1), stem="image")
    return Tensor(value, View((*x.view.base, 1, 1), x.view.dims), site=x.site)


def _narrowly(a: Assembler, op: str, operands: list[Any]) -> Tensor:
    """A pointwise operation of operands without copies."""
    tensors = [v for v in operands if isinstance(v, Tensor)]
    if len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
        values, view = together(a, tensors)
        return a.made(a.add(op, *values), view)
    if len(tensors) == 2 and all(len(v.shape) == 2 for v in tensors):  # [N, F] and [N, 1]
        operands = tensors = [of_channels(a, v) for v in tensors]
    if (found := _as_images(a, op, operands)) is not None:
        return found
    if len(tensors) == 2:
        tensors = _as_wide(a, tensors)
        operands = [*tensors]
    whole = max(tensors, key=lambda v: (len(v.shape), prod(v.shape)))
    place = next(i for i, v in enumerate(operands) if v is whole)
    if len(tensors) == 2 and (images := torch_parts.merged(whole, tensors[1 - place])) is not None:
        found = binary(a, op, *(images if place == 0 else images[::-1]))
        seen = found.view.reshaped(whole.shape)
        assert seen is not None
        return a.made(found.value, seen)
    if order_of(whole.view) is None:
        operands[place] = whole = a.made(a.plain(whole))
    order = order_of(whole.view) or ()
    back = [order.index(i) for i in range(len(order))]
    values = [_beside(a, v, whole, back) for v in operands]
    return a.made(a.add(op, *values), View.of(a.type(values[place]).at(BATCH)).permuted(order))


def _as_images(a: Assembler, op: str, operands: list[Any]) -> Tensor | None:
    """A pointwise operation of values [N, C] or [N, C, L] that lie as images, as one of these; None of others."""
    tensors = [v for v in operands if isinstance(v, Tensor)]
    rank = max(len(v.shape) for v in tensors)
    if rank > 3 or any(len(v.view.base) != 4 or len(v.shape) != rank for v in tensors):
        return None
    ones = 4 - rank
    images = [
        replace(v, shape=(*v.shape, *[1] * ones))
        if isinstance(v, Stored)
        else replace(v, view=View(v.view.base, (*v.view.dims, *[()] * ones)))
        for v in operands
    ]
    if any(isinstance(v, Tensor) and order_of(v.view) is None for v in images):
        return None
    found = _narrowly(a, op, images)
    return replace(found, view=found.view.without(range(rank, 4), keep=False))


def _as_wide(a: Assembler, tensors: list[Tensor]) -> list[Tensor]:
    """Two values; where neither is as large as what they make together, the one of one pixel as large as the other.
    So a gate [N, C, 1, 1] meets a mask [N, 1, H, W]: it is the same at all pixels, which its readers know."""
    gate, mask = sorted(tensors, key=lambda t: prod(t.shape[2:]))
    if len(gate.shape) != 4 or len(mask.shape) != 4 or mask.shape[1] != 1 or gate.shape[2:] != (1, 1):
        return tensors
    if gate.shape[1] == 1 or mask.shape[2:] == (1, 1):
        return tensors
    spread = a.made(a.add("upsample_nearest2d", a.plain(gate), size=mask.shape[2:], stem="spread"))
    return [spread if t is gate else t for t in tensors]


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
        if prod(there) == 1:
            return for_all_channels(a, part, channels)
        if there != [1, channels, *[1] * (rank - 2)]:
            raise Unsupported(
                f"arithmetic with {part.name}, {list(part.shape)}", "a parameter has a number per channel"
            )
        stored = a.stored[part.name].shape
        return a.viewed(a.parameter(part, "operand", stored), (channels,))
    view = part.view.reshaped(shape)
    assert view is not None  # dimensions of 1 can be put before any
    view = view.permuted(back)
    pixels = tuple(whole.shape[i] for i in back)[2:]
    if view.shape[2:] not in ((), (1, 1), pixels):  # a number for each row or column: copied along the other axis
        view = view.expanded((*view.shape[:2], *pixels))
    return a.plain(Tensor(part.value, view, site=part.site))


@reads("add.Tensor", "add.Scalar")
def add(a: Assembler, x: Any, y: Any, alpha: Any = 1) -> Tensor:
    if alpha != 1:
        y = multiply(a, y, alpha)
    if _number(y):
        return by_number(a, x, 1, y)
    if _number(x):
        return by_number(a, y, 1, x)
    return binary(a, "add", x, y)


@reads("tricnn.sum_of.default")
def sum_of(a: Assembler, *xs: Any) -> Tensor:
    """Values added up in order."""
    return reduce(lambda x, y: binary(a, "add", x, y), xs)


@reads("sub.Tensor", "sub.Scalar")
def subtract(a: Assembler, x: Any, y: Any, alpha: Any = 1) -> Tensor:
    if alpha != 1:
        y = multiply(a, y, alpha)
    if _number(y):
        return by_number(a, x, 1, -y)
    if _number(x):
        return by_number(a, y, -1, x)
    return binary(a, "sub", x, y)


@reads("rsub.Scalar", "rsub.Tensor")
def subtract_from(a: Assembler, x: Any, y: Any, alpha: Any = 1) -> Tensor:
    return subtract(a, y, x, alpha)


@reads("mul.Tensor", "mul.Scalar")
def multiply(a: Assembler, x: Any, y: Any) -> Any:
    if _number(x) and _number(y):
        return x * y
    if _number(x):
        x, y = y, x
    if _number(y) and isinstance(x, Stored):
        return replace(x, factor=x.factor * float(y))
    if _number(y):
        return by_number(a, x, y, 0)
    return binary(a, "mul", x, y)


@reads("addcmul.default")
def addcmul(a: Assembler, x: Any, first: Any, second: Any, *, value: Any = 1) -> Tensor:
    """``x + value * first * second``."""
    return add(a, x, multiply(a, multiply(a, first, second), value))


@reads("div.Tensor", "div.Scalar")
def divide(a: Assembler, x: Any, y: Any) -> Tensor:
    if _number(y) and y != 0:
        return by_number(a, x, 1 / y, 0)
    if _number(x):
        return by_number(a, unary(a, "reciprocal", y), x, 0)
    return binary(a, "div", x, y)


@reads("maximum.default", "max.other")
def maximum(a: Assembler, x: Any, y: Any) -> Tensor:
    return binary(a, "maximum", x, y)


@reads("minimum.default", "min.other")
def minimum(a: Assembler, x: Any, y: Any) -> Tensor:
    return binary(a, "minimum", x, y)


def by_number(a: Assembler, x: Any, factor: Any, term: Any) -> Any:
    """The value ``factor * x + term``."""
    x = x if isinstance(x, Stored) else a.tensor(x)
    if factor == -1:
        x = unary(a, "neg", x)
    elif factor != 1:
        x = unary(a, "scale", x, factor=factor)
    return x if term == 0 else unary(a, "shift", x, amount=term)
