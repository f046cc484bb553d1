"""Softmax, and losses with their gradients. A program holds whole rows, so C may be a few thousand at most."""

import triton
import triton.language as tl

from .numerics import round_to


@triton.jit
def softmax(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n,c] = exp(x[n,c] - max_c x[n,c]) / sum over c of the same, for x: [N, C].

    Grid: (cdiv(N, BLOCK_M),); BLOCK_N >= C, a power of two. load_x(pixel = n, channel, mask, args); store_y(tile,
    pixel, channel, mask, part, args), the tile in fp32.
    """
    part = tl.program_id(0)
    row = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.arange(0, BLOCK_N)[None, :]
    mask = (row < N) & (channel < C)
    x = load_x(row, channel, mask, x_args).to(tl.float32)
    x = x - tl.max(tl.where(channel < C, x, float("-inf")), axis=1)[:, None]
    e = tl.where(channel < C, tl.exp(x), 0.0)
    store_y(e / tl.sum(e, axis=1)[:, None], row, channel, mask, part, y_args)


@triton.jit
def softmax_grad(
    load_dy: tl.constexpr, dy_args, load_y: tl.constexpr, y_args, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx[n,c] = y[n,c] * (dy[n,c] - sum over j of dy[n,j]*y[n,j]), for y = softmax(x): [N, C].

    Grid: (cdiv(N, BLOCK_M),); BLOCK_N >= C, a power of two. Loads and store as in `softmax`.
    """
    part = tl.program_id(0)
    row = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.arange(0, BLOCK_N)[None, :]
    mask = (row < N) & (channel < C)
    dy = load_dy(row, channel, mask, dy_args).to(tl.float32)
    y = load_y(row, channel, mask, y_args).to(tl.float32)
    store_dx(y * (dy - tl.sum(dy * y, axis=1)[:, None]), row, channel, mask, part, dx_args)


@triton.jit
def cross_entropy(
    load_x: tl.constexpr, x_args, labels, losses, dlogits, N,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SMOOTHING: tl.constexpr = 0.0, SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """The loss of each row, and the gradient of SCALE * their mean by the logits x: [N, C].

        target[n,c] = (1 - SMOOTHING)*[c == labels[n]] + SMOOTHING/C
        losses[n] = log sum_c exp x[n,c] - sum_c target[n,c]*x[n,c]
        dlogits[n,c] = (softmax(x)[n,c] - target[n,c]) * SCALE/N

    Grid: (cdiv(N, BLOCK_M),); BLOCK_N >= C, a power of two. labels: [N] int32 or int64, each in 0..C-1; losses: [N]
    fp32, dlogits: [N, C] of any type, either of them left alone (and may be None) if LOSSES or GRAD is False.
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_N)[None, :]
    known = row < N
    mask = known[:, None] & (channel < C)
    label = tl.load(labels + row, mask=known, other=0).to(tl.int32)
    x = load_x(row[:, None], channel, mask, x_args).to(tl.float32)

    largest = tl.max(tl.where(channel < C, x, float("-inf")), axis=1)
    x = x - largest[:, None]  # moves every term of the loss alike, and keeps exp from overflowing
    e = tl.where(channel < C, tl.exp(x), 0.0)
    total = tl.sum(e, axis=1)
    target = tl.where(channel == label[:, None], 1.0 - SMOOTHING, 0.0) + SMOOTHING / C
    target = tl.where(channel < C, target, 0.0)
    if LOSSES:
        # A target of 0 adds nothing, not even where its logit is -inf.
        expected = tl.sum(tl.where(target > 0, target * x, 0.0), axis=1)
        tl.store(losses + row, tl.log(total) - expected, mask=known)
    if GRAD:
        grad = (e / total[:, None] - target) * (SCALE / N)
        tl.store(dlogits + row[:, None] * C + channel, round_to(grad, dlogits.dtype.element_ty), mask=mask)


@triton.jit
def soft_cross_entropy(
    load_x: tl.constexpr, x_args, targets, losses, dlogits, N,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """Cross entropy of each row of x: [N, C] with the targets t: [N, C] fp32, and SCALE times the gradient of the mean.

        losses[n] = sum_c t[n,c] * (log sum_j exp x[n,j] - x[n,c])
        dlogits[n,c] = (softmax(x)[n,c] * sum_j t[n,j] - t[n,c]) * SCALE/N

    Grid: (cdiv(N, BLOCK_M),); BLOCK_N >= C, a power of two. losses: [N] fp32, dlogits: [N, C] of any type, either of
    them left alone (and may be None) if LOSSES or GRAD is False.
    """
    row, channel, mask, x, t = _target_rows(load_x, x_args, targets, N, C, BLOCK_M, BLOCK_N)
    x = x - tl.max(tl.where(channel < C, x, float("-inf")), axis=1)[:, None]
    e = tl.where(channel < C, tl.exp(x), 0.0)
    total, weight = tl.sum(e, axis=1), tl.sum(t, axis=1)
    if LOSSES:
        # A target of 0 adds nothing, not even where its logit is -inf.
        terms = tl.where(t != 0, t * (tl.log(total)[:, None] - x), 0.0)
        tl.store(losses + row, tl.sum(terms, axis=1), mask=row < N)
    if GRAD:
        grad = (e / total[:, None] * weight[:, None] - t) * (SCALE / N)
        tl.store(dlogits + row[:, None] * C + channel, round_to(grad, dlogits.dtype.element_ty), mask=mask)


@triton.jit
def binary_cross_entropy(
    load_x: tl.constexpr, x_args, targets, losses, dlogits, N,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """The mean over a row's outputs of the cross entropy of sigmoid(x) with t, and SCALE times the mean's gradient.

        losses[n] = 1/C * sum_c max(x, 0) - x*t + log(1 + exp(-|x|));   dlogits = (sigmoid(x) - t) * SCALE/(N*C)

    Arguments are those of `soft_cross_entropy`.
    """
    row, channel, mask, x, t = _target_rows(load_x, x_args, targets, N, C, BLOCK_M, BLOCK_N)
    e = tl.exp(-tl.abs(x))
    if LOSSES:
        positive = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        terms = tl.where(channel < C, positive - x * t + tl.log(1.0 + e), 0.0)
        tl.store(losses + row, tl.sum(terms, axis=1) * (1.0 / C), mask=row < N)
    if GRAD:
        grad = (tl.where(x >= 0, 1.0, e) / (1.0 + e) - t) * (SCALE / C / N)
        tl.store(dlogits + row[:, None] * C + channel, round_to(grad, dlogits.dtype.element_ty), mask=mask)


@triton.jit
def squared_error(
    load_x: tl.constexpr, x_args, targets, losses, dlogits, N,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """The mean over a row's outputs of (x - t)**2, and SCALE times the gradient of the mean, 2*(x - t) * SCALE/(N*C).

    Arguments are those of `soft_cross_entropy`.
    """
    row, channel, mask, x, t = _target_rows(load_x, x_args, targets, N, C, BLOCK_M, BLOCK_N)
    d = tl.where(channel < C, x - t, 0.0)
    if LOSSES:
        tl.store(losses + row, tl.sum(d * d, axis=1) * (1.0 / C), mask=row < N)
    if GRAD:
        grad = d * (2.0 * SCALE / C / N)
        tl.store(dlogits + row[:, None] * C + channel, round_to(grad, dlogits.dtype.element_ty), mask=mask)


@triton.jit
def _target_rows(
    load_x: tl.constexpr, x_args, targets, N, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """This program's rows: their numbers, their columns, which of them there are, x and t in fp32."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_N)[None, :]
    mask = (row < N)[:, None] & (channel < C)
    t = tl.load(targets + row[:, None] * C + channel, mask=mask, other=0.0)
    x = load_x(row[:, None], channel, mask, x_args).to(tl.float32)
    return row, channel, mask, x, t


@triton.jit
def mean_rows(rows, mean, N, BLOCK: tl.constexpr, SCALE: tl.constexpr = 1.0):
    """mean[0] = SCALE/N * the sum of rows: [N] fp32. Grid: (1,): one program, so one order of summation."""
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, N, BLOCK):
        row = first + tl.arange(0, BLOCK)
        total += tl.load(rows + row, mask=row < N, other=0.0)
    tl.store(mean, tl.sum(total, axis=0) * (SCALE / N))
