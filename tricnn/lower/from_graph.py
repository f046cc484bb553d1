"""From a declared graph to its program: every pass, then lowering. Nothing is compiled to machine code."""

from __future__ import annotations

from ..compiler.cost import Cost
from ..compiler.pipeline import Show, planned
from ..ir.graph import Graph
from ..ir.objective import Loss
from ..machine.dtypes import check_dtype
from .lower import lower
from .program import Program


def lowered(
    graph: Graph, mode: str, batch: int, dtype: str, target: str, *, fuse: bool | str, show: Show | None = None
) -> Program:
    """The program of a graph: its launches, and what they move, are known exactly.

    ``show`` is called with the name and the result of every pass.

    Raises TargetError for an unknown mode, dtype or policy, GraphError for a graph that cannot be trained.
    """
    check_dtype(dtype)
    cost, loss = Cost(batch, dtype, target), Loss().of_step(mode, dtype)
    return lower(planned(graph, mode, fuse, cost, loss=loss, show=show), dtype, batch, target)


def static_figures(program: Program) -> dict[str, int]:
    """Launches, bytes moved, floating-point operations and peak memory of a program: exact, without running it."""
    return {
        "launches": len(program.launches),
        "dram_bytes": program.dram_bytes(),
        "flops": program.flops(),
        "peak_memory_bytes": program.peak_memory_bytes(),
    }
