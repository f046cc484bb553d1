"""Convolution with stride 1 of an image that is multiplied just as it lies in memory: it comes in whole boxes.

    y[n,p,q,j] = sum over r,s,c of  x[n, p + r*STEP_H + FIRST_H, q + s*STEP_W + FIRST_W, c] * w(r, s, c, j)

A row of the matrix product is a pixel of a box [BOX_H, BOX_W, BOX_N] of y. The box of x that a tap needs is the same
one moved, so one bulk copy (Hopper's TMA) brings it, no address is computed for any pixel, and what lies outside the
image reads as 0: padding costs nothing. Images are its last axis: a box of one pixel of each is a matrix as it comes,
which tensor cores read where it lies. Of other boxes Triton makes one in registers first.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot
from .order import tile_of_program


@triton.jit
def conv2d_boxes(
    x, w, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    FIRST_H: tl.constexpr, FIRST_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GRADIENT: tl.constexpr = False, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """y[n,p,q,j] = sum over r,s,c of x[n, p + r*STEP_H + FIRST_H, q + s*STEP_W + FIRST_W, c] * w(r, s, c, j)

    for x: [N, H, W, C] and y: [N, P, Q, K]. x is a descriptor of [H, W, N, C] in boxes of
    [BOX_H, BOX_W, BOX_N, BLOCK_K].

    Forward: w, a descriptor of [K, R*S*C] in boxes of [BLOCK_N, BLOCK_K], has w(r, s, c, j) at [j, (r, s, c)]. Padding
    is -FIRST, dilation STEP. GRADIENT: x is the gradient of a convolution's result, y that of its operand, and w, a
    descriptor of [C, R*S*K] in boxes of [BLOCK_K, BLOCK_N], has w(r, s, c, j) at [c, (r, s, j)]; padding is FIRST,
    dilation -STEP. Where R*S > 1 and a box of w would reach into the next tap's channels, w has a dimension more, of
    R*S taps, in boxes of one of them.

    Grid: (cdiv(N, BOX_N) * cdiv(P, BOX_H) * cdiv(Q, BOX_W) * cdiv(K, BLOCK_N),). store_y(acc, pixel, channel, mask,
    part, args) and finish as in `conv2d_fprop`, with part the number of the box; acc is 0 where there is no pixel.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    BOXES_H: tl.constexpr = (P + BOX_H - 1) // BOX_H
    BOXES_W: tl.constexpr = (Q + BOX_W - 1) // BOX_W
    COLUMN_TILES: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N

    boxes = tl.cdiv(N, BOX_N) * (BOXES_H * BOXES_W)
    box, column_tile = tile_of_program(tl.program_id(0), boxes, COLUMN_TILES)
    first_n = box // (BOXES_H * BOXES_W) * BOX_N
    first_p = box // BOXES_W % BOXES_H * BOX_H
    first_q = box % BOXES_W * BOX_W
    first_column = column_tile * BLOCK_N

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    # One loop over taps and channels, so that copies run ahead from one tap to the next. Its counters are carried, not
    # divided out of one: a few scalars, and no address of any pixel, depend on them.
    r, s, c = 0, 0, 0
    for _ in range(R * S * ((C + BLOCK_K - 1) // BLOCK_K)):
        tile = x.load([first_p + (r * STEP_H + FIRST_H), first_q + (s * STEP_W + FIRST_W), first_n, c])
        if GRADIENT and R * S > 1 and K % BLOCK_N != 0:
            b = w.load([c, r * S + s, first_column]).reshape(BLOCK_K, BLOCK_N)
        elif GRADIENT:
            b = w.load([c, (r * S + s) * K + first_column])
        elif R * S > 1 and C % BLOCK_K != 0:
            b = w.load([first_column, r * S + s, c]).reshape(BLOCK_N, BLOCK_K).T
        else:
            b = w.load([first_column, (r * S + s) * C + c]).T
        acc = dot(tile.reshape(BLOCK_M, BLOCK_K), b, acc, IEEE)
        c += BLOCK_K
        s = tl.where(c >= C, s + 1, s)
        c = tl.where(c >= C, 0, c)
        r = tl.where(s == S, r + 1, r)
        s = tl.where(s == S, 0, s)

    row = tl.arange(0, BLOCK_M)[:, None]
    n = first_n + row % BOX_N
    p = first_p + row // (BOX_N * BOX_W)
    q = first_q + row // BOX_N % BOX_W
    exists = (n < N) & (p < P) & (q < Q)
    if P % BOX_H != 0 or Q % BOX_W != 0:
        acc = tl.where(exists, acc, 0.0)
    column = first_column + tl.arange(0, BLOCK_N)[None, :]
    mask = exists
    if K % BLOCK_N != 0:
        mask = exists & (column < K)
    store_y(acc, (n * P + p) * Q + q, column, mask, box, y_args)
    if finish is not None:
        finish(column_tile, first_column, K, box, boxes, finish_args)
