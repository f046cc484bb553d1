"""Times of several ways to do one thing, taken in turns within one run, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from tricnn.measure.clock import Work, wall_clock

__all__ = ["Work", "in_turns", "wall_clock"]


def in_turns(
    contenders: Mapping[str, Callable[[], Work]], clock: Callable[[Work], float], *, images: int, seconds: float,
    least: int = 3, most: int = 50, tell: Callable[[str], None] = lambda name: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Make every contender, call it twice untimed, then time all of them in turns for about ``seconds``.

    One that fails, while it is made or while it runs, is reported with its error; the others go on.
    """
    rows: dict[str, dict[str, Any]] = {name: {"name": name, "error": "", "times": []} for name in contenders}
    ready: dict[str, Work] = {}
    for name, make in contenders.items():
        tell(f"preparing {name}")
        try:
            ready[name] = make()
            for _ in range(2):
                clock(ready[name])
        except Exception as error:
            ready.pop(name, None)
            rows[name]["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    began, rounds = time.perf_counter(), 0
    while ready and rounds < most and (rounds < least or time.perf_counter() - began < seconds):
        rounds += 1
        tell(f"round {rounds}")
        for name, work in list(ready.items()):
            try:
                rows[name]["times"].append(clock(work))
            except Exception as error:
                del ready[name]
                rows[name]["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return [_summary(row, images) for row in rows.values()]


def _summary(row: dict[str, Any], images: int) -> dict[str, Any]:
    times = row["times"]
    if row["error"]:
        return {"name": row["name"], "error": row["error"]}
    median = statistics.median(times)
    return {
        "name": row["name"],
        "median_seconds": median,
        "fastest_seconds": min(times),
        "images_per_second": images / median,
        "rounds": len(times),
    }
