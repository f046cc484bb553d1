"""Channels-last memory, and keeping what the C library would hand back."""

import numpy as np

# Arrays of some megabytes come and go with every operation. glibc gives such memory back to the system at once, and
# having it again costs a page fault per 4 KiB: as long as the arithmetic, on a virtual machine. But it adapts: once a
# block of up to 32 MiB has been freed, freed blocks of that size are kept for reuse. So free one, never touched.
_block = np.empty((32 << 20) - (64 << 10), dtype=np.uint8)
del _block


def to_nhwc(x: np.ndarray) -> np.ndarray:
    """x: [N, C, H, W], any strides -> C-contiguous [N, H, W, C]; no copy if x is channels-last already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def to_nchw(x: np.ndarray) -> np.ndarray:
    """x: [N, H, W, C] -> logical [N, C, H, W] over the same memory."""
    return x.transpose(0, 3, 1, 2)


def zero_where(condition: np.ndarray, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """0 where `condition` holds, else x, whatever it is: a product with 0 and 1 would turn what is not finite into NaN.

    All bits of an element are kept, or none (numpy.where takes many times as long). condition: of x's shape, may be
    overwritten; out: of x's shape and type.
    """
    number = np.dtype(f"i{x.itemsize}")
    out = np.empty_like(x) if out is None else out
    mask = out.view(number)
    keep = condition.view(np.int8)
    np.copyto(mask, np.subtract(keep, 1, out=keep))  # 1 becomes 0, and 0 becomes -1: every bit
    np.bitwise_and(mask, x.view(number), out=mask)
    return out
