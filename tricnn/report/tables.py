"""The command line's tables, as rich renders them. Every cell is plain text: nothing in a name is markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..lower.program import Program
from .figures import brief, milliseconds, plural, scaled, size, times
from .fit import Words


def table(title: str, *columns: str) -> Table:
    """A table of ours, without rows.
    A column whose name starts with ``>`` holds figures (right-aligned, never broken), with ``<`` short words, which are
    treated like figures. fit.py finds the layout for a terminal."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(
            name.lstrip("<>"), justify="right" if name.startswith(">") else "left", no_wrap=name.startswith(("<", ">"))
        )
    return made


def row(made: Table, *cells: Any, style: str = "") -> None:
    """Add a row; cells are shown as they are."""
    texts = [c if isinstance(c, Text) else Text(str(c)) for c in cells]
    made.add_row(*[t if c.no_wrap else Words(t) for t, c in zip(texts, made.columns, strict=True)], style=style)


def architectures(rows: Sequence[Mapping[str, Any]], width: int = 140) -> Table:
    """``tricnn list``; below 120 columns without what they are."""
    about = ["what it is"] if width >= 120 else []
    columns = ("name", ">parameters", ">multiply-\nadds", ">input", ">classes", *about)
    made = table(plural(len(rows), "architecture"), *columns)
    for r in rows:
        shape = "x".join(map(str, r["input"]))
        costs = f"{r['parameters']:,}", scaled(r["macs_per_image"])
        row(made, r["name"], *costs, shape, f"{r['classes']:,}", *([r["about"]] if about else []))
    return made


def layers(shown: Mapping[str, Any]) -> Table:
    """``tricnn show``: one layer a row, or one part of the network (similar.py), totals below."""
    batch, rows = shown["batch"], shown["layers"]
    made = table(
        f"{shown['graph']}, {plural(batch, 'image')}, activations in {shown['dtype']}",
        "layer", "operation", ">output", ">parameters", ">multiply-\nadds", ">bytes",
    )  # fmt: skip
    made.show_footer = True
    for r in rows:
        operation = r["op"] if r.get("count", 1) == 1 else plural(r["count"], "layer")
        shape = "x".join(map(str, r["output_shape"])) or "1"
        parameters = f"{r['parameters']:,}" if r["parameters"] else ""
        row(made, r["name"], operation, shape, parameters, scaled(r["macs"]) if r["macs"] else "", size(r["bytes"]))
    totals = ["total", plural(sum(r.get("count", 1) for r in rows), "layer"), "", f"{shown['parameters']:,}",
              scaled(shown["macs"]), size(shown["activation_bytes"])]  # fmt: skip
    for column, text in zip(made.columns, totals, strict=True):
        column.footer = Text(text)
    return made


def kernels(
    compiled: Mapping[str, Any], replaced: Mapping[str, tuple[int, int]] | None = None, width: int = 140
) -> Table:  # fmt: skip
    """The table of ``tricnn compile``: kernels, and the layers that each computes.
    ``replaced`` gives for each kernel the launches and bytes of the same layers, one kernel each. Below 120 columns
    unfused figures and spills stand below the others. Rows that similar.py made stand for several kernels."""
    rows, wide, beside = compiled["kernels"], width >= 120, replaced is not None
    bulk = any(k["bulk_copy"] for k in rows)
    columns = [">launches", ">bytes", *([">unfused\nlaunches", ">unfused\nbytes"] if beside else [])]
    columns += [">registers", ">spills"]
    if not wide:
        columns = [*([">launches\n(unfused)", ">bytes\n(unfused)"] if beside else columns[:2]), ">registers\nspills"]
    columns += [">tensor\ncores", *([">bulk\ncopies"] if bulk else [])]
    how = f"{compiled['mode']}, {compiled['dtype']}, batch {compiled['batch']}"
    made = table(f"{compiled['graph']} for {compiled['target']}: {how}", "kernel", "layers it computes", *columns)
    made.show_footer = True

    def figures(own: tuple[int, int], other: tuple[int, int] | None, registers: str, spilled: int) -> list[str]:
        first = [f"{own[0]:,}", size(own[1])]
        unfused = ["", ""] if other is None or not other[0] else [f"{other[0]:,}", size(other[1])]
        if wide:
            return [*first, *(unfused if beside else []), registers, size(spilled)]
        below = [f"({u})" if u else "" for u in unfused]
        return [*(f"{f}\n{u}".rstrip() for f, u in zip(first, below, strict=True)), f"{registers}\n{size(spilled)}"]

    for k in rows:
        count, members = k.get("count", 1), k.get("members", [k["name"]])
        others = [(replaced or {}).get(name, (0, 0)) for name in members]
        other = sum(launches for launches, _ in others), sum(volume for _, volume in others)
        name = k["name"] if count == 1 else f"{k['name']} and {count - 1} like it"
        facts = figures((k["launches"], k["dram_bytes"]), other, str(k["registers"]), k["spill_bytes"])
        units = [_some(k["tensor_core"], count), *([_some(k["bulk_copy"], count)] if bulk else [])]
        row(made, name, ", ".join(k["layers"]), *facts, *units, style="red" if k["spill_bytes"] else "")
    unfused = compiled["unfused"]
    plain = (unfused["launches"], unfused["dram_bytes"]) if beside else None
    whole = sum(k.get("count", 1) for k in rows)
    totals = figures((compiled["launches"], compiled["dram_bytes"]), plain, "", sum(k["spill_bytes"] for k in rows))
    totals += [f"{sum(k[key] for k in rows)} of {whole}" for key in ("tensor_core", *(["bulk_copy"] if bulk else []))]
    for column, text in zip(made.columns, ["total", "", *totals], strict=True):
        column.footer = Text(text)
    return made


def simulated(compiled: Mapping[str, Any]) -> Table:
    """``tricnn compile --simulate``: each kernel's simulated time, the longest first, beside its limit."""
    how = f"{compiled['mode']}, {compiled['dtype']}, batch {compiled['batch']}"
    made = table(
        f"{compiled['graph']}: simulated for {compiled['simulator']['gpu']}, not measured ({how})",
        "kernel", ">launches", ">simulated", ">limit", "<by", ">share", "waits longest for",
    )  # fmt: skip
    for k in sorted(compiled["kernels"], key=lambda k: -(k["simulated_us"] or 0)):
        limit = brief(k["limit_us"] / 1e6)
        if k["simulated_us"] is None:
            row(made, k["name"], k["launches"], "?", limit, k["limit"], "", "", style="red")
            continue
        why = f"{k['waits_for']} ({k['waits_share']:.0%})"
        us = brief(k["simulated_us"] / 1e6)
        row(made, k["name"], k["launches"], us, limit, k["limit"], f"{k['share']:.2f}", why)
    return made


def _some(count: int, of: int) -> str:
    """How many kernels of a row do something: ``yes``, if all do, and nothing, if none does."""
    return "" if not count else "yes" if count == of else f"{count:d} of {of}"


EXAMPLES = 2  # edges of one group that are shown; --all has all, and so has --json


def edges(title: str, rows: Iterable[Mapping[str, Any]], fused: bool) -> Table:
    """``tricnn explain``: the edges that were fused, or that were not, one rule or kind of reason a group."""
    saved = [">bytes not\nread", ">time\nsaved"] if fused else []
    made = table(title, "rule" if fused else "reason", "from -> to", ">edges", *saved)
    for why, members in sorted(_groups(rows).items(), key=lambda item: (-_saved(item[1]), -len(item[1]))):
        names = [f"{r['producer']} -> {r['consumer']}" for r in members[:EXAMPLES]]
        more = f", and {len(members) - EXAMPLES} more" if len(members) > EXAMPLES else ""
        figures = [size(_saved(members)), _time(members)] if fused else []
        row(made, why, ", ".join(names) + more, f"{len(members):,}", *figures)
    return made


def each_edge(title: str, rows: Iterable[Mapping[str, Any]], fused: bool, width: int = 140) -> Table:
    """``tricnn explain --all``: one edge a row."""
    made = table(title, "from -> to", "rule" if fused else "reason", *([">bytes not\nread"] if fused else []))
    for r in rows:
        bytes_saved = [size(r["bytes_saved"])] if fused else []
        row(made, f"{r['producer']} -> {r['consumer']}", r["rule"] if fused else r["reason"], *bytes_saved)
    return made


def not_shown(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many edges :func:`edges` only counts."""
    return sum(max(0, len(members) - EXAMPLES) for members in _groups(rows).values())


def _groups(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for r in rows:
        groups.setdefault(r["rule"] if r["fused"] else r["kind"], []).append(r)
    return groups


def _time(rows: Iterable[Mapping[str, Any]]) -> str:
    """The predicted time that a group of edges saves: that of a value once, however many kernels recompute it."""
    each = {r["producer"]: r["predicted_us_saved"] for r in rows if "predicted_us_saved" in r}
    return f"{sum(each.values()):,.1f} us" if each else ""


def sites(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """The table of ``tricnn explain``: the values that could be recomputed wherever they are read, but are stored.
    One operation is a row."""
    made = table(title, "operation", "values", ">how\nmany", ">recomputed", ">stored")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for r in rows:
        groups.setdefault(r["op"], []).append(r)
    for op, members in groups.items():
        names = ", ".join(r["value"] for r in members[:EXAMPLES])
        more = f", and {len(members) - EXAMPLES} more" if len(members) > EXAMPLES else ""
        row(made, op, names + more, len(members), *_prices(members))
    return made


def each_site(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """``tricnn explain --all``: one value that is stored a row."""
    made = table(title, "value", "operation", ">recomputed", ">stored")
    for r in rows:
        row(made, r["value"], r["op"], *_prices([r]))
    return made


def _prices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The predicted times of the kernels that values concern, recomputing and storing them."""
    return [f"{sum(r[f'predicted_us_{how}'] for r in rows):,.1f} us" for how in ("recomputed", "stored")]


def _saved(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(r["bytes_saved"] for r in rows)


def checks(verified: Mapping[str, Any], most: int | None = None) -> Table:
    """The table of ``tricnn verify``: one value that went through memory a row.
    Of more than ``most`` it has those that fail and those nearest to their tolerance."""
    rows = verified["checks"]
    if most is not None and len(rows) > most:
        rows = sorted(rows, key=_nearness, reverse=True)[: max(NEAREST, sum(not c["ok"] for c in rows))]
    made = table(
        f"{verified['graph']}: {verified['mode']}, {verified['dtype']}, {plural(verified['batch'], 'image')}, "
        f"on {verified['device']}, against float64 NumPy",
        "kernel", "value", ">largest\nerror", ">tolerance", ">of it", ">relative", "<",
    )  # fmt: skip
    for c in rows:
        error, share = "not a number", ""
        if c["error"] is not None:
            error, share = f"{c['error']:.2e}", f"{c['error'] / c['tolerance']:.1%}" if c["tolerance"] else ""
        mark = Text("ok", style="green") if c["ok"] else Text("FAILS", style="bold red")
        row(made, c["kernel"], c["value"], error, f"{c['tolerance']:.2e}", share, f"{c['relative']:.0e}", mark)
    return made


NEAREST = 12  # values shown of a network with many


def _nearness(check: Mapping[str, Any]) -> float:
    """How much of its tolerance a value's error is; more than all others where it fails."""
    if not check["ok"] or check["error"] is None:
        return float("inf")
    return float(check["error"] / check["tolerance"]) if check["tolerance"] else 0.0


def counted(verified: Mapping[str, Any]) -> Table:
    """``tricnn verify --count-bytes``: one launch a row, what was counted below what was planned."""
    made = table(
        "bytes that each launch moves: planned, and, below, counted as it ran",
        "launch", "kind", ">read and\nwritten", ">loaded", ">loaded\n/ read", "<",
    )  # fmt: skip
    for c in verified["bytes"]:
        planned, found = c["planned"], c["counted"]
        mark = Text("ok", style="green") if c["ok"] else Text("DIFFERS", style="bold red")
        figures = [f"{planned[key]:,}\n{found[key]:,}" for key in ("dram_bytes", "loaded_bytes")]
        overlap = times(found["loaded_bytes"] / max(1, found["read_bytes"]))
        row(made, c["launch"], c["kind"], *figures, overlap, mark)
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


def differences(found: Mapping[str, Any], names: Sequence[str]) -> Table:
    """``tricnn report --diff``: totals of two reports."""
    show: dict[str, Callable[[float], str]] = {"launches": "{:,}".format, "flops": scaled}
    show |= {"dram_bytes": size, "peak_memory_bytes": size}
    made = table(f"{names[0]} and {names[1]}", "", ">before", ">after")
    for key, (old, new) in found["totals"].items():
        if old is not None or new is not None:
            told = show.get(key, lambda us: brief(us / 1e6))
            row(made, key, *("" if value is None else told(value) for value in (old, new)))
    return made


def tuning(tuned: Mapping[str, Any]) -> Table:
    """``tricnn tune``: one problem a row, those that take longest first."""
    rows, dry = tuned["problems"], tuned["dry_run"]
    how = f"{tuned['mode']}, {tuned['dtype']}, batch {tuned['batch']}"
    columns = ["kind", "problem", ">launches", ">tiles", ">least", "the rule's tile"]
    columns += [] if dry else [">measured", "the fastest tile", ">measured"]
    made = table(f"{tuned['graph']} for {tuned['target']}: {how}", *columns)
    for r in rows:
        cells = [r["kind"], r["shape"], r["launches"], len(r["candidates"]),
                 brief(r["least_us"] / 1e6), r["rule"]]  # fmt: skip
        if not dry:
            us, best = r["us"], r["winner"] or r["rule"]
            cells += [f"{us[name]:.1f} us" if name in us else "" for name in (r["rule"],)]
            cells += [r["winner"] or "", f"{us[best]:.1f} us" if r["winner"] else ""]
        row(made, *cells)
    return made


def stale(program: Program) -> str:
    """What is said of a program whose functions pass over tuned tiles."""
    count = plural(len(program.passed), "function")
    return f"{count} passed over a tuned tile of the same problem: it was found for other code, or an older one"


def predictions(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Exact figures of several networks and the time predicted for them, fused beside unfused."""
    made = table("Exact figures, and the time predicted for them (not measured)", "network", "mode", ">batch",
                 ">launches", ">unfused", ">bytes", ">unfused", ">time", ">unfused")  # fmt: skip
    for r in rows:
        fused, unfused = r["fused"], r["unfused"]
        row(
            made, r["network"], r["mode"], r["batch"], f"{fused['launches']:,}", f"{unfused['launches']:,}",
            size(fused["dram_bytes"]), size(unfused["dram_bytes"]), brief(fused["predicted_us"] / 1e6),
            brief(unfused["predicted_us"] / 1e6),
        )  # fmt: skip
    return made


def predicted(rows: Sequence[Mapping[str, Any]], title: str, shown: int = 15) -> Table:
    """The kernels that are predicted to take longest, and what they spend that time on."""
    made = table(title, "kernel", ">launches", ">bytes", ">operations", ">time", "limited by")
    for r in rows[:shown]:
        row(made, r["name"], r["launches"], size(r["dram_bytes"]), scaled(r["flops"]),
            brief(r["predicted_us"] * 1e-6), r["bound"])  # fmt: skip
    rest = rows[shown:]
    if rest:
        launches, moved, flops, us = (
            sum(r[k] for r in rest) for k in ("launches", "dram_bytes", "flops", "predicted_us")
        )
        row(made, plural(len(rest), "other"), launches, size(moved), scaled(flops), brief(us * 1e-6), "")
    return made


def timings(rows: Sequence[Mapping[str, Any]], title: str, baseline: str) -> Table:
    """Median times of one run, side by side."""
    memory = any(r.get("peak_bytes") for r in rows)
    made = table(title, "", ">median", ">fastest", ">images/s", f">time / {baseline}", *[">peak memory"] * memory)
    base = next((r["median_seconds"] for r in rows if r["name"] == baseline and r.get("median_seconds")), None)
    for r in rows:
        if r.get("error"):
            row(made, r["name"], "failed", "", "", "", *[""] * memory, style="red")
            continue
        ratio = times(r.get("ratio", r["median_seconds"] / base)) if base else ""
        row(
            made, r["name"], milliseconds(r["median_seconds"]), milliseconds(r["fastest_seconds"]),
            f"{r['images_per_second']:,.0f}", ratio, *[size(r.get("peak_bytes", 0))] * memory,
        )  # fmt: skip
    return made
