"""Names in the emitted file, and why none of a layer's can be in their way.

A layer may be called anything that :data:`tricnn.ir.graph.NAME` matches: ``step``, ``tl``, ``N``, ``lambda`` or ``0``.
Four kinds of names are kept apart from it, each by its form:

- **Tensors** are entries of a dictionary. A value's buffer is called as the value is; every other buffer by two words
  with a colon between them, which no layer's name has, and a descriptor by its buffer and its box, ``[...]``.
- **Functions** named after a layer begin with ``k`` and a number (compiler/plan.py); no template's name does.
- **Variables** of a function are called by what they are to an operation, never by a layer. A :class:`Scope` gives each
  name once, and none of Python's own.
- **Numbers** that a launch takes are members of :class:`StepNumber`, not text.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from enum import Enum


class StepNumber(Enum):
    """A number that a launch may take; the value is what the kernel's parameter is called.
    The seed is 64 bits, passed as two words."""

    BATCH = "N"
    SEED_LOW = "seed_lo"
    SEED_HIGH = "seed_hi"
    STEP = "step"

    @property
    def type(self) -> str:
        """What Triton calls its type."""
        return "i64" if self in (StepNumber.SEED_LOW, StepNumber.SEED_HIGH) else "i32"

    def __str__(self) -> str:
        return f":{self.value}"  # as the manifest says it, where tensors have names without a colon in front


#: what a launch is given: a number, or the name of a buffer or of a descriptor
Argument = str | StepNumber

#: the table of addresses that the launch for many sums reads
SUM_TABLE = "weight_sums:table"

#: the counters of programs that have left their partial results
ARRIVALS = "programs:arrived"


def workspace_name(owner: str, what: str) -> str:
    """The name of a buffer that the launches of one kernel have for themselves, such as ``k00_conv1:partial``."""
    return f"{owner}:{what}"


def copy_name(weight: str, storage: str) -> str:
    """The name of the buffer with a weight's copy in another type: ``conv1.weight:bf16``."""
    return f"{weight}:{storage}"


def descriptor_name(
    buffer: str, box: Sequence[int], shape: Sequence[int] = (), channels: tuple[int, int] | None = None
) -> str:
    """The name of a tensor descriptor of a buffer in boxes, with the shape of its rows where two differ in it only.
    Of some channels, the first and the one behind the last are part of it: ``siblings[64:160][128, 64]``."""
    some = f"[{channels[0]}:{sum(channels)}]" if channels else ""
    return f"{buffer}{list(shape) if shape else ''}{some}{list(box)}"


def identifier(name: str) -> str:
    """The name with an underscore for every character that Python does not allow in names."""
    return re.sub(r"\W", "_", name)


#: columns of a name in a scope at most: two layers' names may be in one function's, which has to fit a line
LONGEST = 96


def _middle_left_out(name: str) -> str:
    """A long name without the words in its middle."""
    if len(name) <= LONGEST:
        return name
    begin, end = name[: LONGEST // 2].rpartition("_")[0], name[-LONGEST // 2 + 1 :].partition("_")[2]
    return f"{begin}_{end}"


class Scope:
    """The names of one function, or of the emitted file: each is given once."""

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = {*keyword.kwlist, *taken}
        self._first: dict[str, int] = {}  # of a stem, the first number that may be free: none is given back

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def reserve(self, *names: str) -> None:
        """Take these names, so that nobody is given them."""
        self._taken.update(names)

    def free(self, stem: str) -> str:
        """A name that nobody has yet: the stem, with a number from 2 on where that is taken.
        Of layers ``a.b`` and ``a_b`` a function can be called after one only."""
        stem = _middle_left_out(identifier(stem))
        count = self._first.get(stem, 1)
        while (candidate := f"{stem}{count if count > 1 else ''}") in self._taken:
            count += 1
        self._first[stem] = count
        return candidate

    def take(self, stem: str) -> str:
        """A name that nobody had, like the stem, which is taken now."""
        name = self.free(stem)
        self.reserve(name)
        return name
