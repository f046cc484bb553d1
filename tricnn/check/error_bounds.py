"""How far each number that a kernel computes may be from the exact one: a bound for every element, by its own operands.

A value carries its bound (:class:`Bounded`), and a kernel's nodes are evaluated on such pairs, in float64. What lies in
memory is exact. An operation that sums n terms in fp32 gives what the exact operation would give for operands moved by

    gamma_n * max(|x|, unit),   gamma_n = (FEW + min(n, SAFETY * sqrt(n))) * u32,   u32 = 2^-24

(backward error: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., sections 3.1 and 4.2: n * u32; where
roundings are independent, SAFETY * sqrt(n) * u32 but for one sum in many millions: Higham & Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019, theorem 3.1). FEW counts the roundings that do
not grow with n, among them those of a GPU's approximate rsqrt, exp and division, of 2 to 4 units each. So the bound of

    y = sum_i a_i*b_i      is      gamma_n * sum_i |a_i*b_i|  +  sum_i err(a_i)*|b_i|  +  sum_i |a_i|*err(b_i)

which is the row's own function of absolute values: the condition of that very element, not the largest of a tensor. For
the other operations err(y) is found by moving whole operands up and down by what theirs may be off, exact where the
result rises or falls with each of their elements, kinks and masks included; or the operation's row says it (``moved``).

Operands of products are rounded to the type that tensor cores take. That is no error where the type has a storage
format: the reference rounds them, too. What is left is that a computed operand may be rounded the other way; moving it
by its bound before rounding shows whether it may. Storing is treated alike: of a result only what rounding to nearest
does not explain counts as an error (:func:`beyond_rounding`).

Where hardware rounds as it likes, more is accepted. tf32: an operand may lose what is below 2^-10 of it by truncation,
a bias of at most 2^-10 of the sum (2^-11 for each factor), or of each image's where images are summed, too; deviations
from it are independent. Tensor cores truncate, every 8 terms or more (Fasi, Higham, Mikaitis & Pranesh, "Numerical
behavior of NVIDIA tensor cores", PeerJ Computer Science 7, 2021): n/8 * u32 of the sum. Neither is accepted where each
channel is filtered by itself, without a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np

from ..compiler.plan import Kernel, Plan
from ..ir.graph import Node
from ..ir.table import OPS, Environment, Kind
from ..lower.depthwise import goes_by_strips
from ..machine.dtypes import DTYPES
from ..run.interpreter import evaluate
from ..run.numpy_executor import round_stored

SAFETY = 4.0
FEW = 8.0
U32, TF32 = 2.0**-24, 2.0**-10
#: bits of the significand (the first included) and the least power of two: of each type of storage
FORMATS = {"fp32": (24, -149), "fp16": (11, -24), "bf16": (8, -133)}
#: operands that are two in one, [2, C] or of each pixel [N, 2, H, W]: the mean may rise while the variance falls
PAIRS = ("stats", "sums")
#: what is smaller may be flushed to zero
TINY = 2.0**-126


@dataclass(frozen=True)
class Bounded:
    """A float64 array (or integers) and, for each element, how far what was computed may be from it."""

    value: np.ndarray
    error: np.ndarray

    def __getitem__(self, at: Any) -> Bounded:
        return Bounded(self.value[at], self.error[at])


def exact(x: Any) -> Bounded:
    """What lies in memory, or is a constant."""
    x = np.asarray(x)
    return Bounded(x, np.broadcast_to(0.0, x.shape))


def bounding(plan: Plan, kernel: Kernel, dtype: str) -> Callable[[Node, list[Bounded], Environment], Bounded]:
    """The function that evaluates a kernel's nodes on bounded operands, for ``kernel_values``."""

    # Where each channel is filtered by itself, no tensor core multiplies.
    multiplied = "fp32" if goes_by_strips(plan, kernel, DTYPES[dtype][0]) else dtype

    def evaluated(node: Node, operands: list[Bounded], env: Environment) -> Bounded:
        operands = [_multiplied(x, _rounded_to(plan, kernel, node, i, dtype)) for i, x in enumerate(operands)]
        values = [x.value for x in operands]
        with np.errstate(all="ignore"):
            y = np.asarray(evaluate(node, values, env))
            if not _real(y):
                return exact(y)
            terms = _terms(plan, node, y, values)
            gamma = (FEW + (min(terms, SAFETY * sqrt(terms)) if terms > 1 else 0.0)) * U32
            if node.kind is Kind.CONTRACTION:
                return Bounded(y, _product_error(node, operands, y, env, multiplied, terms, gamma))
            unit = OPS[node.op].unit
            errors = [x.error + gamma * np.maximum(np.abs(x.value), unit) * _real(x.value) for x in operands]
            error = moved(node, values, errors, y, env) + gamma * np.abs(y)
            if node.row.rounding is not None:
                error = error + node.row.rounding(node.attrs, *values)
            if node.row.moments and dtype in ("fp16", "bf16"):
                # tile_stats takes one pass over 16-bit numbers: sum x^2 - (sum x)^2/count
                error[1] += gamma * (y[0] ** 2 + y[1])
            return Bounded(y, error)

    return evaluated


def beyond_rounding(got: np.ndarray, want: np.ndarray, stored: str) -> np.ndarray:
    """How far ``want`` is from the nearest real number that rounds to ``got`` in a type of storage."""
    bits, least = FORMATS[stored]
    mantissa, exponent = np.frexp(got)
    exponent = exponent - ((np.abs(mantissa) == 0.5) & (np.abs(want) < np.abs(got)))  # numbers are closer below 2^n
    half = np.ldexp(0.5, np.where(got == 0, least, np.maximum(exponent - bits, least)))
    return np.maximum(np.abs(got - want) - half, 0.0)


def _real(x: Any) -> bool:
    return bool(np.issubdtype(np.asarray(x).dtype, np.floating))


def _rounded_to(plan: Plan, kernel: Kernel, node: Node, index: int, dtype: str) -> str:
    """The type an operand is rounded to as it is loaded.
    That is the type of products, where it is multiplied (a bias gradient that wgrad takes along sums the same tiles),
    else its own, as it is where each channel is filtered by itself. In tf32 only wgrad rounds, and what lies in memory.
    """
    anchor, value = kernel.anchor, plan.storage(node.inputs[index])
    if anchor.kind is not Kind.CONTRACTION or value not in map(plan.storage, anchor.inputs[:2]) or index > 1:
        return "fp32"
    if goes_by_strips(plan, kernel, DTYPES[dtype][0]):
        return "fp32"
    if node is not anchor and (node.kind is not Kind.REDUCTION or len(node.inputs) > 1):
        return "fp32"
    while value in kernel.by_name and kernel.by_name[value].row.cuts:
        value = plan.storage(kernel.by_name[value].inputs[0])
    if dtype == "tf32" and (not anchor.row.weight_gradient or value in kernel.by_name):
        return "fp32"
    return dtype


def _round_to(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "tf32":  # to nearest, ties away from zero
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    return round_stored(x, dtype).astype(np.float64)


def _multiplied(x: Bounded, dtype: str) -> Bounded:
    """What is left of an operand in the type that products take, which may be the next number, too."""
    if dtype == "fp32":
        return x
    value = _round_to(x.value, dtype)
    if not np.any(x.error):
        return Bounded(value, x.error)
    up, down = _round_to(x.value + x.error, dtype), _round_to(x.value - x.error, dtype)
    return Bounded(value, np.maximum(up - value, value - down))


def _terms(plan: Plan, node: Node, y: np.ndarray, values: Sequence[np.ndarray]) -> int:
    """How many numbers each result sums."""
    if node.kind is Kind.CONTRACTION:
        images = max(len(values[0]), 1)
        return -(-plan.graph.node_macs(node) * images // max(y.size, 1))
    if node.kind not in (Kind.REDUCTION, Kind.WINDOW):
        return 1
    terms = OPS[node.op].terms
    return terms(node.attrs, y, *values) if terms else max(1, values[0].size // max(y.size, 1))


def _product_error(
    node: Node, operands: list[Bounded], y: np.ndarray, env: Environment, dtype: str, terms: int, gamma: float
) -> np.ndarray:  # fmt: skip
    """Of a bilinear operation: its own function of absolute values and errors. A bias comes after the sum."""
    row, (a, b) = OPS[node.op].numpy, operands[:2]
    error = row(env, node.attrs, a.error + gamma * np.abs(a.value), np.abs(b.value))
    if np.any(b.error):
        error = error + row(env, node.attrs, np.abs(a.value), b.error)
    error = error + FEW * U32 * np.abs(y)
    for bias in operands[2:]:
        each = bias.error + FEW * U32 * np.abs(bias.value)
        error = error + each.reshape(1, -1, *[1] * (y.ndim - 2))
    if dtype != "fp32":
        error = error + terms / 8 * U32 * np.abs(y)
    if dtype == "tf32":
        squares = row(env, node.attrs, np.square(a.value), np.square(b.value))
        images = [slice(i, i + 1) for i in range(len(a.value))] if node.row.weight_gradient else []
        biased = sum(np.abs(row(env, node.attrs, a.value[i], b.value[i])) for i in images) if images else np.abs(y)
        error = error + TF32 * (biased + SAFETY * np.sqrt(squares))
    return np.asarray(error)


def moved(
    node: Node, values: list[np.ndarray], errors: list[np.ndarray], y: np.ndarray, env: Environment
) -> np.ndarray:  # fmt: skip
    """By how much the result moves where each operand moves by its error."""
    op = OPS[node.op]
    if op.moved is not None:
        return np.asarray(op.moved(node.attrs, errors, *values))

    def distance(steps: Sequence[np.ndarray]) -> np.ndarray:
        up, down = (
            op.numpy(env, node.attrs, *(v + sign * s if _real(v) else v for v, s in zip(values, steps, strict=True)))
            for sign in (1, -1)
        )
        return np.maximum(np.abs(up - y), np.abs(down - y))

    if op.operands[1] == inf:  # of any number of operands each result has one
        return distance(errors)
    nothing = [np.broadcast_to(0.0, v.shape) for v in values]
    total = np.zeros(y.shape)
    roles = op.operand_names(len(values))
    for i, (role, value, error) in enumerate(zip(roles, values, errors, strict=True)):
        if not _real(value):
            continue
        for step in _one_by_one(error) if role in PAIRS else [error]:
            total += distance([*nothing[:i], step, *nothing[i + 1 :]])
    return total


def _one_by_one(error: np.ndarray) -> list[np.ndarray]:
    """The errors of a pair of statistics, each beside no error of the other."""
    number = np.arange(2).reshape(2, *[1] * (2 if error.ndim == 4 else 1))
    return [np.where(number == one, error, 0.0) for one in range(2)]


def relative(error: np.ndarray, want: np.ndarray) -> float:
    """The largest bound in a value, of the largest number in it."""
    largest = float(np.max(np.abs(want), initial=0.0))
    return float(np.max(error, initial=0.0)) / largest if largest else 0.0


def worst(error: np.ndarray, bound: np.ndarray) -> tuple[float, float]:
    """The error that is the most of its bound, and that bound; NaN and the least bound if one is not a number."""
    if not error.size:
        return 0.0, TINY
    if not np.isfinite(error).all():
        return float("nan"), float(np.min(bound))
    at = np.argmax(error / bound)
    return float(error.reshape(-1)[at]), float(np.broadcast_to(bound, error.shape).reshape(-1)[at])
