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
from .tiles import NARROW, TOGETHER, Tile, for_a_gpu, largest, multiprocessors, product_tile, share

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


def beside_one_another(tile: Tile, taps: int, target: str) -> int:
    """How many tiles of columns a program with operands in boxes computes: one for each tap of a filter's row, or one.
    The last cache is the limit of small tiles, which load dy for every tap. Those of a row are taken where two programs
    have registers for them."""
    sums, threads = tile.m * tile.n * taps // (32 * tile.warps), 32 * tile.warps
    room = machine_of(target).registers * 256 // (TOGETHER * threads) - BESIDE_BOXES
    return taps if sums <= min(MOST_SUMS, room) and for_a_gpu() else 1


def wide(tile: Tile, beside: int) -> Tile:
    """A tile with so many of its kind beside it, for which a program loads dy once."""
    return replace(tile, n=tile.n * beside)


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


def weight_gradient_tile(
    filters: int, columns: int, pixels: int, dtype: str, target: str, attempt: int = 0, *,
    formed: Sequence[bool], tap: int = 0, taps: int = 1, groups: int = 1,
) -> Tile:  # fmt: skip
    """The tile with which a weight gradient, dealt out as is best for it, takes the least time.
    It is the largest of its type, or one with half its rows or columns; with 64 rows at least where there are as many,
    for the rates of products are those of instructions of 64 rows (wgmma). Where nothing is ``formed``, a program may
    have those of a filter's row of ``taps`` (:func:`beside_one_another`), with copies in two stages, not three, if two
    programs fit a multiprocessor then."""
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
    tile = product_tile(best.m, best.n, best.k, dtype, target, attempt)
    every = wide(tile, 1 if any(formed) else beside_one_another(tile, taps, target))
    staged = tile.stages * (every.m + every.n) * tile.k * (2 if dtype in NARROW else 4)
    blocks = -(-filters // every.m) * -(-columns // every.n) * -(-pixels // tile.k)
    enough = blocks >= FEWEST_BLOCKS * TOGETHER * multiprocessors(target)
    fewer = every.n > tile.n and tile.stages > 2 and enough and not share(staged, target)
    return replace(tile, stages=2) if fewer else tile
