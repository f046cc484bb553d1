"""Kernels that do the same to other layers, as one row: a network of hundreds is read by its kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..lower.program import Program

MOST_ROWS = 40  # kernels, values or networks that are each shown by themselves; of more only what differs

Row = Mapping[str, Any]


def grouped(rows: Sequence[Row], program: Program) -> list[dict[str, Any]]:
    """Rows of ``compile``'s table with one for all kernels of the same operations, in the order of their first: sums
    of launches, bytes and operations; the most registers, spills and shared memory; how many use tensor cores and bulk
    copies. ``count``: how many kernels, ``members`` their names."""
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
            "layers": first["layers"] if len(own) == 1 else list(dict.fromkeys(does)),
        })  # fmt: skip
    return found
