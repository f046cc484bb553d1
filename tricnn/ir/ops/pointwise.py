"""Operations that compute each element from the same element of their operands: activations and arithmetic.

Each is written once, as a scalar expression (``tricnn/ir/scalar.py``); :func:`pointwise` derives the row from it, and
the rows of its gradients. To add one, see docs/adding-an-operation.md.

An operand may be smaller than the result: a number for each channel ``[C]``, for each image and channel
``[N, C, 1, 1]`` (a gate), or for each pixel ``[N, 1, H, W]`` (a mask). Its gradient is summed over what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import pi, sqrt
from typing import Any

import numpy as np

from ...system.errors import GraphError
from .. import scalar, scalar_facts
from ..compose import compose
from ..scalar import (
    Attribute,
    Expression,
    Value,
    absolute,
    erf,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    sigmoid,
    tanh,
    where,
)
from ..table import Attr, Kind, number, register, require
from ..types import TensorType

#: the operands' names in expressions
X, Y, A, B, WEIGHT = Value("x"), Value("y"), Value("a"), Value("b"), Value("weight")
DY = Value("dy")


def same_shape(a: Any, *types: TensorType) -> TensorType:
    for other in types[1:]:
        require(
            other.shape == types[0].shape,
            f"inputs must have one shape, they have {' and '.join(str(t) for t in types)}",
        )
    return types[0]


def first_shape(a: Any, x: TensorType, *_: TensorType) -> TensorType:
    return x


def broadcast(a: Any, *types: TensorType) -> TensorType:
    """The type of the largest operand, which every other one must fit."""
    whole = max(types, key=lambda t: (t.batched, t.elements(1)))
    for other in types:
        require(
            other.shape == whole.shape or _fits(other, whole),
            lambda: (
                f"inputs must have one shape, or one of [C], [N, C, 1, 1] and [N, 1, H, W] beside [N, C, H, W]; "
                f"they have {' and '.join(map(str, types))}"
            ),
        )
    return whole


def _fits(part: TensorType, whole: TensorType) -> bool:
    """Has it a number for each channel, each image and channel, or each pixel of the whole?"""
    if not whole.batched or not part.batched:
        return whole.batched and part.shape == (whole.channels,)
    if len(part.shape) != 4 or len(whole.shape) != 4:
        return False
    return part.channels in (1, whole.channels) and part.spatial in ((1, 1), whole.spatial)


def aligned(operands: tuple[Any, ...]) -> list[Any]:
    """Arrays or tensors that broadcast: a vector has a number for each channel."""
    rank = max(x.ndim for x in operands)
    return [x.reshape(1, -1, *[1] * (rank - 2)) if x.ndim == 1 and rank > 2 else x for x in operands]


def summed(g: Any, gradient: str, whole: TensorType, part: TensorType) -> str:
    """The gradient of an operand that is smaller than the result, by that of the whole."""
    if part.shape == whole.shape:
        return gradient
    if not part.batched:
        return str(g.add("channel_sum", gradient))
    if part.spatial != whole.spatial:
        gradient = g.add("scale", g.add("global_avg_pool", gradient), factor=float(whole.pixels))
    return str(gradient if part.channels == whole.channels else g.add("sum_channels", gradient))


def pointwise(
    name: str, inputs: str, expression: Expression, doc: str, *, attrs: Mapping[str, Attr] | None = None,
    slopes: Mapping[str, Expression] | None = None, rises: bool | None = None,
    aten: Callable[..., Any] | None = None, aten_gradient: Callable[..., Any] | None = None, detaches: bool = False,
) -> None:  # fmt: skip
    """Add the row ``y = expression``, and a row for each of its gradients that is not a row already.

    ``inputs`` names the operands, as the expression does. ``slopes`` gives the derivative by an operand where another
    one is wanted than the expression's own (at a kink, or by the result ``y``, which is then what the gradient reads).
    ``rises`` says that a larger operand never gives a smaller result, where the expression does not show it.
    ``aten`` and ``aten_gradient`` are PyTorch's own functions, where it has them in one kernel. With ``detaches`` it is
    its operand, of which it takes no gradient.
    """
    attrs, names = dict(attrs or {}), inputs.split()
    by_operand: dict[str, tuple[Expression, str, tuple[str, ...]]] = {}
    for operand in names:
        slope = (slopes or {}).get(operand)
        if slope is None:
            slope = scalar.derivative(expression, operand)
            by_result = scalar.substitute(slope, {expression: Y})
            slope = by_result if not set(scalar.values(by_result)) & {operand} else slope
        read = scalar.values(slope)
        row = f"{name}_grad" if len(names) == 1 else f"{name}_grad_{operand}"
        if len(read) and not isinstance(slope, Value):
            gradient = scalar.times(DY, slope)
            operands = ["dy", *sorted(read, key=lambda v: (v == "y", v))]
            _row(row, operands, gradient, f"the gradient of {name} by {operand}: dy times its slope", attrs,
                 aten=aten_gradient, gradient=_second(row, gradient, operands), gradient_of=name,
                 instead=_instead(gradient, expression, names))  # fmt: skip
        by_operand[operand] = slope, row, read

    def rule(g: Any, node: Any, dy: str) -> list[str | None]:
        found: list[str | None] = []
        for value, operand in zip(node.inputs, names, strict=True):
            slope, row, read = by_operand[operand]
            where_ = {**dict(zip(names, node.inputs, strict=True)), "y": node.name}
            if not g.wanted(value) or slope == scalar.ZERO:
                found.append(None)
                continue
            if slope == scalar.ONE:
                gradient = dy
            elif not read:
                factor = float(scalar.evaluate(slope, node.attrs, {"dy": np.float64(0.0)}))
                gradient = g.add("scale", dy, factor=factor)
            elif isinstance(slope, Value):
                gradient = g.add("mul", dy, where_[slope.name])
            else:
                order = sorted(read, key=lambda v: (v == "y", v))
                gradient = g.add(row, dy, *(where_[v] for v in order), **node.attrs)
            found.append(summed(g, gradient, g.type(node.name), g.type(value)))
        return found

    alone = len(names) == 1
    _row(name, names, expression, doc, attrs, aten=aten, gradient=rule, per_channel=alone, detaches=detaches,
         rises=alone and (scalar_facts.rises(expression) if rises is None else rises))  # fmt: skip


def _second(row: str, gradient: Expression, names: Sequence[str]) -> Callable[..., list[str | None]]:
    """The gradient rule of a row dx = dy * slope(v), given ddx, what comes back for dx.

    By dy it is ddx * slope(v), this row again; by v it is ddx * dy * slope'(v), put together of rows that there are.
    Raises GraphError, naming the layer, where no rows compute the latter."""

    def rule(g: Any, node: Any, ddx: str) -> list[str | None]:
        found: list[str | None] = []
        for value, operand in zip(node.inputs, names, strict=True):
            slope = scalar.derivative(gradient, operand)
            if not g.wanted(value) or slope == scalar.ZERO:
                found.append(None)
                continue
            if operand == DY.name:
                made = g.add(row, ddx, *node.inputs[1:], **node.attrs)
            else:
                whole = scalar.times(Value("ddx"), slope)
                operands = {**dict(zip(names, node.inputs, strict=True)), "ddx": ddx}
                try:
                    made = compose(g, whole, operands, node.attrs)
                except GraphError as error:
                    raise GraphError(
                        f"layer {node.name}: {node.op} cannot be differentiated by {operand}: {error}"
                    ) from error
            found.append(summed(g, made, g.type(node.name), g.type(value)))
        return found

    return rule


def _instead(gradient: Expression, expression: Expression, names: list[str]) -> Expression | None:
    """The gradient by the operand, where that takes less than the result and the gradient by it."""
    if "y" not in scalar.values(gradient) or len(names) > 1:
        return None
    direct = scalar.substitute(gradient, {Y: expression})
    less = scalar.operations(direct) < scalar.operations(gradient) + scalar.operations(expression)
    return direct if less else None


def _row(
    name: str, names: list[str], expression: Expression, doc: str, attrs: Mapping[str, Attr], *,
    aten: Callable[..., Any] | None, **facts: Any,
) -> None:  # fmt: skip
    """A row whose cells are derived from its expression."""

    def numpy(env: Any, a: Any, *operands: Any) -> Any:
        return scalar.evaluate(expression, a, dict(zip(names, aligned(operands), strict=True)))

    def by_torch(env: Any, a: Any, *operands: Any) -> Any:
        """In fp32 at least, as the kernels compute it."""
        whole = max(operands, key=lambda x: x.ndim)
        wide = [x.float() if x.element_size() < 4 else x for x in aligned(operands)]
        return scalar.evaluate(expression, a, dict(zip(names, wide, strict=True)), "torch").to(whole.dtype)

    def rounding(a: Any, *operands: Any) -> Any:
        return scalar_facts.rounding(expression, a, dict(zip(names, aligned(operands), strict=True)))

    zeros = {v: 0.0 if v == names[0] else scalar_facts.FINITE for v in names}
    register(
        name, Kind.POINTWISE, " ".join(names),
        attrs=attrs,
        shape=first_shape if len(names) == 1 else broadcast,
        numpy=numpy,
        aten=aten or by_torch,
        batched=dict.fromkeys(names),
        scalar=expression, rounding=rounding,
        elementwise=True, finds_vectors=True,
        keeps_zero=scalar_facts.of_zeros(expression, {}, zeros) == 0.0,
        operations=scalar.operations(expression),
        doc=doc,
        **facts,
    )  # fmt: skip


def _f(name: str, **options: str) -> Callable[..., Any]:
    """PyTorch's function of that name in ``torch.nn.functional``; ``options`` are its arguments, by our attributes."""

    def call(env: Any, a: Any, *operands: Any) -> Any:
        import torch.nn.functional as F

        return getattr(F, name)(*operands, **{theirs: a[ours] for theirs, ours in options.items()})

    return call


def _torch() -> Any:
    import torch

    return torch


# --- arithmetic ----------------------------------------------------------------------------------

pointwise("add", "a b", A + B, "y = a + b", aten=lambda env, a, *x: _sum(*aligned(x)))
pointwise("sub", "a b", A - B, "y = a - b")
pointwise("mul", "a b", A * B, "y = a * b")
pointwise("div", "a b", A / B, "y = a / b")
pointwise("maximum", "a b", maximum(A, B), "y = max(a, b); where they are equal each takes half of the gradient")
pointwise("minimum", "a b", minimum(A, B), "y = min(a, b); where they are equal each takes half of the gradient")
pointwise("scale", "x", X * Attribute("factor"), "y = factor * x", attrs={"factor": number()})
pointwise("shift", "x", X + Attribute("amount"), "y = x + amount", attrs={"amount": number()}, rises=True)
pointwise("neg", "x", -X, "y = -x")
pointwise("detach", "x", X, "y = x, through which no gradient passes", slopes={"x": scalar.ZERO},
          aten=lambda env, a, x: x.detach(), detaches=True)  # fmt: skip
pointwise("abs", "x", absolute(X), "y = |x|")
pointwise("square", "x", X * X, "y = x^2")
pointwise("sqrt", "x", scalar.sqrt(X), "y = sqrt(x)")
pointwise("reciprocal", "x", 1.0 / X, "y = 1 / x", slopes={"x": -(Y * Y)})
pointwise("exp", "x", exp(X), "y = exp(x)")
pointwise("log", "x", log(X), "y = log(x)")
LOW, HIGH = Attribute("min"), Attribute("max")
LIMIT = float(np.finfo(np.float32).max)
pointwise(
    "clamp", "x", minimum(maximum(X, LOW), HIGH), "y = min(max(x, min), max)",
    attrs={"min": number(-LIMIT), "max": number(LIMIT)},
    slopes={"x": where(X >= LOW, where(X <= HIGH, 1.0, 0.0), 0.0)}, rises=True,
)  # fmt: skip

# --- activations ---------------------------------------------------------------------------------

pointwise(
    "relu", "x", maximum(X, 0.0), "y = max(x, 0); no gradient at its kink, and a y that is NaN hides none",
    slopes={"x": where(Y <= 0.0, 0.0, 1.0)}, aten=lambda env, a, x: _torch().relu(x),
    aten_gradient=lambda env, a, dy, y: _torch().ops.aten.threshold_backward(dy, y, 0),
)  # fmt: skip
pointwise("sigmoid", "x", sigmoid(X), "y = 1 / (1 + exp(-x))", aten=lambda env, a, x: _torch().sigmoid(x))
pointwise("tanh", "x", tanh(X), "y = tanh(x)", aten=lambda env, a, x: _torch().tanh(x))
pointwise(
    "relu6", "x", minimum(maximum(X, 0.0), 6.0), "y = min(max(x, 0), 6); no gradient at its kinks",
    slopes={"x": where(Y <= 0.0, 0.0, where(Y >= 6.0, 0.0, 1.0))}, aten=_f("relu6"),
)  # fmt: skip
SLOPE = Attribute("negative_slope")
pointwise(
    "leaky_relu", "x", where(X > 0.0, X, X * SLOPE), "y = x where x > 0, else negative_slope * x",
    attrs={"negative_slope": number(0.01, 0.0)}, slopes={"x": where(Y > 0.0, 1.0, SLOPE)}, rises=True,
    aten=_f("leaky_relu", negative_slope="negative_slope"),
)  # fmt: skip
pointwise(
    "prelu", "x weight", where(X > 0.0, X, X * WEIGHT), "y = x where x > 0, else weight * x; weight is [C]",
    aten=lambda env, a, x, w: _torch().nn.functional.prelu(x, w.to(x.dtype)),
)  # fmt: skip
ALPHA = Attribute("alpha")
pointwise(
    "elu", "x", where(X > 0.0, X, expm1(X) * ALPHA), "y = x where x > 0, else alpha * (exp(x) - 1)",
    attrs={"alpha": number(1.0, 0.0)}, slopes={"x": where(Y <= 0.0, Y + ALPHA, 1.0)}, rises=True,
    aten=_f("elu", alpha="alpha"),
)  # fmt: skip
pointwise("silu", "x", X * sigmoid(X), "y = x * sigmoid(x)", aten=_f("silu"))
pointwise(
    "hardsigmoid", "x", minimum(maximum(X + 3.0, 0.0), 6.0) * (1 / 6), "y = min(max(x + 3, 0), 6) / 6",
    slopes={"x": where(X > -3.0, where(X < 3.0, 1 / 6, 0.0), 0.0)},
)  # fmt: skip
pointwise(
    "hardswish", "x", X * minimum(maximum(X + 3.0, 0.0), 6.0) * (1 / 6), "y = x * min(max(x + 3, 0), 6) / 6",
    slopes={"x": where(X <= -3.0, 0.0, where(X < 3.0, X * (1 / 3) + 0.5, 1.0))}, aten=_f("hardswish"),
)  # fmt: skip
pointwise("gelu", "x", 0.5 * X * (1.0 + erf(X * sqrt(0.5))), "y = x * (1 + erf(x / sqrt(2))) / 2", aten=_f("gelu"))
pointwise(
    "gelu_tanh", "x", 0.5 * X * (1.0 + tanh(sqrt(2 / pi) * (X + 0.044715 * X * X * X))),
    "y = x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2, which is close to gelu",
    aten=lambda env, a, x: _torch().nn.functional.gelu(x, approximate="tanh"),
)  # fmt: skip
# tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2); beyond 20 it is 1 in fp32
_E = exp(minimum(X, 20.0))
_N = _E * (_E + 2.0)
pointwise("mish", "x", X * (_N / (_N + 2.0)), "y = x * tanh(log(1 + exp(x)))", aten=_f("mish"))
BETA = Attribute("beta")
pointwise(
    "softplus", "x", (maximum(X * BETA, 0.0) + log1p(exp(-absolute(X * BETA)))) / BETA,
    "y = log(1 + exp(beta * x)) / beta", attrs={"beta": number(1.0, 1e-3)},
    slopes={"x": -expm1(-(Y * BETA))}, rises=True,
)  # fmt: skip


def _sum(a: Any, b: Any) -> Any:
    whole = a if a.ndim >= b.ndim else b
    return (a + b).to(whole.dtype)
