"""Images amid zeros, as first layers read them by overlapping windows (`conv2d_windows`)."""

import triton
import triton.language as tl

from .numerics import existing


@triton.jit
def packed_images(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, PITCH: tl.constexpr, LEFT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y: [N, ROWS, PITCH], where row h < H of an image has the W*C elements of x: [N, H, W, C] from LEFT on; else 0.

    Grid: (cdiv(N*ROWS, BLOCK_M), cdiv(PITCH, BLOCK_N)). load_x(pixel, channel, mask, args), all [BLOCK_M, BLOCK_N] but
    channel, [1, BLOCK_N], is 0 where the mask is not set; store_y(tile, row, column, mask, args), with row [BLOCK_M, 1]
    of all images' and column [1, BLOCK_N].
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    exists = (row < N * ROWS) & (column < PITCH)
    n, h, term = row // ROWS, row % ROWS, tl.maximum(column - LEFT, 0)
    inside = exists & (h < H) & (column >= LEFT) & (term < W * C)
    pixel = existing((n * H + h) * W + term // C, inside)
    store_y(load_x(pixel, term % C, inside, x_args), row, column, exists, y_args)
