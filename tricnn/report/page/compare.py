"""Two reports side by side: what changed from one commit, policy or target to another."""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...system.errors import DataError
from ...system.files import read_at_most
from ...system.limits import LARGEST_REPORT
from .facts import FORMAT
from .write import environment

CARRIED = re.compile(rb'id="tricnn-report">([A-Za-z0-9+/=]+)<')
NUMBER = re.compile(r"\bk\d+_")
ABOUT = ("graph", "mode", "batch", "dtype", "target", "fuse", "version")
TOTALS = ("launches", "dram_bytes", "flops", "peak_memory_bytes", "predicted_us", "simulated_us")
FIGURES = ("dram_bytes", "flops", "predicted_us", "simulated_us")
CODE = ("registers", "spill_bytes", "shared_bytes", "tile", "warps", "stages")


def read(path: Path) -> dict[str, Any]:
    """The object of a page that ``tricnn report`` wrote, or of a file with what its ``--json`` printed.

    Raises DataError, naming the file, for anything else.
    """
    try:
        raw = read_at_most(path, LARGEST_REPORT)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(raw) > LARGEST_REPORT:
        raise DataError(f"{path}: more than {LARGEST_REPORT >> 20} MB; a report is smaller")
    carried = CARRIED.search(raw)
    if carried is None and not raw.lstrip().startswith(b"{"):
        raise DataError(f"{path}: not a page that tricnn report wrote, nor an object that its --json printed")
    try:
        if carried is not None:
            raw = zlib.decompressobj().decompress(base64.b64decode(carried[1]), LARGEST_REPORT)
        facts = json.loads(raw)
    except (ValueError, zlib.error, binascii.Error, RecursionError):
        raise DataError(f"{path}: damaged: what it carries is not a report") from None
    if not isinstance(facts, dict) or facts.get("tricnn_report") != FORMAT:
        found = facts.get("tricnn_report") if isinstance(facts, dict) else None
        raise DataError(f"{path}: a report of format {found}; this tricnn compares format {FORMAT}: write it anew")
    return facts


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What changed from one report to another: totals, kernels, edges and source.
    Kernels are found again by the layer of their main operation, whatever their number. Edges are those that are fused
    in one report only, and source is compared without the numbers of kernels."""
    olds, news = ({_key(k["name"]): k for k in facts["kernels"]} for facts in (before, after))
    kernels = []
    for key in dict.fromkeys([*olds, *news]):
        old, new = (_kernel(facts, own.get(key)) for facts, own in ((before, olds), (after, news)))
        what = "gone" if new is None else "new" if old is None else "same" if old == new else "changed"
        kernels.append({"kernel": key, "what": what, "before": old, "after": new})
    return {
        "before": {key: before[key] for key in ABOUT},
        "after": {key: after[key] for key in ABOUT},
        "totals": {key: [before[key], after[key]] for key in TOTALS},
        "kernels": kernels,
        "edges": _edges(before, after),
        "sources": _sources(before, after),
    }


def _key(name: str) -> str:
    """A kernel's name without its number."""
    return name.partition("_")[2] or name


def _kernel(facts: Mapping[str, Any], kernel: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is compared of a kernel."""
    if kernel is None:
        return None
    function = facts["functions"][facts["launch_rows"][kernel["launches"][0]]["function"]]
    code = {key: function[key] for key in CODE if key in function}
    return {
        "launches": len(kernel["launches"]), **{key: kernel[key] for key in FIGURES}, **code,
        "layers": [node["name"] for node in kernel["nodes"]],
    }  # fmt: skip


def _edges(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The edges of both that are fused in one of them only."""
    olds, news = ({(e["producer"], e["consumer"]): e for e in facts["edges"]} for facts in (before, after))
    return [
        {"producer": a, "consumer": b, "fused": news[a, b]["fused"], "before": olds[a, b]["why"],
         "after": news[a, b]["why"]}
        for a, b in olds if (a, b) in news and olds[a, b]["fused"] != news[a, b]["fused"]
    ]  # fmt: skip


def _sources(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Functions whose source differs, as a unified diff; new ones and those that are gone as such."""
    olds, news = (
        {_key(name): NUMBER.sub("k_", f["source"]).splitlines() for name, f in facts["functions"].items()}
        for facts in (before, after)
    )
    rows = []
    for name in dict.fromkeys([*olds, *news]):
        if olds.get(name) != news.get(name):
            lines = difflib.unified_diff(olds.get(name, []), news.get(name, []), lineterm="", n=3)
            rows.append({"function": name, "diff": [*lines][2:]})
    return rows


def diff_page(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """The comparison as a page. ``names``: what the two reports are called."""
    return environment().get_template("diff.html").render(**found, names=names, CODE=CODE)
