"""Borders that repeat an image's own pixels, made of other operations: bands cut out, and put beside the image.

Written with ``add(operation, *values, **attributes) -> value``, which a builder and an importer have. Each band is
found by looking at its pixels (``zero_pad2d``, which cuts as well), so its gradient goes back to them, and adding
zeros is exact.
"""

from __future__ import annotations

from collections.abc import Callable

from ..system.errors import GraphError

Add = Callable[..., str]
MODES = ("reflect", "replicate")


def bordered(add: Add, x: str, size: tuple[int, int], padding: tuple[int, int, int, int], mode: str) -> str:
    """The nodes of an image of this ``size`` amid (top, bottom, left, right) more pixels, which repeat its own.

    ``reflect``: row -j is row j, and row H - 1 + j is row H - 1 - j; the edge itself is not repeated.
    ``replicate``: row -j is row 0, and row H - 1 + j is row H - 1.

    Columns alike, of the rows with their border. Raises GraphError where a padding is negative, or as large as the
    image that it reflects.
    """
    if mode not in MODES:
        raise GraphError(f"mode {mode!r} is unknown; accepted: {', '.join(MODES)}")
    if min(padding) < 0 or (mode == "reflect" and any(p >= size[i // 2] for i, p in enumerate(padding))):
        raise GraphError(
            f"{mode} padding {padding} of {size[0]}x{size[1]} pixels; accepted are 0 to "
            + (
                f"{size[0] - 1} rows and {size[1] - 1} columns"
                if mode == "reflect"
                else "any number of rows and columns"
            )
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
    if mode == "reflect":
        bands = [(before - j, j, 1) for j in range(1, before + 1)]
        bands += [(before + extent - 1 + j, extent - 1 - j, 1) for j in range(1, after + 1)]
    else:
        bands = [(0, 0, before)] * (before > 0) + [(before + extent, extent - 1, after)] * (after > 0)

    def padded(value: str, first: int, last: int) -> str:
        sides = (first, last, 0, 0) if axis == 0 else (0, 0, first, last)
        return add("zero_pad2d", value, padding=sides) if first or last else value

    y = padded(x, before, after)
    for place, source, count in bands:
        band = padded(x, -source, source + 1 - extent)
        if count > 1:
            band = add("upsample_nearest2d", band, size=(count, size[1]) if axis == 0 else (size[0], count))
        y = add("add", y, padded(band, place, whole - place - count))
    return y, (whole, size[1]) if axis == 0 else (size[0], whole)
