"""A scalar expression as layers: the rows of the table that compute it, one for each of its functions.

    compose(g, dy * silu'(x), {"dy": "u", "x": "conv"}, {})  ->  the name of the layer that has it

So a derivative needs no row of its own: what :func:`tricnn.ir.scalar.derivative` finds is put together of rows that
every executor has, and fused as any other arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..system.errors import GraphError
from .scalar import Attribute, Expression, Function, Number, Value, number_of, parts_first
from .table import OPS

#: a layer's name, or a number that all elements have in common
Part = str | float


def compose(g: Any, e: Expression, values: Mapping[str, str], attrs: Mapping[str, Any]) -> str:
    """The name of the layer that has an expression's value, added to a graph (a builder) with all that it is made of.

    ``values`` are the layers that hold the operands, ``attrs`` the numbers of the expression's attributes. Raises
    GraphError for a function that no row computes, and for an expression of numbers only.
    """
    made: dict[Expression, Part] = {}
    for x in parts_first(e):
        if isinstance(x, Value):
            made[x] = values[x.name]
        elif isinstance(x, Function):
            if x.name not in (*COMPARISONS, "equal"):  # of these there are rows for a choice only
                made[x] = _layer(g, x, made)
        else:
            assert isinstance(x, Number | Attribute)
            number = number_of(x, attrs)
            if isinstance(number, tuple):
                raise GraphError("a number for each channel is no part of a derivative of derivatives")
            made[x] = number
    found = made[e]
    if not isinstance(found, str):
        raise GraphError(f"{found} is no layer's value")
    return found


#: comparisons, as the places of their operands in a ``first <= second`` that says the same, or the opposite of it
COMPARISONS = {
    "at_most": ((0, 1), True), "at_least": ((1, 0), True), "greater": ((0, 1), False), "less": ((1, 0), False),
}  # fmt: skip


def _layer(g: Any, x: Function, made: Mapping[Expression, Part]) -> Part:
    """The layer, or the number, of a function of parts that are layers or numbers already."""
    if x.name == "where":
        return _chosen(g, x, made)
    parts = [made[part] for part in x.parts]
    if x.name == "expm1":
        return str(g.add("shift", g.add("exp", parts[0]), amount=-1.0))
    numbers = [part for part in parts if not isinstance(part, str)]
    if numbers and len(parts) == 2:
        return _with_number(g, x.name, parts[0], parts[1])
    if numbers or not _is_row(x.name):
        raise GraphError(f"no row computes {x.name} of {', '.join(map(str, parts))}")
    return str(g.add(x.name, *parts))


def _is_row(function: str) -> bool:
    """Is there a row of the function's name that computes this function of its operands, and nothing else?"""
    expression = OPS[function].scalar if function in OPS else None
    return isinstance(expression, Function) and expression.name == function


def _with_number(g: Any, function: str, a: Part, b: Part) -> str:
    """The layer of a function of a layer and a number, on either side."""
    if function == "div" and isinstance(a, str):
        if b == 0.0:
            raise GraphError("what is divided by 0 has no derivative")
        return _with_number(g, "mul", a, 1 / float(b))
    if isinstance(a, str):
        assert not isinstance(b, str)
        ways = {
            "add": ("shift", {"amount": b}), "sub": ("shift", {"amount": -b}), "mul": ("scale", {"factor": b}),
            "maximum": ("clamp", {"min": b}), "minimum": ("clamp", {"max": b}),
        }  # fmt: skip
        op, attrs = ways[function]
        return str(g.add(op, a, **attrs))
    if function == "sub":
        return _with_number(g, "add", g.add("neg", b), a)
    if function == "div":
        return _with_number(g, "mul", g.add("reciprocal", b), a)
    return _with_number(g, function, b, a)


def _chosen(g: Any, x: Function, made: Mapping[Expression, Part]) -> Part:
    """What a condition chooses, where it compares two numbers."""
    condition, p, q = x.parts
    if not isinstance(condition, Function):
        raise GraphError("what is chosen by something else than a comparison has no derivative of derivatives")
    a, b = (made[part] for part in condition.parts)
    if condition.name == "equal":
        return _at_most(g, (a, b), _at_most(g, (b, a), made[p], made[q]), made[q])
    (first, second), same = COMPARISONS[condition.name]
    chosen = (made[p], made[q]) if same else (made[q], made[p])
    return _at_most(g, ((a, b)[first], (a, b)[second]), *chosen)


def _at_most(g: Any, compared: tuple[Part, Part], p: Part, q: Part) -> Part:
    """``where(a <= b, p, q) = p - p * [a > b] + q * [a > b]``, for the gradient of relu is a factor of [y > 0]."""
    a, b = compared
    above = g.add("sub", a, b) if isinstance(a, str) and isinstance(b, str) else _with_number(g, "sub", a, b)
    parts = []
    if p != 0.0:
        least = p if isinstance(p, str) else _number(g, p, above)
        parts.append(g.add("sub", least, g.add("relu_grad", least, above)))
    if q != 0.0:
        parts.append(g.add("relu_grad", q if isinstance(q, str) else _number(g, q, above), above))
    return (str(g.add("add", *parts)) if len(parts) == 2 else parts[0]) if parts else 0.0


def _number(g: Any, number: float, like: str) -> str:
    """A layer of the same number everywhere."""
    return str(g.add("shift", g.add("scale", like, factor=0.0), amount=number))
