"""Memory planning: buffers whose lifetimes do not overlap share one arena."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ALIGNMENT = 256  # bytes: every buffer starts on a boundary good for any vector load or bulk copy


@dataclass(frozen=True)
class Lifetime:
    """A buffer of ``size`` bytes that must hold its contents from step ``first`` to step ``last``, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Offsets in bytes, and the arena's size."""

    offsets: Mapping[str, int]
    size: int


def plan_arena(lifetimes: Iterable[Lifetime]) -> Arena:
    """Greedy by size: the largest buffers first, each at the lowest offset where it meets no buffer alive with it.

    Pisarchyk & Lee, "Efficient memory management for deep neural net inference" (2020), section 5.2.
    """
    placed: list[tuple[int, int, Lifetime]] = []
    offsets: dict[str, int] = {}
    size = 0
    for item in sorted(lifetimes, key=lambda b: (-b.size, b.first, b.name)):
        length = -(-item.size // ALIGNMENT) * ALIGNMENT
        together = sorted(
            (start, stop) for start, stop, other in placed if other.first <= item.last and item.first <= other.last
        )
        offset = 0
        for start, stop in together:
            if offset + length <= start:
                break
            offset = max(offset, stop)
        offsets[item.name] = offset
        placed.append((offset, offset + length, item))
        size = max(size, offset + length)
    return Arena(offsets, size)
