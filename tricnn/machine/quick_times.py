"""A quick model of how long a product takes with a tile, by which tuning ranks its candidates before it compiles any.

    clocks = waves * (steps * (STEP + together * step) + together * (ENDING + m * n / ENDED)),    per multiprocessor

where ``together`` programs share a multiprocessor, as many as their registers and shared memory allow, a step of the
depth takes its products or its loads from the last cache, whichever is longer, and each program waits STEP clocks from
one step to the next. It does not know what is computed on load or beside the product: it ranks tiles of one problem,
and says nothing of different problems.
"""

from __future__ import annotations

from math import ceil

from ..ir.table import OPS
from .candidates import CONTRACTIONS, extent
from .machines import machine_of
from .tiles import NARROW, STEP, Problem, Tile

#: clocks of a program's end, beside its elements, and how many of these it stores in a clock
ENDING, ENDED = 600, 16
#: registers that a thread has beside sums and operands
BESIDE = 40
REGISTERS, MOST = 65536, 4


def quick_clocks(problem: Problem, tile: Tile) -> float:
    """Clocks of a product with a tile, by which tiles of a problem compare; of a pass, fewer for larger tiles."""
    if problem.kind not in CONTRACTIONS:
        return 1 / (tile.m * tile.n)
    machine, size = machine_of(problem.target), 2 if problem.dtype in NARROW else 4
    rows, columns, depth = extent(problem)
    threads = 32 * tile.warps
    registers = min(255, BESIDE + 1.5 * tile.m * tile.n / threads + tile.m * tile.k / threads)
    shared = (tile.m + tile.n) * tile.k * size * tile.stages + 1024
    room = min(REGISTERS / (threads * registers), machine.shared * 1024 / shared)
    together = max(1, min(MOST, int(room)))
    products = 2 * tile.m * tile.n * tile.k / float(machine.products_a_clock(problem.dtype))
    step = max(products, size * (tile.m + tile.n) * tile.k / float(machine.cache_bytes_a_clock))
    count, steps = ceil(rows / tile.m) * ceil(columns / tile.n), ceil(depth / tile.k)
    at_once = machine.multiprocessors * together
    each = STEP + together * step
    if OPS[problem.kind].product == "by_weight":  # its depth is split among as many programs as there is room for
        return count * steps * each / at_once
    return ceil(count / at_once) * (steps * each + together * (ENDING + tile.m * tile.n / ENDED))
