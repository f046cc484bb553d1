"""Stochastic gradient descent with momentum, in place; weights rounded to the type in which they are multiplied."""

import triton
import triton.language as tl

from .numerics import round_to


@triton.jit
def sgd(p, g, v, count, rate, momentum, weight_decay, NESTEROV: tl.constexpr, BLOCK: tl.constexpr):
    """One step of PyTorch's SGD (no dampening) on flat fp32 arrays p, g, v of `count` elements; v starts as zeros.

        d = g + weight_decay*p;   v = momentum*v + d;   p = p - rate*(d + momentum*v if NESTEROV else v)

    Grid: (cdiv(count, BLOCK),).
    """
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    _update(p, g, v, element, element < count, rate, momentum, weight_decay, NESTEROV)


@triton.jit
def sgd_of_many(
    table, rate, momentum, weight_decay, NESTEROV: tl.constexpr, BLOCK: tl.constexpr, ROUNDED: tl.constexpr = None
):
    """One step of `sgd` for many parameters in one launch: each program updates one block of one of them.

    table: [programs, 6] int64 says of each block: the addresses of p, g and v (all fp32) at its first element, how many
    elements it has, at most BLOCK, whether weight_decay is for it (1) or not (0), and the address of a copy of p that
    is rounded to the type ROUNDED, or 0 if it has none. Grid: (programs,).
    """
    row = table + tl.program_id(0) * 6
    p = tl.load(row).to(tl.pointer_type(tl.float32))
    g = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    v = tl.load(row + 2).to(tl.pointer_type(tl.float32))
    element = tl.arange(0, BLOCK)
    mask = element < tl.load(row + 3)
    decay = weight_decay * tl.load(row + 4).to(tl.float32)
    new = _update(p, g, v, element, mask, rate, momentum, decay, NESTEROV)
    if ROUNDED is not None:
        address = tl.load(row + 5)
        copy = address.to(tl.pointer_type(ROUNDED))
        tl.store(copy + element, round_to(new, ROUNDED), mask=mask & (tl.zeros([BLOCK], tl.int64) + address != 0))


@triton.jit
def _update(p, g, v, element, mask, rate, momentum, weight_decay, NESTEROV: tl.constexpr):
    """The equations of `sgd` at some elements; gives p as it is now."""
    parameter = tl.load(p + element, mask=mask, other=0.0)
    d = tl.load(g + element, mask=mask, other=0.0) + weight_decay * parameter
    velocity = momentum * tl.load(v + element, mask=mask, other=0.0) + d
    tl.store(v + element, velocity, mask=mask)
    new = parameter - rate * (d + momentum * velocity) if NESTEROV else parameter - rate * velocity
    tl.store(p + element, new, mask=mask)
    return new
