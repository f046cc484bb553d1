"""Plots of the benchmark: bars of each contender's time, and a roofline with every measured kernel under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..ir.table import OPS
from ..ir.wording import plural
from ..machine.machines import Machine
from ..system.errors import DataError

INK, FAINT = "#333333", "#dddddd"
COLOURS = ("#4c78a8", "#72b7b2", "#e45756", "#f58518", "#b279a2", "#54a24b")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("plots need matplotlib; pip install 'tricnn[plot]'") from None
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def bars(cases: Sequence[Mapping[str, Any]], path: Path, unit: str = "time / PyTorch eager") -> Path:
    """One group of bars a case (``name``, ``bars``: contender -> value), shorter is faster; a line at 1."""
    names = list(dict.fromkeys(name for case in cases for name in case["bars"]))
    count = sum(len(case["bars"]) for case in cases)
    figure = _figure(9, 1.2 + 0.24 * count + 0.25 * len(cases))
    axes = figure.subplots()
    row, ticks = 0.0, []
    for case in cases:
        first = row
        for name, value in case["bars"].items():
            axes.barh(row, value, height=0.85, color=COLOURS[names.index(name) % len(COLOURS)])
            axes.text(value, row, f" {value:.2f}", va="center", fontsize=7, color=INK)
            row += 1
        ticks.append((first + row - 1) / 2)
        row += 0.8
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(ticks, [case["name"] for case in cases], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(xlabel=f"{unit} (shorter is faster)")
    axes.set_title(f"{unit}, by network", loc="left", fontsize=10, color=INK)
    handles = [axes.barh(0, 0, color=COLOURS[i % len(COLOURS)]) for i in range(len(names))]
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def roofline(
    kernels: Sequence[Mapping[str, Any]], machine: Machine, dtype: str, path: Path, title: str
) -> Path:  # fmt: skip
    """A plot of every kernel at its operations per byte and per second, under the limits of a device; its path.
    A kernel has ``dram_bytes``, ``flops``, ``kind`` and measured ``seconds``, which its area stands for."""
    figure = _figure(8, 5)
    axes = figure.subplots()
    shown = [k for k in kernels if k["flops"] > 0 and k["dram_bytes"] > 0 and k["seconds"] > 0]
    top, ridge = machine.rate(dtype), machine.rate(dtype) / machine.bandwidth
    intensity = [k["flops"] / k["dram_bytes"] for k in shown]
    left, right = min([0.1, *intensity]) / 2, max([10 * ridge, *intensity]) * 2
    axes.plot([left, ridge, right], [left * machine.bandwidth, top, top], color=INK, linewidth=1.2)
    total = sum(k["seconds"] for k in shown) or 1.0
    for number, (kind, members) in enumerate(_by_kind(shown).items()):
        axes.scatter(
            [k["flops"] / k["dram_bytes"] for k in members], [k["flops"] / k["seconds"] for k in members],
            s=[12 + 1500 * k["seconds"] / total for k in members], alpha=0.65, linewidths=0,
            color=COLOURS[number % len(COLOURS)], label=kind,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(left, right), xlabel="operations per byte to or from memory")
    axes.set(ylabel="operations per second")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    text = f"{machine.name}: {machine.bandwidth / 1e12:.2f} TB/s, {top / 1e12:.0f} TFLOP/s in {dtype}; area: time"
    if idle := len(kernels) - len(shown):
        text += f"\nnot shown, for they only move data: {plural(idle, 'kernel')}"
    axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", fontsize=8, color=INK)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="lower right", markerscale=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def _by_kind(kernels: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Kernels by what they are: fprop, dgrad, wgrad, and all the rest."""
    products = {"forward": "fprop", "by_input": "dgrad", "by_weight": "wgrad"}
    names = {op: products[row.product] for op, row in OPS.items() if row.product}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for kernel in sorted(kernels, key=lambda k: names.get(k["kind"], "other")):
        groups.setdefault(names.get(kernel["kind"], "other"), []).append(kernel)
    return groups


def _saved(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
