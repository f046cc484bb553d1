"""Source text as HTML whose lines can be pointed at, in few and short tags: a page holds hundreds of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup, escape
from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, String

#: the classes of page.css, by kind of token; what is not here is plain text
CLASSES: tuple[tuple[Any, str], ...] = (
    (Comment, "c"), (Keyword, "k"), (String, "s"), (Number, "m"), (Name.Decorator, "d"), (Name.Function, "f"),
)  # fmt: skip


def highlighted(source: str) -> Markup:
    """Python source, each of its lines an element ``b``, for a ``pre`` that numbers them."""
    return Markup("\n").join(Markup("<b>{}</b>").format(Markup("").join(line)) for line in _lines(source))


def _lines(source: str) -> Iterator[list[Markup]]:
    """The pieces of each line."""
    line: list[Markup] = []
    for kind, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(source):
        name = next((name for known, name in CLASSES if kind in known), "")
        for number, part in enumerate(text.split("\n")):
            if number:
                yield line
                line = []
            if part:
                line.append(Markup('<i class="{}">{}</i>').format(name, part) if name else escape(part))
    if line:
        yield line
