"""A network layer by layer: operation, output shape, parameters, multiply-adds and bytes, with totals."""

from __future__ import annotations

import argparse
from math import prod
from typing import TYPE_CHECKING, Any

from ..ir.table import Source
from .arguments import add_model, dtype, load_graph, whole

if TYPE_CHECKING:
    from tricnn.ir import Graph

EXAMPLES = """\
examples:
  tricnn show lenet
  tricnn show resnet18 --batch 32 --dtype bf16
  tricnn show resnet50 --all                            a row for every layer, not for every block
  tricnn show vgg16 --input 3,32,32 --classes 10        at CIFAR's size
  tricnn show vgg16 --text > mine.txt                   as text, to change and give to any command
  tricnn show mine.txt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--batch", type=whole(1), default=1, metavar="N", help="images in a batch (1)")
    parser.add_argument("--dtype", type=dtype, default="fp32", metavar="D", help="how activations are stored (fp32)")
    parser.add_argument("--all", action="store_true", help="a row for every layer, also of large networks")
    parser.add_argument("--text", action="store_true", help="the graph's text form instead of the table")


def run(options: argparse.Namespace) -> int:
    from tricnn.machine.dtypes import check_dtype

    from ..report import tables
    from ..report.figures import plural, size
    from ..report.similar import MOST_ROWS, parts
    from .screen import Screen

    screen = Screen(options.json)
    check_dtype(options.dtype)
    with screen.waiting(f"reading {options.model}"):
        graph = load_graph(options)
        shown = describe(graph, options.batch, options.dtype)
    if options.json:
        screen.json(shown)
    elif options.text:
        print(graph, end="")
    else:
        said = (
            f"parameters {shown['parameters']:,} ({size(shown['parameter_bytes'])} in fp32); "
            f"{shown['macs_per_image']:,} multiply-adds an image; bytes are of each layer's output",
            *notes(graph),
        )
        count = len(shown["layers"])
        rows = shown["layers"] if options.all or count <= MOST_ROWS else parts(shown["layers"])
        table = tables.layers({**shown, "layers": rows})
        if len(rows) == count:
            screen.show(table, *said)
        else:
            kinds = (
                f"{plural(count, 'layer')} in {plural(len(rows), 'part')}, a row each; --all: a row for every layer\n"
            )
            screen.show(*said, kinds, table)
    return 0


def notes(graph: Graph) -> list[str]:
    """What is done to images before the network sees them, and what else published weights expect."""
    from tricnn.graphs.published import about_images

    lines = []
    for node in graph.inputs:
        for name, what in (("scale", "multiplied by"), ("shift", "then moved by")):
            if numbers := node.attrs[name]:
                lines.append(f"{node.name}: {what} {', '.join(f'{x:.4g}' for x in numbers)}, by channel, as it comes")
    return [*lines, *filter(None, [about_images(graph)])]


def describe(graph: Graph, batch: int, dtype: str) -> dict[str, Any]:
    """One row for each node that computes; parameters count for the first layer that reads them."""
    from tricnn.lower.program import element
    from tricnn.machine.dtypes import BYTES, DTYPES

    storage, counted, rows = DTYPES[dtype][0], set(), []
    for node in graph.nodes:
        if node.row.source not in (None, Source.INPUT):
            continue
        owned = [v for v in node.inputs if graph.by_name[v].row.source is Source.PARAMETER and v not in counted]
        counted.update(owned)
        type_ = graph.types[node.name]
        rows.append({
            "name": node.name,
            "op": node.op,
            "inputs": [v for v in node.inputs if graph.by_name[v].row.source not in (Source.PARAMETER, Source.BUFFER)],
            "output_shape": list(type_.at(batch)),
            "parameters": sum(prod(graph.types[v].per_image) for v in owned),
            "macs": graph.node_macs(node) * batch,
            "bytes": type_.elements(batch) * BYTES[element(type_, storage)],
        })  # fmt: skip
    return {
        "graph": graph.name,
        "batch": batch,
        "dtype": dtype,
        "parameters": graph.num_parameters,
        "parameter_bytes": graph.num_parameters * 4,
        "macs": graph.macs * batch,
        "macs_per_image": graph.macs,
        "activation_bytes": sum(r["bytes"] for r in rows),
        "input_transform": {n.name: {k: list(n.attrs[k]) for k in ("scale", "shift")} for n in graph.inputs},
        "layers": rows,
    }
