"""The architectures, each with its parameters and the multiply-adds of one image."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  tricnn list
  tricnn list --json | jq '.architectures[] | select(.parameters < 1e7) | .name'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options: the command has none of its own."""


def run(options: argparse.Namespace) -> int:
    from tricnn.graphs import ARCHITECTURES

    from ..report import tables
    from .screen import Screen

    screen = Screen(options.json)
    rows = []
    for name, declare in ARCHITECTURES.items():
        graph = declare()
        rows.append({
            "name": name,
            "parameters": graph.num_parameters,
            "macs_per_image": graph.macs,
            "input": list(graph.types[graph.inputs[0].name].per_image),
            "classes": graph.types[graph.outputs[0].value].channels,
            "about": (declare.__doc__ or "").strip().partition("\n")[0],
        })  # fmt: skip
    screen.json({"architectures": rows})
    screen.show(tables.architectures(rows, screen.out.width))
    return 0
