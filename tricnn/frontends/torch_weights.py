"""Weights that forward computes of parameters: a function of each number, products filter by filter, weight norm.

In training they are layers like others (compiler/computed_weights.py rounds them for tensor cores); inference computes
them once. What is made of them is again :class:`~tricnn.frontends.assembler.Stored`, whose ``value`` is that layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from ..ir.compose import compose
from ..ir.scalar import ZERO, derivative, values
from ..ir.table import OPS
from .assembler import Assembler, Stored, Unsupported


def computed(a: Assembler, op: str, operands: Sequence[Stored], **attrs: Any) -> Stored:
    """What a pointwise operation makes of parameters of one shape, or of one and a number for each of its filters."""
    whole = max(operands, key=lambda x: prod(x.shape))
    if all(x.shape == whole.shape for x in operands):
        made = a.add(op, *[_value(a, x) for x in operands], owner=whole.name, **attrs)
        return Stored(whole.name, whole.shape or (1,), made)
    filters = whole.shape[:1]
    part = next(x for x in operands if x.shape != whole.shape)
    if prod(part.shape) != prod(filters) or part.shape[: len(part.shape) - len(whole.shape) + 1] != filters:
        raise Unsupported(
            f"arithmetic between {whole.name}, {list(whole.shape)}, and {part.name}, {list(part.shape)}",
            "beside a weight may be another of its shape, or one with a number for each filter, [K, 1, 1, 1]",
        )
    names = dict(zip(OPS[op].operand_names(2), operands, strict=True))
    own, other = sorted(names, key=lambda name: names[name] is part)
    expression = OPS[op].scalar
    slope = derivative(expression, own) if expression is not None else ZERO
    if values(slope) != (other,):  # it is whole * f(part) where the slope is f(part), as of products and quotients
        raise Unsupported(f"{op} of a weight and a number for each filter", "supported are products and quotients")
    return _scaled(a, whole, compose(a, slope, {other: _value(a, replace(part, shape=filters))}, attrs))


def _value(a: Assembler, x: Stored) -> str:
    """The layer that holds a parameter, or what was computed of it, under the shape that it is seen in."""
    return a.viewed(a.parameter(x, "operand", a.stored[x.name].shape), x.shape or (1,))


def _scaled(a: Assembler, x: Stored, factor: str) -> Stored:
    """Each filter of a weight times a number of its own."""
    return Stored(x.name, x.shape, a.add("scale_filters", _value(a, x), factor, owner=x.name))


def normalised(a: Assembler, direction: Any, length: Any, dim: int) -> Stored:
    """A weight of which each filter has a length of its own: length * direction / |direction|.
    Salimans & Kingma, "Weight Normalization", 2016, equation 2."""
    if not isinstance(direction, Stored) or not isinstance(length, Stored) or dim != 0:
        raise Unsupported("weight norm over other dimensions than each filter's", "give weight_norm dim=0")
    weight, filters = _value(a, direction), direction.shape[:1]
    squares = a.add("filter_scale_grad", weight, weight, owner=direction.name, stem="squares")
    norm = a.add("sqrt", squares, owner=direction.name)
    factor = a.add("div", _value(a, replace(length, shape=filters)), norm, owner=direction.name)
    return _scaled(a, direction, factor)
