"""Kernels that do the same to other layers, or layers of one part, as one row: a network of hundreds is read so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ..lower.program import Program

MOST_ROWS = 40  # kernels, values or networks that are each shown by themselves; of more only what differs
MOST_LAYERS = 6  # that a row of one kernel names; of one with more their operations

Row = Mapping[str, Any]


def grouped(rows: Sequence[Row], program: Program) -> list[dict[str, Any]]:
    """Rows of ``compile``'s table with one for all kernels of the same operations, in the order of their first.
    It has sums of launches, bytes and operations; the most registers, spills and shared memory; how many use tensor
    cores and bulk copies. ``count``: how many kernels, ``members`` their names."""
    ops = {node.name: node.op for node in program.plan.graph.nodes}
    groups: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
    for row in rows:
        key = row["kind"], tuple(ops.get(layer, layer) for layer in row["layers"])
        groups.setdefault(key, []).append(row)
    found = []
    for (_, does), own in groups.items():
        first = own[0]
        found.append({
            **first,
            **{key: sum(row[key] for row in own) for key in ("launches", "dram_bytes", "flops", "tensor_core",
                                                             "bulk_copy")},
            **{key: max(row[key] for row in own) for key in ("registers", "spill_bytes", "shared_bytes")},
            "count": len(own), "members": [row["name"] for row in own],
            "layers": first["layers"] if len(own) == 1 and len(does) <= MOST_LAYERS else list(dict.fromkeys(does)),
        })  # fmt: skip
    return found


def parts(layers: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of ``show``'s table with one for all layers of a part that follow one another.
    The names of a part's layers begin with the same words, ``layer1.0``; with as many words as leave MOST_ROWS rows,
    one at least. A row has sums of parameters, multiply-adds and bytes, the last layer's output, and ``count``: how
    many layers."""

    def divided(words: int) -> list[list[Row]]:
        return [[*own] for _, own in groupby(layers, lambda row: row["name"].split(".")[:words])]

    longest = max((row["name"].count(".") for row in layers), default=0) + 1
    fitting = (found for words in range(longest, 1, -1) if len(found := divided(words)) <= MOST_ROWS)
    rows = []
    for own in next(fitting, divided(1)):
        path = own[0]["name"].split(".")
        while any(row["name"].split(".")[: len(path)] != path for row in own):
            path.pop()
        sums = {key: sum(row[key] for row in own) for key in ("parameters", "macs", "bytes")}
        rows.append({**own[-1], **sums, "name": ".".join(path), "count": len(own)})
    return rows
