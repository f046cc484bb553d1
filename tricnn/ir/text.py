"""The text form of a graph, which round-trips: ``from_text(to_text(g)) == g``.

    graph tiny
    x = input(shape=[N, 1, 28, 28])
    conv1.weight = parameter(shape=[6, 1, 5, 5], init="he_normal(fan_out)")
    conv1 = conv2d(x, conv1.weight, padding=(2, 2, 2, 2))    # [N, 6, 28, 28]
    output logits = conv1

One statement a line; ``#`` starts a comment. Layers may come in any order as long as there is no cycle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from ..system.errors import GraphError, TextError, shown
from ..system.limits import LARGEST_LINE, MOST_ITEMS
from .graph import NAME, Graph, Node, Output, check_size, topological
from .table import OPS, declared_operations
from .types import N

_BLANK = re.compile(r"[ \t]*(#.*)?")
#: what may stand somewhere, by what is expected there: a layer called 3 and the number 3 look the same
_TOKENS = {
    "name": re.compile(NAME.pattern, re.ASCII),
    "number": re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?(?![\w.])", re.ASCII),
    "string": re.compile(r'"[^"\\]*"'),
    "mark": re.compile(r"[=(),\[\]]"),
}
_WORDS = {"N": N, "True": True, "False": False}


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def attr_text(op: str, attrs: Mapping[str, Any]) -> str:
    """The attributes that differ from their defaults, as the text form writes them."""
    rows = OPS[op].attrs
    shown = {k: v for k, v in attrs.items() if rows[k].default != v or type(rows[k].default) is not type(v)}
    return ", ".join(f"{key}={_literal(value)}" for key, value in shown.items())


def node_text(node: Node) -> str:
    arguments = ", ".join([*node.inputs, *filter(None, [attr_text(node.op, node.attrs)])])
    return f"{node.name} = {node.op}({arguments})"


def to_text(graph: Graph) -> str:
    """The graph as text, each layer with its type in a comment."""
    lines = [f"graph {graph.name}"]
    for node in graph.nodes:
        line = node_text(node)
        lines.append(line if "shape=" in line else f"{line:<72}  # {graph.types[node.name]}")
    for output in graph.outputs:
        options = f" loss_weight={output.loss_weight!r}" if output.loss_weight != 1.0 else ""
        options += " training_only=True" if output.training_only else ""
        lines.append(f"output {output.name} = {output.value}{options}")
    lines += [f"update {buffer} = {value}" for buffer, value in graph.updates]
    lines += [f"gradient {parameter} = {value}" for parameter, value in graph.gradients]
    return "\n".join(lines) + "\n"


class _Line:
    """One line, read from left to right; ``at`` is where the next token begins, ``items`` those of its lists so far."""

    def __init__(self, text: str, number: int):
        self.text, self.number, self.at, self.items = text, number, 0, 0
        self._go_to(0)

    def _go_to(self, at: int) -> None:
        """The first place from ``at`` on that is neither blank nor in a comment."""
        blank = _BLANK.match(self.text, at)
        self.at = blank.end() if blank else at

    def found(self, *kinds: str) -> str | None:
        """What stands here, if it is of one of these kinds."""
        for kind in kinds or _TOKENS:
            if match := _TOKENS[kind].match(self.text, self.at):
                return match.group()
        return None

    def error(self, message: str) -> TextError:
        found = self.found("number", "name", "string", "mark")
        if found is None and not self.done():
            return TextError(f"unexpected {self.text[self.at]!r}", self.number, self.at + 1)
        shown_ = shown(found) if found is not None else "the end of the line"
        return TextError(f"{message}, found {shown_}", self.number, (self.at if found else len(self.text)) + 1)

    def peek(self, mark: str) -> bool:
        return self.text.startswith(mark, self.at)

    def take(self, kind: str, what: str) -> str:
        found = self.found(kind)
        if found is None:
            raise self.error(f"expected {what}")
        if kind == "name" and len(found) > 128:
            raise TextError(f"a name has at most 128 characters, found {shown(found)}", self.number, self.at + 1)
        self._go_to(self.at + len(found))
        return found

    def expect(self, mark: str) -> None:
        if not self.peek(mark):
            raise self.error(f"expected {mark!r}")
        self._go_to(self.at + 1)

    def done(self) -> bool:
        return self.at >= len(self.text)

    def value(self, depth: int = 0) -> Any:
        if self.done():
            raise self.error("expected a value")
        for opening, close in ("[]", "()"):
            if self.peek(opening):
                if depth == 4:
                    raise self.error("expected a number: lists go no deeper")
                self.expect(opening)
                items = []
                while not self.peek(close):
                    self.items += 1
                    if self.items > MOST_ITEMS:
                        raise TextError(f"a line's lists have at most {MOST_ITEMS} items", self.number, self.at + 1)
                    items.append(self.value(depth + 1))
                    if not self.peek(close):
                        self.expect(",")
                self.expect(close)
                return tuple(items)
        at = self.at
        if (text := self.found("number")) is not None:
            self._go_to(at + len(text))
            whole = not any(c in text for c in ".eE")
            number = int(text) if whole and len(text) < 20 else float(text)
            if not isfinite(number) or (whole and isinstance(number, float)):
                self.at = at
                raise self.error("expected a number that fits 64 bits")
            return number
        if (word := self.found("name")) in _WORDS:
            return _WORDS[self.take("name", str(word))]
        if self.found("string"):
            return self.take("string", "a string")[1:-1]
        raise self.error("expected a number, a string, True, False, N or a list")


def from_text(text: str) -> Graph:
    """Parse a text graph. Raises TextError (line and column), GraphError or ShapeError."""
    name: str | None = None
    nodes: list[Node] = []
    outputs: list[Output] = []
    pairs: dict[str, list[tuple[str, str]]] = {"update": [], "gradient": []}
    defined: dict[str, int] = {}
    referring: dict[str, int] = {}  # the lines of outputs, updates and gradients
    for number, raw in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if len(raw) > LARGEST_LINE:
            raise TextError(f"a line has at most {LARGEST_LINE} characters, this one has {len(raw)}", number, 1)
        check_size(len(nodes), len(outputs), number)
        line = _Line(raw, number)
        if line.done():
            continue
        head = line.take("name", "a layer name or 'graph', 'output', 'update', 'gradient'")
        if name is None and head != "graph":
            raise TextError("the first statement must be 'graph NAME'", number, 1)
        if line.peek("="):
            if head in defined:
                raise TextError(f"layer {head} is already defined in line {defined[head]}", number, 1)
            defined[head] = number
            nodes.append(_statement(line, head))
        elif head == "graph" and name is None:
            name = line.take("name", "the graph's name")
        elif head == "output":
            outputs.append(_output(line))
            referring[f"output {outputs[-1].name}"] = number
        elif head in pairs:
            target = line.take("name", "a name")
            line.expect("=")
            pairs[head].append((target, line.take("name", "a layer name")))
            referring[f"{head} of {target}"] = number
        else:
            raise line.error("expected '='")
        if not line.done():
            raise line.error("expected the end of the line")
    check_size(len(nodes), len(outputs), number)
    if name is None:
        raise TextError("the graph is empty; the first statement must be 'graph NAME'", 1, 1)
    try:
        return Graph(name, topological(nodes), tuple(outputs), tuple(pairs["update"]), tuple(pairs["gradient"]))
    except GraphError as error:
        words = re.match(r"(?:the layers|layer) (\S+?):? |((?:output|update of|gradient of) \S+): ", str(error))
        line_of = (defined.get(words[1]) or referring.get(words[2])) if words else None
        if line_of is not None and not isinstance(error, TextError):
            raise type(error)(f"line {line_of}: {error}") from None
        raise


def _statement(line: _Line, name: str) -> Node:
    line.expect("=")
    at, op = line.at, line.take("name", "an operation")
    if op not in OPS:
        what = f"unknown operation {shown(op)}; {declared_operations(op)}"
        raise TextError(what, line.number, at + 1)
    line.expect("(")
    inputs: list[str] = []
    attrs: dict[str, Any] = {}
    while not line.peek(")"):
        word = line.take("name", "an input or an attribute")
        if line.peek("="):
            line.expect("=")
            if word in attrs:
                raise line.error(f"attribute {word} is given twice")
            attrs[word] = line.value()
        elif attrs:
            raise line.error("inputs come before attributes")
        else:
            inputs.append(word)
        if not line.peek(")"):
            line.expect(",")
    line.expect(")")
    return Node(name, op, tuple(inputs), attrs)


def _output(line: _Line) -> Output:
    name = line.take("name", "the output's name")
    line.expect("=")
    value = line.take("name", "a layer name")
    options: dict[str, Any] = {}
    while not line.done():
        at, word = line.at, line.take("name", "loss_weight or training_only")
        if word not in ("loss_weight", "training_only"):
            line.at = at
            raise line.error("expected loss_weight or training_only")
        line.expect("=")
        at, options[word] = line.at, line.value()
        wanted, what = (bool, "True or False") if word == "training_only" else (float, "a number")
        if isinstance(options[word], int) and not isinstance(options[word], bool):
            options[word] = float(options[word])
        if not isinstance(options[word], wanted):
            line.at = at
            raise line.error(f"expected {word} to be {what}")
    return Output(name, value, **options)
