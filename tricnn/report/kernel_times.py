"""What is known of a program's times without running it, kernel by kernel."""

from __future__ import annotations

from typing import Any

from ..emit.emit import launches_of
from ..lower.predicted_time import microseconds, predicted
from ..lower.program import Program


def predicted_kernels(program: Program) -> list[dict[str, Any]]:
    """One row per distinct kernel, all its launches together, those that take longest first.
    A row has exact bytes and operations, the predicted microseconds, and what most of them go to (``bound``)."""
    rows, times = [], dict(zip(map(id, program.launches), predicted(program), strict=True))
    for function in program.functions:
        launches = launches_of(program, function)
        mine = [times[id(launch)] for launch in launches]
        shares = {bound: sum(t.seconds for t in mine if t.bound == bound) for bound in (t.bound for t in mine)}
        rows.append({
            "name": function.name, "kind": launches[0].kind,
            "layers": list(dict.fromkeys(layer for launch in launches for layer in launch.layers)),
            "launches": len(launches),
            "dram_bytes": sum(program.launch_bytes(launch, program.batch) for launch in launches),
            "flops": sum(launch.flops for launch in launches) * program.batch,
            "predicted_us": microseconds(t.seconds for t in mine), "bound": max(shares, key=shares.__getitem__),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -float(row["predicted_us"]))
