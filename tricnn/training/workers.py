"""Processes that read data, the workers of a DataLoader: when they end, and what is said of one that died."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..system.errors import DataError

#: signals that a terminal, or what started a run, sends to all its processes; the loop alone answers
FOR_THE_LOOP = (signal.SIGINT, signal.SIGTERM)
PYTORCHS = "torch.utils.data"


def started(loader: Any) -> Iterator[Any]:
    """The iterator of a DataLoader, whose workers start in it and never see a signal that is for the loop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_LOOP)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(owner: int, number: int) -> None:
    """Let a worker live until its ``owner``, a process's number, ends it.

    Ctrl-C, and SIGTERM to a whole process group, which is what torchrun sends, reach workers too. The loop ends the run
    after the step under way, and for that step it may need the batch that a worker is making.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_LOOP)
    threading.Thread(target=_end_with, args=(owner, os.getppid()), daemon=True).start()


def _end_with(owner: int, parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner and os.getppid() == parent:
        pass  # of somebody else, while there is a loop that ends its workers
    os._exit(0)


@contextmanager
def deaths_found_when_asked() -> Iterator[Callable[[], None]]:
    """A context in which a worker's death is an error of the next batch that is asked for.

    PyTorch's handler of SIGCHLD raises that error wherever the program is, which may be half-way through an update or a
    checkpoint. It is set with the first DataLoader that has workers: call what is yielded after every batch.
    """
    taken: list[Any] = []

    def take() -> None:
        handler: Any = signal.getsignal(signal.SIGCHLD)
        if (getattr(handler, "__module__", None) or "").startswith(PYTORCHS):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            taken.append(handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # handlers run in the main thread
        return
    take()
    try:
        yield take
    finally:
        for handler in taken:
            signal.signal(signal.SIGCHLD, handler)


def read(batches: Iterable[Any], name: str) -> Iterator[Any]:
    """``batches``, of the data set ``name``. Raises DataError, in one line, if a worker that reads them died."""
    try:
        yield from batches
    except RuntimeError as error:
        said = " ".join(str(error).split())
        if "DataLoader worker" not in said:
            raise
        raise DataError(
            f"{name}: a process that reads it died ({said.partition('. ')[0].rstrip('.')[:200]}); fewer workers need "
            "less memory (and less in /dev/shm), and with none errors say more"
        ) from None


def arriving(
    batches: Iterable[Any], arrived: Callable[[], None], failed: Callable[[], None]
) -> Generator[Any, None, None]:
    """``batches`` one by one, after each of which ``arrived`` is called.

    If one cannot be had, ``failed`` is called, which may raise an error of its own, and DataError is raised. What reads
    the batches has ended once this generator is closed.
    """
    drawn = iter(batches)
    try:
        for batch in drawn:
            arrived()
            yield batch
    except DataError:
        failed()
        raise
    finally:
        if isinstance(drawn, Generator):
            drawn.close()
