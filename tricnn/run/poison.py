"""Memory that nothing has written, made to show: NaN, or the largest integer, where a launch is the first to write.

What a kernel forgets is otherwise whatever stood there before: the numbers of the step before, as like as not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..lower.program import Launch, Program
from .launches import between_launches


def poison(tensor: Any) -> None:
    """Fill a torch tensor with NaN; one of integers with the largest of them."""
    import torch

    tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)


def first_written(launches: Sequence[Launch]) -> list[tuple[str, ...]]:
    """Of each launch, the buffers that no launch before it writes or reads.
    Of what it reads itself only what its own programs hand on is among them."""
    seen: set[str] = set()
    found = []
    for launch in launches:
        known = seen | {*launch.reads} - {*launch.handed_on}
        found.append(tuple(b for b in dict.fromkeys(launch.writes) if b not in known))
        seen.update((*launch.reads, *launch.writes))
    return found


@contextmanager
def poisoned(module: Any, program: Program, tensors: Mapping[str, Any], first: int = 0) -> Iterator[None]:
    """A context in which the ``step`` of an emitted module finds every buffer poisoned that it must write.
    A buffer is poisoned before the launch that is the first to write it; not those that a launch updates in place,
    which are memory of what it reads. ``first`` is the number of the first launch, where less than the whole step is
    run."""
    fresh = first_written(program.launches)

    def poison_fresh(launch: int) -> None:
        made = program.launches[launch]
        kept = {tensors[b].data_ptr() for b in made.reads if b not in made.handed_on}
        for name in fresh[launch]:
            if tensors[name].data_ptr() not in kept:
                poison(tensors[name])

    with between_launches(module, program, before=poison_fresh, first=first):
        yield
