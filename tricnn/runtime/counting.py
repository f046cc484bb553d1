"""What kernels really load and store, counted under Triton's interpreter, beside what the plan states.

Of every load and store each lane that its mask lets through counts, at the size of an element: each time it is loaded
or stored, and every address once (:class:`Moved`). A lane outside the buffers of its launch is an error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np

from ..codegen.program import Launch, Moved
from ..ir.errors import TargetError
from .model import Model
from .triton_executor import interpreting


@dataclass(frozen=True)
class CountedLaunch:
    """A launch of the step: what moves of each of its buffers, by the plan and as counted."""

    launch: Launch
    planned: Mapping[str, Moved]
    counted: Mapping[str, Moved]

    @property
    def ok(self) -> bool:
        return self.planned == self.counted

    def totals(self) -> tuple[Moved, Moved]:
        """Of all buffers together: planned, counted."""
        return sum(self.planned.values(), Moved()), sum(self.counted.values(), Moved())


class BytesCounted:
    """To give ``verify_model`` as its ``watch``: counts the bytes of every launch it makes.

    Raises TargetError where Triton's interpreter is not on: a GPU does not tell.
    """

    def __init__(self, model: Model, batch: int):
        if not interpreting():
            raise TargetError("bytes are counted under Triton's interpreter: set TRITON_INTERPRET=1 before starting")
        self.program, self.batch, self.tensors = model.program, batch, model.executor.bind(batch)
        self._counted: dict[int, CountedLaunch] = {}

    @contextmanager
    def __call__(self, launch: Launch) -> Iterator[None]:
        with counting(launch, self.tensors) as moved:
            yield
        self._counted[id(launch)] = CountedLaunch(launch, self.program.moved(launch, self.batch), moved)

    @property
    def launches(self) -> list[CountedLaunch]:
        """In the order of the step."""
        return [self._counted[id(launch)] for launch in self.program.launches]


@contextmanager
def counting(launch: Launch, tensors: Mapping[str, Any]) -> Iterator[dict[str, Moved]]:
    """What the launch that is made inside moves, by buffer; filled in at the end."""
    from triton.runtime.interpreter import InterpreterBuilder, _get_np_dtype

    # What is updated in place has two names: loads are of what is read, stores of what is written.
    loads = _Touched.of({b: tensors[b] for b in (*launch.writes, *launch.reads)})
    stores = _Touched.of({b: tensors[b] for b in launch.writes})
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    moved: dict[str, Moved] = {}

    def lanes(pointers: Any, mask: Any) -> tuple[np.ndarray, int]:
        # A mask has as many elements as pointers, not always in their shape; a descriptor's is an array already.
        kept = np.asarray(mask if isinstance(mask, np.ndarray) else mask.data).ravel().astype(bool)
        return pointers.data.ravel()[kept], np.dtype(_get_np_dtype(pointers.get_element_ty())).itemsize

    def counted_load(builder: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        loads.add(*lanes(pointers, mask))
        return load(builder, pointers, mask, *rest, **named)

    def counted_store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        stores.add(*lanes(pointers, mask))
        return store(builder, pointers, value, mask, *rest, **named)

    with (
        patch.object(InterpreterBuilder, "create_masked_load", counted_load),
        patch.object(InterpreterBuilder, "create_masked_store", counted_store),
    ):
        yield moved
    for b in dict.fromkeys((*launch.reads, *launch.writes, *loads.each, *stores.each)):
        moved[b] = Moved(loads.each.get(b, 0), loads.once(b), stores.each.get(b, 0), stores.once(b))


@dataclass
class _Touched:
    """Buffers by their addresses, and what was touched of them: bytes each time, elements at least once."""

    starts: list[int]
    ends: list[int]
    names: list[str]
    each: dict[str, int] = field(default_factory=dict)
    elements: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> _Touched:
        spans = {x.data_ptr(): (x.data_ptr() + x.nbytes, name) for name, x in tensors.items()}
        starts = sorted(spans)
        return cls(starts, [spans[s][0] for s in starts], [spans[s][1] for s in starts])

    def add(self, addresses: np.ndarray, size: int) -> None:
        if not addresses.size:
            return
        lowest, highest = int(addresses.min()), int(addresses.max())
        i = bisect_right(self.starts, lowest) - 1
        if i < 0 or highest + size > self.ends[i]:
            raise AssertionError(f"addresses {lowest:#x} to {highest:#x} lie in none of {', '.join(self.names)}")
        name, start = self.names[i], self.starts[i]
        if name not in self.elements:
            self.elements[name] = np.zeros((self.ends[i] - start) // size, dtype=bool)
        self.elements[name][(addresses - np.uint64(start)) // np.uint64(size)] = True
        self.each[name] = self.each.get(name, 0) + addresses.size * size

    def once(self, name: str) -> int:
        """Bytes touched at least once."""
        if name not in self.elements:
            return 0
        i, touched = self.names.index(name), self.elements[name]
        return int(np.count_nonzero(touched)) * (self.ends[i] - self.starts[i]) // touched.size
