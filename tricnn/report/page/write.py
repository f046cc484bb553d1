"""The page itself: one file of HTML, without a reference to anything outside it."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..figures import brief, plural, scaled, size, times
from . import charts
from .highlight import highlighted
from .network_picture import Network

HERE = Path(__file__).parent


@cache
def environment() -> Environment:
    """The templates' environment, which escapes every text that they are given."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "size": size,
        "scaled": scaled,
        "times": times,
        "highlighted": highlighted,
        "hue": hue,
        "breakable": breakable,
    }
    made.filters |= {"packed": packed, "tail": tail, "kernel_number": lambda name: name.partition("_")[0]}
    made.filters |= {"plural": lambda noun, count: plural(count, noun), "us": lambda us: brief(us / 1e6)}
    made.globals |= {"css": asset("page.css"), "js": asset("page.js")}
    return made


@cache
def asset(name: str) -> Markup:
    """A file of ``assets/``, to stand in the page as it is."""
    return Markup((HERE / "assets" / name).read_text(encoding="utf-8"))


def hue(kernel: str) -> int:
    """The colour of a kernel, in degrees: by its number, neighbours far apart (the golden angle)."""
    digits = kernel.partition("_")[0].removeprefix("k")
    return round(int(digits) * 137.508) % 360 if digits.isdigit() else 0


def node_colours(facts: Mapping[str, Any]) -> Markup:
    """The style rules that give the first, second, ... node of a kernel its colour: neighbours are far apart."""
    most = max((len(kernel["nodes"]) for kernel in facts["kernels"]), default=0)
    rules = (f'[data-n="{n}"]{{--h:{round(210 + (n - 1) * 137.508) % 360}}}' for n in range(1, most + 1))
    return Markup("".join(rules))


def breakable(text: str) -> Markup:
    """A text in which a line may end behind a point or a bracket, where it has no room."""
    return Markup("<wbr>").join(re.split(r"(?<=[.(])(?=\w)", text))


def tail(layer: str, scope: str) -> str:
    """A layer's name without the scope in which it is shown."""
    return layer.removeprefix(f"{scope}.") if scope else layer


def page(
    facts: Mapping[str, Any],
    verification: Mapping[str, Any] | None = None,
    machine_code: Mapping[str, Any] | None = None,
) -> str:
    """The page of one network as HTML, from what facts.py gathered.
    If the network was verified, it has the object of ``verify --json``; and, where it was asked for, what
    machine_code.py has of some functions."""
    edges: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for edge in facts["edges"]:
        for kernel in edge["kernels"]:
            edges[kernel].append(edge)
    readers: dict[str, list[str]] = defaultdict(list)
    for kernel in facts["kernels"]:
        for value in kernel["reads"]:
            readers[value].append(kernel["name"])
    scope_paths: set[str] = set()
    parts = [facts["scopes"]]
    for part in parts:
        scope_paths.add(part["path"])
        parts += [member for member in part["members"] if not isinstance(member, str)]
    return environment().get_template("page.html").render(
        **facts, edges_of=edges, readers=readers, verification=verification, sidecar=packed(facts),
        scope_paths=scope_paths, node_colours=node_colours(facts),
        network=Network(facts), bars=charts.bars(facts), roofline=charts.roofline(facts),
        arena_chart=charts.arena(facts), compiled=any("registers" in f for f in facts["functions"].values()),
        machine_code=machine_code or {"functions": {}, "templates": {}},
        by_name={kernel["name"]: kernel for kernel in facts["kernels"]},
    )  # fmt: skip


def packed(found: Any) -> str:
    """An object, compressed, in letters and digits.
    A page carries its own facts so that it can be compared with another one, and machine code, which scripts inflate.
    """
    return base64.b64encode(zlib.compress(json.dumps(found, separators=(",", ":")).encode(), 9)).decode()
