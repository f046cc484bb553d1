"""Every load and store of a kernel, seen as it runs under Triton's interpreter."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np


class Access(NamedTuple):
    """What one instruction of one program loads, or stores.
    It has the addresses of the lanes that its mask lets through, and the bytes of an element. ``program`` is its place
    in the grid."""

    program: tuple[int, int, int]
    addresses: np.ndarray
    size: int
    stored: bool


class Meeting(NamedTuple):
    """An atomic operation by which programs wait for each other.
    What its program did before is there for those that come to the same ``address`` later. Relaxed ones order nothing,
    and are not told of."""

    program: tuple[int, int, int]
    address: int


def _nobody(meeting: Meeting) -> None:
    """Is told, and does nothing."""


@contextmanager
def seen_by(see: Callable[[Access], None], meet: Callable[[Meeting], None] = _nobody) -> Iterator[None]:
    """Inside, ``see`` gets every load and store of the kernels that are launched.
    ``meet`` gets every atomic operation that acquires and releases; both in the order of the interpreter."""
    from triton.runtime.interpreter import InterpreterBuilder, _get_np_dtype

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    atomic = InterpreterBuilder.create_atomic_rmw

    def access(builder: Any, pointers: Any, mask: Any, stored: bool) -> Access:
        # A mask has as many elements as pointers, not always in their shape; a descriptor's is an array already.
        kept = np.asarray(mask if isinstance(mask, np.ndarray) else mask.data).ravel().astype(bool)
        size = np.dtype(_get_np_dtype(pointers.get_element_ty())).itemsize
        return Access(builder.grid_idx, pointers.data.ravel()[kept], size, stored)

    def seen_load(builder: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        see(access(builder, pointers, mask, False))
        return load(builder, pointers, mask, *rest, **named)

    def seen_store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        see(access(builder, pointers, mask, True))
        return store(builder, pointers, value, mask, *rest, **named)

    def seen_atomic(builder: Any, operation: Any, pointer: Any, value: Any, mask: Any, sem: Any, scope: Any) -> Any:
        if sem.name == "ACQUIRE_RELEASE" and scope.name in ("GPU", "SYSTEM"):
            for address in pointer.data.ravel()[mask.data.ravel().astype(bool)]:
                meet(Meeting(builder.grid_idx, int(address)))
        return atomic(builder, operation, pointer, value, mask, sem, scope)

    with (
        patch.object(InterpreterBuilder, "create_atomic_rmw", seen_atomic),
        patch.object(InterpreterBuilder, "create_masked_load", seen_load),
        patch.object(InterpreterBuilder, "create_masked_store", seen_store),
    ):
        yield


class Tensors:
    """Tensors by the addresses they cover. Of several names of one memory the last one counts."""

    def __init__(self, tensors: Mapping[str, Any]):
        spans = {x.data_ptr(): (x.data_ptr() + x.nbytes, name) for name, x in tensors.items()}
        self.starts = sorted(spans)
        self.ends = [spans[s][0] for s in self.starts]
        self.names = [spans[s][1] for s in self.starts]

    def __len__(self) -> int:
        return len(self.starts)

    def bytes(self, i: int) -> int:
        return self.ends[i] - self.starts[i]

    def find(self, access: Access) -> tuple[int, np.ndarray]:
        """Which tensor an access is to, and the indices of the elements.
        Raises AssertionError if it is to none, or to more than one."""
        lowest, highest = int(access.addresses.min()), int(access.addresses.max())
        i = bisect_right(self.starts, lowest) - 1
        if i < 0 or highest + access.size > self.ends[i]:
            raise AssertionError(f"addresses {lowest:#x} to {highest:#x} lie in none of {', '.join(self.names)}")
        return i, (access.addresses - np.uint64(self.starts[i])) // np.uint64(access.size)
