"""Borders that repeat an image's own pixels, made of other operations: bands cut out, and put beside the image.

Written with ``add(operation, *values, **attributes) -> value``, which a builder and an importer have. Each band is
found by looking at its pixels (``zero_pad2d``, which cuts as well), so its gradient goes back to them, and adding
zeros is exact.
"""

from __future__ import annotations

from collections.abc import Callable

from ..system.errors import GraphError

Add = Callable[..., str]
MODES = ("reflect", "replicate", "circular")


def bordered(add: Add, x: str, size: tuple[int, int], padding: tuple[int, int, int, int], mode: str) -> str:
    """The nodes of an image of this ``size`` amid (top, bottom, left, right) more pixels, which repeat its own.

    ``reflect``: row -j is row j, and row H - 1 + j is row H - 1 - j; the edge itself is not repeated.
    ``replicate``: row -j is row 0, and row H - 1 + j is row H - 1.
    ``circular``: row -j is row H - j, and row H - 1 + j is row j - 1, as if the image went on from the other side.

    Columns alike, of the rows with their border. Raises GraphError where a padding is negative, as large as the image
    that it reflects, or larger than the one that it goes round.
    """
    if mode not in MODES:
        raise GraphError(f"mode {mode!r} is unknown; accepted: {', '.join(MODES)}")
    most = {"reflect": [extent - 1 for extent in size], "circular": list(size)}.get(mode)
    if min(padding) < 0 or (most is not None and any(p > most[i // 2] for i, p in enumerate(padding))):
        raise GraphError(
            f"{mode} padding {padding} of {size[0]}x{size[1]} pixels; accepted are "
            + ("any number of rows and columns" if most is None else f"0 to {most[0]} rows and {most[1]} columns")
        )
    for axis in (0, 1):
        before, after = padding[2 * axis : 2 * axis + 2]
        x, size = _along(add, x, size, axis, before, after, mode)
    return x


def _along(
    add: Add, x: str, size: tuple[int, int], axis: int, before: int, after: int, mode: str
) -> tuple[str, tuple[int, int]]:
    """The image with its borders along one axis, and its size then."""
    extent = size[axis]
    whole = extent + before + after
    # of each band: where it goes, the first row that it is made of, how many of them, and how often each is there
    if mode == "reflect":
        bands = [(before - j, j, 1, 1) for j in range(1, before + 1)]
        bands += [(before + extent - 1 + j, extent - 1 - j, 1, 1) for j in range(1, after + 1)]
    elif mode == "replicate":
        bands = [(0, 0, 1, before), (before + extent, extent - 1, 1, after)]
    else:
        bands = [(0, extent - before, before, 1), (before + extent, 0, after, 1)]

    def padded(value: str, first: int, last: int) -> str:
        sides = (first, last, 0, 0) if axis == 0 else (0, 0, first, last)
        return add("zero_pad2d", value, padding=sides) if first or last else value

    y = padded(x, before, after)
    for place, source, rows, times in bands:
        count = rows * times
        if count == 0:
            continue
        band = padded(x, -source, source + rows - extent)
        if times > 1:
            band = add("upsample_nearest2d", band, size=(count, size[1]) if axis == 0 else (size[0], count))
        y = add("add", y, padded(band, place, whole - place - count))
    return y, (whole, size[1]) if axis == 0 else (size[0], whole)
