"""The command line's tables, as rich renders them. Every cell is plain text: nothing in a name is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from .figures import milliseconds, plural, scaled, size, times


def table(title: str, *columns: str) -> Table:
    """A table of ours; a column whose name starts with ``>`` holds figures (right-aligned, never broken)."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        made.add_column(
            name.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )  # fmt: skip
    return made


def row(made: Table, *cells: Any, style: str = "") -> None:
    """Add a row; cells are shown as they are."""
    made.add_row(*[c if isinstance(c, Text) else Text(str(c)) for c in cells], style=style)


def architectures(rows: Sequence[Mapping[str, Any]]) -> Table:
    """``tricnn list``."""
    made = table(
        plural(len(rows), "architecture"), "name", ">parameters", ">multiply-adds", ">input", ">classes", "what it is"
    )
    for r in rows:
        shape = "x".join(map(str, r["input"]))
        row(made, r["name"], f"{r['parameters']:,}", scaled(r["macs_per_image"]), shape, f"{r['classes']:,}", r["about"])
    made.columns[0].no_wrap = True
    return made


def layers(shown: Mapping[str, Any]) -> Table:
    """``tricnn show``: one layer a row, totals below."""
    batch = shown["batch"]
    made = table(
        f"{shown['graph']}, {plural(batch, 'image')}, activations in {shown['dtype']}",
        "layer", "operation", ">output", ">parameters", ">multiply-adds", ">bytes",
    )  # fmt: skip
    made.show_footer = True
    for r in shown["layers"]:
        shape = "x".join(map(str, r["output_shape"])) or "1"
        row(
            made, r["name"], r["op"], shape, f"{r['parameters']:,}" if r["parameters"] else "",
            scaled(r["macs"]) if r["macs"] else "", size(r["bytes"]),
        )  # fmt: skip
    totals = ["total", plural(len(shown["layers"]), "layer"), "", f"{shown['parameters']:,}",
              scaled(shown["macs"]), size(shown["activation_bytes"])]  # fmt: skip
    for column, text in zip(made.columns, totals, strict=True):
        column.footer = Text(text)
    return made


def kernels(
    compiled: Mapping[str, Any], replaced: Mapping[str, tuple[int, int]] | None = None, width: int = 140
) -> Table:  # fmt: skip
    """``tricnn compile``: layers -> kernels. ``replaced`` gives for each kernel the launches and bytes of the same
    layers, one kernel each. Below 120 columns a kernel's layers are written under its name."""
    rows, wide = compiled["kernels"], width >= 120
    bulk = any(k["bulk_copy"] for k in rows)
    columns = ["kernel", "layers it computes"] if wide else ["kernel, layers it computes"]
    columns += [">launches", ">bytes"]
    columns += [">unfused\nlaunches", ">unfused\nbytes"] if replaced is not None else []
    columns += [">registers", ">spills", ">tensor\ncores", *([">bulk\ncopies"] if bulk else [])]
    title = (
        f"{compiled['graph']} for {compiled['target']}: {compiled['mode']}, {compiled['dtype']}, batch {compiled['batch']}"
    )
    made = table(title, *columns)
    made.show_footer = True
    for k in rows:
        layers = ", ".join(k["layers"])
        cells: list[Any] = [k["name"], layers] if wide else [Text.assemble(k["name"], "\n", (f"  {layers}", "dim"))]
        cells += [k["launches"], size(k["dram_bytes"])]
        if replaced is not None:
            count, volume = replaced.get(k["name"], (0, 0))
            cells += [count or "", size(volume) if count else ""]
        cells += [k["registers"], size(k["spill_bytes"]), _yes(k["tensor_core"])]
        row(made, *cells, *([_yes(k["bulk_copy"])] if bulk else []), style="red" if k["spill_bytes"] else "")
    totals: list[Any] = ["total", *([""] if wide else []), compiled["launches"], size(compiled["dram_bytes"])]
    if replaced is not None:
        totals += [compiled["unfused"]["launches"], size(compiled["unfused"]["dram_bytes"])]
    totals += ["", size(sum(k["spill_bytes"] for k in rows)), f"{sum(k['tensor_core'] for k in rows)} of {len(rows)}"]
    totals += [f"{sum(k['bulk_copy'] for k in rows)} of {len(rows)}"] if bulk else []
    for column, text in zip(made.columns, totals, strict=True):
        column.footer = Text(str(text))
    return made


def _yes(flag: bool) -> str:
    return "yes" if flag else ""


def edges(title: str, rows: Iterable[Mapping[str, Any]], fused: bool) -> Table:
    """``tricnn explain``: the edges that were fused, or that were not, one rule or reason a group."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for r in rows:
        groups.setdefault(r["rule"] if fused else general(r), []).append(r)
    made = table(title, "rule" if fused else "reason", ">edges", "from -> to", *([">bytes saved"] if fused else []))
    for why, members in sorted(groups.items(), key=lambda item: (-_saved(item[1]), -len(item[1]))):
        names = [f"{r['producer']} -> {r['consumer']}" for r in members[:EDGES_SHOWN]]
        more = f", and {len(members) - EDGES_SHOWN} more" if len(members) > EDGES_SHOWN else ""
        row(made, why, len(members), ", ".join(names) + more, *([size(_saved(members))] if fused else []))
    return made


EDGES_SHOWN = 8  # of one group; --json has all


def general(edge: Mapping[str, Any]) -> str:
    """The reason why an edge was not fused, without the names of its ends, so that equal reasons make one group."""
    reason = str(edge["reason"])
    if reason.startswith(f"{edge['consumer']} "):
        reason = "the reader" + reason.removeprefix(edge["consumer"])
    found = re.match(r"the reader also waits for (\S+), ", reason)
    return reason.replace(found[1], "another value") if found else reason


def _saved(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(r["bytes_saved"] for r in rows)


def checks(verified: Mapping[str, Any]) -> Table:
    """``tricnn verify``: one value that went through memory a row."""
    made = table(
        f"{verified['graph']}: {verified['mode']}, {verified['dtype']}, {plural(verified['batch'], 'image')}, "
        f"on {verified['device']}, against float64 NumPy",
        "kernel", "value", ">largest error", ">tolerance", ">of it", "",
    )  # fmt: skip
    for c in verified["checks"]:
        error, share = "not a number", ""
        if c["error"] is not None:
            error, share = f"{c['error']:.2e}", f"{c['error'] / c['tolerance']:.1%}" if c["tolerance"] else ""
        mark = Text("ok", style="green") if c["ok"] else Text("FAILS", style="bold red")
        row(made, c["kernel"], c["value"], error, f"{c['tolerance']:.2e}", share, mark)
    made.columns[0].no_wrap = True
    return made


def static(figures: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Exact figures of a program, fused beside unfused."""
    made = table(title, "", ">fused", ">unfused", ">unfused / fused")
    fused, unfused = figures["fused"], figures["unfused"]
    for name, label, show in (
        ("launches", "kernel launches", "{:,}".format),
        ("dram_bytes", "bytes to and from memory", size),
        ("flops", "floating-point operations", scaled),
        ("peak_memory_bytes", "peak memory", size),
    ):
        ratio = unfused[name] / fused[name] if fused[name] else float("nan")
        row(made, label, show(fused[name]), show(unfused[name]), times(ratio))
    return made


def timings(rows: Sequence[Mapping[str, Any]], title: str, baseline: str) -> Table:
    """Median times of one run, side by side."""
    made = table(title, "", ">median", ">fastest", ">images/s", f">time / {baseline}")
    base = next((r["median_seconds"] for r in rows if r["name"] == baseline and r.get("median_seconds")), None)
    for r in rows:
        if r.get("error"):
            row(made, r["name"], "failed", "", "", r["error"][:60], style="red")
            continue
        ratio = times(r["median_seconds"] / base) if base else ""
        row(
            made, r["name"], milliseconds(r["median_seconds"]), milliseconds(r["fastest_seconds"]),
            f"{r['images_per_second']:,.0f}", ratio,
        )  # fmt: skip
    return made
