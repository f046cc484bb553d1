"""What programs load and store that multiply groups of a convolution together, a block for each warp."""

from __future__ import annotations

from collections.abc import Iterable

from .body import Body
from .convolution import Convolution
from .size import N, Size
from .traffic import Calls, RowTiles, Traffic, loads, results_of


def columns_of_taps(conv: Convolution, wide: int, block: int) -> tuple[int, set[int]]:
    """How many elements of an image's row the boxes of all columns of taps have, and which columns those are of.
    They are boxes of so many channels for ``wide`` columns of the result; with a stride they begin at every so-manieth
    column of the image, and may reach into channels of the next one."""
    loaded, columns = 0, set()
    across, channels = conv.w // conv.sw, conv.sw * conv.c
    for s in range(conv.s):
        shift, first = divmod(s * conv.dw - conv.pl, conv.sw)
        found = {(q + shift) * conv.sw + first for q in range(wide) if 0 <= q + shift < across}
        loaded += len(found) * sum(min(block, channels - first * conv.c - at) for at in range(0, conv.c, block))
        columns |= found
    return loaded, columns


def moved(size: int, covered: int, shifts: Iterable[int]) -> list[int]:
    """The positions of an axis that boxes load, as often as they do.
    They cover so many positions, and are moved by all of these shifts."""
    return [at + shift for shift in shifts for at in range(covered) if 0 <= at + shift < size]


def traffic_of_packs(
    operand: str, store: Body, weight: str, conv: Convolution, columns: int, rows: RowTiles, streams: Size, *,
    gradient: bool,
) -> list[Traffic]:  # fmt: skip
    """What conv2d_packs moves: a box of x for every tap, or those of dy that any tap of a gradient wants.
    A tile has so many ``columns``. All filters are loaded once for each of so many ``streams`` of programs."""
    high, wide = rows.covered
    if gradient:
        axes = zip((conv.p, conv.q), (high // conv.sh, wide // conv.sw), conv.axes, strict=True)
        down, across = (
            moved(size, n, range(-((a.kernel - 1 - a.before) // a.stride), (a.stride - 1 + a.before) // a.stride + 1))
            for size, n, a in axes
        )
        loaded, share = len(down) * len(across) * conv.k, len(set(down)) / conv.p * (len(set(across)) / conv.q)
    else:
        of_row, found = columns_of_taps(conv, wide, columns)
        shifts = [divmod(r - conv.pt, conv.sh) for r in range(conv.r)]
        down = [h * conv.sh + first for shift, first in shifts for h in moved(conv.h // conv.sh, high, [shift])]
        loaded, share = len(down) * of_row, len(set(down)) / conv.h * (len(found) / conv.w)
    image, classes = (conv.image, conv.sh * conv.sw) if gradient else (conv.result, 1)
    y = Calls((1,) * image[0], (1,) * image[1], rows.count * classes, results_of(conv.c, columns))
    filters = loads(weight, streams * (conv.taps * conv.group_channels * conv.k))
    return [Traffic().load(operand, N * loaded, share), y.of(store), filters]
