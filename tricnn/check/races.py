"""Data races, found under Triton's interpreter.

The programs of a launch run in any order, and at once. So its result is the same every time only if no program loads or
stores an element that another one stores, and none loads again what it has stored (its threads do not wait for each
other). The interpreter runs one program after another and would never show it; their addresses do.

An atomic addition that acquires and releases puts an order between programs: what one did before it has happened for
those that come to the same counter later, and for those that these tell of in turn. Behind it a program counts as
another one, for nothing orders what it does from then on. Barriers are not seen: that they stand before and behind the
addition is a matter of the machine code (tests/kernels/test_arrivals.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..lower.program import Launch
from ..run.model import Model
from ..run.triton_executor import interpreting
from ..system.errors import TargetError
from .accesses import Access, Meeting, Tensors, seen_by

NOBODY, SEVERAL = -1, -2


@dataclass(frozen=True)
class Race:
    """Two programs of a launch that depend on which of them is first, and the first element that shows it."""

    launch: Launch
    buffer: str
    element: int
    what: str

    def __str__(self) -> str:
        return f"{self.launch.function}: element {self.element} of {self.buffer} is {self.what}"


class RacesFound:
    """To give ``verify_model`` as its ``watch``: looks at every load and store of every launch it makes.

    Raises TargetError where Triton's interpreter is not on: a GPU does not tell.
    """

    def __init__(self, model: Model, batch: int):
        if not interpreting():
            raise TargetError("races are looked for under Triton's interpreter: set TRITON_INTERPRET=1 before starting")
        self.tensors = model.executor.bind(batch)
        self.races: list[Race] = []

    @contextmanager
    def __call__(self, launch: Launch) -> Iterator[None]:
        with racing(launch, self.tensors) as races:
            yield
        self.races += races


@contextmanager
def racing(launch: Launch, tensors: Mapping[str, Any]) -> Iterator[list[Race]]:
    """The races of the launch that is made inside, the first of each kind in each buffer; filled in at the end."""
    programs = _Programs(Tensors({b: tensors[b] for b in dict.fromkeys((*launch.reads, *launch.writes))}))
    found: list[Race] = []
    with seen_by(programs.see, programs.meet):
        yield found
    found += [Race(launch, b, element, what) for (b, what), element in programs.found.items()]
    found += [Race(launch, b, 0, f"in the memory of {other}") for b, other in programs.overlaps]


class _Programs:
    """Of each element, which program has loaded and which has stored it."""

    def __init__(self, tensors: Tensors):
        self.tensors = tensors
        self.loader: dict[int, np.ndarray] = {}
        self.storer: dict[int, np.ndarray] = {}
        self.numbers: dict[tuple[int, int, int], int] = {}
        #: of a program, or what it is behind an atomic addition, those before it; of a counter those that came to it
        self.before: list[set[int]] = []
        self.came: dict[int, set[int]] = {}
        self.found: dict[tuple[str, str], int] = {}

    @property
    def overlaps(self) -> Iterator[tuple[str, str]]:
        """Tensors that share memory, but do not begin at one address."""
        t = self.tensors
        for i in range(1, len(t)):
            if t.starts[i] < t.ends[i - 1]:
                yield t.names[i], t.names[i - 1]

    def number(self, program: tuple[int, int, int]) -> int:
        """The number of a program, since it last met others."""
        if program not in self.numbers:
            self.numbers[program] = len(self.before)
            self.before.append(set())
        return self.numbers[program]

    def meet(self, meeting: Meeting) -> None:
        """What a program knows it tells those that come later, and it knows what those tell that came before."""
        own = self.number(meeting.program)
        came = self.came.setdefault(meeting.address, set())
        came |= self.before[own] | {own}
        self.numbers[meeting.program] = len(self.before)
        self.before.append(set(came))

    def see(self, access: Access) -> None:
        if not access.addresses.size:
            return
        i, elements = self.tensors.find(access)
        if i not in self.loader:
            count = self.tensors.bytes(i) // access.size
            self.loader[i], self.storer[i] = (np.full(count, NOBODY, dtype=np.int32) for _ in range(2))
        program = self.number(access.program)
        loader, storer = self.loader[i], self.storer[i]
        before, after = storer[elements], loader[elements]
        if self.before[program]:  # what has happened before may be done again
            happened = np.array([*self.before[program]])
            before = np.where(np.isin(before, happened), NOBODY, before)
            after = np.where(np.isin(after, happened), NOBODY, after)
        others = (before != NOBODY) & (before != program)
        if access.stored:
            self.note(i, elements, others, "stored by two programs")
            self.note(i, elements, (after != NOBODY) & (after != program), "loaded by one program, stored by another")
            if len(np.unique(elements)) < len(elements):
                self.note(i, elements, np.ones(len(elements), bool), "stored by two threads of a program")
            storer[elements] = program
        else:
            self.note(i, elements, others, "loaded by one program, stored by another")
            self.note(i, elements, before == program, "loaded by the program that has stored it")
            loader[elements] = np.where((after == NOBODY) | (after == program), program, SEVERAL)

    def note(self, i: int, elements: np.ndarray, where: np.ndarray, what: str) -> None:
        if where.any():
            self.found.setdefault((self.tensors.names[i], what), int(elements[where.argmax()]))
