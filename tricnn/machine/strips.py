"""Tiles of depthwise convolutions: strips of an image, by channels, that programs go down row by row.

A thread has two channels of a strip, so that a warp loads 128 bytes of neighbouring channels at once; what it keeps of
them, a few rows of results, all weights of the filters or all their sums, is what registers are for. A strip loads the
columns beside it, too: the wider it is, the fewer numbers are loaded twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tiles
from .machines import machine_of

#: warps of a program, and channels of a thread
WARPS, EACH = 4, 2
#: registers of a multiprocessor, and those that a thread needs for addresses, masks and what it computes
FILE, BESIDE = 65536, 64
#: the most channels of a tile: those that a warp loads at once
CHANNELS = 64


@dataclass(frozen=True)
class Strips:
    """``tile.m`` strips of ``tile.n`` channels, ``wide`` columns each, in segments of ``rows`` rows.
    No more than ``programs`` programs are launched for all channels."""

    tile: tiles.Tile
    wide: int
    rows: int
    programs: int

    @property
    def constants(self) -> dict[str, int]:
        """The constants by which templates know them."""
        return {"WIDE": self.wide, "ROWS": self.rows, "BLOCK_M": self.tile.m, "BLOCK_N": self.tile.n}


def channels_of_tile(channels: int) -> int:
    """How many channels a tile has, a power of two: the most of those that leave the fewest lanes idle."""
    some = [n for n in (64, 32, 16) if n <= max(16, tiles.power_of_two(channels))]
    return min(some, key=lambda n: (-(-channels // n) * n, -n))


def together(taps: tuple[int, int], stride: tuple[int, int], wide: int) -> int:
    """How many programs a multiprocessor has registers for, by what a thread keeps.
    That is all weights, or their sums, the rows that are not finished, and the row that it has just loaded."""
    ring = -(-taps[0] // stride[0])
    kept = taps[0] * taps[1] + wide * ring + (wide - 1) * stride[1] + taps[1]
    return max(1, FILE // (32 * WARPS * (BESIDE + EACH * kept)))


def strips(
    channels: int, images: int, size: tuple[int, int], taps: tuple[int, int], stride: tuple[int, int], target: str,
    attempt: int = 0, *, scattered: bool = False,
) -> Strips:  # fmt: skip
    """The strips of results so high and wide, of so many images.
    If ``scattered``, each row of the source goes to ``stride`` rows of the result. After each attempt that a compiler
    spilled they are half as wide.

    No more programs are launched than run at once, and all have equally many tiles, or one less."""
    height, width = size
    whole = stride if scattered else (1, 1)
    n = channels_of_tile(channels)
    blocks = -(-channels // n)
    wide = -(-max(4 >> attempt, 1) // whole[1]) * whole[1]
    m = (WARPS * 32 * EACH if tiles.for_a_gpu() else 2048) // n
    rows = -(-height // whole[0]) * whole[0]
    processors = machine_of(target).multiprocessors
    each = -(-images * -(-width // wide) // m)
    while each * blocks * -(-height // rows) < 4 * processors and rows >= 16 and tiles.for_a_gpu():
        rows = -(-rows // (2 * whole[0])) * whole[0]
    most = max(1, (together(taps, stride, wide) * processors if tiles.for_a_gpu() else 4) // blocks)
    count = each * -(-height // rows)
    return Strips(tiles.Tile(m, n, wide, WARPS, 1), wide, rows, -(-count // -(-count // most)))
