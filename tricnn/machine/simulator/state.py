"""What the replay knows of the modelled GPU at one moment, as records that compiled code reads and writes.

Records and not an array for each number: a function is given one pointer for all there is to know of a warp, and its
first compilation, which every new environment pays, takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RING = 16  # groups of copies or products in flight that are told apart
PHASES = 8  # phases of one barrier that are told apart
BARRIERS = 64  # most barriers in shared memory that one program uses
NAMED = 16  # barriers of a program that BAR.SYNC names
SCHEDULERS = 4  # of a multiprocessor
SCOREBOARDS = 6  # of a warp


def _record(whole: str, real: str = "", arrays: Sequence[tuple[str, str, int | tuple[int, int]]] = ()) -> np.dtype[Any]:
    """The type of a record: whole numbers, real ones, and arrays of (name, type, shape)."""
    return np.dtype([*((n, "i8") for n in whole.split()), *((n, "f8") for n in real.split()), *arrays])


#: an instruction's costs; ``write`` and ``read`` number scoreboards (6: none), ``wait`` is a mask of them, ``barrier``
#: the one that it names; ``noted``: whether every execution has figures of its own
INSTRUCTION = _record("kind write read wait barrier noted", "stall busy latency shared")

#: the figures of the modelled GPU that the replay goes by, and for how long it runs
GIVEN = _record(
    "",
    "dram l2 port dram_latency l2_latency l1_latency program_start load_share matrix_slowdown matrix_queue "
    "matrix_shared copy_clocks most_clocks spread",
)

#: the whole: the programs that run, have started and are through; when L2 and DRAM are free again; what was moved
WHOLE = _record(
    "total kinds started finished issued warm_issued failed",
    "clocks last_end warm_clock next_start l2_free dram_free share dram l2 tensor",
)
#: what of it is returned
FIGURES = ("clocks", "finished", "last_end", "issued", "warm_clock", "warm_issued", "dram", "l2", "tensor", "failed")

#: a multiprocessor: when its load/store pipe and its port are free
PROCESSOR = _record("", "lsu port")

#: a scheduler: which warp issued last, when it looks again, when its pipes are free
SCHEDULER = _record("latest", "wake alu fma special uniform tensor")

#: a place for a program: its living warps, when the next one starts, barriers by name, and the last phases of barriers
#: in shared memory with the clock at which what they wait for is there
PROGRAM = _record(
    "active live",
    "start",
    [("arrived", "i8", NAMED), ("generation", "i8", NAMED), ("released", "f8", NAMED),
     ("phase", "i8", (BARRIERS, PHASES)), ("phase_done", "f8", (BARRIERS, PHASES))],
)  # fmt: skip

#: a warp: its instruction, how many of the run are left, the runs and notes to come; the barrier it stands at (-1:
#: none) and that one's generation; why it waits, since when; when what its scoreboards say is there, and what that is
WARP = _record(
    "done pc left run run_end note at_barrier met copies products reason",
    "ready since copied",
    [("board", "f8", SCOREBOARDS), ("board_of", "i8", SCOREBOARDS), ("copy_done", "f8", RING),
     ("product_done", "f8", RING)],
)  # fmt: skip


def fresh(sms: int, slots: int, warps: int) -> tuple[Any, Any, Any, Any]:
    """A GPU on which nothing has run: (multiprocessors, schedulers, places for programs, warps)."""
    places, all_warps = np.zeros(sms * slots, PROGRAM), np.zeros((sms * slots, warps), WARP)
    places["phase"], all_warps["done"], all_warps["at_barrier"] = -1, 1, -1
    return np.zeros(sms, PROCESSOR), np.zeros((sms, SCHEDULERS), SCHEDULER), places, all_warps
