"""Scalar expressions: what a pointwise operation computes of one element of each operand, written once.

    x = Value("x")
    silu = x * sigmoid(x)

is all that there is to say of SiLU. Derived from it are the NumPy and PyTorch functions (:func:`evaluate`), the text of
a Triton kernel (:func:`text`), the derivative (:func:`derivative`) and how many operations it takes
(:func:`operations`). What is known of its result without computing it is in scalar_facts.py.

An expression is a :class:`Value` (an operand), an :class:`Attribute` of the layer, a :class:`Number`, or a
:class:`Function` of expressions. ``FUNCTIONS`` is the table of functions; each of its rows says in every language what
the function is. Arithmetic simplifies itself as it is written (``1 * x`` is ``x``), which keeps derivatives short.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .numpy_ops.nhwc import zero_where

#: half a unit in the last place of fp32, and how many such a function of a GPU's special units may be off by
HALF_UNIT, SPECIAL = 2.0**-24, 8.0
#: 2^-126, below which a number may be flushed to 0, in halves of a unit
FLUSHED = 2.0**-102


@dataclass(frozen=True)
class Expression:
    """Something with a value at one element. Python's operators make larger ones."""

    def __add__(self, other: Expression | float) -> Expression:
        return add(self, wrap(other))

    def __radd__(self, other: float) -> Expression:
        return add(wrap(other), self)

    def __sub__(self, other: Expression | float) -> Expression:
        return subtract(self, wrap(other))

    def __rsub__(self, other: float) -> Expression:
        return subtract(wrap(other), self)

    def __mul__(self, other: Expression | float) -> Expression:
        return multiply(self, wrap(other))

    def __rmul__(self, other: float) -> Expression:
        return multiply(wrap(other), self)

    def __truediv__(self, other: Expression | float) -> Expression:
        return divide(self, wrap(other))

    def __rtruediv__(self, other: float) -> Expression:
        return divide(wrap(other), self)

    def __neg__(self) -> Expression:
        return Number(-self.value) if isinstance(self, Number) else Function("neg", (self,))

    def __lt__(self, other: Expression | float) -> Expression:
        return Function("less", (self, wrap(other)))

    def __gt__(self, other: Expression | float) -> Expression:
        return Function("greater", (self, wrap(other)))

    def __le__(self, other: Expression | float) -> Expression:
        """``max(x, 0) <= 0`` where ``x <= 0``, and of a NaN neither is so."""
        right = wrap(other)
        if isinstance(self, Function) and self.name == "maximum" and self.parts[1] == right == ZERO:
            return self.parts[0] <= right
        return Function("at_most", (self, right))

    def __ge__(self, other: Expression | float) -> Expression:
        return Function("at_least", (self, wrap(other)))


@dataclass(frozen=True)
class Number(Expression):
    value: float


@dataclass(frozen=True)
class Value(Expression):
    """An operand, by its name in the row."""

    name: str


@dataclass(frozen=True)
class Attribute(Expression):
    """A number that the layer has as an attribute, or one for each channel: then the attribute is a tuple."""

    name: str


@dataclass(frozen=True)
class Function(Expression):
    name: str
    parts: tuple[Expression, ...]


ZERO, ONE = Number(0.0), Number(1.0)


def wrap(x: Expression | float) -> Expression:
    """A number as an expression; an expression as it is."""
    return x if isinstance(x, Expression) else Number(float(x))


# --- how expressions are written ----------------------------------------------------------------


def add(a: Expression, b: Expression) -> Expression:
    if isinstance(a, Number) and isinstance(b, Number):
        return Number(a.value + b.value)
    return b if a == ZERO else a if b == ZERO else Function("add", (a, b))


def subtract(a: Expression, b: Expression) -> Expression:
    if isinstance(a, Number) and isinstance(b, Number):
        return Number(a.value - b.value)
    return -b if a == ZERO else a if b == ZERO else Function("sub", (a, b))


def multiply(a: Expression, b: Expression) -> Expression:
    if isinstance(a, Number) and isinstance(b, Number):
        return Number(a.value * b.value)
    if ZERO in (a, b):
        return ZERO
    if a == ONE or b == ONE:
        return b if a == ONE else a
    return -b if a == Number(-1.0) else -a if b == Number(-1.0) else Function("mul", (a, b))


def divide(a: Expression, b: Expression) -> Expression:
    return ZERO if a == ZERO else a if b == ONE else Function("div", (a, b))


def where(condition: Expression, a: Expression | float, b: Expression | float) -> Expression:
    """a where the condition holds, else b."""
    a, b = wrap(a), wrap(b)
    return a if a == b else Function("where", (condition, a, b))


def maximum(a: Expression | float, b: Expression | float) -> Expression:
    """The larger one; NaN if either is."""
    return Function("maximum", (wrap(a), wrap(b)))


def minimum(a: Expression | float, b: Expression | float) -> Expression:
    """The smaller one; NaN if either is."""
    return Function("minimum", (wrap(a), wrap(b)))


def _unary(name: str) -> Callable[[Expression], Expression]:
    def write(x: Expression) -> Expression:
        return Function(name, (x,))

    return write


exp, expm1, log, log1p = map(_unary, ("exp", "expm1", "log", "log1p"))
sqrt, absolute, sigmoid, tanh, erf = map(_unary, ("sqrt", "abs", "sigmoid", "tanh", "erf"))


# --- the table of functions ---------------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """A function in every language.

    numpy         the name in that library, or what to call instead
    torch         the name there
    triton        its text, of the parts' texts; ``binds`` says how tightly (3: as a name does), and how tightly each
                  part must
    slope         ``(parts, the function itself) -> the derivative by each part``
    operations    of the vector units (in flop: an instruction is two)
    error         ``(result, parts) -> array``: what it is off by for exact parts, in halves of a unit of fp32
    finite        its result is finite if its parts are
    rises         its result never falls where all its parts rise
    """

    numpy: str | Callable[..., Any]
    torch: str
    triton: str
    slope: Callable[[Sequence[Expression], Expression], Sequence[Expression]]
    binds: int = 3
    parts: tuple[int, ...] = (0, 0, 0)
    operations: int = 2
    error: Callable[..., Any] = lambda y, *parts: np.abs(y)
    finite: bool = True
    rises: bool = False


def _exact(y: Any, *parts: Any) -> Any:
    return 0.0 * np.abs(np.nan_to_num(y))


def _special(y: Any, *parts: Any) -> Any:
    return SPECIAL * np.abs(y)


def _of_exp(y: Any, x: Any) -> Any:
    """exp(x) as 2^(x * log2(e)), the product of which is rounded.
    Below -128 it is 0, above 128 infinity, whatever that rounding does; and 0 if it is flushed."""
    return (SPECIAL + np.minimum(np.abs(x), 128.0)) * np.abs(y) + FLUSHED


def _of_difference(y: Any, x: Any) -> Any:
    """The difference of numbers about as large as 1."""
    return SPECIAL * np.maximum(np.abs(y), 1.0)


def _numpy_sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _numpy_where(condition: Any, a: Any, b: Any) -> Any:
    hides = np.ndim(a) == 0 and a == 0 and np.shape(condition) == np.shape(b) != ()
    return zero_where(condition.copy(), b) if hides else np.where(condition, a, b)  # which writes over it


def _numpy_erf(x: Any) -> Any:
    """The error function, by PyTorch: NumPy has none.
    Of one number by Python, so that what a row is asked while its table is made needs no PyTorch."""
    if np.ndim(x) == 0:
        return np.asarray(x).dtype.type(math.erf(x))
    import torch

    return torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy().reshape(np.shape(x))


def _half_where_equal(p: Sequence[Expression], beaten: Callable[..., Expression]) -> list[Expression]:
    """PyTorch's gradient of maximum and minimum: where both are equal, a half to each."""
    equal = Function("equal", (p[0], p[1]))
    return [where(beaten(p[0], p[1]), 0.0, where(equal, 0.5, 1.0)),
            where(beaten(p[1], p[0]), 0.0, where(equal, 0.5, 1.0))]  # fmt: skip


def _no_slope(p: Sequence[Expression], y: Expression) -> Sequence[Expression]:
    return [ZERO] * len(p)


def _comparison(numpy: str, torch: str, sign: str) -> Meaning:
    return Meaning(numpy, torch, "{0} " + sign + " {1}", _no_slope, 0, (1, 1), error=_exact)


_TWO_BY_PI = 1.1283791670955126  # 2 / sqrt(pi)

FUNCTIONS: dict[str, Meaning] = {
    "add": Meaning("add", "add", "{0} + {1}", lambda p, y: [ONE, ONE], 1, (1, 1), rises=True),
    "sub": Meaning("subtract", "sub", "{0} - {1}", lambda p, y: [ONE, -ONE], 1, (1, 2)),
    "mul": Meaning("multiply", "mul", "{0} * {1}", lambda p, y: [p[1], p[0]], 2, (2, 3)),
    "div": Meaning(
        "divide", "div", "{0} / {1}", lambda p, y: [ONE / p[1], -(y / p[1])], 2, (2, 3), 16,
        _special, finite=False,
    ),
    "neg": Meaning("negative", "neg", "-{0}", lambda p, y: [-ONE], 2, (3,), error=_exact),
    "abs": Meaning(
        "abs", "abs", "tl.abs({0})", lambda p, y: [where(p[0] > 0, 1.0, where(p[0] < 0, -1.0, 0.0))], error=_exact
    ),
    "maximum": Meaning(
        "maximum", "maximum", "tl.maximum({0}, {1}, tl.PropagateNan.ALL)",
        lambda p, y: _half_where_equal(p, lambda a, b: a < b), error=_exact,
        rises=True,
    ),
    "minimum": Meaning(
        "minimum", "minimum", "tl.minimum({0}, {1}, tl.PropagateNan.ALL)",
        lambda p, y: _half_where_equal(p, lambda a, b: a > b), error=_exact,
        rises=True,
    ),
    "where": Meaning(
        _numpy_where, "where", "tl.where({0}, {1}, {2})",
        lambda p, y: [ZERO, where(p[0], 1.0, 0.0), where(p[0], 0.0, 1.0)], error=_exact,
    ),
    "less": _comparison("less", "lt", "<"),
    "greater": _comparison("greater", "gt", ">"),
    "at_most": _comparison("less_equal", "le", "<="),
    "at_least": _comparison("greater_equal", "ge", ">="),
    "equal": _comparison("equal", "eq", "=="),
    "exp": Meaning("exp", "exp", "tl.exp({0})", lambda p, y: [y], operations=8, error=_of_exp, finite=False,
                   rises=True),
    "expm1": Meaning("expm1", "expm1", "expm1({0})", lambda p, y: [y + 1.0], operations=24, error=_special,
                     finite=False, rises=True),
    "log": Meaning("log", "log", "tl.log({0})", lambda p, y: [ONE / p[0]], operations=8, error=_of_difference,
                   finite=False, rises=True),
    "log1p": Meaning("log1p", "log1p", "log1p({0})", lambda p, y: [ONE / (1.0 + p[0])], operations=24,
                     error=_special, finite=False, rises=True),
    # Triton's plain one takes subnormal numbers for 0: negative ones give no NaN, positive ones an infinite slope
    "sqrt": Meaning("sqrt", "sqrt", "tl.sqrt_rn({0})", lambda p, y: [0.5 / y], operations=16, finite=False, rises=True),
    "sigmoid": Meaning(
        _numpy_sigmoid, "sigmoid", "tl.sigmoid({0})", lambda p, y: [y * (1.0 - y)], operations=16, error=_of_exp,
        rises=True,
    ),
    "tanh": Meaning(
        "tanh", "tanh", "2.0 * tl.sigmoid(2.0 * {0}) - 1.0", lambda p, y: [1.0 - y * y], 1, (3,), 16, _of_difference,
        rises=True,
    ),
    "erf": Meaning(
        _numpy_erf, "erf", "tl.erf({0})", lambda p, y: [_TWO_BY_PI * exp(-(p[0] * p[0]))], operations=32,
        error=_special, rises=True,
    ),
}  # fmt: skip


# --- what is derived -----------------------------------------------------------------------------


def parts_first(e: Expression) -> Iterator[Expression]:
    """An expression and all that it is made of, each once, parts before what is made of them."""
    found: dict[Expression, None] = {}

    def visit(x: Expression) -> None:
        if x not in found:
            for part in x.parts if isinstance(x, Function) else ():
                visit(part)
            found[x] = None

    visit(e)
    return iter(found)


def values(e: Expression) -> tuple[str, ...]:
    """The names of the operands in it."""
    return tuple(x.name for x in parts_first(e) if isinstance(x, Value))


def evaluate(e: Expression, attrs: Mapping[str, Any], operands: Mapping[str, Any], library: str = "numpy") -> Any:
    """Its value, of arrays (or tensors, if the library is ``torch``) that broadcast, in the first one's type."""
    module, like = _library(library), next(iter(operands.values()))

    def number(value: float | tuple[float, ...]) -> Any:
        if isinstance(value, tuple):
            where_ = {} if module is np else {"device": like.device}
            return module.asarray(value, dtype=like.dtype, **where_).reshape(-1, *(1,) * (like.ndim - 2))
        return like.dtype.type(value) if module is np else module.full((), value, dtype=like.dtype, device=like.device)

    known: dict[Expression, Any] = {}
    for x in parts_first(e):
        if isinstance(x, Function):
            call = getattr(FUNCTIONS[x.name], library)
            call = getattr(module, call) if isinstance(call, str) else call
            known[x] = call(*(known[part] for part in x.parts))
        elif isinstance(x, Value):
            known[x] = operands[x.name]
        else:
            known[x] = number(number_of(x, attrs))
    return known[e]


def _library(name: str) -> Any:
    if name == "numpy":
        return np
    import torch

    return torch


def number_of(x: Expression, attrs: Mapping[str, Any]) -> float | tuple[float, ...]:
    """The value of a number, or of a layer's attribute: of one for each channel a tuple, unless they are all equal."""
    if isinstance(x, Number):
        return x.value
    assert isinstance(x, Attribute)
    found = attrs[x.name]
    if isinstance(found, tuple):
        return found if len(set(found)) > 1 else float(found[0])
    return float(found)


def text(
    e: Expression, attrs: Mapping[str, Any], names: Mapping[str, str], let: Callable[[str, str], str], channel: str
) -> str:  # fmt: skip
    """The expression in Triton.
    ``names`` are the variables that hold the operands, ``channel`` the one of the channels' numbers; ``let(stem,
    text)`` puts what is used more than once into a variable, and gives its name."""
    uses = Counter(part for x in parts_first(e) if isinstance(x, Function) for part in x.parts)
    written: dict[Expression, tuple[str, int]] = {}
    for x in parts_first(e):
        if isinstance(x, Value):
            written[x] = names[x.name], 3
        elif isinstance(x, Function):
            meaning = FUNCTIONS[x.name]
            parts = [written[part] for part in x.parts]
            shown = [f"({t})" if binds < least else t for (t, binds), least in zip(parts, meaning.parts, strict=False)]
            written[x] = meaning.triton.format(*shown), meaning.binds
            if uses[x] > 1:
                written[x] = let(x.name, written[x][0]), 3
        else:
            number = number_of(x, attrs)
            written[x] = _by_channel(x, number, let, channel) if isinstance(number, tuple) else repr(number), 3
    return written[e][0]


def _by_channel(x: Expression, numbers: Sequence[float], let: Callable[[str, str], str], channel: str) -> str:
    """The name of a variable that has one of the numbers for each channel.
    They are chosen among, not loaded: so they are part of the network, and of no memory."""
    stem = x.name if isinstance(x, Attribute) else "number"
    chosen = str(np.float32(numbers[0]))
    for i, number in enumerate(numbers[1:], 1):
        chosen = let(stem, f"tl.where({channel} == {i}, {np.float32(number)!s}, {chosen})")
    return chosen


def torch_text(e: Expression, attrs: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The expression in PyTorch, one call in the other. ``names`` are texts of the operands, tensors of float64."""
    if isinstance(e, Value):
        return names[e.name]
    if isinstance(e, Function):
        return f"torch.{FUNCTIONS[e.name].torch}({', '.join(torch_text(part, attrs, names) for part in e.parts)})"
    return f"torch.tensor({number_of(e, attrs)!r}, dtype=torch.float64)"


def derivative(e: Expression, by: str) -> Expression:
    """Its partial derivative by an operand; at kinks what PyTorch takes (a half to each of equal maxima)."""
    slopes: dict[Expression, Expression] = {}
    for x in parts_first(e):
        total: Expression = ZERO
        if isinstance(x, Function):
            inner = [slopes[part] for part in x.parts]
            if x.name == "where":
                total = where(x.parts[0], *inner[1:])
            elif any(s != ZERO for s in inner):
                outer = FUNCTIONS[x.name].slope(x.parts, x)
                for a, b in zip(outer, inner, strict=True):
                    total = total + times(b, a)
        slopes[x] = ONE if x == Value(by) else total
    return slopes[e]


def times(a: Expression, b: Expression) -> Expression:
    """``a * b``, multiplied from the left, and within the branches of a condition.
    A branch of 0 stays 0 whatever a is (infinity, perhaps)."""
    if isinstance(b, Function) and b.name == "where":
        condition, p, q = b.parts
        return where(condition, times(a, p), times(a, q))
    if isinstance(b, Function) and b.name in ("mul", "div") and a != ONE:
        return FUNCTION_OF[b.name](times(a, b.parts[0]), b.parts[1])
    if isinstance(b, Function) and b.name == "neg":
        return -times(a, b.parts[0])
    return -a if b == Number(-1.0) else multiply(a, b)


FUNCTION_OF = {"mul": multiply, "div": divide}


def substitute(e: Expression, replacements: Mapping[Expression, Expression]) -> Expression:
    """The expression with parts replaced, the largest first."""
    if e in replacements:
        return replacements[e]
    if not isinstance(e, Function):
        return e
    parts = [substitute(part, replacements) for part in e.parts]
    if e.name == "at_most":
        return parts[0] <= parts[1]
    return Function(e.name, tuple(parts))


def operations(e: Expression) -> int:
    """Operations of the vector units for one element, what is used twice computed once."""
    return sum(FUNCTIONS[x.name].operations for x in parts_first(e) if isinstance(x, Function))
