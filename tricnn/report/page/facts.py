"""Everything that the page shows, as one object of plain numbers and texts.
``tricnn report --json`` prints it, a page carries it for ``--diff``, and the templates read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ... import __version__
from ...emit.emit import kernel_lines
from ...ir.graph import Graph
from ...ir.text import attr_text
from ...lower.from_graph import static_figures
from ...lower.names import StepNumber
from ...lower.predicted_time import microseconds, predicted
from ...lower.program import Function, Launch, Program
from ..replaced import replaced_launches
from .measured import Measured
from .scopes import Homes, Scope

FORMAT = 2  # of the object: a page of another format cannot be compared


@dataclass(frozen=True)
class Machine:
    """What only compiled kernels have: the rows of ``Build.kernels`` by function, and simulated rows by launch."""

    code: Mapping[str, Mapping[str, Any]]
    simulated: Mapping[int, Mapping[str, Any]]
    simulator: Mapping[str, Any] | None = None
    measured: Measured | None = None


NOTHING = Machine({}, {})


def gathered(declared: Graph, fused: Program, unfused: Program, machine: Machine = NOTHING) -> dict[str, Any]:
    """The whole object. ``fused`` and ``unfused``: the programs of the same declared graph."""
    homes = Homes(declared, fused.plan)
    other = replaced_launches(fused, unfused)
    launches = [_launch(fused, number, launch, machine) for number, launch in enumerate(fused.launches)]
    times = predicted(fused)
    for row, time in zip(launches, times, strict=True):
        row["predicted_us"] = microseconds([time.seconds])
    for number, (count, volume) in other.items():
        launches[number] |= {"unfused_launches": count, "unfused_bytes": volume}
    for row, nodes in zip(launches, _other_nodes(fused), strict=True):
        row["nodes"] = nodes
    kernels = _kernels(fused, homes, launches)
    first: dict[str, str] = {}
    for kernel in kernels:
        for number in kernel["launches"]:
            first.setdefault(launches[number]["function"], kernel["name"])
    functions = {f.name: {"kernel": first[f.name], **_source(fused, f, first[f.name]), "warps": f.num_warps,
                          "stages": f.num_stages, **_code(machine, f.name)} for f in fused.functions}  # fmt: skip
    tiles = {c.function: f"{c.tile.m}x{c.tile.n}x{c.tile.k}" for c in fused.choices}
    for name, tile in tiles.items():
        if name in functions:
            functions[name]["tile"] = tile
    figures = static_figures(fused)
    return {
        "tricnn_report": FORMAT,
        "version": __version__,
        "graph": declared.name,
        "mode": fused.plan.mode,
        "batch": fused.batch,
        "dtype": fused.dtype,
        "target": fused.target,
        "fuse": fused.plan.policy,
        "tuned": list(fused.tuned),
        "stale": list(fused.passed),
        **figures,
        "parameters": declared.num_parameters,
        "macs_per_image": declared.macs,
        "predicted_us": microseconds(t.seconds for t in times),
        "simulated_us": _total(row["simulated_us"] for row in launches),
        "simulator": machine.simulator,
        "measured_us": _total(row["measured_us"] for row in launches),
        "measured_steps": dict(machine.measured.steps) if machine.measured else {},
        "measured_on": machine.measured.device if machine.measured else None,
        "unfused": static_figures(unfused) | {"predicted_us": microseconds(t.seconds for t in predicted(unfused))},
        "kernels": kernels,
        "launch_rows": launches,
        "functions": functions,
        "edges": _edges(fused, homes),
        "layers": _layers(homes),
        "scopes": _scopes(homes, kernels),
        "saved": _saved(fused, homes),
        "arena": _arena(fused),
    }


def _other_nodes(program: Program) -> list[list[list[int]]]:
    """For each launch, pairs of a node of the first kernel with its function and the launch's own node for it.
    The lines of a function that several kernels share are marked with the numbers of the first one's nodes. There are
    pairs only where the numbers differ."""
    nodes = {k.name: {node.name: number for number, node in enumerate(k.nodes)} for k in program.plan.kernels}
    anchors = {kernel.name: nodes[kernel.name][kernel.anchor.name] for kernel in program.plan.kernels}
    first: dict[str, Launch] = {}
    found = []
    for launch in program.launches:
        of_first = first.setdefault(launch.function, launch)
        there, here = nodes[of_first.kernel], nodes[launch.kernel]
        pairs = zip(of_first.layers_of_lines, launch.layers_of_lines, strict=True)
        same = {(there[a], here[b]) for a, b in pairs if a in there and b in here}
        same.add((anchors[of_first.kernel], anchors[launch.kernel]))
        found.append([[a, b] for a, b in sorted(same) if a != b])
    return found


def _source(program: Program, function: Function, kernel: str) -> dict[str, Any]:
    """The emitted source of a function, and the number of the kernel's node that each of its lines is for.
    A line computes that node, loads for it, or stores it. Numbers are from 0; None for a line that is no node's."""
    lines = kernel_lines(program, function)
    nodes = next(k.nodes for k in program.plan.kernels if k.name == kernel)
    numbers = {node.name: number for number, node in enumerate(nodes)}
    return {"source": "\n".join(lines), "nodes_of_lines": [numbers.get(line.layer) for line in lines]}


def _total(values: Iterable[float | None]) -> float | None:
    """The sum of some values; None if one of them is not known."""
    known = [*values]
    return None if None in known else round(sum(v for v in known if v is not None), 3)


def _code(machine: Machine, function: str) -> dict[str, Any]:
    """What the machine code of a function uses, if it was compiled."""
    wanted = ("registers", "spill_bytes", "shared_bytes", "tensor_core", "bulk_copy", "hazards")
    return {key: machine.code[function][key] for key in wanted} if function in machine.code else {}


def _launch(program: Program, number: int, launch: Launch, machine: Machine) -> dict[str, Any]:
    """One launch; what is simulated of it only if it was."""
    batch = program.batch
    moved = program.moved(launch, batch).values()
    return {
        "function": launch.function,
        "kernel": launch.kernel,
        "kind": launch.kind,
        "grid": [extent.at(batch) for extent in launch.grid],
        "arguments": [a.value if isinstance(a, StepNumber) else str(a) for a in launch.arguments],
        "read_bytes": sum(m.read for m in moved),
        "written_bytes": sum(m.written for m in moved),
        "loaded_bytes": sum(m.loaded for m in moved),
        "dram_bytes": sum(m.once for m in moved),
        "flops": launch.flops * batch,
        "simulated_us": None,
        "measured_us": machine.measured.us.get(number) if machine.measured else None,
        **machine.simulated.get(number, {}),
    }


def _kernels(program: Program, homes: Homes, launches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a kernel of the plan, in order, with the numbers of its launches."""
    own: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(launches):
        own[row["kernel"]].append(number)
    rows = []
    for kernel in program.plan.kernels:
        nodes, anchor = [], kernel.nodes.index(kernel.anchor)
        for place, node in enumerate(kernel.nodes):
            attrs = attr_text(node.op, node.attrs)
            arguments = ", ".join([*node.inputs, *([attrs] if attrs else [])])
            part = "anchor" if place == anchor else "prologue" if place < anchor else "epilogue"
            nodes.append({
                "name": node.name, "op": node.op, "text": f"{node.op}({arguments})", "part": part,
                "type": str(program.plan.type(node.name)), "layer": homes.layer(node.name),
            })  # fmt: skip
        mine = [launches[number] for number in own[kernel.name]]
        sums = ("dram_bytes", "flops", "predicted_us", "unfused_launches", "unfused_bytes")
        totals = {key: round(sum(row.get(key, 0) for row in mine), 3) for key in sums}
        rows.append({
            "name": kernel.name, "id": kernel.name.partition("_")[0], "kind": kernel.kind,
            "layer": homes.layer(kernel.anchor.name), "backward": kernel.anchor.name in homes.backward,
            "nodes": nodes, "reads": list(kernel.reads), "writes": list(kernel.writes), "launches": own[kernel.name],
            **totals, "simulated_us": _total(row["simulated_us"] for row in mine),
            "measured_us": _total(row["measured_us"] for row in mine),
        })  # fmt: skip
    return rows


def _edges(program: Program, homes: Homes) -> list[dict[str, Any]]:
    """What the rules answered, edge by edge; ``why`` is the equation or the reasons."""
    writes = {value: kernel.name for kernel in program.plan.kernels for value in kernel.writes}
    inside: dict[str, list[str]] = defaultdict(list)
    for kernel in program.plan.kernels:
        for name in kernel.layers:
            inside[name].append(kernel.name)
    rows = []
    for d in program.plan.decisions:
        behind = sum(name in homes.backward for name in (d.producer, d.consumer))
        together = [k for k in inside[d.consumer] if k in inside[d.producer]]
        rows.append({
            "producer": d.producer, "consumer": d.consumer, "fused": d.fused, "why": d.text,
            "from_layer": homes.layer(d.producer), "to_layer": homes.layer(d.consumer),
            "pass": ("forward", "saved", "backward")[behind],
            "stored_by": writes.get(d.producer),
            "kernels": together if d.fused and together else inside[d.consumer][:1],
        })  # fmt: skip
    return rows


def _layers(homes: Homes) -> dict[str, dict[str, Any]]:
    """The declared layers, and those that passes made: what they are, and the kernels that compute them."""
    plan, declared = homes.plan, homes.declared
    kernels: dict[str, list[str]] = defaultdict(list)
    for kernel in plan.kernels:
        for name in kernel.layers:
            kernels[name].append(kernel.name)
    anchored = {kernel.anchor.name: kernel.name for kernel in plan.kernels}

    def computing(names: list[str]) -> list[str]:
        mains = [anchored[name] for name in names if name in anchored]
        return list(dict.fromkeys([*mains, *(k for name in names for k in kernels[name])]))

    shared: dict[str, list[str]] = defaultdict(list)  # nodes of what passes made of a layer and others
    for node in plan.graph.nodes:
        for other in homes.made_of(node.name)[1:]:
            shared[other].append(node.name)
    rows = {}
    for layer, nodes in homes.nodes.items():
        names = [*(node.name for node in nodes), *shared[layer]]
        own_node = declared.by_name.get(layer)
        known = declared.types.get(layer) or plan.graph.types.get(layer)
        own = [name for name in names if name == layer]
        rest = [name for name in names if name not in homes.backward and name != layer]
        rows[layer] = {
            "op": own_node.op if own_node else nodes[0].op,
            "type": str(known) if known is not None else "",
            "declared": own_node is not None,
            "inputs": _inputs(homes, layer),
            "forward": computing([*own, *rest]),
            "backward": computing([name for name in names if name in homes.backward]),
        }
    return rows


def _inputs(homes: Homes, layer: str) -> list[str]:
    """The layers that a layer was declared to read, or, of one that passes made, those that it reads."""
    graph, node = homes.plan.graph, homes.declared.by_name.get(layer)
    if node is not None:
        return list(dict.fromkeys(v for v in node.inputs if homes.declared.by_name[v].row.source is None))
    read = (v for n in homes.nodes[layer] if n.name not in homes.backward for v in n.inputs)
    return list(dict.fromkeys(name for v in read if graph.by_name[v].row.source is None
                              and v not in homes.backward and (name := homes.layer(v)) != layer))  # fmt: skip


def _scopes(homes: Homes, kernels: list[dict[str, Any]]) -> dict[str, Any]:
    """The tree of scopes, each with the figures of the kernels whose anchors lie in it."""
    by_layer: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for kernel in kernels:
        by_layer[kernel["layer"]].append(kernel)

    def tree(scope: Scope) -> dict[str, Any]:
        mine = [kernel for layer in scope.every_layer() for kernel in by_layer[layer]]
        return {
            "path": scope.path,
            "members": [member if isinstance(member, str) else tree(member) for member in scope.members],
            "layers": sum(1 for _ in scope.every_layer()),
            "kernels": len(mine),
            "launches": sum(len(kernel["launches"]) for kernel in mine),
            "dram_bytes": sum(kernel["dram_bytes"] for kernel in mine),
            "unfused_launches": sum(kernel["unfused_launches"] for kernel in mine),
            "unfused_bytes": sum(kernel["unfused_bytes"] for kernel in mine),
            "predicted_us": round(sum(kernel["predicted_us"] for kernel in mine), 3),
            "simulated_us": _total(kernel["simulated_us"] for kernel in mine),
        }

    return tree(homes.scope)


def _saved(program: Program, homes: Homes) -> list[dict[str, Any]]:
    """What the forward pass stores for the backward pass: the value, its bytes, its layer, and who reads it."""
    plan, rows = program.plan, []
    readers: dict[str, list[str]] = defaultdict(list)
    for kernel in plan.kernels:
        if kernel.anchor.name in homes.backward:
            for value in kernel.reads:
                readers[plan.place(value).buffer].append(kernel.anchor.name)
    for value in plan.kept:
        rows.append({
            "value": value, "bytes": program.buffers[value].bytes(program.batch), "layer": homes.layer(value),
            "readers": list(dict.fromkeys(homes.layer(name) for name in readers[value])),
        })  # fmt: skip
    return rows


def _arena(program: Program) -> dict[str, Any]:
    """Where each buffer of the arena lies, in bytes, and from which launch to which."""
    starts, whole = program.arena()
    kept = set(program.plan.kept)
    return {
        "bytes": whole,
        "buffers": [
            {"name": name, "start": starts[name], "bytes": program.buffers[name].bytes(program.batch), "first": first,
             "last": last, "what": "saved" if name in kept else "partial" if ":" in name else "value"}
            for name, (first, last) in program.lives.items()
        ],
    }  # fmt: skip
