"""Counted nouns, as every message writes them."""

from __future__ import annotations

HARD = ("epoch",)  # a ch that sounds like k


def plural(count: int, noun: str) -> str:
    """``1 kernel``, ``3 kernels``, ``2 launches``, ``2 epochs``, ``2 entries``."""
    if count == 1:
        return f"{count:,} {noun}"
    if noun.endswith(("s", "x", "z", "sh", "ch")) and noun not in HARD:
        return f"{count:,} {noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}s"
