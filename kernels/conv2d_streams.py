"""Convolutions of images that are multiplied just as they lie in memory, by programs that stay.

    y[n,p,q,k]  = sum over r,s,c of  x[n, p*SH + r*DH - PT, q*SW + s*DW - PL, c] * w[k,r,s,c]
    dx[n,h,w,c] = sum over r,s,k of  dy[n, (h + PT - r*DH)/SH, (w + PL - s*DW)/SW, k] * w[k,r,s,c]

A row of the matrix product is a pixel of a box, and what a tap needs of the image is a box too, which one bulk copy
(Hopper's TMA) brings: what lies outside the image reads as 0. Programs compute tile after tile of the same columns, so
that the copies for one run ahead while another is finished, and sums over all pixels stay in registers to the end.

With a stride, an image is seen as SH by SW images between whose pixels the others lie: a tap of the forward product
reads one of them, and of the gradient each is a convolution of its own, with every SH-th row of taps.
"""

import triton
import triton.language as tl

from .matmul_boxes import columns_of, over_all_rows
from .numerics import IEEE, dot


@triton.jit
def over_rows_of_thread(tile, REPEATS: tl.constexpr):
    """[M/(16*REPEATS), 8, columns] sums of those rows of an fp32 tile [M, columns] that one thread has.

    NVIDIA's tensor cores leave a warp rows i and i + 8 of its 16, and again of the 16 that lie M/REPEATS behind.
    REPEATS = 0: [1, 1, columns] sums of all rows, which threads exchange, so that few registers hold them.
    """
    if REPEATS == 0:
        sums = tl.sum(tile, axis=0)[None, None, :]
    else:
        near = tile.reshape(REPEATS, tile.shape[0] // (16 * REPEATS), 2, 8, tile.shape[1])
        sums = tl.sum(tl.sum(near, axis=2), axis=0)
    return sums


@triton.jit
def over_rows_apart(tile, APART: tl.constexpr):
    """[1, APART, columns] sums of those rows of an fp32 tile [M, columns] that lie APART from one another.

    A thread has them if the tile lies as memory takes it, 16 bytes of 16-bit numbers a thread, and APART rows are what
    all threads of the program have at once."""
    return tl.sum(tile.reshape(tile.shape[0] // APART, APART, tile.shape[1]), axis=0)[None]


@triton.jit
def conv2d_streams(
    x, w, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, DH: tl.constexpr = 1, DW: tl.constexpr = 1,
    PT: tl.constexpr = 0, PL: tl.constexpr = 0, GRADIENT: tl.constexpr = False,
    SUMS: tl.constexpr = 0, REPEATS: tl.constexpr = 1, PIECES: tl.constexpr = 1,
    leave_sums: tl.constexpr = None, leave_args=None, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """y: [N, P, Q, K] of x: [N, H, W, C].

    x is a descriptor of [H, W, N, C] in boxes of [BOX_H, BOX_W, BOX_N, BLOCK_K]; with a stride, forward, of
    [H/SH, SH, W/SW, N, SW*C] in boxes of [BOX_H, 1, BOX_W, BOX_N, BLOCK_K]. Forward: w is a descriptor of [K, R*S*C] in
    boxes of [BLOCK_N, BLOCK_K]. GRADIENT: x is the gradient of a convolution's result, y that of its operand, and w one
    of [C, R*S*K] in boxes of [BLOCK_K, BLOCK_N]; with a stride, dilation is 1 and no filter shorter than the stride.
    Where boxes of w would reach into the next tap's channels, it has a dimension of taps, as in `conv2d_boxes`.

    Grid: (streams * cdiv(K, BLOCK_N),) with any number of streams up to that of tiles: stream s computes tiles s,
    s + streams, and so on. store_y(acc, pixel, channel, mask, part, first_p, first_q, first_n, first_channel, args)
    as in `conv2d_fprop`, with part the tile and the box's corner among rows, columns and images, for loads and stores
    by descriptors; the corner is left out of a GRADIENT with a stride. SUMS, leave_sums, PIECES and finish as in
    `matmul_boxes`. REPEATS: how many times the program's warps take 16 rows each to have all rows of a tile; 0: sums
    over a tile's rows do not wait in registers to the end, only those over tiles do.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    STRIDED: tl.constexpr = SH * SW > 1
    # Neighbours in a box are so far apart in y.
    APART_H: tl.constexpr = SH if GRADIENT else 1
    APART_W: tl.constexpr = SW if GRADIENT else 1
    BOXES_H: tl.constexpr = ((P + APART_H - 1) // APART_H + BOX_H - 1) // BOX_H
    BOXES_W: tl.constexpr = ((Q + APART_W - 1) // APART_W + BOX_W - 1) // BOX_W
    COLUMN_TILES: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    boxes = tl.cdiv(N, BOX_N) * (BOXES_H * BOXES_W)
    column_tile = tl.program_id(0) % COLUMN_TILES
    stream, streams = tl.program_id(0) // COLUMN_TILES, tl.num_programs(0) // COLUMN_TILES
    tiles = tl.cdiv(boxes * (APART_H * APART_W) - stream, streams)
    first_column = column_tile * BLOCK_N
    WIDTH: tl.constexpr = BLOCK_N // PIECES
    ROW_SUMS: tl.constexpr = BLOCK_M // (16 * REPEATS) if REPEATS > 0 else 1
    ROWS_APART: tl.constexpr = 8 if REPEATS > 0 else 1
    count = 0
    sum_0 = tl.zeros([ROW_SUMS, ROWS_APART, WIDTH], tl.float32)
    sum_1 = tl.zeros([ROW_SUMS, ROWS_APART, WIDTH], tl.float32)
    sum_2 = tl.zeros([ROW_SUMS, ROWS_APART, WIDTH], tl.float32)
    more_0 = tl.zeros([ROW_SUMS, ROWS_APART, WIDTH], tl.float32)  # of the second piece
    more_1 = tl.zeros([ROW_SUMS, ROWS_APART, WIDTH], tl.float32)
    more_2 = tl.zeros([ROW_SUMS, ROWS_APART, WIDTH], tl.float32)
    for i in tl.range(0, tiles, flatten=True):
        tile = stream + i * streams
        if APART_H * APART_W == 1:
            box, class_h, class_w = tile, 0, 0
        else:
            box, class_h, class_w = tile % boxes, tile // boxes // APART_W, tile // boxes % APART_W
        first_n = box // (BOXES_H * BOXES_W) * BOX_N
        first_p = box // BOXES_W % BOXES_H * BOX_H
        first_q = box % BOXES_W * BOX_W
        if GRADIENT:
            first_r, first_s = (class_h + PT) % SH, (class_w + PL) % SW
            steps = ((R - first_r + SH - 1) // SH) * ((S - first_s + SW - 1) // SW) * ((C + BLOCK_K - 1) // BLOCK_K)
        else:
            first_r, first_s = 0, 0
            steps = R * S * ((C + BLOCK_K - 1) // BLOCK_K)
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        # One loop over taps and channels; its counters are carried, not divided out of one, as in `conv2d_boxes`.
        r, s, c = first_r, first_s, 0
        for _ in range(steps):
            if GRADIENT:
                h, v = class_h + PT - r * DH + R * DH * SH, class_w + PL - s * DW + S * DW * SW  # not negative
                operand = x.load([first_p + (h // SH - R * DH), first_q + (v // SW - S * DW), first_n, c])
                if R * S > 1 and K % BLOCK_N != 0:
                    b = w.load([c, r * S + s, first_column]).reshape(BLOCK_K, BLOCK_N)
                else:
                    b = w.load([c, (r * S + s) * K + first_column])
            else:
                h, v = r * DH - PT + PT * SH, s * DW - PL + PL * SW
                if STRIDED:
                    operand = x.load(
                        [first_p + (h // SH - PT), h % SH, first_q + (v // SW - PL), first_n, v % SW * C + c]
                    )
                else:
                    operand = x.load([first_p + (h - PT), first_q + (v - PL), first_n, c])
                if R * S > 1 and C % BLOCK_K != 0:
                    b = w.load([first_column, r * S + s, c]).reshape(BLOCK_N, BLOCK_K).T
                else:
                    b = w.load([first_column, (r * S + s) * C + c]).T
            acc = dot(operand.reshape(BLOCK_M, BLOCK_K), b, acc, IEEE)
            c += BLOCK_K
            s = tl.where(c >= C, s + APART_W, s)
            c = tl.where(c >= C, 0, c)
            r = tl.where(s >= S, r + APART_H, r)
            s = tl.where(s >= S, first_s, s)

        row = tl.arange(0, BLOCK_M)[:, None]
        n = first_n + row % BOX_N
        p = (first_p + row // (BOX_N * BOX_W)) * APART_H + class_h
        q = (first_q + row // BOX_N % BOX_W) * APART_W + class_w
        exists = (n < N) & (p < P) & (q < Q)
        high = tl.minimum((P - class_h + APART_H - 1) // APART_H - first_p, BOX_H)
        wide = tl.minimum((Q - class_w + APART_W - 1) // APART_W - first_q, BOX_W)
        count += tl.minimum(N - first_n, BOX_N) * high * wide
        for piece in tl.static_range(PIECES):
            begin = first_column + piece * WIDTH
            column = begin + tl.arange(0, WIDTH)[None, :]
            mask = exists
            if K % BLOCK_N != 0:
                mask = exists & (column < K)
            part, pixel = columns_of(acc, piece, PIECES), (n * P + p) * Q + q
            if GRADIENT and STRIDED:
                terms = store_y(part, pixel, column, mask, tile, y_args)
            else:
                terms = store_y(part, pixel, column, mask, tile, first_p, first_q, first_n, begin, y_args)
            if piece == 0:
                if SUMS > 0:
                    sum_0 += over_rows_of_thread(terms[0], REPEATS)
                if SUMS > 1:
                    sum_1 += over_rows_of_thread(terms[1], REPEATS)
                if SUMS > 2:
                    sum_2 += over_rows_of_thread(terms[2], REPEATS)
            else:
                if SUMS > 0:
                    more_0 += over_rows_of_thread(terms[0], REPEATS)
                if SUMS > 1:
                    more_1 += over_rows_of_thread(terms[1], REPEATS)
                if SUMS > 2:
                    more_2 += over_rows_of_thread(terms[2], REPEATS)
    if SUMS > 0:
        column = first_column + tl.arange(0, WIDTH)[None, :]
        totals = over_all_rows(sum_0), over_all_rows(sum_1), over_all_rows(sum_2)
        leave_sums(totals, count, column, stream, leave_args)
        if PIECES > 1:
            totals = over_all_rows(more_0), over_all_rows(more_1), over_all_rows(more_2)
            leave_sums(totals, count, column + WIDTH, stream, leave_args)
    if finish is not None:
        finish(column_tile, first_column, K, stream, streams, finish_args)
