"""Tables of readers: functions that say what somebody else's operation is in our words, entered by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Reader = Callable[..., Any]


def entering(table: dict[str, Reader], named: Callable[[str], str] = str) -> Callable[..., Callable[[Reader], Reader]]:
    """A decorator, ``@reads("a", "b")``, that enters a function into a table under these names.
    ``named`` makes the table's name of what is written there."""

    def reads(*names: str) -> Callable[[Reader], Reader]:
        def enter(reader: Reader) -> Reader:
            table.update(dict.fromkeys(map(named, names), reader))
            return reader

        return enter

    return reads
