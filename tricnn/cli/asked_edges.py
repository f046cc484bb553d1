"""Which edges ``tricnn explain --edge`` and ``--layer`` are about."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .arguments import UsageError

if TYPE_CHECKING:
    from tricnn.compiler.pipeline import Pass
    from tricnn.compiler.plan import Plan
    from tricnn.ir import Graph

Edge = dict[str, Any]


def edges_of_layer(name: str, edges: Sequence[Edge], plan: Plan, made: Sequence[tuple[str, Graph]]) -> list[Edge]:
    """Every edge to or from a layer, and those that differentiation made for it (``bn1.grad_sums`` of ``bn1``).

    They are those of a block, if ``name`` is the beginning of its layers' names. ``made`` is what each pass left, in
    order.

    Raises UsageError for a name that no layer has, with those near to it.
    """
    at = plan.storage(name) if name in plan.graph.by_name else name

    def within(value: str) -> bool:
        return value in (name, at) or value.startswith(f"{name}.")

    found = [e for e in edges if within(e["producer"]) or within(e["consumer"])]
    if not found:
        layers = {node.name for _, graph in made for node in graph.nodes}
        known = layers | {".".join(n.split(".")[: i + 1]) for n in layers for i in range(n.count("."))}  # and blocks
        if name in known:
            raise UsageError(f"--layer {name}: {_why_none(name, plan, made)}")
        raise UsageError(f"--layer {name}: {plan.graph.name} has no layer of this name{_near(name, known)}")
    return found


def edge_between(text: str, edges: Sequence[Edge], plan: Plan, made: Sequence[tuple[str, Graph]]) -> list[Edge]:
    """The edge that ``VALUE:READER`` names, as a list of one.

    If a pass before fusion took it away, its answer is the pass.

    Raises UsageError for names that are no layers, with those near to them, and for layers without an edge between
    them, with what the reader reads.
    """
    known = {node.name: graph for _, graph in made for node in graph.nodes}
    value, colon, reader = text.partition(":")
    if not value or not colon or not reader:
        raise UsageError(f"--edge {text}: not an edge; VALUE:READER was expected, such as conv1:relu1")
    for name in (value, reader):
        if name not in known:
            raise UsageError(f"--edge {text}: {plan.graph.name} has no layer {name}{_near(name, known)}")
    at = plan.storage(value)
    found = [e for e in edges if (e["producer"], e["consumer"]) == (at, reader)]
    if found or (found := _rewritten(value, reader, made)):
        return found
    for name in (value, reader):
        if name not in plan.graph.by_name:
            raise UsageError(f"--edge {text}: {_why_none(name, plan, made)}")
    node = plan.graph.by_name[reader]
    if value in node.inputs:
        raise UsageError(f"--edge {text}: {_why_none(reader if reader in plan.views else value, plan, made)}")
    reads = ", ".join(node.inputs) or "nothing"
    raise UsageError(f"--edge {text}: {reader} does not read {value}; it reads {reads}")


def _rewritten(value: str, reader: str, made: Sequence[tuple[str, Graph]]) -> list[Edge]:
    """An edge that the graph had before a pass and not after it, as that pass's work; nothing if there is none."""

    def has(graph: Graph) -> bool:
        return reader in graph.by_name and value in graph.by_name[reader].inputs

    gone = [name for (name, after), (_, before) in zip(made[1:], made, strict=False) if has(before) and not has(after)]
    if not gone:
        return []
    does = next(step.does for step in _passes() if step.name == gone[-1])
    answer = {"rule": gone[-1], "fused": True, "equation": does}
    return [{"producer": value, "consumer": reader, "fused": True, "pass": gone[-1], "rule": f"{gone[-1]}: {does}",
             "answers": [answer]}]  # fmt: skip


def _passes() -> Sequence[Pass]:
    from tricnn.compiler.pipeline import PASSES

    return PASSES


def _why_none(name: str, plan: Plan, made: Sequence[tuple[str, Graph]]) -> str:
    """Why nothing was decided about a layer, or anything else that the graph has or had."""
    node = plan.graph.by_name.get(name)
    if node is None:
        gone = [after for (after, graph), (_, before) in zip(made[1:], made, strict=False)
                if name in before.by_name and name not in graph.by_name]  # fmt: skip
        if not gone:
            return f"{name} has no edges"
        does = next(step.does for step in _passes() if step.name == gone[-1])
        return f"{name} was gone before fusion: the pass {gone[-1]} took it away, by {does}"
    if node.row.source is not None:
        return f"{name} ({node.op}) is there before the step, so every kernel that needs it reads it"
    if name in plan.views:
        return f"{name} is {plan.views[name]} under another shape: nothing is copied"
    if name in {prepared.name for prepared in plan.prepared}:
        return f"{name} is computed once whenever parameters are loaded, so every kernel that needs it reads it"
    return f"{name} has no edges to other computed layers"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 3)
    return f"; did you mean {' or '.join(near)}?" if near else "; tricnn show lists the layers"
