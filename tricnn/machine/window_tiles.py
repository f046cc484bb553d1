"""Tiles of a network's first layer, which reads overlapping windows of images of few channels (`conv2d_windows`)."""

from __future__ import annotations

from .tiles import TOGETHER, Tile, power_of_two, programs


def windows(
    filters: int, taps: int, depth: int, shared: int, attempt: int = 0, *, pixels: int = 0, target: str = ""
) -> Tile | None:  # fmt: skip
    """The tile of a convolution that reads windows and keeps its weights in shared memory; None if nothing fits.
    A window has ``depth`` elements, one for each of the rows of ``taps``, and a block can have ``shared`` bytes. The
    tile has 64 pixels, so that two programs fit a multiprocessor where windows are short; more where the filters are so
    few that pixels are the rows of the product. Where copies that run ahead, a box for each row of taps, leave room for
    one program, two that have one box at a time, of twice as many pixels, wait less if there are ``pixels`` enough for
    them (by simulation: 230 us, and 393 for one with boxes of 32 pixels; 15 and 10 at batch 1)."""
    n = min(max(power_of_two(filters), 16), 128)
    m = 128 if n < 64 else 64
    stages, step = 2, taps * depth * 2
    several = pixels > 0 and pixels >= 2 * m * programs(target)
    if several and TOGETHER * step * (n + stages * m) > shared >= TOGETHER * (step * n + 2 * m * depth * 2):
        m, stages = 2 * m, 1
    while stages > 1 and step * (n + stages * m) > shared - (1 << 14):
        if m == 32:
            return None
        m //= 2
    for step in range(attempt):
        m, stages = (m, 1) if step == 1 else (max(m // 2, 16), stages)
    return Tile(m, n, depth, 4, stages)


def windows_wgrad(filters: int, taps: int, depth: int, attempt: int = 0) -> tuple[Tile, int]:
    """The tile of such a convolution's gradient by the weights, and how many of the rows of ``taps`` a program takes.
    Their sums stay in registers: 128 numbers of fp32 a thread at most."""
    n = 64 if filters <= 64 else 128
    taken = max(1, min(taps, (128 * 128 >> max(attempt - 1, 0)) // (n * depth)))
    return Tile(64 >> (attempt > 1), n, depth, 4, 1 if attempt else 2), -(-taps // -(-taps // taken))
