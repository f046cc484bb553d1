"""Names chosen by patterns: layers and parameters as people speak of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..system.errors import GraphError, shown

#: characters of a pattern, which is compiled as a regular expression; a name has at most 128
LONGEST = 1000


def patterns_of(what: str, given: Any) -> tuple[str, ...]:
    """The patterns that a caller gave, one by itself or several. Raises GraphError for anything else."""
    patterns = (given,) if isinstance(given, str) else given
    if not isinstance(patterns, Sequence | set | frozenset) or not all(isinstance(p, str) for p in patterns):
        raise GraphError(
            f"{what}={shown(given)} is not accepted; a name of layers or parameters, or a list of such names"
        )
    return tuple(patterns)


def chosen(name: str, pattern: str) -> bool:
    """Does a pattern choose a layer or a parameter?
    ``layer1`` chooses what is so called and all that is in it (``layer1.0.conv1.weight``); ``*``, ``?`` and ``[abc]``
    stand for characters, as in a shell: ``*.bias``."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def chosen_by_any(name: str, patterns: Iterable[str]) -> bool:
    """Does one of the patterns choose it?"""
    return any(chosen(name, pattern) for pattern in patterns)


def check_patterns(what: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raises GraphError for a pattern that chooses none of the names, with those that are nearest."""
    for pattern in patterns:
        if len(pattern) > LONGEST:
            raise GraphError(f"{what}: {shown(pattern)} has {len(pattern)} characters; a pattern has at most {LONGEST}")
        if not any(chosen(name, pattern) for name in names):
            known = list(dict.fromkeys([*(name.split(".")[0] for name in names), *names]))
            near = difflib.get_close_matches(pattern, known, 3, 0.5) or known[:6]
            raise GraphError(f"{what}: no layer or parameter is called {pattern[:60]!r}; there are {', '.join(near)}")
