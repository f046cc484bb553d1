"""Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3), and its gradient.

    y[c] = x[c] * d[c]^-BETA        d[c] = BIAS + ALPHA/SIZE * sum of x[j]^2 over the window of c

The window of c is j = c - SIZE//2 .. c + (SIZE-1)//2, clipped to the channels there are. Neighbouring channels are
loaded again rather than shuffled between threads: they lie in the same cache lines.
"""

import triton
import triton.language as tl


@triton.jit
def lrn_denominator(
    load_x: tl.constexpr, x_args, pixel, channel, mask,
    C: tl.constexpr, SIZE: tl.constexpr, ALPHA: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """d at [pixel, channel], fp32; channel may lie outside the image, where its window is clipped all the same."""
    total = tl.zeros(mask.shape, tl.float32)
    for shift in range(SIZE):
        other = channel + (shift - SIZE // 2)
        x = load_x(pixel, other, mask & (other >= 0) & (other < C), x_args).to(tl.float32)
        total += x * x
    return BIAS + ALPHA / SIZE * total


@triton.jit
def local_response_norm(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """x: [N*PIXELS, C]  ->  y, the same shape. Grid: (cdiv(N*PIXELS, BLOCK_M), cdiv(C, BLOCK_N)).

    load_x(pixel, channel, mask, args); store_y(tile, pixel, channel, mask, part, args), the tile in fp32.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * PIXELS) & (channel < C)
    d = lrn_denominator(load_x, x_args, pixel, channel, mask, C, SIZE, ALPHA, BIAS)
    x = load_x(pixel, channel, mask, x_args).to(tl.float32)
    store_y(x * tl.exp2(-BETA * tl.log2(d)), pixel, channel, mask, part, y_args)


@triton.jit
def local_response_norm_grad(
    load_dy: tl.constexpr, dy_args, load_x: tl.constexpr, x_args, store_dx: tl.constexpr, dx_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SIZE: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """dx[c] = dy[c] d[c]^-BETA - 2 ALPHA BETA/SIZE * x[c] * sum of dy[j] x[j] d[j]^-(BETA+1) over j whose window has c.

    Grid and functions as in `local_response_norm`.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * PIXELS) & (channel < C)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for shift in range(SIZE):
        other = channel + (shift - (SIZE - 1) // 2)
        inside = mask & (other >= 0) & (other < C)
        d = lrn_denominator(load_x, x_args, pixel, other, inside, C, SIZE, ALPHA, BIAS)
        dy = load_dy(pixel, other, inside, dy_args).to(tl.float32)
        x = load_x(pixel, other, inside, x_args).to(tl.float32)
        total += dy * x * tl.exp2(-(BETA + 1.0) * tl.log2(d))
    d = lrn_denominator(load_x, x_args, pixel, channel, mask, C, SIZE, ALPHA, BIAS)
    dy = load_dy(pixel, channel, mask, dy_args).to(tl.float32)
    x = load_x(pixel, channel, mask, x_args).to(tl.float32)
    dx = dy * tl.exp2(-BETA * tl.log2(d)) - 2 * ALPHA * BETA / SIZE * x * total
    store_dx(dx, pixel, channel, mask, part, dx_args)
