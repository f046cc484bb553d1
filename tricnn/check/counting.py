"""What kernels really load and store, counted under Triton's interpreter, beside what the plan states.

Of every load and store each lane that its mask lets through counts, at the size of an element: each time it is loaded
or stored, and every address once (:class:`Moved`). A lane outside the buffers of its launch is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..lower.program import Launch, Moved
from ..run.model import Model
from ..run.triton_executor import interpreting
from ..system.errors import TargetError
from .accesses import Access, Tensors, seen_by


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
    # What is updated in place has two names: loads are of what is read, stores of what is written.
    loads = _Touched(Tensors({b: tensors[b] for b in (*launch.writes, *launch.reads)}))
    stores = _Touched(Tensors({b: tensors[b] for b in launch.writes}))
    moved: dict[str, Moved] = {}
    with seen_by(lambda access: (stores if access.stored else loads).add(access)):
        yield moved
    for b in dict.fromkeys((*launch.reads, *launch.writes, *loads.each, *stores.each)):
        moved[b] = Moved(loads.each.get(b, 0), loads.once(b), stores.each.get(b, 0), stores.once(b))


class _Touched:
    """What was touched of some tensors: bytes each time, elements at least once."""

    def __init__(self, tensors: Tensors):
        self.tensors = tensors
        self.each: dict[str, int] = {}
        self.elements: dict[str, np.ndarray] = {}

    def add(self, access: Access) -> None:
        if not access.addresses.size:
            return
        i, elements = self.tensors.find(access)
        name = self.tensors.names[i]
        if name not in self.elements:
            self.elements[name] = np.zeros(self.tensors.bytes(i) // access.size, dtype=bool)
        self.elements[name][elements] = True
        self.each[name] = self.each.get(name, 0) + elements.size * access.size

    def once(self, name: str) -> int:
        """Bytes touched at least once."""
        if name not in self.elements:
            return 0
        touched = self.elements[name]
        return int(np.count_nonzero(touched)) * self.tensors.bytes(self.tensors.names.index(name)) // touched.size
