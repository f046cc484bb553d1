"""Between PyTorch's layouts (what users see) and storage (channels-last, what kernels read)."""

from __future__ import annotations

from typing import Any

Order = tuple[int, int, int] | None


def to_storage(x: Any, order: Order = None) -> Any:
    """A tensor in PyTorch's layout as storage has it: OIHW -> OHWI, NCHW -> NHWC, others as they are.
    A dense weight that reads pixels in the ``order`` [C, H, W] is ``[O, C*H*W] -> [O, H*W*C]``. NumPy or torch, a view
    where that is possible."""
    permute = x.permute if hasattr(x, "permute") else x.transpose
    if len(x.shape) == 4:
        return permute(0, 2, 3, 1)
    if order is not None:
        return to_storage(x.reshape(x.shape[0], *order)).reshape(x.shape)
    return x


def to_logical(x: Any, shape: tuple[int, ...], order: Order = None) -> Any:
    """Flat storage as a tensor of the logical ``shape``, in PyTorch's layout: the inverse of :func:`to_storage`."""
    if len(shape) == 4:
        n, c, h, w = shape
        stored = x.reshape(n, h, w, c)
        return stored.permute(0, 3, 1, 2) if hasattr(stored, "permute") else stored.transpose(0, 3, 1, 2)
    if order is not None:
        return to_logical(x, (shape[0], *order)).reshape(shape)
    return x.reshape(shape)
