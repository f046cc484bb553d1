"""Gradient of a convolution by its input, as dense implicit matrix products without zero-stuffing.

    dx[n,h,w,c] = sum over k,r,s of  dy[n, (h + PT - r*DH)/SH, (w + PL - s*DW)/SW, k] * w[k,r,s,c]

where both divisions leave no remainder. Which taps (r, s) those are depends only on (h mod SH, w mod SW): pixels of one
residue class share their taps, and a class is a stride-1 convolution of its own.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot, existing, round_to
from .order import tile_of_program
from .window import image_position


@triton.jit
def conv2d_dgrad(
    load_dy: tl.constexpr, dy_args, w, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, DH: tl.constexpr = 1, DW: tl.constexpr = 1,
    PT: tl.constexpr = 0, PL: tl.constexpr = 0, GROUPS: tl.constexpr = 1, PRECISION: tl.constexpr = IEEE,
    W_BOXES: tl.constexpr = False, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """dy: [N, P, Q, K], w: [K, R, S, C/GROUPS]  ->  dx: [N, H, W, C].

    Grid: (T * cdiv(C/GROUPS, BLOCK_N), GROUPS, SH*SW), with T = cdiv(N * cdiv(H, SH) * cdiv(W, SW), BLOCK_M) row
    tiles in each class. BLOCK_K runs over filters k.

    load_dy(pixel, channel, mask, args): pixel of y, [BLOCK_M, 1]; channel k, [1, BLOCK_K].
    store_dx(acc, pixel, channel, mask, part, args): acc [BLOCK_M, BLOCK_N] fp32; pixel of x, [BLOCK_M, 1]; channel c,
    [1, BLOCK_N], at least C where there is none; part = class*T + row tile, so SH*SW*T parts in all. Every element of
    dx is stored exactly once. finish as in `conv2d_fprop`.

    Operands that are multiplied as they lie in memory may come by tensor descriptors, whole tiles at a time. W_BOXES: w
    is one of [K, R*S*C] in boxes of [BLOCK_K, BLOCK_N], of dy's type. load_dy = None, for 1x1 convolutions with
    stride 1: dy_args is one of [N*P*Q, K] in boxes of [BLOCK_M, BLOCK_K].
    """
    CG: tl.constexpr = C // GROUPS
    KG: tl.constexpr = K // GROUPS
    CLASS_H: tl.constexpr = (H + SH - 1) // SH
    CLASS_W: tl.constexpr = (W + SW - 1) // SW
    COLUMN_TILES: tl.constexpr = (CG + BLOCK_N - 1) // BLOCK_N

    rows = N * (CLASS_H * CLASS_W)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    row_tile, column_tile = tile_of_program(tl.program_id(0), row_tiles, COLUMN_TILES)
    first_column = column_tile * BLOCK_N
    column = first_column + tl.arange(0, BLOCK_N)[None, :]
    group = tl.program_id(1)
    class_h = tl.program_id(2) // SW
    class_w = tl.program_id(2) % SW
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    row_mask = row < rows
    column_mask = column < CG

    # Where every input pixel reads the same output pixel (1x1, linear layers), rows need not be taken apart.
    SAME_PIXEL: tl.constexpr = R * S * SH * SW == 1 and P == H and Q == W
    if SAME_PIXEL:
        pixel = row
        source = existing(row, row_mask)
    else:
        n, i, j = image_position(row, CLASS_H, CLASS_W)
        h = i * SH + class_h
        v = j * SW + class_w
        pixel = (n * H + h) * W + v
        row_mask = row_mask & (h < H) & (v < W)  # the last row or column of a smaller class is not there

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for r in range(R):
        ahead_h = class_h + PT - r * DH
        if ahead_h % SH == 0:  # the same for the whole program: no lane waits for another
            for s in range(S):
                ahead_w = class_w + PL - s * DW
                if ahead_w % SW == 0:
                    inside = row_mask
                    if not SAME_PIXEL:
                        p = i + ahead_h // SH
                        q = j + ahead_w // SW
                        inside = row_mask & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
                        source = existing((n * P + p) * Q + q, inside)
                    for k in range(0, KG, BLOCK_K):
                        channel = k + tl.arange(0, BLOCK_K)
                        known = channel < KG
                        exists = inside
                        if KG % BLOCK_K != 0:
                            exists = inside & known[None, :]
                            channel = channel % KG
                        if load_dy is None:
                            dy = dy_args.load([row_tile * BLOCK_M, k])
                        else:
                            dy = load_dy(source, group * KG + channel[None, :], exists, dy_args)
                        if W_BOXES:
                            b = w.load([group * KG + k, (r * S + s) * CG + first_column])
                        else:
                            filters = w + (group * KG + channel[:, None]) * (R * S * CG)
                            weights = filters + ((r * S + s) * CG + column % CG)
                            b = tl.load(weights, mask=known[:, None] & column_mask, other=0.0)
                            b = round_to(b, dy.dtype)
                        acc = dot(dy, b, acc, PRECISION)

    part = tl.program_id(2) * row_tiles + row_tile
    result = group * CG + column
    if GROUPS > 1 and CG % BLOCK_N != 0:
        result = tl.where(column_mask, result, C)  # beyond a group lies the next one's
    mask = row_mask
    if CG % BLOCK_N != 0:
        mask = row_mask & column_mask
    store_dx(acc, pixel, result, mask, part, dx_args)
    if finish is not None:
        block, end = group * COLUMN_TILES + column_tile, group * CG + CG
        finish(block, group * CG + first_column, end, part, row_tiles * (SH * SW), finish_args)
