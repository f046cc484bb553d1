"""What the rules of fusion answered, edge by edge.
An edge is fused, by which equation, or refused, for which reason; and there is what that comes to in bytes."""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .arguments import (
    add_compilation,
    add_fusion,
    add_model,
    add_target,
    chosen_target,
    load_graph,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tricnn.compiler.cost import Cost
    from tricnn.compiler.fusion.answers import Answer
    from tricnn.compiler.plan import Plan
    from tricnn.ir import Graph
    from tricnn.lower.program import Program

EXAMPLES = """\
examples:
  tricnn explain lenet
  tricnn explain resnet18 --mode train --batch 64 --dtype bf16
  tricnn explain resnet18 --mode train --all             every edge by itself, with the values that decided
  tricnn explain resnet18 --mode train --edge conv1:bn1  one edge: every rule that was tried, and what it answered
  tricnn explain resnet18 --mode train --layer layer1.0  the edges of one layer, or of all whose names begin so
  tricnn explain resnet18 --mode train --plan            the plan itself, as a program

An edge that was not fused has the reason that each rule found when it was tried: names in angle brackets are different
ones for each edge, and --all (or --json) says which.

"bytes not read" of an edge are those of the value that need not be read from memory there: they do not add up to what
is saved. The totals do, and are exact: they also count what is not written, and what a prologue reads more than
once. "time saved" is predicted (tricnn/compiler/cost.py): what the kernels that a value concerns take less by
recomputing it, once for each such value; less than nothing where storing it would be a little faster, at the price of
more bytes. Values for which it is clearly faster are stored (--fuse auto), and listed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compilation(parser)
    add_target(parser)
    add_fusion(parser)
    parser.add_argument("--all", action="store_true", help="every edge a row of its own, not the first of each reason")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--plan", action="store_true", help="print the plan as a program instead (--json: as well)")
    one.add_argument("--edge", metavar="VALUE:READER", help="one edge only: what each rule answered")
    one.add_argument("--layer", metavar="NAME", help="only the edges of this layer, or of those in this block")


def run(options: argparse.Namespace) -> int:
    from tricnn.lower.from_graph import lowered
    from tricnn.run.dump import Dump

    from ..report import tables
    from ..report.figures import plural
    from ..report.similar import MOST_ROWS
    from .asked_edges import edge_between, edges_of_layer
    from .screen import Screen

    screen = Screen(options.json)
    made: list[tuple[str, Any]] = []  # what each pass left
    target = chosen_target(options.target)
    with screen.waiting(f"fusing {options.model}"):
        graph = load_graph(options)
        how = (options.mode, options.batch, options.dtype, target)
        dump = Dump.asked_for(graph, options.mode)

        def show(name: str, value: object) -> None:
            made.append((name, value))
            dump(name, value)

        fused, unfused = lowered(graph, *how, fuse=options.fuse, show=show), lowered(graph, *how, fuse="none")
        dump.kernels(lambda: fused)
    if options.plan and not options.json:
        print(fused.plan, end="")
        return 0
    result = explanation(graph.name, fused, unfused, target)
    graphs = [(name, value) for name, value in made if name != "plan"]
    result["passes"] = passes(graphs)
    if options.edge or options.layer:
        select, asked = (edge_between, options.edge) if options.edge else (edges_of_layer, options.layer)
        result["edges"] = select(asked, result["edges"], fused.plan, graphs)
        screen.json(result)
        for edge in result["edges"]:
            screen.show(*answered(edge))
        return 0
    screen.json({**result, "plan": str(fused.plan)} if options.plan else result)
    edges = result["edges"]
    together = [e for e in edges if e["fused"]]
    apart = [e for e in edges if not e["fused"]]
    what = f"{graph.name}: {options.mode}, {options.dtype}, batch {options.batch}"
    edges_of, sites_of = (tables.each_edge, tables.each_site) if options.all else (tables.edges, tables.sites)
    shown = [
        edges_of(f"{what}: {len(together)} of {plural(len(edges), 'edge')} fused", together, True),
        edges_of(f"{plural(len(apart), 'edge')} not fused", apart, False),
    ]
    if stored := [s for s in result["sites"] if s["decision"] == "stored"]:
        shown.append(sites_of(f"{len(stored)} of {len(result['sites'])} values stored to save time", stored))
    said = totals(result)
    if (hidden := tables.not_shown(edges)) and not options.all:
        said.append(f"{plural(hidden, 'edge')} only counted here: --all prints every one, with the values that decided")
    if len(edges) > MOST_ROWS:
        screen.show(*said, "", *shown)
    else:
        screen.show(*shown, *said)
    return 0


def totals(result: dict[str, Any]) -> list[str]:
    """What the tables come to, in lines."""
    from ..report.figures import brief, plural, size, times

    plain = result["unfused"]
    changed = ", ".join(p["name"] for p in result["passes"] if p["changed"])
    lines = [
        f"passes that changed the graph before fusion: {changed or 'none'} (of {len(result['passes'])})",
        f"launches {plain['launches']} -> {result['launches']}; bytes {size(plain['dram_bytes'])} -> "
        f"{size(result['dram_bytes'])}, {times(plain['dram_bytes'] / max(1, result['dram_bytes']))} less; "
        f"predicted for {result['target']} {' -> '.join(brief(r['predicted_us'] / 1e6) for r in (plain, result))}",
    ]
    if result["shared_operands"]:
        cached = sum(s["in_cache"] for s in result["shared_operands"])
        lines.append(
            f"in {plural(len(result['shared_operands']), 'layer')} dgrad and wgrad load the same gradient one after "
            f"the other, in {cached} of them from {result['target']}'s cache: all that the two touch fits in there"
        )
    return lines


def passes(made: Sequence[tuple[str, Graph]]) -> list[dict[str, Any]]:
    """The passes that ran, in order: name, what it does, whether it changed the graph, and how many nodes it left."""
    from tricnn.compiler.pipeline import PASSES

    does = {step.name: step.does for step in PASSES}
    return [
        {"name": name, "does": does[name], "changed": graph != before, "nodes": len(graph.nodes)}
        for (name, graph), (_, before) in zip(made[1:], made, strict=False)
    ]


def answered(edge: Mapping[str, Any]) -> list[str]:
    """One edge, in lines: what became of it, and what each rule answered."""
    from ..report.figures import size

    if "pass" in edge:
        what = "rewritten before fusion"
    else:
        what = f"{'fused: not read' if edge['fused'] else 'not fused: read'}, {size(edge['bytes'])}"
    lines = [f"{edge['producer']} -> {edge['consumer']}  {what}"]
    return [*lines, *(f"    {a['rule']}: {a.get('equation') or a.get('reason')}" for a in edge["answers"])]


def answer_of(answer: Answer) -> dict[str, Any]:
    """What a rule answered, for ``--json``.
    It is fused and its equation, or refused, the reason and the values that decided."""
    from tricnn.compiler.fusion.answers import Fused

    if isinstance(answer, Fused):
        return {"rule": answer.rule, "fused": True, "equation": answer.equation}
    values = dict(answer.why.facts)
    return {"rule": answer.rule, "fused": False, "reason": str(answer.why), "values": values}


def shared_operands(plan: Plan, cost: Cost) -> list[dict[str, Any]]:
    """Pairs of kernels that follow one another and load the same gradient: dgrad and wgrad of a layer.
    Each has what they touch together, and whether the second one can find it in the cache."""
    found = []
    for first, second in pairwise(plan.kernels):
        same = [v for v in first.reads if v in second.reads and plan.type(v).batched]
        if first.anchor.row.product == "by_input" and second.anchor.row.product == "by_weight" and same:
            values = dict.fromkeys((*first.reads, *first.writes, *second.reads))
            touched = sum(cost.bytes(plan.type(v)) for v in values)
            found.append({
                "kernels": [first.name, second.name], "values": same, "bytes": touched,
                "in_cache": touched <= cost.cache_bytes,
            })  # fmt: skip
    return found


def explanation(name: str, fused: Program, unfused: Program, target: str) -> dict[str, Any]:
    """The object that ``--json`` prints."""
    from tricnn.compiler.cost import Cost
    from tricnn.lower.from_graph import static_figures
    from tricnn.lower.predicted_time import microseconds, predicted_seconds
    from tricnn.lower.program import element
    from tricnn.machine.dtypes import BYTES

    plan = fused.plan
    sites: list[dict[str, Any]] = []
    alone = {v for k in plan.kernels for v in {*k.writes} - {*map(plan.storage, k.anchor.inputs)}}
    for value, (together, apart) in plan.prices.items():
        sites.append({
            "value": value,
            "op": plan.graph.by_name[value].op,
            "decision": "stored" if value in alone else "recomputed",
            "predicted_us_recomputed": microseconds([together]),
            "predicted_us_stored": microseconds([apart]),
        })  # fmt: skip
    recomputed = {s["value"]: s for s in sites if s["decision"] == "recomputed"}

    edges = []
    for d in fused.plan.decisions:
        reader = fused.plan.graph.by_name[d.consumer]
        if d.producer in [reader.inputs[i] for i in reader.row.unread]:
            continue  # it asks only how many pixels there are: nothing is read
        type_ = fused.plan.type(d.producer)
        volume = type_.elements(fused.batch) * BYTES[element(type_, fused.storage)]
        edge = {
            "producer": d.producer,
            "consumer": d.consumer,
            "fused": d.fused,
            "rule" if d.fused else "reason": d.text,
            **({} if d.fused else {"kind": d.general}),
            "answers": [answer_of(answer) for answer in d.answers],
            "bytes": volume,
            "bytes_saved": volume if d.fused else 0,
        }
        site = recomputed.get(d.producer)
        if site is not None and d.fused:
            edge["predicted_us_saved"] = round(site["predicted_us_stored"] - site["predicted_us_recomputed"], 3)
        edges.append(edge)
    return {
        "graph": name,
        "mode": fused.plan.mode,
        "batch": fused.batch,
        "dtype": fused.dtype,
        "target": target,
        "fuse": plan.policy,
        "edges": edges,
        "sites": sites,
        "shared_operands": shared_operands(plan, Cost(fused.batch, fused.dtype, target)),
        "fused_edges": sum(e["fused"] for e in edges),
        "launches": len(fused.launches),
        "dram_bytes": fused.dram_bytes(),
        "bytes_saved": unfused.dram_bytes() - fused.dram_bytes(),
        "predicted_us": microseconds(predicted_seconds(fused)),
        "unfused": {
            **{k: v for k, v in static_figures(unfused).items() if k in ("launches", "dram_bytes")},
            "predicted_us": microseconds(predicted_seconds(unfused)),
        },
    }
