"""The processes of a run: one alone, or several that torchrun started, which train one network together.

    torchrun --nproc-per-node 8 -m tricnn train resnet50 ...

Every process computes its share of each batch; what they must agree on (gradients, the loss, when to stop and when to
save) is summed over all of them, in the same order everywhere, so that all take the same decisions from the same bits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ..system.errors import TricnnError

#: seconds that one process waits for the others before it takes one of them to be dead or hung
PATIENCE = 600.0


Result = TypeVar("Result")


class ProcessLost(TricnnError):
    """Another process of the run died, or no longer answers."""


@dataclass(frozen=True)
class Processes:
    """The ``world`` processes of a run, of which this is number ``rank`` (from 0).
    ``distributed`` is torch.distributed; None where there is one process, which needs none."""

    rank: int = 0
    world: int = 1
    distributed: Any = None

    @property
    def first(self) -> bool:
        """Is this the process that writes files and speaks?"""
        return self.rank == 0

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sum over processes of each number, in float64: the same bits in all of them.

        Raises ProcessLost.
        """
        if self.distributed is None:
            return list(map(float, numbers))
        import torch

        sums = torch.tensor(numbers, dtype=torch.float64)
        with self.answering():
            self.distributed.all_reduce(sums)
        return [float(x) for x in sums]

    def from_first(self, make: Callable[[], Result]) -> Result:
        """What ``make`` gives the first process, in every process; if it raises a TricnnError there, all raise it.

        Raises ProcessLost.
        """
        if self.distributed is None:
            return make()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = make()
            except TricnnError as error:
                box[1] = error
        with self.answering():
            self.distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            if not self.first:
                box[1].said = True  # by the first process
            raise box[1]
        result: Result = box[0]
        return result

    def notes(self, asked: Callable[[], Sequence[Any]], together: bool) -> list[tuple[str, Any]]:
        """What ``asked`` gives, of all processes in their order, each with words that say whose it is.
        So it is if all call this ``together``. Otherwise one process that is alone has its own, and those of several
        are left for later. Raises ProcessLost."""
        if self.distributed is None:
            return [("", note) for note in asked()]
        found: list[Sequence[Any]] = [[] for _ in range(self.world)]
        if together:
            with self.answering():
                self.distributed.all_gather_object(found, asked())
        return [(f"process {rank}: ", note) for rank, notes in enumerate(found) for note in notes]

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A context in which a failure to reach the other processes is a ProcessLost, in one line."""
        try:
            yield
        except RuntimeError as error:
            if self.distributed is None:
                raise
            reason = re.sub(r"\[\S+\.(cc|cpp):\d+\] ", "", " ".join(str(error).split())).partition(". ")[0][:120]
            raise ProcessLost(
                f"process {self.rank} of {self.world} cannot reach another one, which died or hangs ({reason}); start "
                "the same command with --resume"
            ) from None

    def shared(self, count: int) -> slice:
        """Which of ``count`` things are this process's (:func:`part_of`)."""
        return part_of(count, self.rank, self.world)


def part_of(count: int, rank: int, world: int) -> slice:
    """Which of ``count`` things are those of process ``rank`` of ``world``.
    They are consecutive ones; the first processes have one more where they cannot be dealt out evenly."""
    least, more = divmod(count, world)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


ALONE = Processes()


def started_by_torchrun() -> bool:
    """Did torchrun, or another launcher with its environment, start this process among others?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def joined(patience: float = PATIENCE) -> Iterator[Processes]:
    """The processes that torchrun started, connected until the block ends; :data:`ALONE` where it did not.

    Tensors on the CPU are summed by gloo, those on GPUs by NCCL; each process uses the GPU of its LOCAL_RANK. Raises
    ProcessLost if the others cannot be reached within ``patience`` seconds.
    """
    if not started_by_torchrun():
        yield ALONE
        return
    import torch
    import torch.distributed as distributed

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    processes = Processes(rank, world, distributed)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    backend, timeout = "cpu:gloo,cuda:nccl" if gpus else "gloo", timedelta(seconds=patience)
    with processes.answering():
        store, _, _ = next(distributed.rendezvous("env://", rank, world, timeout=timeout))
        # torchrun keeps the store when it starts all processes anew: the addresses of those that are gone lie there
        store = distributed.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        distributed.init_process_group(backend, store=store, timeout=timeout, rank=rank, world_size=world)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()
