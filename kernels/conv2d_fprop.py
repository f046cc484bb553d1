"""Forward convolution as an implicit matrix product: output pixels by filters, summed over taps and channels.

    y[n,p,q,k] = sum over r,s,c of  x[n, p*SH + r*DH - PT, q*SW + s*DW - PL, c] * w[k,r,s,c]

No patch matrix is ever stored: the rows of the left operand are gathered from x as they are needed.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot, existing, round_to
from .order import tile_of_program
from .window import image_position


@triton.jit
def conv2d_fprop(
    load_x: tl.constexpr, x_args, w, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, DH: tl.constexpr = 1, DW: tl.constexpr = 1,
    PT: tl.constexpr = 0, PL: tl.constexpr = 0, GROUPS: tl.constexpr = 1,
    WINDOW_H: tl.constexpr = 1, WINDOW_W: tl.constexpr = 1, PRECISION: tl.constexpr = IEEE,
    keep_x: tl.constexpr = None, keep_args=None, W_BOXES: tl.constexpr = False,
    finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """x: [N, H, W, C], w: [K, R, S, C/GROUPS]  ->  y: [N, P, Q, K]; stride SH, SW; dilation DH, DW; padding PT, PL.

    Grid: (cdiv(M, BLOCK_M) * cdiv(K/GROUPS, BLOCK_N), GROUPS), with M = N*P*Q rows (see WINDOW below). Padding at the
    bottom and on the right shows only in P and Q.

    load_x(pixel, channel, mask, args): pixel of x, [BLOCK_M, 1] or [BLOCK_M, BLOCK_K]; channel, [1, BLOCK_K].
    store_y(acc, pixel, channel, mask, part, args): acc [BLOCK_M, BLOCK_N] fp32; pixel of y, [BLOCK_M, 1]; channel,
    [1, BLOCK_N], at least K where there is none; part is the number of the row tile. Weights are converted to the type
    that load_x returns.

    Operands that are multiplied as they lie in memory may come by tensor descriptors, whole tiles at a time. W_BOXES: w
    is one of [K, R*S*C] in boxes of [BLOCK_N, BLOCK_K], of x's type. load_x = None, for 1x1 convolutions with
    stride 1 and C >= 16: x_args is one of [N*H*W, C] in boxes of [BLOCK_M, BLOCK_K].

    keep_x(tile, pixel, channel, mask, args), if given, is shown every tile that the programs of the first filters load;
    for 1x1 convolutions with stride 1 that is every element of x once, so it may store what load_x computed.

    WINDOW_H, WINDOW_W > 1 fuse a non-overlapping pooling: the rows enumerate the windows that lie fully inside,
    WINDOW_H*WINDOW_W (a power of two) rows each, row-major within one, so M = N * (P//WINDOW_H * WINDOW_H) *
    (Q//WINDOW_W * WINDOW_W); other rows and columns of y are not computed. Then the call is
    store_y(acc, pixel, channel, mask, window_pixel, part, args), with window_pixel [BLOCK_M/area, 1] the pixel of the
    pooled image; `max_over_window`, `mean_over_window` and `mask_over_window` fold the rows.

    finish(block, first, end, part, parts, args), if given, is called last: the program has left its part, of so many,
    of the side sums of channels first to end - 1; the programs of these channels have one number `block`.
    """
    CG: tl.constexpr = C // GROUPS
    KG: tl.constexpr = K // GROUPS
    AREA: tl.constexpr = WINDOW_H * WINDOW_W
    POOLED_H: tl.constexpr = P // WINDOW_H
    POOLED_W: tl.constexpr = Q // WINDOW_W
    COLUMN_TILES: tl.constexpr = (KG + BLOCK_N - 1) // BLOCK_N

    rows = N * (POOLED_H * POOLED_W * AREA)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    row_tile, column_tile = tile_of_program(tl.program_id(0), row_tiles, COLUMN_TILES)
    first_column = column_tile * BLOCK_N
    column = first_column + tl.arange(0, BLOCK_N)[None, :]
    group = tl.program_id(1)
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    row_mask = row < rows
    column_mask = column < KG
    if not W_BOXES:
        filters = w + (group * KG + existing(column, column_mask)) * (R * S * CG)

    # Where every output pixel reads the same input pixel (1x1, linear layers), rows need not be taken apart.
    SAME_PIXEL: tl.constexpr = R * S * SH * SW * AREA == 1 and P == H and Q == W
    if SAME_PIXEL:
        pixel = row
        source = existing(row, row_mask)
    elif AREA == 1:
        pixel = row
        n, p, q = image_position(row, P, Q)
    else:
        n, p, q = image_position(row // AREA, POOLED_H, POOLED_W)
        p = p * WINDOW_H + row % AREA // WINDOW_W
        q = q * WINDOW_W + row % WINDOW_W
        pixel = (n * P + p) * Q + q

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if CG >= 16:
        # One tap at a time, its channels in blocks. The loops stay nested: flattening them into one that divides its
        # counter is miscompiled at 8 warps (pytorch #173068).
        for r in range(R):
            for s in range(S):
                inside = row_mask
                if not SAME_PIXEL:
                    h = p * SH + (r * DH - PT)
                    v = q * SW + (s * DW - PL)
                    inside = row_mask & (h >= 0) & (h < H) & (v >= 0) & (v < W)
                    source = existing((n * H + h) * W + v, inside)
                for c in range(0, CG, BLOCK_K):
                    channel = c + tl.arange(0, BLOCK_K)
                    known = channel < CG
                    exists = inside
                    if CG % BLOCK_K != 0:
                        exists = inside & known[None, :]
                        channel = channel % CG
                    if load_x is None:
                        x = x_args.load([row_tile * BLOCK_M, c])
                    else:
                        x = load_x(source, group * CG + channel[None, :], exists, x_args)
                    if keep_x is not None:
                        keep_x(x, source, channel[None, :], exists & (column_tile == 0), keep_args)
                    if W_BOXES:
                        b = w.load([group * KG + first_column, (r * S + s) * CG + c]).T
                    else:
                        weights = filters + ((r * S + s) * CG + channel[:, None])
                        b = tl.load(weights, mask=known[:, None] & column_mask, other=0.0)
                        b = round_to(b, x.dtype)
                    acc = dot(x, b, acc, PRECISION)
    else:
        # Too few channels to fill a block: the summed axis is (r, s, c) flattened, as it lies in the weights.
        for first in range(0, R * S * CG, BLOCK_K):
            term = first + tl.arange(0, BLOCK_K)
            known = term < R * S * CG
            term = term % (R * S * CG)
            tap = term[None, :] // CG
            inside = row_mask
            if not SAME_PIXEL:
                h = p * SH + (tap // S * DH - PT)
                v = q * SW + (tap % S * DW - PL)
                inside = row_mask & (h >= 0) & (h < H) & (v >= 0) & (v < W)
                source = existing((n * H + h) * W + v, inside)
            x = load_x(source, group * CG + term[None, :] % CG, inside & known[None, :], x_args)
            if keep_x is not None:
                keep_x(x, source, term[None, :], inside & known[None, :] & (column_tile == 0), keep_args)
            if W_BOXES:
                b = w.load([group * KG + first_column, first]).T
            else:
                b = tl.load(filters + term[:, None], mask=known[:, None] & column_mask, other=0.0)
                b = round_to(b, x.dtype)
            acc = dot(x, b, acc, PRECISION)

    mask = row_mask
    if KG % BLOCK_N != 0:
        mask = row_mask & column_mask
    filter_ = group * KG + column
    if GROUPS > 1 and KG % BLOCK_N != 0:
        filter_ = tl.where(column_mask, filter_, K)  # beyond a group lies the next one's
    if AREA == 1:
        store_y(acc, pixel, filter_, mask, row_tile, y_args)
    else:
        window_pixel = row_tile * (BLOCK_M // AREA) + tl.arange(0, BLOCK_M // AREA)[:, None]
        store_y(acc, pixel, filter_, mask, window_pixel, row_tile, y_args)
    if finish is not None:
        block, end = group * COLUMN_TILES + column_tile, group * KG + KG
        finish(block, group * KG + first_column, end, row_tile, row_tiles, finish_args)
