"""Matrix products of pixels, or rows, by channels, whose operands come in boxes: 1x1 convolutions and dense layers.

    y[m,j] = sum over c of  x[m,c] * w(c, j)

Programs stay: each has some columns of y for good and computes tile of rows after tile of rows, so that the copies for
one run ahead while another is finished, and sums over all its rows stay in its registers to the end.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot


@triton.jit
def over_near_rows(tile):
    """[M/16, 8, columns] sums of pairs of rows of an fp32 tile [M, columns]: rows 16i + j and 16i + j + 8.

    Both lie in registers of one thread where tensor cores left them (NVIDIA's, from sm_80 on), so no thread waits for
    another; M is a multiple of 16.
    """
    return tl.sum(tile.reshape(tile.shape[0] // 16, 2, 8, tile.shape[1]), axis=1)


@triton.jit
def over_all_rows(sums):
    """[1, columns] sums of such sums of pairs of rows."""
    return tl.sum(tl.sum(sums, axis=0), axis=0)[None, :]


@triton.jit
def columns_of(tile, PIECE: tl.constexpr, PIECES: tl.constexpr):
    """The columns of one of 1 or 2 pieces of a tile [M, columns], the first or the second half."""
    found = tile
    if PIECES == 2:
        first, second = tile.reshape(tile.shape[0], 2, tile.shape[1] // 2).permute(0, 2, 1).split()
        if PIECE == 0:
            found = first
        else:
            found = second
    return found


@triton.jit
def matmul_boxes(
    load_x: tl.constexpr, x_args, w, store_y: tl.constexpr, y_args, ROWS,
    C: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GRADIENT: tl.constexpr = False, SUMS: tl.constexpr = 0, PIECES: tl.constexpr = 1,
    keep_x: tl.constexpr = None, keep_args=None, leave_sums: tl.constexpr = None, leave_args=None,
    finish: tl.constexpr = None, finish_args=None, AHEAD: tl.constexpr = None,
):  # fmt: skip
    """y[m,j] = sum over c of x[m,c] * w(c, j), for x: [ROWS, C] and y: [ROWS, K].

    load_x(pixel, channel, mask, first_pixel, first_channel, args) gives the tile of x at a pixel, [BLOCK_M, 1], and a
    channel, [1, BLOCK_K]; what it gives where there is no row does not matter. load_x = None: x_args is a descriptor of
    x in boxes of [BLOCK_M, BLOCK_K].

    Forward: w, a descriptor of [K, C] in boxes of [BLOCK_N, BLOCK_K], has w(c, j) at [j, c]. GRADIENT: x is the
    gradient of a product's result, y that of its operand, and w, a descriptor of [C, K] in boxes of [BLOCK_K, BLOCK_N],
    has w(c, j) at [c, j].

    Grid: (streams * cdiv(K, BLOCK_N),) with any number of streams up to cdiv(ROWS, BLOCK_M): stream s computes row
    tiles s, s + streams, and so on. store_y(acc, pixel, channel, mask, part, first_pixel, first_channel, args) as in
    `conv2d_fprop`, with part the row tile; the first pixel and channel of the tile are for loads and stores by
    descriptors. With SUMS = 2 or 3 it returns a tuple of so many fp32 tiles, 0 where the mask is not set, and
    leave_sums(sums, count, channel, stream, args) is given a tuple of their sums over the stream's rows, [1, columns],
    and how many rows these were.

    PIECES = 2: the columns of a tile are stored in two halves, one after the other, and boxes for loads and stores are
    [BLOCK_M, BLOCK_N/2]. What store_y holds in registers beside the product is half as much then.

    keep_x(tile, pixel, channel, mask, first_pixel, first_channel, args), if given, is shown every tile of x once, by
    one of the programs that load it.

    finish as in `conv2d_fprop`, with a part for each stream.

    AHEAD: stages of copies of everything that a tile loads, what store_y loads among it, where its depth is one step:
    so that the next tile's images are on their way while this one is stored. None: of the operands only.
    """
    COLUMN_TILES: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    # A branch in the loop over channels holds up all of its steps. Behind the loop it has to load tiles again: where
    # each of many programs does so for few of its rows, that takes less.
    BEHIND: tl.constexpr = COLUMN_TILES > 4
    row_tiles = tl.cdiv(ROWS, BLOCK_M)
    column_tile = tl.program_id(0) % COLUMN_TILES
    stream, streams = tl.program_id(0) // COLUMN_TILES, tl.num_programs(0) // COLUMN_TILES
    tiles = tl.cdiv(row_tiles - stream, streams)
    first_column = column_tile * BLOCK_N
    WIDTH: tl.constexpr = BLOCK_N // PIECES
    ROW_SUMS: tl.constexpr = BLOCK_M // 16
    sum_0 = tl.zeros([ROW_SUMS, 8, WIDTH], tl.float32)
    sum_1 = tl.zeros([ROW_SUMS, 8, WIDTH], tl.float32)
    sum_2 = tl.zeros([ROW_SUMS, 8, WIDTH], tl.float32)
    more_0 = tl.zeros([ROW_SUMS, 8, WIDTH], tl.float32)  # of the second piece
    more_1 = tl.zeros([ROW_SUMS, 8, WIDTH], tl.float32)
    more_2 = tl.zeros([ROW_SUMS, 8, WIDTH], tl.float32)
    for i in tl.range(0, tiles, flatten=True, num_stages=AHEAD):
        row_tile = stream + i * streams
        first_row = row_tile * BLOCK_M
        pixel = first_row + tl.arange(0, BLOCK_M)[:, None]
        row_mask = pixel < ROWS
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for c in range(0, C, BLOCK_K):
            if GRADIENT:
                b = w.load([c, first_column])
            else:
                b = w.load([first_column, c]).T
            if load_x is None:
                x = x_args.load([first_row, c])
            else:
                channel = c + tl.arange(0, BLOCK_K)[None, :]
                exists = row_mask
                if C % BLOCK_K != 0:
                    exists = row_mask & (channel < C)
                x = load_x(pixel, channel, exists, first_row, c, x_args)
                if keep_x is not None and not BEHIND:
                    mine = c // BLOCK_K % COLUMN_TILES == column_tile  # each of those that load it stores its share
                    if mine:
                        keep_x(x, pixel, channel, exists, first_row, c, keep_args)
            acc = dot(x, b, acc, IEEE)
        if keep_x is not None and BEHIND:
            mine = row_tile % COLUMN_TILES == column_tile
            if mine:
                for first_kept in tl.static_range(0, C, BLOCK_K):
                    kept = first_kept + tl.arange(0, BLOCK_K)[None, :]
                    there = row_mask
                    if C % BLOCK_K != 0:
                        there = row_mask & (kept < C)
                    again = load_x(pixel, kept, there, first_row, first_kept, x_args)
                    keep_x(again, pixel, kept, there, first_row, first_kept, keep_args)
        for piece in tl.static_range(PIECES):
            begin = first_column + piece * WIDTH
            column = begin + tl.arange(0, WIDTH)[None, :]
            mask = row_mask
            if K % WIDTH != 0:
                mask = row_mask & (column < K)
            terms = store_y(columns_of(acc, piece, PIECES), pixel, column, mask, row_tile, first_row, begin, y_args)
            if piece == 0:
                if SUMS > 0:
                    sum_0 += over_near_rows(terms[0])
                if SUMS > 1:
                    sum_1 += over_near_rows(terms[1])
                if SUMS > 2:
                    sum_2 += over_near_rows(terms[2])
            else:
                if SUMS > 0:
                    more_0 += over_near_rows(terms[0])
                if SUMS > 1:
                    more_1 += over_near_rows(terms[1])
                if SUMS > 2:
                    more_2 += over_near_rows(terms[2])
    if SUMS > 0:
        last = (row_tiles - 1) % streams == stream
        count = tiles * BLOCK_M - tl.where(last, row_tiles * BLOCK_M - ROWS, 0)
        column = first_column + tl.arange(0, WIDTH)[None, :]
        totals = over_all_rows(sum_0), over_all_rows(sum_1), over_all_rows(sum_2)
        leave_sums(totals, count, column, stream, leave_args)
        if PIECES > 1:
            totals = over_all_rows(more_0), over_all_rows(more_1), over_all_rows(more_2)
            leave_sums(totals, count, column + WIDTH, stream, leave_args)
    if finish is not None:
        finish(column_tile, first_column, K, stream, streams, finish_args)
