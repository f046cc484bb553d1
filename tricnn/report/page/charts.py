"""Plots of the page as shapes in pixels, which its templates write as SVG.
They are the bytes of each kernel, the roofline, and the arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from ...machine.machines import machine_of
from ..figures import brief, plural, scaled, size

WIDTH, HALF = 1080.0, 110.0  # of a plot; half the height of the bars


@dataclass(frozen=True)
class Tick:
    """A number on an axis, and where."""

    at: float
    text: str


@dataclass(frozen=True)
class Shape:
    """Something to draw: the text that pointing at it shows, the kernel that it leads to, and its path or circle."""

    title: str
    kernel: str = ""
    path: str = ""
    kind: str = ""
    x: float = 0.0
    y: float = 0.0
    r: float = 0.0


@dataclass(frozen=True)
class Chart:
    """A plot in a box of ``width`` by ``height``; ``behind`` are paths that stand for nothing one can point at."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    behind: tuple[tuple[str, str], ...]  # kind, path
    across: tuple[Tick, ...] = ()
    up: tuple[Tick, ...] = ()
    note: str = ""


def steps(most: float, count: int = 4) -> list[float]:
    """Round numbers from 0 to ``most``, about ``count`` of them: 1, 2 or 5 times a power of ten apart."""
    if most <= 0:
        return [0.0]
    rough = most / count
    power = 10.0 ** floor(log10(rough))
    apart = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * rough)
    return [number * apart for number in range(floor(most / apart) + 1)]


def bars(facts: Mapping[str, Any]) -> Chart:
    """The bytes that each kernel moves (upwards), and those of its layers with a kernel each (downwards), in order."""
    kernels: Sequence[Mapping[str, Any]] = facts["kernels"]
    most, least = (max((k[key] for k in kernels), default=0) for key in ("dram_bytes", "unfused_bytes"))
    top = (most + least) / (2 * HALF) or 1.0  # bytes of a pixel
    axis = most / top
    step = min(WIDTH / max(1, len(kernels)), 40.0)
    wide = max(step - 1, 0.6)
    shapes, below = [], ""
    for number, kernel in enumerate(kernels):
        x, up, down = number * step, kernel["dram_bytes"] / top, kernel["unfused_bytes"] / top
        title = f"{kernel['name']}: {size(kernel['dram_bytes'])}; a kernel a layer {size(kernel['unfused_bytes'])}"
        shapes.append(Shape(title, kernel["name"], f"M{x:.1f} {axis:.1f}h{wide:.1f}v{-max(up, 0.5):.1f}h{-wide:.1f}z"))
        below += f"M{x:.1f} {axis + 1:.1f}h{wide:.1f}v{down:.1f}h{-wide:.1f}z"
    marks = steps(max(most, least))
    up_ticks = [Tick(axis - mark / top, size(mark)) for mark in marks if mark <= most]
    up_ticks += [Tick(axis + 1 + mark / top, size(mark)) for mark in marks[1:] if mark <= least]
    behind = next((n for n, k in enumerate(kernels) if k["backward"]), None)
    ticks = (Tick(0.0, "forward"), *((Tick(behind * step, "backward"),) if behind is not None else ()))
    return Chart(step * len(kernels), 2 * HALF + 1, tuple(shapes), (("unfused", below),), ticks, tuple(up_ticks))


def roofline(facts: Mapping[str, Any]) -> Chart | None:
    """A plot of every kernel at its operations per byte and its operations per second, by simulated time.
    None where no kernel's time is known; a kernel without one is not drawn."""
    known = [k for k in facts["kernels"] if k["simulated_us"] and k["dram_bytes"]]
    shown = [k for k in known if k["flops"]]
    if not shown:
        return None
    machine = machine_of(facts["target"])
    rate, ridge = machine.rate(facts["dtype"]), machine.rate(facts["dtype"]) / machine.bandwidth
    points = [(k["flops"] / k["dram_bytes"], k["flops"] / k["simulated_us"] * 1e6) for k in shown]
    low_x, high_x = floor(log10(min(x for x, _ in points))), ceil(log10(max(ridge * 3, *(x for x, _ in points))))
    low_y, high_y = floor(log10(min(y for _, y in points))), ceil(log10(rate))
    height = 420.0

    def place(x: float, y: float) -> tuple[float, float]:
        return ((log10(x) - low_x) / (high_x - low_x) * WIDTH, height - (log10(y) - low_y) / (high_y - low_y) * height)

    least = max(10.0**low_x, 10.0**low_y / machine.bandwidth)
    corners = [place(least, least * machine.bandwidth), place(ridge, rate), place(10.0**high_x, rate)]
    roof = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    grid = "".join(f"M{place(10.0**n, 1)[0]:.1f} 0V{height:.0f}" for n in range(low_x, high_x + 1))
    grid += "".join(f"M0 {place(1, 10.0**n)[1]:.1f}H{WIDTH:.0f}" for n in range(low_y, high_y + 1))
    whole = sum(k["simulated_us"] for k in shown)
    shapes = []
    for kernel, (intensity, speed) in zip(shown, points, strict=True):
        x, y = place(intensity, speed)
        title = f"{kernel['name']}: {brief(kernel['simulated_us'] / 1e6)} simulated, "
        title += f"{intensity:,.1f} operations a byte, {scaled(speed, 'FLOP/s')}"
        shapes.append(Shape(title, kernel["name"], x=x, y=y, r=2.5 + 60 * (kernel["simulated_us"] / whole) ** 0.5 / 2))
    idle = len(known) - len(shown)
    note = f"{machine.name}: {machine.bandwidth / 1e12:.2f} TB/s and {rate / 1e12:,.0f} TFLOP/s ({facts['dtype']}), "
    note += "by its data sheet; area: simulated time" + (
        f"; {plural(idle, 'kernel')} without operations" if idle else ""
    )
    return Chart(
        WIDTH, height, tuple(sorted(shapes, key=lambda s: -s.r)), (("grid", grid), ("roof", roof)),
        tuple(Tick(place(10.0**n, 1)[0], f"{10.0**n:g}") for n in range(low_x, high_x + 1)),
        tuple(Tick(place(1, 10.0**n)[1], scaled(10.0**n)) for n in range(low_y, high_y + 1)), note,
    )  # fmt: skip


def arena(facts: Mapping[str, Any]) -> Chart | None:
    """The arena: across, the launches; upwards, addresses; a rectangle for each buffer while it is needed."""
    whole, buffers = facts["arena"]["bytes"], facts["arena"]["buffers"]
    if not buffers:
        return None
    launches, height = max(1, facts["launches"]), 360.0
    step = min(WIDTH / launches, 40.0)
    width = step * launches
    shapes = []
    for buffer in sorted(buffers, key=lambda b: -b["bytes"] * (b["last"] - b["first"])):
        x, wide = buffer["first"] * step, (buffer["last"] - buffer["first"] + 1) * step
        tall = max(buffer["bytes"] / whole * height, 0.3)
        y = height - (buffer["start"] + buffer["bytes"]) / whole * height
        title = (f"{buffer['name']}: {size(buffer['bytes'])} at {size(buffer['start'])}, launches "
                 f"{buffer['first'] + 1} to {buffer['last'] + 1}")  # fmt: skip
        shapes.append(Shape(title, "", f"M{x:.1f} {y:.1f}h{wide:.1f}v{tall:.1f}h{-wide:.1f}z", buffer["what"]))
    ticks = [Tick(height - mark / whole * height, size(mark)) for mark in steps(whole)]
    across = [Tick(mark * step, f"{mark:.0f}") for mark in steps(launches, 8)]
    return Chart(width, height, tuple(shapes), (), tuple(across), tuple(ticks))
