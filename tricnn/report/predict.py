"""What is known of a program's times without running it: the least that its bytes and its operations need."""

from __future__ import annotations

from typing import Any

from ..codegen.candidates import CONTRACTIONS
from ..codegen.emit import launches_of
from ..codegen.program import Program
from ..compiler.machines import MACHINES, least_us


def least(program: Program, target: str) -> list[dict[str, Any]]:
    """One row per distinct kernel, all its launches together, those that take longest first: exact bytes and
    operations, microseconds at least, and which of the two limits it is."""
    machine, rows = MACHINES[target], []
    for function in program.functions:
        launches = launches_of(program, function)
        moved = sum(program.launch_bytes(launch, program.batch) for launch in launches)
        flops = sum(launch.flops for launch in launches) * program.batch
        products = flops if launches[0].kind in CONTRACTIONS else 0  # the rest never waits for arithmetic
        bound = "operations" if products / machine.rate(program.dtype) > moved / machine.bandwidth else "bytes"
        rows.append({
            "name": function.name, "kind": launches[0].kind,
            "layers": list(dict.fromkeys(layer for launch in launches for layer in launch.layers)),
            "launches": len(launches), "dram_bytes": moved, "flops": flops,
            "least_us": least_us(target, program.dtype, moved, products), "bound": bound,
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["least_us"])
