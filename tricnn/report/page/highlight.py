"""Source text as HTML whose lines can be pointed at, in few and short tags: a page holds hundreds of kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from markupsafe import Markup, escape
from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Name, String

#: short elements, which page.css colours, by kind of token; what is not here is plain text
ELEMENTS: tuple[tuple[Any, str], ...] = (
    (Comment, "i"), (Keyword, "u"), (Name.Decorator, "u"), (String, "s"), (Name.Function, "em"),
)  # fmt: skip


def highlighted(source: str, nodes: Sequence[int | None] = ()) -> Markup:
    """Python source as HTML, each of its lines an element ``b``, for a ``pre`` that numbers them.
    ``nodes``: for each line which of its kernel's nodes it became of; such a line has that number, from 1, as
    ``data-n``."""
    return Markup("\n").join(
        Markup("<b{}>{}</b>").format("" if node is None else f" data-n={node + 1}", Markup("").join(line))
        for line, node in zip_longest(_lines(source), nodes)
    )


def _lines(source: str) -> Iterator[list[Markup]]:
    """The pieces of each line of Python source as HTML, each in the element of its kind."""
    line: list[Markup] = []
    for kind, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(source):
        name = next((name for known, name in ELEMENTS if kind in known), "")
        for number, part in enumerate(text.split("\n")):
            if number:
                yield line
                line = []
            if part:
                line.append(Markup("<{0}>{1}</{0}>").format(name, part) if name else escape(part))
    if line:
        yield line
