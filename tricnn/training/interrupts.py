"""Signals that end a run, noted for the loop to see after a whole step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(Exception):
    """A signal ended the run after a whole step; what was done is saved. Its text says how to go on."""

    def __init__(self, message: str, signum: int, said: bool = False):
        super().__init__(message)
        self.exit_status, self.said = 128 + signum, said  # already, by the first process


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """A context with a list of the signals that came, for the loop to see after a whole step.
    The first gives a second its usual effect back, so that Ctrl-C twice ends a run that hangs."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {s: signal.getsignal(s) for s in INTERRUPTS}

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, note)
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
