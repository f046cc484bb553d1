"""Softmax, and losses with their gradients. A program holds whole rows, so C may be a few thousand at most."""

import triton
import triton.language as tl


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
    load_x: tl.constexpr, x_args, labels, weights, losses, upstream, store_dx: tl.constexpr, dx_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SMOOTHING: tl.constexpr = 0.0, SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """The loss of the rows of a tile, and the gradient of SCALE * the mean over all rows by the logits x: [rows, C].

        t[r,c] = weights[c] * ((1 - SMOOTHING)*[c == labels[r]] + SMOOTHING/C), or 0 where labels[r] < 0
        losses[part] = sum over r and c of t[r,c] * (log sum_j exp x[r,j] - x[r,c])
        dx[r,c] = (softmax(x)[r,c] * sum_j t[r,j] - t[r,c]) * SCALE/rows

    There is a row for each of PIXELS pixels of each of N images. Grid: (cdiv(N*PIXELS, BLOCK_M),); BLOCK_N >= C, a
    power of two. labels: [rows] int32 or int64, each below C; weights: [C] fp32, or None for 1, and no label is
    negative then; losses: one for each program, fp32; upstream: [1] fp32, or None for 1: the gradient of whatever is
    differentiated by the mean, by which dx counts. load_x(pixel = row, channel, mask, args); store_dx(tile, pixel,
    channel, mask, part, args), the tile in fp32. losses may be None if LOSSES is False, store_dx if GRAD is.
    """
    row, channel, mask, x = _rows(load_x, x_args, N * PIXELS, C, BLOCK_M, BLOCK_N)
    label = tl.load(labels + row, mask=row < N * PIXELS, other=0).to(tl.int32)
    t = tl.where(channel == label, 1.0 - SMOOTHING, 0.0) + SMOOTHING / C
    if weights is not None:
        t = tl.where(label >= 0, t * tl.load(weights + channel, mask=channel < C, other=0.0), 0.0)
    terms, grad = _against(x, tl.where(mask, t, 0.0), channel < C)
    _leave(terms, grad * (SCALE / (N * PIXELS)), row, channel, mask, losses, upstream, store_dx, dx_args, LOSSES, GRAD)


@triton.jit
def soft_cross_entropy(
    load_x: tl.constexpr, x_args, load_t: tl.constexpr, t_args, losses, upstream,
    store_dx: tl.constexpr, dx_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """As `cross_entropy`, with the targets t: [rows, C] themselves, from load_t(pixel = row, channel, mask, args)."""
    row, channel, mask, x = _rows(load_x, x_args, N * PIXELS, C, BLOCK_M, BLOCK_N)
    terms, grad = _against(x, load_t(row, channel, mask, t_args), channel < C)
    _leave(terms, grad * (SCALE / (N * PIXELS)), row, channel, mask, losses, upstream, store_dx, dx_args, LOSSES, GRAD)


@triton.jit
def binary_cross_entropy(
    load_x: tl.constexpr, x_args, load_t: tl.constexpr, t_args, losses, upstream,
    store_dx: tl.constexpr, dx_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """The mean over a row's outputs of the cross entropy of sigmoid(x) with t, and SCALE times the mean's gradient.

        losses[part] = 1/C * sum over r and c of max(x, 0) - x*t + log(1 + exp(-|x|))
        dx = (sigmoid(x) - t) * SCALE/(rows*C)

    Arguments are those of `soft_cross_entropy`.
    """
    row, channel, mask, x = _rows(load_x, x_args, N * PIXELS, C, BLOCK_M, BLOCK_N)
    t = load_t(row, channel, mask, t_args)
    e = tl.exp(-tl.abs(x))
    positive = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    terms = (positive - x * t + tl.log(1.0 + e)) * (1.0 / C)
    grad = (tl.where(x >= 0, 1.0, e) / (1.0 + e) - t) * (SCALE / C / (N * PIXELS))
    _leave(terms, grad, row, channel, mask, losses, upstream, store_dx, dx_args, LOSSES, GRAD)


@triton.jit
def squared_error(
    load_x: tl.constexpr, x_args, load_t: tl.constexpr, t_args, losses, upstream,
    store_dx: tl.constexpr, dx_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr = 1.0, LOSSES: tl.constexpr = True, GRAD: tl.constexpr = True,
):  # fmt: skip
    """The mean over a row's outputs of (x - t)**2, and SCALE times the gradient of the mean over all rows.

    The gradient is 2*(x - t) * SCALE/(rows*C).

    Arguments are those of `soft_cross_entropy`.
    """
    row, channel, mask, x = _rows(load_x, x_args, N * PIXELS, C, BLOCK_M, BLOCK_N)
    d = x - load_t(row, channel, mask, t_args)
    grad = d * (2.0 * SCALE / C / (N * PIXELS))
    _leave(d * d * (1.0 / C), grad, row, channel, mask, losses, upstream, store_dx, dx_args, LOSSES, GRAD)


@triton.jit
def _rows(load_x: tl.constexpr, x_args, rows, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """This program's rows: their numbers [BLOCK_M, 1], columns [1, BLOCK_N], which of them there are, and x in fp32."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.arange(0, BLOCK_N)[None, :]
    mask = (row < rows) & (channel < C)
    return row, channel, mask, load_x(row, channel, mask, x_args).to(tl.float32)


@triton.jit
def _against(x, t, there):
    """What each element of rows x and targets t adds to the cross entropy, and the gradient by it.
    ``there`` are the columns that exist."""
    largest = tl.max(tl.where(there, x, float("-inf")), axis=1)[:, None]
    x = x - largest  # moves every term of the loss alike, and keeps exp from overflowing
    e = tl.where(there, tl.exp(x), 0.0)
    total = tl.sum(e, axis=1)[:, None]
    # A target of 0 adds nothing, not even where its logit is -inf.
    return tl.where(t != 0, t * (tl.log(total) - x), 0.0), e / total * tl.sum(t, axis=1)[:, None] - t


@triton.jit
def _leave(
    terms,
    grad,
    row,
    channel,
    mask,
    losses,
    upstream,
    store_dx: tl.constexpr,
    dx_args,
    LOSSES: tl.constexpr,
    GRAD: tl.constexpr,
):
    """Store the sum of a tile's terms, and its gradients times the one upstream."""
    part = tl.program_id(0)
    if LOSSES:
        tl.store(losses + part, tl.sum(tl.sum(tl.where(mask, terms, 0.0), axis=1), axis=0))
    if GRAD:
        if upstream is not None:
            grad = grad * tl.load(upstream)
        store_dx(grad, row, channel, mask, part, dx_args)


@triton.jit
def mean_rows(
    parts, mean, N, PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr, SCALE: tl.constexpr = 1.0
):
    """mean[0] = SCALE/rows * the sum of parts, which are fp32, one for each BLOCK_M of the rows = N*PIXELS.

    Grid: (1,): one program, so one order of summation.
    """
    count = tl.cdiv(N * PIXELS, BLOCK_M)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, count, BLOCK):
        part = first + tl.arange(0, BLOCK)
        total += tl.load(parts + part, mask=part < count, other=0.0)
    tl.store(mean, tl.sum(total, axis=0) * (SCALE / (N * PIXELS)))
