"""The width multiplier every network takes."""

from collections.abc import Callable


def scaled(width: float) -> Callable[[int], int]:
    """Turns a paper's number of channels into ``width`` times as many, at least 1: the same topology, small."""
    return lambda channels: max(1, round(channels * width))
