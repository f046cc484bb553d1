"""Gradient of a convolution by its weights: a matrix product summed over all pixels, split between programs.

    dw[k,r,s,c] = sum over n,p,q of  dy[n,p,q,k] * x[n, p*SH + r*DH - PT, q*SW + s*DW - PL, c]

The result is small and the sum is long, so the pixels are dealt out in SPLIT contiguous chunks. Each leaves a partial
sum, and `sum_partials` adds them in a fixed order: the same bits every time, and no atomics.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot, existing
from .window import image_position


@triton.jit
def conv2d_wgrad(
    load_dy: tl.constexpr, dy_args, load_x: tl.constexpr, x_args,
    store_dw: tl.constexpr, dw_args, store_bias: tl.constexpr, bias_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, DH: tl.constexpr = 1, DW: tl.constexpr = 1,
    PT: tl.constexpr = 0, PL: tl.constexpr = 0, GROUPS: tl.constexpr = 1,
    PRECISION: tl.constexpr = IEEE, BIAS: tl.constexpr = False,
):  # fmt: skip
    """dy: [N, P, Q, K], x: [N, H, W, C]  ->  SPLIT partial sums of dw: [K, R, S, C/GROUPS].

    Grid: (cdiv(K/GROUPS, BLOCK_M) * cdiv(R*S*C/GROUPS, BLOCK_N), GROUPS, SPLIT). BLOCK_K runs over pixels.

    load_dy(pixel, channel, mask, args): pixel of y, [BLOCK_K, 1]; channel k, [1, BLOCK_M].
    load_x(pixel, channel, mask, args): pixel of x, [BLOCK_K, 1] or [BLOCK_K, BLOCK_N]; channel c, [1, BLOCK_N].
    store_dw(acc, row, column, mask, split, args): acc [BLOCK_M, BLOCK_N] fp32; row k, [BLOCK_M, 1]; column
    (r*S + s)*C/GROUPS + c, [1, BLOCK_N]; the element lies at row*(R*S*C/GROUPS) + column of its partial sum.
    store_bias(sum, channel, mask, split, args), only if BIAS: the sum of dy over the chunk, [BLOCK_M]; channel k,
    [BLOCK_M]. Without BIAS pass None and ().

    Operands that are multiplied as they lie in memory may come by tensor descriptors, whole tiles at a time.
    load_dy = None: dy_args is one of [N*P*Q, K] in boxes of [BLOCK_K, BLOCK_M]. load_x = None, for 1x1 convolutions
    with stride 1 and one group: x_args is one of [N*H*W, C] in boxes of [BLOCK_K, BLOCK_N].

    A linear layer is the case H = W = P = Q = R = S = 1.
    """
    CG: tl.constexpr = C // GROUPS
    KG: tl.constexpr = K // GROUPS
    COLUMN_TILES: tl.constexpr = (R * S * CG + BLOCK_N - 1) // BLOCK_N

    column_tile = tl.program_id(0) % COLUMN_TILES
    first_k = tl.program_id(0) // COLUMN_TILES * BLOCK_M
    k = first_k + tl.arange(0, BLOCK_M)
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    group = tl.program_id(1)
    split = tl.program_id(2)
    k_mask = k < KG
    column_mask = column < R * S * CG

    # Whole chunks of whole blocks, so that every program but the last runs full.
    pixels = N * (P * Q)
    chunk = tl.cdiv(tl.cdiv(pixels, BLOCK_K), SPLIT) * BLOCK_K
    begin = split * chunk
    end = tl.minimum(begin + chunk, pixels)

    SAME_PIXEL: tl.constexpr = R * S * SH * SW == 1 and P == H and Q == W
    if CG % BLOCK_N == 0:
        tap = column_tile * BLOCK_N // CG  # the same for the whole tile, and so are the pixels
    else:
        tap = column // CG
    shift_h = tap // S * DH - PT
    shift_w = tap % S * DW - PL
    channel = group * CG + column % CG
    filter_ = group * KG + k % KG

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if BIAS:
        bias = tl.zeros([BLOCK_M], tl.float32)
    for first in range(begin, end, BLOCK_K):
        pixel = first + tl.arange(0, BLOCK_K)[:, None]
        pixel_mask = pixel < end
        pixel = existing(pixel, pixel_mask)
        if load_dy is None:
            dy = dy_args.load([first, group * KG + first_k])
        else:
            dy = load_dy(pixel, filter_[None, :], pixel_mask & k_mask[None, :], dy_args)
        if load_x is None:
            x = x_args.load([first, column_tile * BLOCK_N])
        elif SAME_PIXEL:
            x = load_x(pixel, channel, pixel_mask & column_mask, x_args)
        else:
            n, p, q = image_position(pixel, P, Q)
            h = p * SH + shift_h
            v = q * SW + shift_w
            inside = pixel_mask & column_mask & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            x = load_x(existing((n * H + h) * W + v, inside), channel, inside, x_args)
        acc = dot(tl.trans(dy), x.to(dy.dtype), acc, PRECISION)
        if BIAS:  # decided when compiling, the inner one when running
            if column_tile == 0:
                bias += tl.sum(dy.to(tl.float32), axis=0)

    store_dw(acc, group * KG + k[:, None], column, k_mask[:, None] & column_mask, split, dw_args)
    if BIAS:
        if column_tile == 0:
            store_bias(bias, group * KG + k, k_mask, split, bias_args)
