"""Reading rows of a tile as pixels of an image, and folding them over pooling windows."""

import triton
import triton.language as tl


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
def max_over_window(tile, AREA: tl.constexpr):
    """tile: [M, C]  ->  the largest of each window, and its position in it (int32), both [M/AREA, C].

    Of equal elements the first wins, as in PyTorch.
    """
    return tl.max(fold_windows(tile, AREA), axis=1, return_indices=True, return_indices_tie_break_left=True)


@triton.jit
def mean_over_window(tile, AREA: tl.constexpr):
    """tile: [M, C]  ->  the mean of each window, [M/AREA, C]."""
    return tl.sum(fold_windows(tile, AREA), axis=1) / AREA


@triton.jit
def mask_over_window(mask, AREA: tl.constexpr):
    """mask: [M, C] of a tile  ->  the mask of its windows, [M/AREA, C]. A window exists whole or not at all."""
    return tl.max(fold_windows(mask.to(tl.int32), AREA), axis=1) > 0
