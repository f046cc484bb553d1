"""Reading rows of a tile as pixels of an image, and folding them over pooling windows."""

import triton
import triton.language as tl

from .numerics import INTERPRETED


@triton.jit
def image_position(pixel, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """(n, h, w) of the flattened pixel = (n*HEIGHT + h)*WIDTH + w."""
    line = pixel // WIDTH
    return line // HEIGHT, line % HEIGHT, pixel % WIDTH


@triton.jit
def fold_windows(tile, AREA: tl.constexpr):
    """tile: [M, C] whose rows list windows of AREA elements one after another  ->  [M/AREA, AREA, C]."""
    return tl.reshape(tile, [tile.shape[0] // AREA, AREA, tile.shape[1]])


@triton.jit
def larger(a, b):
    """The larger of two numbers; NaN if either is NaN, which `tl.max` would drop on a GPU."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest_along(tile, AXIS: tl.constexpr):
    """The largest element along an axis, which is left out; NaN where there is one."""
    if INTERPRETED:
        # It would call a function like ours for one element after another; and whether its own maximum keeps a NaN
        # depends on the version.
        nan = tile != tile
        largest = tl.max(tl.where(nan, float("-inf"), tile), axis=AXIS)
        largest = tl.where(tl.max(nan.to(tl.int32), axis=AXIS) > 0, float("nan"), largest)
    else:
        largest = tl.reduce(tile, AXIS, larger)
    return largest


@triton.jit
def max_over_window(tile, AREA: tl.constexpr):
    """tile: [M, C]  ->  the largest of each window, and its position in it (int32), both [M/AREA, C].

    Of equal elements the first wins; a NaN is larger than all else, and the last one wins: as in PyTorch.

    Two plain reductions, not one of pairs: two instructions for each step instead of five, and where nobody reads the
    position only the first one is left. The second finds the least of these numbers: p where position p holds the
    maximum, 2*AREA - 1 - p where it holds a NaN, 2*AREA elsewhere.
    """
    windows = fold_windows(tile, AREA)
    largest = largest_along(windows, 1)
    position = tl.arange(0, AREA)[None, :, None]
    found = tl.where(windows == largest[:, None, :], position, 2 * AREA)
    found = tl.where(windows == windows, found, 2 * AREA - 1 - position)
    found = tl.min(found, axis=1)
    return largest, tl.minimum(found, found ^ (2 * AREA - 1))


@triton.jit
def mean_over_window(tile, AREA: tl.constexpr):
    """tile: [M, C]  ->  the mean of each window, [M/AREA, C]."""
    return tl.sum(fold_windows(tile, AREA), axis=1) / AREA


@triton.jit
def mask_over_window(mask, AREA: tl.constexpr):
    """mask: [M, C] of a tile  ->  the mask of its windows, [M/AREA, C]. A window exists whole or not at all."""
    return tl.max(fold_windows(mask.to(tl.int32), AREA), axis=1) > 0
