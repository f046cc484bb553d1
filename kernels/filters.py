"""What is made of weights and their gradients filter by filter."""

import triton
import triton.language as tl

from .reduce import added_up


@triton.jit
def finish_filters(
    partials, each: tl.constexpr, each_args, store: tl.constexpr, store_args, parts,
    L: tl.constexpr, STRIDE: tl.constexpr, BIAS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial results of a weight's gradient, added up a filter at a time.

    partials: parts of [K, L] numbers in fp32, STRIDE apart; with BIAS > 0 each part has [K] sums of dy as well, the
    gradient of a bias, from its number BIAS on. Grid: (K,): program k adds up dw[k, l] = sum over the parts, in their
    order, and calls each(dw, row = k, element = k*L + l, mask, args) for [BLOCK] numbers l at a time. It returns terms,
    whose sum over l goes to store(sum, db, row, args), both in fp32; db is the sum of dy, or 0 without BIAS.
    """
    row = tl.program_id(0)
    terms = tl.zeros([BLOCK], tl.float32)
    for first in range(0, L, BLOCK):
        column = first + tl.arange(0, BLOCK)
        mask = column < L
        dw = added_up(partials, row * L + column, mask, parts, STRIDE, BLOCK_P)
        terms += tl.where(mask, each(dw, row, row * L + column, mask, each_args), 0.0)
    db = 0.0
    if BIAS:
        one = tl.arange(0, 1)
        db = tl.sum(added_up(partials, BIAS + row + one, one < 1, parts, STRIDE, BLOCK_P), axis=0)
    store(tl.sum(terms, axis=0), db, row, store_args)


@triton.jit
def filter_moments(w, L: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr):
    """The mean of the L numbers from w on, and 1 / sqrt(their biased variance + EPS), in fp32."""
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, L, BLOCK):
        column = first + tl.arange(0, BLOCK)
        total += tl.load(w + column, mask=column < L, other=0.0)
    mean = tl.sum(total, axis=0) / L
    squares = tl.zeros([BLOCK], tl.float32)
    for first in range(0, L, BLOCK):
        column = first + tl.arange(0, BLOCK)
        deviation = tl.where(column < L, tl.load(w + column, mask=column < L, other=0.0) - mean, 0.0)
        squares += deviation * deviation
    return mean, tl.rsqrt(tl.sum(squares, axis=0) / L + EPS)


@triton.jit
def standardize_filters(w, y, L: tl.constexpr, EPS: tl.constexpr, FACTOR: tl.constexpr, BLOCK: tl.constexpr):
    """y[k, l] = FACTOR * (w[k, l] - mean of w[k]) / sqrt(variance of w[k] + EPS), for w: [K, L] in fp32. Grid: (K,)."""
    w += tl.program_id(0) * L
    mean, rstd = filter_moments(w, L, EPS, BLOCK)
    for first in range(0, L, BLOCK):
        column = first + tl.arange(0, BLOCK)
        x = tl.load(w + column, mask=column < L, other=0.0)
        tl.store(y + tl.program_id(0) * L + column, (x - mean) * (rstd * FACTOR), mask=column < L)


@triton.jit
def standardize_filters_grad(
    dy, w, dw,
    L: tl.constexpr, EPS: tl.constexpr, FACTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dw = FACTOR * rstd * (dy - mean(dy) - xhat * mean(dy * xhat)) for each filter, with xhat = (w - mean) * rstd.

    dy, w, dw: [K, L] in fp32. Grid: (K,).
    """
    w += tl.program_id(0) * L
    dy += tl.program_id(0) * L
    mean, rstd = filter_moments(w, L, EPS, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    products = tl.zeros([BLOCK], tl.float32)
    for first in range(0, L, BLOCK):
        column = first + tl.arange(0, BLOCK)
        g = tl.load(dy + column, mask=column < L, other=0.0)
        total += g
        products += g * (tl.load(w + column, mask=column < L, other=0.0) - mean) * rstd
    average = tl.sum(total, axis=0) / L
    slope = tl.sum(products, axis=0) / L
    for first in range(0, L, BLOCK):
        column = first + tl.arange(0, BLOCK)
        g = tl.load(dy + column, mask=column < L, other=0.0)
        x = (tl.load(w + column, mask=column < L, other=0.0) - mean) * rstd
        tl.store(dw + tl.program_id(0) * L + column, (g - average - x * slope) * (rstd * FACTOR), mask=column < L)
