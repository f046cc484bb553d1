"""Grouped convolutions, and their gradients by the input, of groups that are multiplied together by a warp.

    y[n,p,q,k]  = sum over r,s,c of  x[n, p*SH + r - PT, q*SW + s - PL, c] * w[k,r,s,c]
    dx[n,h,w,c] = sum over r,s,k of  dy[n, (h + PT - r)/SH, (w + PL - s)/SW, k] * w[k,r,s,c]

A result's 16 channels are made of those of a few groups: so few that a warp has the filters of all taps in registers,
spread over matrices that are 0 between groups. What a tap needs of the image is a box (a bulk copy, Hopper's TMA), in
which the blocks of all warps lie beside one another. Programs compute tile after tile of the same channels.

With a stride an image is seen as SH by SW images between whose pixels the others lie. A tap of the forward product
reads one of them. Of the gradient a program computes all of them, of the few boxes that they have in common.
"""

import triton
import triton.language as tl

from .conv2d_streams import over_rows_apart
from .matmul_boxes import over_all_rows
from .numerics import IEEE, dot, existing


@triton.jit
def blocks_of_filters(
    w, tap, first, C, WIDTH: tl.constexpr, TAPS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    GRADIENT: tl.constexpr,
):  # fmt: skip
    """A tap's weights, [WIDE/BLOCK, BLOCK, BLOCK], 0 where operand and result are of different groups.

    Block i is between channels first + i*BLOCK and on of both. w: [C, TAPS, WIDTH]; the operand's channels are the last
    axis, with GRADIENT the first."""
    begin = first + tl.arange(0, WIDE // BLOCK)[:, None, None] * BLOCK
    depth, column = begin + tl.arange(0, BLOCK)[None, :, None], begin + tl.arange(0, BLOCK)[None, None, :]
    known = (column // WIDTH == depth // WIDTH) & (column < C) & (depth < C)
    if GRADIENT:
        element = (depth * TAPS + tap) * WIDTH + column % WIDTH
    else:
        element = (column * TAPS + tap) * WIDTH + depth % WIDTH
    return tl.load(w + existing(element, known), mask=known, other=0.0)


@triton.jit
def conv2d_packs(
    x, w, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, GROUPS: tl.constexpr,
    BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, PT: tl.constexpr = 0, PL: tl.constexpr = 0,
    GRADIENT: tl.constexpr = False, SUMS: tl.constexpr = 0,
    leave_sums: tl.constexpr = None, leave_args=None, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """y: [N, P, Q, C] of x with C channels, by filters w: [C, R, S, C/GROUPS], the weights themselves.

    x is a descriptor of [H, W, N, C] in boxes of [BOX_H, BOX_W, BOX_N, WIDE]; with a stride, forward, of
    [H/SH, SH, W/SW, N, SW*C] in boxes of [BOX_H, 1, BOX_W, BOX_N, WIDE]. GRADIENT: x is the gradient of a convolution's
    result, y that of its operand; no filter is shorter than the stride. A warp has BLOCK of a program's WIDE columns,
    made of as many channels, which C/GROUPS divides.

    Grid: (streams * cdiv(C, WIDE),) with any number of streams up to that of boxes: stream s computes boxes s,
    s + streams, and so on, of pixels of y, or of each of its SH by SW images. store_y, SUMS, leave_sums and finish as
    in `conv2d_streams`.
    """
    PIXELS: tl.constexpr = BOX_N * BOX_H * BOX_W
    BLOCKS: tl.constexpr = WIDE // BLOCK
    STRIDED: tl.constexpr = SH * SW > 1
    APART_H: tl.constexpr = SH if GRADIENT else 1
    APART_W: tl.constexpr = SW if GRADIENT else 1
    BOXES_H: tl.constexpr = ((P + APART_H - 1) // APART_H + BOX_H - 1) // BOX_H
    BOXES_W: tl.constexpr = ((Q + APART_W - 1) // APART_W + BOX_W - 1) // BOX_W
    PACKS: tl.constexpr = (C + WIDE - 1) // WIDE
    WIDTH: tl.constexpr = C // GROUPS
    # How many rows and columns of dy its boxes are moved by at least and at most.
    LOW_H: tl.constexpr = -((R - 1 - PT) // SH)
    LOW_W: tl.constexpr = -((S - 1 - PL) // SW)
    HIGH_H: tl.constexpr = (SH - 1 + PT) // SH
    HIGH_W: tl.constexpr = (SW - 1 + PL) // SW
    MOVES_W: tl.constexpr = HIGH_W - LOW_W + 1
    boxes = tl.cdiv(N, BOX_N) * (BOXES_H * BOXES_W)
    pack = tl.program_id(0) % PACKS
    stream, streams = tl.program_id(0) // PACKS, tl.num_programs(0) // PACKS
    first_channel = pack * WIDE
    taps = ()
    for tap in tl.static_range(R * S):
        taps += (blocks_of_filters(w, tap, first_channel, C, WIDTH, R * S, WIDE, BLOCK, GRADIENT),)

    column = first_channel + tl.arange(0, WIDE)[None, :]
    row = tl.arange(0, PIXELS)[:, None]
    count = 0
    sum_0 = tl.zeros([1, 16, WIDE], tl.float32)
    sum_1 = tl.zeros([1, 16, WIDE], tl.float32)
    sum_2 = tl.zeros([1, 16, WIDE], tl.float32)
    for box in tl.range(stream, boxes, streams):
        first_n = box // (BOXES_H * BOXES_W) * BOX_N
        first_p = box // BOXES_W % BOXES_H * BOX_H
        first_q = box % BOXES_W * BOX_W
        moved = ()
        if GRADIENT:
            for h in tl.static_range(LOW_H, HIGH_H + 1):
                for v in tl.static_range(LOW_W, HIGH_W + 1):
                    dy = x.load([first_p + h, first_q + v, first_n, first_channel])
                    moved += (dy.reshape(PIXELS, BLOCKS, BLOCK).permute(1, 0, 2),)
        else:
            for r in tl.static_range(R):
                for s in tl.static_range(S):
                    if STRIDED:
                        operand = x.load([
                            first_p + (r - PT) // SH, (r - PT) % SH, first_q + (s - PL) // SW, first_n,
                            (s - PL) % SW * C + first_channel,
                        ])  # fmt: skip
                    else:
                        operand = x.load([first_p + (r - PT), first_q + (s - PL), first_n, first_channel])
                    moved += (operand.reshape(PIXELS, BLOCKS, BLOCK).permute(1, 0, 2),)
        n = first_n + row % BOX_N
        for class_h in tl.static_range(APART_H):
            for class_w in tl.static_range(APART_W):
                acc = tl.zeros([BLOCKS, PIXELS, BLOCK], tl.float32)
                for r in tl.static_range(R):
                    for s in tl.static_range(S):
                        if not GRADIENT:
                            acc = dot(moved[r * S + s], taps[r * S + s], acc, IEEE)
                        elif (class_h + PT - r) % SH == 0 and (class_w + PL - s) % SW == 0:
                            acc = dot(
                                moved[((class_h + PT - r) // SH - LOW_H) * MOVES_W + (class_w + PL - s) // SW - LOW_W],
                                taps[r * S + s], acc, IEEE,
                            )  # fmt: skip
                p = (first_p + row // (BOX_N * BOX_W)) * APART_H + class_h
                q = (first_q + row // BOX_N % BOX_W) * APART_W + class_w
                mask = (n < N) & (p < P) & (q < Q)
                if C % WIDE != 0:
                    mask = mask & (column < C)
                high = tl.minimum((P - class_h + APART_H - 1) // APART_H - first_p, BOX_H)
                wide = tl.minimum((Q - class_w + APART_W - 1) // APART_W - first_q, BOX_W)
                count += tl.minimum(N - first_n, BOX_N) * high * wide
                tile = (class_h * APART_W + class_w) * boxes + box
                result, pixel = acc.permute(1, 0, 2).reshape(PIXELS, WIDE), (n * P + p) * Q + q
                if GRADIENT and STRIDED:
                    terms = store_y(result, pixel, column, mask, tile, y_args)
                else:
                    terms = store_y(
                        result, pixel, column, mask, tile, first_p, first_q, first_n, first_channel, y_args
                    )  # fmt: skip
                if SUMS > 0:
                    sum_0 += over_rows_apart(terms[0], 16)
                if SUMS > 1:
                    sum_1 += over_rows_apart(terms[1], 16)
                if SUMS > 2:
                    sum_2 += over_rows_apart(terms[2], 16)
    if SUMS > 0:
        totals = over_all_rows(sum_0), over_all_rows(sum_1), over_all_rows(sum_2)
        leave_sums(totals, count, column, stream, leave_args)
    if finish is not None:
        finish(pack, first_channel, C, stream, streams, finish_args)
