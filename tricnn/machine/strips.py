"""Tiles of depthwise convolutions: strips of an image, by channels, that programs go down row by row.

A thread has one or two channels of a strip, of which it keeps a few rows of results and all weights of the filters, or
all their sums: that is what registers are for. A strip loads the columns beside it, too: the wider it is, the fewer
numbers are loaded twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tiles
from .machines import machine_of

#: warps of a program
WARPS = 4
#: registers of a multiprocessor, and those that a thread needs for addresses, masks and what it computes
FILE, BESIDE = 65536, 56


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
        """The constants by which templates know a tile of strips."""
        return {"WIDE": self.wide, "ROWS": self.rows, "BLOCK_M": self.tile.m, "BLOCK_N": self.tile.n}


def channels_of_tile(channels: int) -> int:
    """How many channels a tile has, a power of two: the most of those that leave the fewest lanes idle."""
    some = [n for n in (64, 32, 16) if n <= max(16, tiles.power_of_two(channels))]
    return min(some, key=lambda n: (-(-channels // n) * n, -n))


def together(taps: tuple[int, int], stride: tuple[int, int], each: int, wide: int) -> int:
    """How many programs a multiprocessor has registers for, by what a thread keeps.
    That is all weights, or their sums, the rows that are not finished, and the row that it has just loaded."""
    ring = -(-taps[0] // stride[0])
    kept = taps[0] * taps[1] + wide * ring + (wide - 1) * stride[1] + taps[1]
    return max(1, FILE // (32 * WARPS * (BESIDE + each * kept)))


def shape(width: int, taps: tuple[int, int], multiple: int) -> tuple[int, int]:
    """How many channels a thread has, and how many columns, a ``multiple``, a strip has, for a result so wide.

    Two channels are loaded by one instruction. Of larger filters the weights of two would take the registers that wide
    strips want: what counts there is that few columns are loaded and computed twice, or that nobody has. As many
    columns as leave the fewest of the last strip empty are best; 7 divides the widths of most networks' late layers."""
    each, some = (2, (4, 7)) if taps[0] * taps[1] <= 9 else (1, (8, 7, 4, 2))
    found = [-(-columns // multiple) * multiple for columns in some]
    return each, min(found, key=lambda columns: -(-width // columns) * columns)


def strips(
    channels: int, images: int, size: tuple[int, int], taps: tuple[int, int], stride: tuple[int, int], target: str,
    attempt: int = 0, *, scattered: bool = False,
) -> Strips:  # fmt: skip
    """The tile of strips for a result so high and wide, of so many images.
    If ``scattered``, each row of the source goes to ``stride`` rows of the result. After each attempt that a compiler
    spilled they are half as wide.

    No more programs are launched than run at once, and all have equally many tiles, or one less."""
    height, width = size
    whole = stride if scattered else (1, 1)
    n = channels_of_tile(channels)
    blocks = -(-channels // n)
    each, wide = shape(width, taps, whole[1])
    wide = -(-(wide >> attempt) // whole[1]) * whole[1] or whole[1]
    m = (WARPS * 32 * each if tiles.for_a_gpu() else 2048) // n
    rows = -(-height // whole[0]) * whole[0]
    processors = machine_of(target).multiprocessors
    along = -(-images * -(-width // wide) // m)
    while along * blocks * -(-height // rows) < 4 * processors and rows >= 16 and tiles.for_a_gpu():
        rows = -(-rows // (2 * whole[0])) * whole[0]
    most = max(1, (together(taps, stride, each, wide) * processors if tiles.for_a_gpu() else 4) // blocks)
    count = along * -(-height // rows)
    return Strips(tiles.Tile(m, n, wide, WARPS, 1), wide, rows, -(-count // -(-count // most)))
