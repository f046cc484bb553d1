"""Functions of one number that Triton has not: exact near 0, where exp(x) - 1 and log(1 + x) lose all their digits."""

import triton
import triton.language as tl


@triton.jit
def expm1(x):
    """exp(x) - 1, exact near 0.

    It is (u - 1) * x / log(u) with u = exp(x), where the errors of u - 1 and of log(u) cancel; x where u rounds to 1.

    W. Kahan, "Interval arithmetic options in the proposed IEEE floating point arithmetic standard" (1980); Higham,
    "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 1.14.1.
    """
    u = tl.exp(x)
    ordinary = (u - 1.0) * x / tl.log(u)
    small = tl.where(u == 1.0, x, ordinary)
    return tl.where(tl.abs(x) < 1.0, small, u - 1.0)


@triton.jit
def log1p(x):
    """log(1 + x), exact near 0.
    It is log(u) * x / (u - 1) with u = 1 + x, where errors cancel as in `expm1`; x where u rounds to 1."""
    u = 1.0 + x
    ordinary = tl.log(u) * x / (u - 1.0)
    small = tl.where(u == 1.0, x, ordinary)
    return tl.where(tl.abs(x) < 1.0, small, tl.log(u))
