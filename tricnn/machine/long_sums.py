"""How a long sum, such as a weight gradient's over all pixels, is dealt out between programs, and the tile it then has.

    clocks = waves * together * steps * (products + formed) * max(1, 8 / warps, 3 / boxes) + partial bytes / bytes each

    together = programs that share a multiprocessor        waves = ceil(tiles * split / (multiprocessors * together))
    steps = ceil(blocks / split)              warps, boxes (stages of them): of the programs that share a multiprocessor
    products, formed: clocks of a multiprocessor for one block of one tile, to multiply it and to form its operands

So a machine is filled by whole waves: 72 tiles on 132 multiprocessors are not left with one program each, and a split
that needs one program more than fit at once pays for a wave. How many programs share a multiprocessor, its registers
and shared memory say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

from .machines import machine_of
from .tiles import NARROW, TOGETHER, Tile, for_a_gpu, largest, multiprocessors, product_tile

#: clocks of a multiprocessor for each element of an operand that passes through registers (gathered, or computed of
#: others) on its way to a product: simulated weight gradients of ResNet-50 take 0.13 to 0.16
FORMED = Fraction(1, 7)
#: fewer warps than these leave a multiprocessor waiting for what they began before
BUSY_WARPS = 8
#: and so do fewer stages of boxes: one of 128x192 by itself takes 2,056 clocks a step with two, 1,396 with three; two
#: programs with two stages take 1,287 each (by simulation)
BUSY_STAGES = 3
#: registers of a thread beside its sums, where operands pass through them and where they come in boxes: as compiled
BESIDE_FORMED, BESIDE_BOXES = 112, 32
#: the most sums that a thread has where there are tiles beside one another
MOST_SUMS = 160
#: operands in two stages of boxes, not three, take so much longer, and those of a program that is alone on its
#: multiprocessor than of two (by simulation: 457 us and 424 where caches and products alone say 376 and 397)
TWO_STAGES, ALONE = Fraction(11, 10), Fraction(6, 5)
#: instructions of fewer columns take as long: they read their left operand, of 64 rows, from shared memory
FULL = 64
#: tensor cores that are kept busy do so much less than their data sheet says: 660 of 989 (docs/simulator.md)
KEPT_BUSY = Fraction(3, 2)
#: the most programs between which a sum is dealt out, and the fewest blocks of each
MOST, FEWEST_BLOCKS = 256, 16
#: programs of `conv2d_wgrad_packs` that share a multiprocessor, the fewest boxes that each has, and what instructions
#: of a warp (mma.sync) do of what those of four do (wgmma; Luo et al. 2024)
PACKED_TOGETHER, PACKED_BLOCKS, OF_A_WARP = 2, 8, Fraction(62, 100)
#: of how many waves a launch is thought; and a gain that is not worth more partial results
WAVES, CLOSE = 4, Fraction(1, 20)


def together(tile: Tile, dtype: str, target: str, formed: bool) -> int:
    """How many programs of a product share a multiprocessor: as many as its registers and its shared memory hold."""
    machine, threads = machine_of(target), 32 * tile.warps
    registers = tile.m * tile.n // threads + (BESIDE_FORMED if formed else BESIDE_BOXES)
    shared = tile.stages * (tile.m + tile.n) * tile.k * (2 if dtype in NARROW else 4)
    return max(1, min(machine.registers * 256 // (threads * registers), machine.shared * 1024 // (shared + 1024)))


@dataclass(frozen=True)
class LongSum:
    """A product with few results, each of which is a long sum: ``tiles`` results of ``blocks`` blocks each.
    A block takes so many clocks of ``products`` and of operands ``formed``; a partial result has ``partial_bytes``, and
    up to ``together`` programs of so many ``warps`` share a multiprocessor. Operands come in so many ``stages`` of
    boxes, or, of three, not all do. Each program has the ``fewest`` blocks or more."""

    target: str
    tiles: int
    blocks: int
    products: Fraction
    formed: Fraction
    partial_bytes: int
    together: int
    warps: int
    stages: int = BUSY_STAGES
    fewest: int = FEWEST_BLOCKS

    def clocks(self, split: int) -> Fraction:
        """The clocks that a long sum takes if it is dealt out between so many programs."""
        programs, each = self.tiles * split, multiprocessors(self.target)
        sharing = min(self.together, -(-programs // each))
        waves = -(-programs // (each * sharing))
        waiting = max(Fraction(BUSY_WARPS, self.warps * sharing), Fraction(BUSY_STAGES, self.stages * sharing))
        block = (self.products + self.formed) * max(Fraction(1), waiting)
        machine = machine_of(self.target)
        moved = Fraction(programs * self.partial_bytes * (2 if split > 1 else 1))
        bytes_a_clock = round(machine.bandwidth / (machine.clock * 1e9))
        return waves * sharing * -(-self.blocks // split) * block + moved / bytes_a_clock

    @property
    def split(self) -> int:
        """Between how many programs a long sum is dealt out.
        They are the fewest that take the least time but for :data:`CLOSE`, of those that fill whole waves, and one."""
        return _split(self, multiprocessors(self.target))


@cache
def _split(long_sum: LongSum, at_once: int) -> int:
    """The split of a long sum where so many programs run at once, found once for all layers that are alike."""
    most = max(1, min(MOST, long_sum.blocks // long_sum.fewest))
    whole = {wave * at_once // long_sum.tiles for wave in range(1, WAVES * long_sum.together + 1)}
    clocks = {split: long_sum.clocks(split) for split in sorted({1, most, *whole} - {0}) if split <= most}
    least = min(clocks.values())
    return next(split for split, taken in clocks.items() if taken <= least * (1 + CLOSE))


def beside_one_another(tile: Tile, tiles: int, target: str) -> int:
    """How many of the ``tiles`` of columns a program with operands in boxes computes, where all have as many.
    The last cache is the limit of small tiles, which load dy for each of them. They are the most for which two programs
    have registers."""
    threads = 32 * tile.warps
    room = min(MOST_SUMS, machine_of(target).registers * 256 // (TOGETHER * threads) - BESIDE_BOXES)
    most = max(1, room * threads // (tile.m * tile.n)) if for_a_gpu() else 1
    return max(count for count in range(1, most + 1) if tiles % count == 0)


def weight_gradient(
    filters: int, columns: int, pixels: int, tile: Tile, dtype: str, target: str, *, formed: Sequence[bool],
    groups: int = 1, others: int = 0,
) -> LongSum:  # fmt: skip
    """The sum over ``pixels`` of a weight gradient [filters, columns] in tiles of this kind.
    ``formed`` says which of dy and x are formed in registers; ``others`` are programs that add up something else."""
    machine, size = machine_of(target), 2 if dtype in NARROW else 4
    products = Fraction(2 * tile.m * tile.n * tile.k, machine.products_a_clock(dtype))
    loading = size * (tile.m + tile.n) * tile.k / machine.cache_bytes_a_clock
    through_registers = sum(side * tile.k for side, one in zip((tile.m, tile.n), formed, strict=True) if one)
    return LongSum(
        target,
        -(-filters // tile.m) * -(-columns // tile.n) * groups + others,
        -(-pixels // tile.k),
        max(products, loading),
        FORMED * through_registers,
        4 * tile.m * tile.n,
        together(tile, dtype, target, any(formed)),
        tile.warps,
        BUSY_STAGES if any(formed) else tile.stages,
    )


def packed_gradient(
    packs: int, boxes: int, tile: Tile, taps: tuple[int, int], dtype: str, target: str
) -> LongSum:  # fmt: skip
    """The sum over so many ``boxes`` of a grouped weight gradient in so many ``packs`` (`conv2d_wgrad_packs`)."""
    machine, (r, s) = machine_of(target), taps
    products = Fraction(2 * r * s * tile.m * tile.n * tile.k, machine.products_a_clock(dtype)) / OF_A_WARP
    loading = 2 * (r + s) * tile.m * tile.k / machine.cache_bytes_a_clock
    partial = 4 * r * s * tile.m * tile.n
    clocks, kind = max(products, loading), (PACKED_TOGETHER, tile.warps)
    return LongSum(target, packs, boxes, clocks, Fraction(0), partial, *kind, fewest=PACKED_BLOCKS)


def summed_in_boxes(
    filters: int, channels: int, taps: int, pixels: int, tile: Tile, dtype: str, target: str, *, others: int = 0
) -> LongSum:
    """The sum over ``pixels`` of a weight gradient whose operands come in boxes, with tiles beside one another.
    Tiles of columns end with a tap's channels; ``others`` are programs that add up something else."""
    machine, size = machine_of(target), 2 if dtype in NARROW else 4
    tiles = taps * -(-channels // tile.n)
    beside = beside_one_another(tile, tiles, target)
    width = max(tile.n, FULL) * beside
    products = KEPT_BUSY * Fraction(2 * tile.m * width * tile.k, machine.products_a_clock(dtype))
    loading = size * (tile.m + tile.n * beside) * tile.k / machine.cache_bytes_a_clock
    sharing = together(replace(tile, n=tile.n * beside), dtype, target, False)
    return LongSum(
        target,
        -(-filters // tile.m) * tiles // beside + others,
        -(-pixels // tile.k),
        max(products, loading) * (ALONE if sharing == 1 else TWO_STAGES if tile.stages == 2 else 1),
        Fraction(0),
        4 * tile.m * tile.n * beside,
        sharing,
        tile.warps,
        tile.stages,
    )


def weight_gradient_tile(
    filters: int, columns: int, pixels: int, dtype: str, target: str, attempt: int = 0, *,
    formed: Sequence[bool], tap: int = 0, groups: int = 1,
) -> Tile:  # fmt: skip
    """The tile with which a weight gradient, dealt out as is best for it, takes the least time.
    It is the largest of its type, or one with half its rows or columns; with 64 rows at least where there are as many,
    for the rates of products are those of instructions of 64 rows (wgmma)."""
    m, n, k = largest(filters, columns, pixels, dtype, tap)
    halves = [(m, n), (m // 2, n), (m, n // 2), (m // 2, n // 2)] if for_a_gpu() else [(m, n)]
    some = [
        product_tile(a, b, k, dtype, target) for a, b in halves if (a >= min(m, 64) and b >= 32) or (a, b) == (m, n)
    ]

    def clocks(tile: Tile) -> Fraction:
        """The clocks that a long sum takes if it is dealt out as is best."""
        long_sum = weight_gradient(filters, columns, pixels, tile, dtype, target, formed=formed, groups=groups)
        return long_sum.clocks(long_sum.split)

    best = min(some, key=clocks)
    return product_tile(best.m, best.n, best.k, dtype, target, attempt)


def boxed_tile(filters: int, channels: int, taps: int, pixels: int, dtype: str, target: str, attempt: int = 0) -> Tile:
    """The tile of :func:`summed_in_boxes` that takes the least time.
    It has 64 rows at least, as the fastest instructions have (wgmma), though there be fewer filters, and copies in two
    stages, not three, where two programs fit a multiprocessor then."""
    m, n, k = largest(filters, channels, pixels, dtype)
    m = max(m, 64) if for_a_gpu() else m
    some = [(a, b) for a in (m, m // 2) for b in (n, n // 2, n // 4) if a >= 64 and b >= min(n, 32)]
    tiles = [product_tile(a, b, k, dtype, target) for a, b in (some if for_a_gpu() else [(m, n)])]
    tiles += [replace(tile, stages=2) for tile in tiles if tile.stages > 2 and for_a_gpu()]

    def clocks(tile: Tile) -> Fraction:
        """The clocks that a long sum takes if it is dealt out as is best."""
        long_sum = summed_in_boxes(filters, channels, taps, pixels, tile, dtype, target)
        return long_sum.clocks(long_sum.split)

    best = min(tiles, key=clocks)
    least = product_tile(best.m, best.n, best.k, dtype, target, attempt)
    return replace(least, stages=min(least.stages, best.stages))
