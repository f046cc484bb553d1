"""Several processes for one test. What takes long to import is imported once, for all tests of a run's process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

SECONDS = 300


def in_processes(run: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> list[Any]:
    """What a function returns for each of the arguments, all at once, each in a new process."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.training.many", "tests.training.synchronised", "torch.distributed"])
    with ProcessPoolExecutor(len(arguments), context) as pool:
        waiting = [pool.submit(run, *given) for given in arguments]
        return [one.result(timeout=SECONDS) for one in waiting]
