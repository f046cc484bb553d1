"""Stochastic gradient descent with momentum, in place."""

import triton
import triton.language as tl


@triton.jit
def sgd(p, g, v, count, rate, momentum, weight_decay, NESTEROV: tl.constexpr, BLOCK: tl.constexpr):
    """One step of PyTorch's SGD (no dampening) on flat fp32 arrays p, g, v of `count` elements; v starts as zeros.

        d = g + weight_decay*p;   v = momentum*v + d;   p = p - rate*(d + momentum*v if NESTEROV else v)

    Grid: (cdiv(count, BLOCK),).
    """
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    _update(p, g, v, element, element < count, rate, momentum, weight_decay, NESTEROV)


@triton.jit
def sgd_of_many(table, rate, momentum, weight_decay, NESTEROV: tl.constexpr, BLOCK: tl.constexpr):
    """The same step for many parameters in one launch: each program updates one block of one of them.

    table: [programs, 5] int64 says of each block: the addresses of p, g and v (all fp32) at its first element, how many
    elements it has, at most BLOCK, and whether weight_decay is for it (1) or not (0). Grid: (programs,).
    """
    row = table + tl.program_id(0) * 5
    p = tl.load(row).to(tl.pointer_type(tl.float32))
    g = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    v = tl.load(row + 2).to(tl.pointer_type(tl.float32))
    element = tl.arange(0, BLOCK)
    decay = weight_decay * tl.load(row + 4).to(tl.float32)
    _update(p, g, v, element, element < tl.load(row + 3), rate, momentum, decay, NESTEROV)


@triton.jit
def _update(p, g, v, element, mask, rate, momentum, weight_decay, NESTEROV: tl.constexpr):
    """The equations of `sgd` at some elements."""
    parameter = tl.load(p + element, mask=mask, other=0.0)
    d = tl.load(g + element, mask=mask, other=0.0) + weight_decay * parameter
    velocity = momentum * tl.load(v + element, mask=mask, other=0.0) + d
    tl.store(v + element, velocity, mask=mask)
    if NESTEROV:
        tl.store(p + element, parameter - rate * (d + momentum * velocity), mask=mask)
    else:
        tl.store(p + element, parameter - rate * velocity, mask=mask)
