"""Which tile of a matrix product each program computes."""

import triton
import triton.language as tl

# Row tiles in a group, see `tile_of_program`.
GROUP = tl.constexpr(8)


@triton.jit
def tile_of_program(program, ROW_TILES, COLUMN_TILES: tl.constexpr):
    """(row tile, column tile) of a program; ROW_TILES need not be known when compiling.

    Groups of GROUP row tiles, one after another; in each, all rows of the first column tile, then those of the second.
    Programs that run together thus read few tiles of either operand, and meet in the L2 cache, whether the matrix is
    tall (convolutions) or wide (dense layers).
    """
    if COLUMN_TILES == 1:
        return program, 0
    first = program // (GROUP * COLUMN_TILES) * GROUP
    rows = tl.minimum(ROW_TILES - first, GROUP)
    within = program % (GROUP * COLUMN_TILES)
    return first + within % rows, within // rows
