"""Matrix products of operands that are multiplied just as they lie in memory: 1x1 convolutions and dense layers.

    y[m,j] = sum over c of  x[m,c] * w(c, j)

Programs stay: each computes tile after tile, so that the copies for one run ahead while another is finished.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot
from .order import tile_of_program


@triton.jit
def matmul_boxes(
    x, w, store_y: tl.constexpr, y_args, ROWS,
    C: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    X_FIRST: tl.constexpr = 0, GRADIENT: tl.constexpr = False,
):  # fmt: skip
    """y[m,j] = sum over c of x[m,c] * w(c, j), for x: [ROWS, C] and y: [ROWS, K].

    x is a descriptor in boxes of [BLOCK_M, BLOCK_K]; or its rows are wider, and C elements from X_FIRST are multiplied,
    C then a multiple of BLOCK_K.

    Forward: w, a descriptor of [K, C] in boxes of [BLOCK_N, BLOCK_K], has w(c, j) at [j, c]. GRADIENT: x is the
    gradient of a product's result, y that of its operand, and w, a descriptor of [C, K] in boxes of [BLOCK_K, BLOCK_N],
    has w(c, j) at [c, j].

    Any number of programs: each computes tile after tile, and the copies for the next one are under way while this
    one's result is computed and stored. store_y(acc, pixel, channel, mask, part, first_pixel, first_channel, args) as
    in `conv2d_fprop`; the first pixel and channel of the tile are for stores by descriptors.
    """
    COLUMN_TILES: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    row_tiles = tl.cdiv(ROWS, BLOCK_M)
    program, programs = tl.program_id(0), tl.num_programs(0)
    for i in tl.range(0, tl.cdiv(row_tiles * COLUMN_TILES - program, programs), flatten=True):
        row_tile, column_tile = tile_of_program(program + i * programs, row_tiles, COLUMN_TILES)
        first_row = row_tile * BLOCK_M
        first_column = column_tile * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for c in range(0, C, BLOCK_K):
            if GRADIENT:
                b = w.load([c, first_column])
            else:
                b = w.load([first_column, c]).T
            acc = dot(x.load([first_row, X_FIRST + c]), b, acc, IEEE)
        pixel = first_row + tl.arange(0, BLOCK_M)[:, None]
        column = first_column + tl.arange(0, BLOCK_N)[None, :]
        mask = (pixel < ROWS) & (column < K)
        store_y(acc, pixel, column, mask, row_tile, first_row, first_column, y_args)
