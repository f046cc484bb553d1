"""Counted nouns and sizes, as every message writes them."""

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


_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scaled(value: float, unit: str = "") -> str:
    """Three significant digits or more and a decimal prefix: ``416 k``, ``15.5 G``, ``1.31 MB``."""
    for size, prefix in _STEPS:
        if value >= size * 0.9995:
            number = value / size
            digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
            return f"{number:,.{digits}f} {prefix}{unit}"
    return f"{value:,.0f} {unit}".rstrip()


def size(count: float) -> str:
    """Bytes: ``982 B``, ``1.31 MB`` (a megabyte is a million)."""
    return scaled(count, "B")
