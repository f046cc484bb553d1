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
