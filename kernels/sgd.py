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
    mask = element < count
    parameter = tl.load(p + element, mask=mask, other=0.0)
    d = tl.load(g + element, mask=mask, other=0.0) + weight_decay * parameter
    velocity = momentum * tl.load(v + element, mask=mask, other=0.0) + d
    tl.store(v + element, velocity, mask=mask)
    if NESTEROV:
        tl.store(p + element, parameter - rate * (d + momentum * velocity), mask=mask)
    else:
        tl.store(p + element, parameter - rate * velocity, mask=mask)
