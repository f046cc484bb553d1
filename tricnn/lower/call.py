"""The call of a template: what it is given, written as Python.

A generated kernel is one call of a template, such as

    conv2d_fprop(
        k00_conv1_load_x, (x,), weight, k00_conv1_store_y, (bias, conv_out), N,
        C=16, H=28, W=28, K=6, BLOCK_M=128, BLOCK_N=16, BLOCK_K=16,
    )

and each positional item is an :class:`Operand`: a generated function with the tuple of its arguments, a tensor, or
plain text. An operand knows which arguments it needs, so that a kernel's parameters follow from its call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..machine.tiles import Tile
from .names import Argument

#: from an argument of the launch to the kernel's parameter that stands for it
Parameters = Mapping[Argument, str]


class Line(str):
    """A line of a generated function, and the layer that it belongs to.
    ``layer`` is the node of the graph that it computes, loads for, or stores; empty if it is no node's."""

    __slots__ = ("layer",)
    layer: str

    def __new__(cls, text: str, layer: str = "") -> Line:
        made = super().__new__(cls, text)
        made.layer = layer
        return made

    @classmethod
    def of(cls, line: str, layer: str = "") -> Line:
        """The line itself if it has a layer, else one of this layer."""
        return line if isinstance(line, Line) and line.layer else cls(line, layer)


class Operand:
    """One positional item of a template's call."""

    @property
    def args(self) -> Mapping[Argument, str]:
        """The arguments of the launch that it needs, each with the name that it would like for it."""
        return {}

    @property
    def writes(self) -> tuple[str, ...]:
        """The tensors among its arguments to which it stores."""
        return ()

    def shown(self, parameters: Parameters) -> list[str]:
        """Its text in the call, item by item."""
        raise NotImplementedError


@dataclass(frozen=True)
class Text(Operand):
    """A number or a constant, as it is written."""

    text: str

    def shown(self, parameters: Parameters) -> list[str]:
        return [self.text]


@dataclass(frozen=True)
class Pointer(Operand):
    """A tensor that the template itself reads, from element ``first`` on, or with ``stored`` writes."""

    argument: str
    stem: str
    stored: bool = False
    first: int = 0

    @property
    def args(self) -> Mapping[Argument, str]:
        return {self.argument: self.stem}

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.argument,) if self.stored else ()

    def shown(self, parameters: Parameters) -> list[str]:
        return [parameters[self.argument] + (f" + {self.first}" if self.first else "")]


@dataclass(frozen=True)
class InBoxes(Pointer):
    """A tensor that comes in boxes, by a descriptor, where else a function would load it."""

    def shown(self, parameters: Parameters) -> list[str]:
        return ["None", parameters[self.argument]]


@dataclass(frozen=True)
class Helper(Operand):
    """A generated function and its lines.
    It finds its arguments in a tuple, and unpacks them under the names that ``needs`` gives them. ``stores`` are those
    that it writes; ``calls`` the generated functions that it calls."""

    name: str
    lines: tuple[Line, ...]
    needs: Mapping[Argument, str]
    stores: tuple[str, ...] = ()
    calls: tuple[Helper, ...] = ()

    @property
    def args(self) -> Mapping[Argument, str]:
        return self.needs

    @property
    def writes(self) -> tuple[str, ...]:
        return self.stores

    def shown(self, parameters: Parameters) -> list[str]:
        names = [parameters[a] for a in self.needs]
        return [self.name, f"({', '.join(names)}{',' if len(names) == 1 else ''})"]


#: the batch size; no tensor; and no helper, with no arguments
BATCH, NONE = Text("N"), Text("None")
NOTHING = NONE, Text("()")


@dataclass(frozen=True)
class Call:
    """A template, its operands, its constants, and helpers that it takes by keyword: ``keep_x`` and ``keep_args``."""

    template: str
    operands: Sequence[Operand]
    constants: Mapping[str, Any]
    keywords: Mapping[str, Helper] = field(default_factory=dict)

    @property
    def every(self) -> list[Operand]:
        """All operands, those by keyword last."""
        return [*self.operands, *self.keywords.values()]

    @property
    def helpers(self) -> list[Helper]:
        """The generated functions among its operands, behind those that they call."""
        return [made for operand in self.every if isinstance(operand, Helper) for made in (*operand.calls, operand)]

    def text(self, parameters: Parameters) -> str:
        """The call as Python: positional items on the first lines, constants below, then keywords."""
        named = [
            f"{keyword}={shown}"
            for name, helper in self.keywords.items()
            for keyword, shown in zip((name, f"{name.split('_')[0]}_args"), helper.shown(parameters), strict=True)
        ]
        positional = [item for operand in self.operands for item in operand.shown(parameters)]
        constants = [f"{name}={value!r}" for name, value in self.constants.items()]
        rows = [row for items in (positional, constants, named) for row in wrapped(items, 4, 104)]
        return "\n".join([f"{self.template}(", *rows, ")"])


def helper(
    name: str,
    parameters: str,
    needs: Mapping[Argument, str],
    lines: Iterable[str],
    stores: tuple[str, ...] = (),
    layer: str = "",
) -> Helper:
    """A generated function of these lines, behind one that unpacks ``args``.
    The arguments have the names that ``needs`` gives. Lines that name no layer are of ``layer``."""
    names = list(needs.values())
    unpack = [f"{', '.join(names)} = args" if len(names) > 1 else f"({names[0]},) = args"] if names else []
    body = [*map(Line, unpack), *(Line.of(line, layer) for line in lines)]
    code = [Line(f"    {line}", line.layer) for line in body]
    return Helper(name, (Line("@triton.jit"), Line(f"def {name}({parameters}):"), *code), needs, stores)


def wrapped(items: Iterable[str], indent: int, width: int) -> list[str]:
    """Items with a comma behind each, as many on a line as fit."""
    margin = " " * (indent - 1)
    rows, row = [], margin
    for item in items:
        if len(row) + len(item) + 2 > width and row != margin:
            rows.append(row)
            row = margin
        row += f" {item},"
    return [*rows, row] if row != margin else rows


def blocks(tile: Tile) -> dict[str, int]:
    """The constants by which templates of [pixels, channels] know their tile."""
    return {"BLOCK_M": tile.m, "BLOCK_N": tile.n}


def product_blocks(tile: Tile) -> dict[str, int]:
    """The constants by which templates of matrix products know their tile."""
    return {**blocks(tile), "BLOCK_K": tile.k}
