"""What the threads of a program execute: their paths through the code, and what each memory access comes to.

All threads of one program (a thread block) are followed through its integer and control instructions, with the
arguments and the grid of the launch. So loop trips, predicates, which 32-byte sectors an access touches, how often
banks of shared memory conflict, and which phase of a barrier a copy belongs to, are computed. Numbers that come from
memory (but for a table that the launch is given), and floats, are not known: an access whose address depends on one
counts as a full one, without conflicts; what a branch that depends on one would skip is taken to happen; a loop whose
end does cannot be followed. Behind an atomic operation, by which programs count themselves, it is the other way round
for all programs but the last: what a branch may skip there is skipped.

A warp's threads run together as long as they are at the same instruction; where they part, those that are furthest
back run first. Warps take turns at the ends of loops, so that what one of them brought into the first-level cache
serves the others, as it roughly does on a GPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiled import inner, kept
from .costs import Kind
from .decode import (
    GUARD,
    GUARD_MODIFIER,
    NEEDED,
    NOTE,
    NOTE_ARM,
    NOTE_CODES,
    NOTE_MATRICES,
    NOTE_ONCE,
    NUMBERS,
    RESULT,
    RESULT_2,
    SIZE,
    SOURCES,
    STEERING,
    TARGET,
    WHAT,
    Op,
)
from .lanes import LANES, MULTIPLY_WIDE, execute
from .state import BARRIERS
from .warp_accesses import bank_cycles, places, sector_bytes

#: iterations of a loop that are followed in full; from then on its accesses are those that were seen last
FOLLOWED = 32
#: instructions of one program after which its trace is given up
MOST_INSTRUCTIONS = 400_000_000
WAYS = 8

DONE, GROW, UNKNOWN_BRANCH, INDIRECT, UNKNOWN_BARRIER, UNKNOWN_DESCRIPTOR, TOO_LONG, OFF_THE_END = range(8)
REFUSALS = {
    UNKNOWN_BRANCH: "a loop's end depends on numbers in memory",
    INDIRECT: "a jump's goal stands in a register",
    UNKNOWN_BARRIER: "which barrier is meant depends on numbers in memory",
    UNKNOWN_DESCRIPTOR: "which tensor descriptor is meant is not known",
    TOO_LONG: f"a program executes more than {MOST_INSTRUCTIONS:,} instructions",
    OFF_THE_END: "the code ends without an exit",
}
# plain integers for compiled code
BRANCH, EXIT, REFUSED = int(Op.BRANCH), int(Op.EXIT), int(Op.REFUSED)
NOTE_LOAD = NOTE_CODES[Kind.LOAD]


@kept
def follow(
    table, values, known, pcs, alive, turn, runs, run_count, notes, phases, note_count, waited, armed, barriers,
    taken, hot, last, boxes, box_bytes, tags, valid, ages, totals, skips_from, content,
):  # fmt: skip
    """Run a program's warps until all have ended, or until a buffer is full: then it may be called again.

    values, known: [warp, row, lane]; pcs, alive: [warp, lane]; runs: [warp, i, (first, count)]; notes, phases:
    [warp, i]; waited, armed: by barrier; taken: [warp, instruction]; hot: [warp, (first, last)]; last: [instruction,
    warp]; totals: bytes loaded, bytes stored, instructions, the cache's clock, assumed branches; skips_from: the first
    instruction from which on branches that depend on memory skip; content: the address of the memory whose numbers are
    known, and these, 32 bits each.
    Returns (why it ended, where)."""
    warps, size = pcs.shape[0], table.shape[0]
    on, place = np.zeros(LANES, np.bool_), np.zeros(LANES, np.int64)
    mask = np.zeros(LANES, np.bool_)
    while True:
        living = 0
        for step in range(warps):
            w = (turn[0] + step) % warps
            # whoever is furthest back of the warp's threads
            pc, stop = size, size
            for lane in range(LANES):
                if alive[w, lane] and pcs[w, lane] < pc:
                    pc = pcs[w, lane]
            if pc == size:
                some = False
                for lane in range(LANES):
                    some = some or alive[w, lane]
                if some:
                    return OFF_THE_END, size - 1
                continue
            living += 1
            turn_over = False
            while not turn_over:
                pc = size
                for lane in range(LANES):
                    if alive[w, lane]:
                        pc = min(pc, pcs[w, lane])
                if pc == size:
                    break
                stop = size
                for lane in range(LANES):
                    mask[lane] = alive[w, lane] and pcs[w, lane] == pc
                    if alive[w, lane] and pcs[w, lane] > pc:
                        stop = min(stop, pcs[w, lane])
                if run_count[w] + 2 >= runs.shape[1] or note_count[w] + size >= notes.shape[1]:
                    turn[0] = w
                    return GROW, pc
                if hot[w, 1] >= 0 and not (hot[w, 0] <= pc <= hot[w, 1]):
                    hot[w, 1] = -1
                steady = hot[w, 1] >= 0
                column = STEERING if steady else NEEDED
                start = pc
                moved_on = False
                while not moved_on:
                    if pc >= size:
                        return OFF_THE_END, size - 1
                    row = table[pc]
                    what, note = row[WHAT], row[NOTE]
                    if what == REFUSED:
                        return INDIRECT, pc
                    if note or what in (BRANCH, EXIT) or row[column]:
                        guard, condition, flip = row[GUARD], row[SOURCES], 1 if row[GUARD_MODIFIER] else 0
                        some, sure = np.bool_(False), True  # not a literal: _note would be compiled for it too
                        for lane in range(LANES):
                            on[lane] = False
                            if mask[lane]:
                                if not known[w, guard, lane]:
                                    sure = False
                                    on[lane] = True
                                else:
                                    on[lane] = values[w, guard, lane] ^ flip != 0
                                some = some or on[lane]
                        if what in (BRANCH, EXIT):
                            if what == BRANCH:
                                negated = 1 if row[SOURCES + 1] else 0
                                for lane in range(LANES):
                                    if on[lane]:
                                        sure = sure and known[w, condition, lane]
                                        on[lane] = values[w, condition, lane] ^ negated != 0
                            if (
                                not sure
                            ):  # what it would skip happens; how often a loop runs cannot be taken for granted
                                if what == BRANCH and row[TARGET] <= pc:
                                    return UNKNOWN_BRANCH, pc
                                totals[4] += 1 if pc < skips_from else 0
                                for lane in range(LANES):
                                    certain = known[w, guard, lane] and (what == EXIT or known[w, condition, lane])
                                    if certain or pc < skips_from:
                                        on[lane] = on[lane] and certain
                                    else:
                                        on[lane] = mask[lane] and (
                                            not known[w, guard, lane] or values[w, guard, lane] ^ flip != 0
                                        )
                            some = False
                            for lane in range(LANES):
                                some = some or on[lane]
                                if mask[lane]:
                                    pcs[w, lane] = row[TARGET] if on[lane] and what == BRANCH else pc + 1
                                    if on[lane] and what == EXIT:
                                        alive[w, lane] = False
                            if what == BRANCH and some and row[TARGET] <= pc:
                                taken[w, pc] += 1
                                if taken[w, pc] > FOLLOWED and (
                                    hot[w, 1] < 0 or (row[TARGET] <= hot[w, 0] and pc >= hot[w, 1])
                                ):
                                    hot[w, 0], hot[w, 1] = row[TARGET], pc
                                turn_over = True
                            pc += 1
                            moved_on = True
                        else:
                            if note:
                                why = _note(
                                    row, pc, w, values[w], known[w], on, mask, some, place, steady, notes, phases,
                                    note_count, waited, armed, barriers, last, boxes, box_bytes, tags, valid, ages,
                                    totals,
                                )  # fmt: skip
                                if why != DONE:
                                    return why, pc
                            if row[column] and some:
                                if sure:
                                    execute(row, values[w], known[w], on, w * LANES)
                                    if note == NOTE_LOAD and len(content) > 1:
                                        _read(row, values[w], known[w], on, place, content)
                                else:  # whether it happens is not known, so what it would leave is not either
                                    for lane in range(LANES):
                                        if on[lane]:
                                            known[w, row[RESULT], lane] = False
                                            known[w, row[RESULT_2], lane] = False
                                            if what == MULTIPLY_WIDE:
                                                known[w, row[RESULT] + 1, lane] = False
                    if not moved_on:
                        pc += 1
                        if pc == stop:
                            for lane in range(LANES):
                                if mask[lane]:
                                    pcs[w, lane] = pc
                            moved_on = True
                count = run_count[w]
                totals[2] += pc - start
                if count and runs[w, count - 1, 0] + runs[w, count - 1, 1] == start:
                    runs[w, count - 1, 1] += pc - start
                else:
                    runs[w, count, 0], runs[w, count, 1] = start, pc - start
                    run_count[w] = count + 1
                if totals[2] > MOST_INSTRUCTIONS:
                    return TOO_LONG, pc
        turn[0] = 0
        if living == 0:
            return DONE, 0


@inner
def _read(row, values, known, on, place, content):
    """Fill in the registers of a load with what lies at its addresses, where that is known."""
    if not places(row, values, known, on, place):
        return
    for lane in range(LANES):
        if on[lane]:
            first = (place[lane] - content[0]) // 4 + 1
            for i in range(row[NUMBERS + 1]):
                if 1 <= first + i < len(content):
                    values[row[NUMBERS] + i, lane], known[row[NUMBERS] + i, lane] = content[first + i], True


@inner
def _note(
    row, pc, w, values, known, on, mask, some, place, steady, notes, phases, note_count, waited, armed, barriers, last,
    boxes, box_bytes, tags, valid, ages, totals,
):  # fmt: skip
    """Write down what one execution of an access comes to."""
    note, at = row[NOTE], note_count[w]
    value, phase = 0.0, -1
    if note == NOTE_ARM or note == 7:
        if not some and note == NOTE_ARM:
            return DONE
        first = 0
        while first < LANES - 1 and not on[first]:
            first += 1
        on_one = np.zeros(LANES, np.bool_)
        on_one[first] = True
        if not places(row, values, known, on_one, place):
            return UNKNOWN_BARRIER
        b = _barrier(barriers, place[first])
        if b < 0:
            return UNKNOWN_BARRIER
        if note == NOTE_ARM:
            armed[b] += 1
            return DONE
        value, phase = b, waited[w, b]
        waited[w, b] += 1
    elif note == 5 or note == 6:
        if some:
            lane = 0
            while not on[lane]:
                lane += 1
            described, upper, barrier = row[SOURCES], row[SOURCES + 2], row[SOURCES + 4]
            if not (known[described, lane] and known[upper, lane]):
                return UNKNOWN_DESCRIPTOR
            wanted = values[described, lane] | values[upper, lane] << 32
            which = -1
            for k in range(len(boxes)):
                if boxes[k] == wanted:
                    which = k
            if which < 0:
                return UNKNOWN_DESCRIPTOR
            value = box_bytes[which]
            if note == 5:
                if not known[barrier, lane]:
                    return UNKNOWN_BARRIER
                b = _barrier(barriers, values[barrier, lane])
                if b < 0 or armed[b] == 0:
                    return UNKNOWN_BARRIER
                phase = (armed[b] - 1) * BARRIERS + b
                totals[0] += value
            else:
                totals[1] += value
    elif note == NOTE_ONCE:
        value = 1.0
    else:
        size = row[SIZE]
        if note == NOTE_MATRICES:
            for lane in range(LANES):
                on[lane] = on[lane] and lane < 8 * size
            size = 16
        if steady:
            value = last[pc, w]
            if value < 0:
                value = max(1.0, size / 4.0) if note == 1 or note == NOTE_MATRICES else 32.0 * size
        elif note == 1 or note == NOTE_MATRICES:
            if some:
                value = max(1.0, size / 4.0)
                if places(row, values, known, on, place):
                    value = bank_cycles(place, on, size)
        else:
            if note == 4:
                wanted, flip = row[SOURCES + 8], 1 if row[SOURCES + 9] else 0
                for lane in range(LANES):
                    if on[lane] and known[wanted, lane]:
                        on[lane] = values[wanted, lane] ^ flip != 0
            if places(row, values, known, on, place):
                totals[3] += 1
                value = sector_bytes(place, on, tags, valid, ages, totals[3], note == 2)
            else:
                for lane in range(LANES):
                    value += size if on[lane] else 0
        last[pc, w] = value
        if note == 3:
            totals[1] += value
        elif note == 2 or note == 4:
            totals[0] += value
    notes[w, at], phases[w, at] = value, phase
    note_count[w] = at + 1
    return DONE


@inner
def _barrier(barriers, address):
    """The number of the barrier at an address, a new one at its first use; -1: too many."""
    for k in range(len(barriers)):
        if barriers[k] == address:
            return k
        if barriers[k] < 0:
            barriers[k] = address
            return k
    return -1


class Refused(Exception):
    """A program whose path cannot be known: why, and the number of the instruction."""

    def __init__(self, why: int, at: int):
        super().__init__(REFUSALS[why])
        self.at = at


class Trace:
    """What one program executes.
    ``runs[w]``: (first, count) of instructions in a row; ``notes[w]``, ``phases[w]``: for each execution of a noted
    instruction, clocks or bytes, and the barrier's phase."""

    def __init__(
        self, table: NDArray[np.int64], start: NDArray[np.int64], warps: int, boxes: dict[int, int], l1_bytes: int,
        skips_from: int, content: NDArray[np.int64],
    ):  # fmt: skip
        size, rows = len(table), len(start)
        values = np.empty((warps, rows, LANES), np.int64)
        values[:] = np.maximum(start, 0)[:, None]
        known = np.empty((warps, rows, LANES), np.bool_)
        known[:] = (start >= 0)[:, None]
        sets = max(8, l1_bytes // (128 * WAYS))
        runs, notes = np.zeros((warps, 256, 2), np.int32), np.zeros((warps, 4 * size), np.float32)
        phases = np.zeros((warps, 4 * size), np.int32)
        run_count, note_count = np.zeros(warps, np.int64), np.zeros(warps, np.int64)
        totals = np.zeros(5, np.int64)
        state = (
            np.zeros((warps, BARRIERS), np.int64), np.zeros(BARRIERS, np.int64), np.full(BARRIERS, -1, np.int64),
            np.zeros((warps, size), np.int64), np.full((warps, 2), -1, np.int64), np.full((size, warps), -1.0),
            np.array([*boxes, -1], np.int64), np.array([*boxes.values(), 0], np.int64),
            np.full((sets, WAYS), -1, np.int64), np.zeros((sets, WAYS), np.int64), np.zeros((sets, WAYS), np.int64),
        )  # fmt: skip
        pcs, alive = np.zeros((warps, LANES), np.int64), np.ones((warps, LANES), np.bool_)
        turn = np.zeros(1, np.int64)
        while True:
            why, at = follow(
                table, values, known, pcs, alive, turn, runs, run_count, notes, phases, note_count,
                *state, totals, skips_from, content,
            )  # fmt: skip
            if why != GROW:
                break
            runs, notes, phases = (np.concatenate([a, np.zeros_like(a)], 1) for a in (runs, notes, phases))
        if why != DONE:
            raise Refused(why, at)
        self.runs = [runs[w, : run_count[w]] for w in range(warps)]
        self.notes = [notes[w, : note_count[w]] for w in range(warps)]
        self.phases = [phases[w, : note_count[w]] for w in range(warps)]
        self.loaded, self.stored, self.instructions = (int(v) for v in totals[:3])
        self.assumed = int(totals[4])  # branches of which it is not known whether they would skip what follows
