"""Where the boxes of a small graph go: in layers, so that edges run downwards, with few crossings and straight lines.

The steps of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures" (1981): a
row for each node by its longest path, a bend in every row that a long edge passes, rows ordered by the means of their
neighbours. Places in a row are those nearest to the neighbours' that keep order and distance: a least-squares problem,
solved exactly by pooling adjacent violators (Barlow et al., "Statistical inference under order restrictions", 1972).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
SWEEPS = 6


@dataclass(frozen=True)
class Layout:
    """Where nodes and edges of a graph are drawn, in a picture of ``width`` by ``height``.
    ``places``: the middle of each node; ``routes``: the points of each edge between its ends' boxes, from the lower
    side of one to the upper side of the other."""

    places: Mapping[str, Point]
    routes: Mapping[tuple[str, str], Sequence[Point]]
    width: float
    height: float


def layered(
    sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]], across: float = 22, down: float = 30
) -> Layout:
    """The layout of nodes of these sizes (width and height), given in an order in which edges lead on.
    An edge that leads back is drawn upwards. ``across``, ``down``: the least distance between boxes."""
    order = {name: number for number, name in enumerate(sizes)}
    row = dict.fromkeys(sizes, 0)
    forward = sorted({(a, b) for a, b in edges if order[a] < order[b]}, key=lambda e: (order[e[1]], order[e[0]]))
    for a, b in forward:
        row[b] = max(row[b], row[a] + 1)
    bends: dict[tuple[str, str], list[str]] = {}
    widths = {name: width for name, (width, _) in sizes.items()}
    above: dict[str, list[str]] = {name: [] for name in sizes}
    below: dict[str, list[str]] = {name: [] for name in sizes}
    for a, b in forward:
        chain = [a]
        for between in range(row[a] + 1, row[b]):
            bend = f"{a}\n{b}\n{between}"  # no name of a node has a line break
            row[bend], widths[bend], above[bend], below[bend] = between, 6.0, [], []
            chain.append(bend)
        bends[a, b] = chain[1:]
        for upper, lower in zip(chain, [*chain[1:], b], strict=True):
            below[upper].append(lower)
            above[lower].append(upper)
    rows: list[list[str]] = [[] for _ in range(max(row.values(), default=-1) + 1)]
    for name, number in row.items():
        rows[number].append(name)
    _order(rows, above, below)
    x = _columns(rows, widths, above, below, across)
    heights = [max((sizes[name][1] for name in names if name in sizes), default=0.0) for names in rows]
    tops = [sum(heights[:number]) + down * number for number in range(len(rows))]
    left = min((x[name] - widths[name] / 2 for name in x), default=0.0)
    places = {name: (x[name] - left, tops[row[name]] + heights[row[name]] / 2) for name in sizes}
    routes = {}
    for a, b in dict.fromkeys(edges):
        (ax, ay), (bx, by) = places[a], places[b]
        turn = 1 if order[a] < order[b] else -1
        points = [(ax, ay + turn * sizes[a][1] / 2)]
        for bend in bends.get((a, b), ()):
            points += [(x[bend] - left, tops[row[bend]]), (x[bend] - left, tops[row[bend]] + heights[row[bend]])]
        routes[a, b] = [*points, (bx, by - turn * sizes[b][1] / 2)]
    right = max((x[name] + widths[name] / 2 for name in x), default=0.0)
    return Layout(places, routes, right - left, tops[-1] + heights[-1] if rows else 0.0)


def _order(rows: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
    """Order each row by the mean place of its neighbours in the row before, down and up again."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        place: dict[str, int] = {}
        for names in rows if down else reversed(rows):
            own = {name: number for number, name in enumerate(names)}
            means = {name: _mean([place[n] for n in near[name]], own[name]) for name in names}
            names.sort(key=lambda name: (means[name], own[name]))
            place |= {name: number for number, name in enumerate(names)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _columns(
    rows: Sequence[Sequence[str]], widths: Mapping[str, float], above: Mapping[str, list[str]],
    below: Mapping[str, list[str]], across: float,
) -> dict[str, float]:  # fmt: skip
    """The middle of every node: rows are placed by their neighbours', again and again, the last time from above."""
    x: dict[str, float] = {}
    for names in rows:
        x |= _spread(names, [0.0] * len(names), widths, across)
    for sweep in range(SWEEPS + 1):
        near = below if sweep % 2 else above
        for names in reversed(rows) if sweep % 2 else rows:
            wanted = [_mean([x[n] for n in near[name]] or [x[n] for n in (*above[name], *below[name])], 0.0)
                      for name in names]  # fmt: skip
            x |= _spread(names, wanted, widths, across)
    return x


def _spread(
    names: Sequence[str], wanted: Sequence[float], widths: Mapping[str, float], across: float
) -> dict[str, float]:
    """The places nearest to those ``wanted`` (least squares) that keep the order and the distances."""
    offsets, offset = [], 0.0
    for number, name in enumerate(names):
        if number:
            offset += (widths[names[number - 1]] + widths[name]) / 2 + across
        offsets.append(offset)
    blocks: list[tuple[float, int]] = []  # the mean of places without their offsets, and how many they are
    for place, offset in zip(wanted, offsets, strict=True):
        mean, count = place - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    return {name: place + offset for name, place, offset in zip(names, flat, offsets, strict=True)}
