"""What is known of a scalar expression's result without its operands' numbers.
That is what it makes of zeros, how far rounding inside of it may move it, and whether it rises with its operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .scalar import (
    FUNCTIONS,
    HALF_UNIT,
    Attribute,
    Expression,
    Function,
    Number,
    Value,
    evaluate,
    number_of,
    parts_first,
)

#: a number that is not known, but is finite
FINITE = "finite"
Known = float | str | None


def of_zeros(e: Expression, attrs: Mapping[str, Any], operands: Mapping[str, Known]) -> Known:
    """What is known of its value, given what is of its operands: a number, ``FINITE``, or None (anything)."""
    known: dict[Expression, Known] = {}
    for x in parts_first(e):
        if isinstance(x, Function):
            parts = [known[part] for part in x.parts]
            known[x] = _of_known(x.name, parts)
        elif isinstance(x, Value):
            known[x] = operands[x.name]
        else:
            number = FINITE if isinstance(x, Attribute) and x.name not in attrs else number_of(x, attrs)
            known[x] = FINITE if isinstance(number, tuple) else number
    return known[e]


def _of_known(name: str, parts: Sequence[Known]) -> Known:
    if all(isinstance(p, float) for p in parts):
        with np.errstate(all="ignore"):
            call = FUNCTIONS[name].numpy
            result = (getattr(np, call) if isinstance(call, str) else call)(
                *[np.float64(p) for p in parts if isinstance(p, float)]
            )
        return float(result)
    if name == "where" and isinstance(parts[0], float):
        return parts[1] if parts[0] else parts[2]
    if name == "where" and isinstance(parts[1], float) and parts[1] == parts[2]:
        return parts[1]
    bounded = all(p == FINITE or (isinstance(p, float) and np.isfinite(p)) for p in parts)
    if name == "mul" and bounded and 0.0 in parts:
        return 0.0
    return FINITE if bounded and FUNCTIONS[name].finite else None


def rounding(e: Expression, attrs: Mapping[str, Any], operands: Mapping[str, Any]) -> Any:
    """How far the result may be, for exact operands, because every function in it is computed in fp32.

    An array, of float64 operands that broadcast. Each function is off by its own rounding (``Meaning.error``), and
    moves by what its parts are off by: to first order, and by the difference of the branches where a condition may go
    either way.
    """
    known: dict[Expression, tuple[Any, Any]] = {}
    for x in parts_first(e):
        if not isinstance(x, Function):
            value = evaluate(x, attrs, operands)
            known[x] = value, 0.0 if isinstance(x, Value) else abs(value - np.float32(value))
            continue
        found, errors = [known[part][0] for part in x.parts], [known[part][1] for part in x.parts]
        meaning = FUNCTIONS[x.name]
        call = getattr(np, meaning.numpy) if isinstance(meaning.numpy, str) else meaning.numpy
        y = call(*found)
        if np.asarray(y).dtype == bool:
            a, b = found
            known[x] = y, np.abs(np.asarray(a) - b) <= errors[0] + errors[1] if np.any(errors[0] + errors[1]) else False
        elif x.name == "where":
            either, a, b = errors
            known[x] = y, np.where(found[0], a, b) + np.where(either, np.abs(np.subtract(*found[1:])) + a + b, 0.0)
        else:
            moved: Any = 0.0
            for i, error in enumerate(errors):
                if np.any(error):
                    up, down = (call(*found[:i], found[i] + s * error, *found[i + 1 :]) for s in (1, -1))
                    distance = np.fmax(np.abs(up - y), np.abs(down - y))  # outside its domain a step says nothing
                    moved = moved + np.where(np.isfinite(distance), distance, 0.0)
            known[x] = y, moved + HALF_UNIT * meaning.error(y, *found)
    return known[e][1]


def rises(e: Expression) -> bool:
    """Can it be seen that a larger operand never gives a smaller result?"""
    known: dict[Expression, bool] = {}
    for x in parts_first(e):
        if isinstance(x, Function):
            parts = [known[part] for part in x.parts]
            positive = [isinstance(part, Number) and part.value > 0 for part in x.parts]
            known[x] = (FUNCTIONS[x.name].rises and all(parts)) or (x.name == "mul" and any(positive) and all(parts))
            known[x] = known[x] or (x.name == "div" and parts[0] and positive[1])
        else:
            known[x] = True
    return known[e]
