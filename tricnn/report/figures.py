"""Numbers as people read them."""

from __future__ import annotations

from ..ir.wording import plural, scaled, size

__all__ = ["brief", "milliseconds", "plural", "scaled", "size", "times"]


def times(ratio: float) -> str:
    """A ratio as text: ``2.3x``."""
    return f"{ratio:.2f}x" if ratio < 9.95 else f"{ratio:.1f}x"


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.{3 if value < 9.9995 else 2 if value < 99.995 else 1}f} ms"


def brief(seconds: float) -> str:
    """A time as text, in microseconds below a millisecond: ``3.41 us``."""
    return milliseconds(seconds) if seconds >= 1e-3 else f"{seconds * 1e6:.{1 if seconds >= 1e-4 else 2}f} us"
