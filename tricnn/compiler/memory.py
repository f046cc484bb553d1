"""Memory planning: tensors whose lives do not overlap share one piece of memory."""

from __future__ import annotations


def share(lives: dict[str, tuple[int, int, int]], boundary: int = 256) -> tuple[dict[str, int], int]:
    """Where tensors begin in memory that they share, and how much of it they need, in bytes.

    A tensor is given as name -> (bytes, the first launch, the last launch that needs it). No two that a launch finds
    alive overlap.

    The largest first, each at the lowest free place: Pisarchyk & Lee, "Efficient memory management for deep neural net
    inference" (2020), section 5.2. A boundary of 256 bytes is good for any vector load or bulk copy.
    """
    starts: dict[str, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # in order: where it begins and ends, its first and last launch
    for name, (count, first, last) in sorted(lives.items(), key=lambda item: (-item[1][0], item[1][1], item[0])):
        length, start = -(-count // boundary) * boundary, 0
        for begin, end, other_first, other_last in placed:
            if other_first > last or other_last < first:
                continue
            if start + length <= begin:
                break
            start = max(start, end)
        starts[name] = start
        placed.append((start, start + length, first, last))
        placed.sort()  # linear: only the last one is out of order
    return starts, max((end for _, end, _, _ in placed), default=0)
