"""One part of a network as a picture: its layers and parts as boxes, coloured by the kernels that compute them.
For training there is the backward pass as its mirror image, and what is saved for it as edges between the two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..figures import size
from .layered import Layout, layered

CHARACTER, LINE = 6.7, 15.0  # of the font that page.css gives these texts
MOST_KERNELS = 3  # named in a box
BETWEEN = 150.0  # the forward pass and the backward pass


@dataclass(frozen=True)
class Box:
    """A box of the picture: a layer, or a part (``scope``) of the network.
    ``kernels`` compute it, the first one above all; of a part there are none."""

    name: str
    title: str
    lines: tuple[str, ...]
    kernels: tuple[str, ...]
    scope: str | None
    outside: bool
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """A line of the picture, for a value that one box reads of another.
    ``kind``: ``fused`` (the value stays in ``kernel``), ``memory`` or ``saved``."""

    kind: str
    path: str
    title: str
    kernel: str = ""


@dataclass(frozen=True)
class Picture:
    """Boxes and lines of a part, in pixels."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: float
    height: float
    middle: float  # between the passes; 0 where there is one only


class Network:
    """What pictures of all parts of a network have in common."""

    def __init__(self, facts: Mapping[str, Any]):
        self.facts, self.layers = facts, facts["layers"]
        self.between: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for edge in facts["edges"]:
            self.between[edge["pass"], edge["from_layer"], edge["to_layer"]].append(edge)

    def picture(self, scope: Mapping[str, Any]) -> Picture | None:
        """The picture of a part; None if it has fewer than two layers or parts to show."""
        members = {m if isinstance(m, str) else m["path"]: m for m in scope["members"]}
        home = {layer: name for name, member in members.items() for layer in _layers(member)}
        edges: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)  # of boxes, and of their layers
        outside: dict[str, str] = {}
        for layer, name in home.items():
            for source in self.layers[layer]["inputs"]:
                if source not in home:
                    outside[f"\n{source}"] = source
                origin = home.get(source, f"\n{source}")
                if origin != name:
                    edges[origin, name].append((source, layer))
        if len(members) < 2:
            return None
        texts = {name: self._lines(name, member, scope["path"]) for name, member in members.items()}
        layers = [name for name, member in members.items() if isinstance(member, str)]
        numbers = [self._numbers(name, way) for name in layers for way in ("forward", "backward")]
        longest = max(len(text) for text in (*(text for lines in texts.values() for text in lines), *numbers))
        width = max(92.0, longest * CHARACTER + 18)
        sizes = {name: (len(of) * CHARACTER * 0.9 + 14, LINE + 4) for name, of in outside.items()}
        sizes |= {name: (width, len(lines) * LINE + 9) for name, lines in texts.items()}
        layout = layered(sizes, [*edges])
        boxes = [self._box(name, members, texts, layout, sizes, "forward", 0.0, outside) for name in sizes]
        lines = [self._edge("forward", a, b, pairs, layout, 0.0) for (a, b), pairs in edges.items()]
        if not any(self.layers[layer]["backward"] for layer in home):
            return Picture(tuple(boxes), tuple(lines), layout.width, layout.height, 0.0)
        axis = layout.width + BETWEEN / 2
        boxes += [self._box(name, members, texts, layout, sizes, "backward", axis, {}) for name in members]
        lines += [self._edge("backward", a, b, pairs, layout, axis)
                  for (a, b), pairs in edges.items() if a in members]  # fmt: skip
        lines += self._saved(home, layout, sizes, axis)
        return Picture(tuple(boxes), tuple(lines), 2 * axis, layout.height, axis)

    def _lines(self, name: str, member: str | Mapping[str, Any], path: str) -> tuple[str, ...]:
        """The words in a box: name and operation, or a part's figures."""
        short = name.removeprefix(f"{path}.") if path else name
        if not isinstance(member, str):
            if not member["launches"] and not member["unfused_launches"]:
                return (short, "in others' kernels", " ")
            launches = f"{member['unfused_launches']} → {member['launches']} launches"
            return (short, launches, f"{size(member['unfused_bytes'])} → {size(member['dram_bytes'])}")
        return (short, self.layers[member]["op"], " ")

    def _numbers(self, layer: str, way: str) -> str:
        """The numbers of the first kernels that compute a layer, and how many more do."""
        kernels = self.layers[layer][way]
        shown = " ".join(kernel.partition("_")[0] for kernel in kernels[:MOST_KERNELS])
        return shown + (f" +{len(kernels) - MOST_KERNELS}" if len(kernels) > MOST_KERNELS else "")

    def _box(
        self, name: str, members: Mapping[str, Any], texts: Mapping[str, tuple[str, ...]], layout: Layout,
        sizes: Mapping[str, tuple[float, float]], way: str, axis: float, outside: Mapping[str, str],
    ) -> Box:  # fmt: skip
        (x, y), (width, height) = layout.places[name], sizes[name]
        place = ((2 * axis - x if axis else x) - width / 2, y - height / 2, width, height)
        if name in outside:
            return Box(outside[name], f"from {outside[name]}", (outside[name],), (), None, True, *place)
        if not isinstance(members[name], str):
            return Box(name, f"{name}: open it", texts[name], (), name, False, *place)
        layer = self.layers[name]
        kernels = tuple(layer[way])
        what = "its gradients: " if way == "backward" else f"{layer['op']} {layer['type']}: "
        title = f"{name}, {what}{', '.join(kernels) or 'no kernel (folded, a view, or part of a merged layer)'}"
        return Box(name, title, (*texts[name][:-1], self._numbers(name, way)), kernels, None, False, *place)

    def _edge(
        self, way: str, a: str, b: str, pairs: Iterable[tuple[str, str]], layout: Layout, axis: float
    ) -> Line:  # fmt: skip
        """A line from a to b, or, of the backward pass, from b to a."""
        points = [(2 * axis - x if axis else x, y) for x, y in layout.routes[a, b]]
        ends = [*pairs] if way == "forward" else [(b, a) for a, b in pairs]
        points = points if way == "forward" else points[::-1]
        kernel = next((k for pair in ends if (k := self._kernel(way, *pair))), "")
        title = "; ".join(f"{source} → {layer}" for source, layer in ends[:4])
        kind = "fused" if kernel and all(self._kernel(way, *pair) for pair in ends) else "memory"
        note = f" stays in {kernel}" if kind == "fused" else " goes through memory"
        return Line(kind, curve(points), title + note, kernel if kind == "fused" else "")

    def _kernel(self, way: str, source: str, layer: str) -> str:
        """The kernel in which a value stays on its way from one layer to another; empty if it leaves it."""
        found = self.between.get((way, source, layer), [])
        if found:
            together = next((kernel for edge in found for kernel in edge["kernels"]), "")
            return str(together) if all(edge["fused"] for edge in found) else ""
        readers = self.layers[layer][way]
        return next((k for k in self.layers[source][way] if k in readers), "")

    def _saved(
        self, home: Mapping[str, str], layout: Layout, sizes: Mapping[str, tuple[float, float]],
        axis: float,
    ) -> list[Line]:  # fmt: skip
        """What the forward pass stores for the backward pass, between the boxes that have it and that read it."""
        together: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for saved in self.facts["saved"]:
            for reader in saved["readers"]:
                a, b = home.get(saved["layer"]), home.get(reader)
                if a is not None and b is not None and saved not in together[a, b]:
                    together[a, b].append(saved)
        lines = []
        for (a, b), values in together.items():
            (ax, ay), (bx, by) = layout.places[a], layout.places[b]
            start, end = ax + sizes[a][0] / 2, 2 * axis - bx - sizes[b][0] / 2
            bend = (end - start) / 2.6
            path = f"M{start:.0f} {ay:.0f}C{start + bend:.0f} {ay:.0f} {end - bend:.0f} {by:.0f} {end:.0f} {by:.0f}"
            names = ", ".join(v["value"] for v in values[:6]) + (
                f" and {len(values) - 6} more" if len(values) > 6 else ""
            )
            volume = size(sum(v["bytes"] for v in values))
            lines.append(Line("saved", path, f"saved for the gradients of {b}: {names} ({volume})"))
        return lines


def _layers(member: str | Mapping[str, Any]) -> Iterable[str]:
    """The layers of a member, its parts' too."""
    if isinstance(member, str):
        return [member]
    return [layer for inner in member["members"] for layer in _layers(inner)]


def curve(points: list[tuple[float, float]]) -> str:
    """A path through points, level where it leaves and meets a box."""
    (x, y), text = points[0], f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for nx, ny in points[1:]:
        middle = (y + ny) / 2
        if abs(nx - x) < 0.5:
            text += f"V{ny:.0f}"
        else:
            text += f"C{x:.0f} {middle:.0f} {nx:.0f} {middle:.0f} {nx:.0f} {ny:.0f}"
        x, y = nx, ny
    return text
