"""Numbers as people read them."""

from __future__ import annotations

from ..ir.wording import plural

__all__ = ["brief", "milliseconds", "plural", "scaled", "size", "times"]

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


def times(ratio: float) -> str:
    """``2.3x``."""
    return f"{ratio:.2f}x" if ratio < 9.95 else f"{ratio:.1f}x"


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.{3 if value < 9.9995 else 2 if value < 99.995 else 1}f} ms"


def brief(seconds: float) -> str:
    """Microseconds below a millisecond: ``3.41 us``."""
    return milliseconds(seconds) if seconds >= 1e-3 else f"{seconds * 1e6:.{1 if seconds >= 1e-4 else 2}f} us"
