"""Times of several ways to do one thing, taken in turns within one run, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from tricnn.measure.clock import Clock, Work

Key = TypeVar("Key")


def times_in_turns(
    timers: Mapping[Key, Callable[[], float]], *, least: int, most: int, seconds: float = 0.0,
    failed: Callable[[Key, Exception], None] | None = None, tell: Callable[[str], None] = lambda text: None,
) -> dict[Key, list[float]]:  # fmt: skip
    """What each timer says (seconds), one after the other in every round.

    There are ``least`` rounds, and up to ``most`` until ``seconds`` have passed.

    One that raises takes no part any more, once ``failed`` has been told, and its times are not among the result;
    without ``failed`` the error goes on to the caller.
    """
    times: dict[Key, list[float]] = {key: [] for key in timers}
    began, rounds = time.perf_counter(), 0
    while times and rounds < most and (rounds < least or time.perf_counter() - began < seconds):
        rounds += 1
        tell(f"round {rounds}")
        for key in list(times):
            try:
                times[key].append(timers[key]())
            except Exception as error:
                if failed is None:
                    raise
                del times[key]
                failed(key, error)
    return times


def in_turns(
    contenders: Mapping[str, Callable[[], Work]], clock: Clock, *, images: int, seconds: float,
    least: int = 3, most: int = 50, tell: Callable[[str], None] = lambda name: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for every contender, in their order, all of them timed in turns for about ``seconds``.
    Each is made, and called twice untimed, before. The row of one that fails, while it is made or while it runs, has
    its error; the others go on."""
    errors: dict[str, str] = {}
    timers: dict[str, Callable[[], float]] = {}

    def failed(name: str, error: Exception) -> None:
        errors[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

    for name, make in contenders.items():
        tell(f"preparing {name}")
        try:
            timer = partial(clock, make())
            for _ in range(2):
                timer()
        except Exception as error:
            failed(name, error)
        else:
            timers[name] = timer
    times = times_in_turns(timers, least=least, most=most, seconds=seconds, failed=failed, tell=tell)
    return [
        {"name": name, "error": errors[name]} if name in errors else _summary(name, times[name], images)
        for name in contenders
    ]


def _summary(name: str, times: list[float], images: int) -> dict[str, Any]:
    median = statistics.median(times)
    return {
        "name": name,
        "median_seconds": median,
        "fastest_seconds": min(times),
        "images_per_second": images / median,
        "rounds": len(times),
    }
