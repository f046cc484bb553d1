"""Numbers of channels: the width multiplier every network takes, and the rounding of published multiples."""

from collections.abc import Callable

from tricnn.system.errors import GraphError


def scaled(width: float) -> Callable[[int], int]:
    """Turns a paper's number of channels into ``width`` times as many, at least 1: the same topology, small.

    Raises GraphError if ``width`` is not positive and finite.
    """
    if isinstance(width, bool | str) or not 0 < width < float("inf"):
        raise GraphError(f"width={width!r} is not accepted; it multiplies the channels, a finite number above 0")
    return lambda channels: max(1, round(channels * width))


def to_multiple(channels: float, of: int = 8) -> int:
    """The nearest multiple of ``of``, at least that; no more than a tenth below ``channels``.
    That is the rule of the authors of MobileNet."""
    nearest = max(of, int(channels + of / 2) // of * of)
    return nearest + of if nearest < 0.9 * channels else nearest
