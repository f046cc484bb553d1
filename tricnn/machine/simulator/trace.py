"""What the threads of a program execute: their paths through the code, and what each memory access comes to.

All threads of one program (a thread block) are followed through its integer and control instructions, with the
arguments and the grid of the launch. So loop trips, predicates, which 32-byte sectors an access touches, how often
banks of shared memory conflict, and which phase of a barrier a copy belongs to, are computed. Numbers that come from
memory, and floats, are not known: an access whose address depends on one counts as a full one, without conflicts;
what a branch that depends on one would skip is taken to happen; a loop whose end does cannot be followed.

A warp's threads run together as long as they are at the same instruction; where they part, those that are furthest
back run first. Warps take turns at the ends of loops, so that what one of them brought into the first-level cache
serves the others, as it roughly does on a GPU.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .decode import (
    ABSOLUTE,
    COMPLEMENT,
    EXTENDED,
    GUARD,
    GUARD_MODIFIER,
    HIGH,
    NEEDED,
    NEGATED,
    NOTE,
    NOTE_ARM,
    NOTE_MATRICES,
    NOTE_ONCE,
    NUMBERS,
    OFFSET,
    OR,
    RESULT,
    RESULT_2,
    RIGHT,
    SIGNED,
    SIZE,
    SOURCES,
    STEERING,
    TARGET,
    WHAT,
    WIDE_ADDRESS,
    XOR,
    Op,
)

LANES = 32
BARRIERS = 64  # most barriers in shared memory that one program uses
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
MASK = 0xFFFFFFFF
# plain integers for compiled code
_O = {op.name: int(op) for op in Op}
ADD, MULTIPLY, MULTIPLY_WIDE, MULTIPLY_HIGH = _O["ADD"], _O["MULTIPLY"], _O["MULTIPLY_WIDE"], _O["MULTIPLY_HIGH"]
LOGIC, COMPARE, PREDICATE_LOGIC, SELECT = _O["LOGIC"], _O["COMPARE"], _O["PREDICATE_LOGIC"], _O["SELECT"]
SHIFT, SHIFT_ADD, EXTEND, PERMUTE, MINMAX = _O["SHIFT"], _O["SHIFT_ADD"], _O["EXTEND"], _O["PERMUTE"], _O["MINMAX"]
COPY, LANE, FIRST_LANE, ELECT, VOTE, SHUFFLE = (
    _O["COPY"], _O["LANE"], _O["FIRST_LANE"], _O["ELECT"], _O["VOTE"], _O["SHUFFLE"])  # fmt: skip
PACK, UNPACK, TO_FLOAT, FROM_FLOAT, RECIPROCAL = (
    _O["PACK"], _O["UNPACK"], _O["TO_FLOAT"], _O["FROM_FLOAT"], _O["RECIPROCAL"])  # fmt: skip
ONES, LEADING, BRANCH, EXIT, REFUSED, SET = (
    _O["ONES"], _O["LEADING"], _O["BRANCH"], _O["EXIT"], _O["REFUSED"], _O["SET"])  # fmt: skip
UNKNOWN, NOTHING = _O["UNKNOWN"], _O["NOTHING"]


@njit(cache=True, error_model="numpy")
def _modified(value, modifier):
    """A 32-bit value with its operand's modifier; minus carries into bit 32, as the adder's complement does."""
    if modifier & ABSOLUTE and value >> 31:
        value = (-value) & MASK
    if modifier & NEGATED:
        return ((~value) & MASK) + 1
    if modifier & COMPLEMENT:
        return (~value) & MASK
    return value


@njit(cache=True, error_model="numpy")
def _signed(value):
    value &= MASK
    return value - (1 << 32) if value >> 31 else value


@njit(cache=True, error_model="numpy")
def _compute(row, values, known, on, warp_first):
    """Execute one instruction for the lanes that are on. values, known: [row, lane]."""
    what, result, result2 = row[WHAT], row[RESULT], row[RESULT_2]
    n0, n1 = row[NUMBERS], row[NUMBERS + 1]
    r0, r1, r2, r3, r4 = row[SOURCES], row[SOURCES + 2], row[SOURCES + 4], row[SOURCES + 6], row[SOURCES + 8]
    m0, m1, m2, m3, m4 = (row[SOURCES + 1], row[SOURCES + 3], row[SOURCES + 5], row[SOURCES + 7], row[SOURCES + 9])
    if what in (FIRST_LANE, ELECT):
        first = 0
        while not on[first]:
            first += 1
        for lane in range(LANES):
            if what == ELECT:
                if on[lane]:
                    values[result, lane], known[result, lane] = int(lane == first), True
            else:  # a uniform register is the whole warp's
                values[result, lane], known[result, lane] = values[r0, first], known[r0, first]
        return
    if what == VOTE:
        bits, sure, every = 0, True, True
        for lane in range(LANES):
            if on[lane]:
                p = values[r0, lane] ^ (1 if m0 else 0)
                sure = sure and known[r0, lane]
                every = every and p != 0
                bits |= p << lane
        answer = bits if n1 else (int(every) if n0 else int(bits != 0))
        for lane in range(LANES):
            values[result, lane], known[result, lane] = answer, sure
        return
    if what == SHUFFLE:
        moved = np.empty(LANES, np.int64)
        sure_of = np.empty(LANES, np.bool_)
        for lane in range(LANES):
            other = values[r1, lane] & 31
            if n0:
                other = lane ^ other
            moved[lane], sure_of[lane] = values[r0, other], known[r0, other] and known[r1, lane]
        for lane in range(LANES):
            if on[lane]:
                values[result, lane], known[result, lane] = moved[lane], sure_of[lane]
        return
    # of predicates the complement is of one bit
    flip0, flip1, flip2, flip3, flip4 = m0 != 0, m1 != 0, m2 != 0, m3 != 0, m4 != 0
    extended = what in (MULTIPLY_WIDE, MULTIPLY_HIGH)
    for lane in range(LANES):
        if not on[lane]:
            continue
        sure0, sure1, sure2, sure3 = known[r0, lane], known[r1, lane], known[r2, lane], known[r3, lane]
        sure = sure0 and sure1 and sure2 and sure3 and known[r4, lane]
        x, y, z = _modified(values[r0, lane], m0), _modified(values[r1, lane], m1), _modified(values[r2, lane], m2)
        fourth = values[r3, lane]
        p0, p1, p2 = values[r0, lane] ^ flip0, values[r1, lane] ^ flip1, values[r2, lane] ^ flip2
        p3, p4 = fourth ^ flip3, values[r4, lane] ^ flip4
        out, second, certain, certain2 = 0, 0, sure, sure
        if what == ADD:
            total = x + y + z + p3 + p4
            out, second = total, int(total >> 32 != 0)
        x, y, z = x & MASK, y & MASK, z & MASK
        if what == UNKNOWN:
            certain = certain2 = False
            for register in range(n0, n0 + n1):
                known[register, lane] = False
        elif what == SET:
            out, certain = 1, True
        elif what == LANE:
            out, certain = lane + (warp_first if n0 else 0), True
        elif what == MULTIPLY:
            out = x * y + z + p3  # the lower half is right however it overflows
        elif extended:
            if n0 & SIGNED:
                x, y = _signed(x), _signed(y)
            product = np.uint64(x) * np.uint64(y)
            addend = np.uint64(z) | (np.uint64(fourth) << np.uint64(32))
            whole = product + addend
            high = np.int64(whole >> np.uint64(32))
            if what == MULTIPLY_HIGH:
                out = high
            else:
                out, second = np.int64(whole & np.uint64(MASK)), int(whole < addend)
                values[result + 1, lane], known[result + 1, lane] = high, sure
        elif what == LOGIC:
            for k in range(8):
                if n0 >> k & 1:
                    out |= (x if k & 4 else ~x) & (y if k & 2 else ~y) & (z if k & 1 else ~z)
            second = int(out & MASK != 0)
        elif what == COMPARE:
            if n1 & SIGNED:
                x, y = _signed(x), _signed(y)
            if n0 < 2:
                holds = x < y or (n0 == 1 and x == y)
            elif n0 < 4:
                holds = x > y or (n0 == 3 and x == y)
            else:
                holds = (x == y) != (n0 == 5) if n0 < 6 else n0 == 6
            clear = sure0 and sure1
            if n1 & EXTENDED and x == y:  # of 64-bit numbers: the lower halves decide where the upper ones are equal
                holds = p3 != 0
                clear = clear and sure3
            also = p2 != 0
            for number in range(2):
                h = holds != (number == 1)
                if n1 & OR:
                    value, sure_of = h or also, (clear and sure2) or (clear and h) or (sure2 and also)
                elif n1 & XOR:
                    value, sure_of = h != also, clear and sure2
                else:
                    value, sure_of = h and also, (clear and sure2) or (clear and not h) or (sure2 and not also)
                if number == 0:
                    out, certain = int(value), sure_of
                else:
                    second, certain2 = int(value), sure_of
        elif what == PREDICATE_LOGIC:
            possible, possible2, every, every2 = False, False, True, True
            for k in range(8):  # every value that what is not known may have
                if (
                    (sure0 and (k >> 2 & 1) != p0) or (sure1 and (k >> 1 & 1) != p1) or (sure2 and (k & 1) != p2)
                ):  # fmt: skip
                    continue
                h, h2 = (n0 >> k & 1) != 0, (n1 >> k & 1) != 0
                possible, possible2, every, every2 = possible or h, possible2 or h2, every and h, every2 and h2
            out, second, certain, certain2 = int(possible), int(possible2), possible == every, possible2 == every2
        elif what == SELECT:
            out, certain = (x, sure0 and sure2) if p2 else (y, sure1 and sure2)
        elif what == SHIFT:
            joined = np.uint64(x) | (np.uint64(z) << np.uint64(32))
            if y > 63:
                joined = np.uint64(0) if not (n0 & RIGHT and n0 & SIGNED) else np.uint64(np.int64(joined) >> 63)
            elif n0 & RIGHT:
                joined = np.uint64(np.int64(joined) >> y) if n0 & SIGNED else joined >> np.uint64(y)
            else:
                joined = joined << np.uint64(y)
            if n0 & HIGH:
                joined >>= np.uint64(32)
            out = np.int64(joined & np.uint64(MASK))
        elif what == SHIFT_ADD:
            shifted = (x << n0) & MASK
            if n1 & HIGH:
                upper = (MASK if x >> 31 else 0) if n1 & SIGNED else z
                joined = (np.uint64(x) | (np.uint64(upper) << np.uint64(32))) << np.uint64(n0)
                shifted = np.int64(joined >> np.uint64(32))
            total = shifted + y + p3
            out, second = total, int(total >> 32 != 0)
        elif what == EXTEND:
            bits = y & 31
            out = x & ((1 << bits) - 1)
            if n0 & SIGNED and bits and out >> (bits - 1) & 1:
                out |= ~((1 << bits) - 1)
        elif what == PERMUTE:
            for k in range(4):
                selected = y >> (4 * k) & 15
                byte = (x if selected & 4 == 0 else z) >> (8 * (selected & 3)) & 255
                if selected & 8:
                    byte = 255 if byte & 128 else 0
                out |= byte << (8 * k)
        elif what == MINMAX:
            if n1:
                x, y = (x + y) & MASK, z
            if n0 & SIGNED:
                x, y = _signed(x), _signed(y)
            out = min(x, y) if p3 else max(x, y)
        elif what == COPY:
            out, second, certain, certain2 = x, y, sure0, sure1
        elif what == PACK:
            out = x & ~n1
            for k in range(7):
                if n1 >> k & 1:
                    out |= values[n0 + k, lane] << k
                    certain = certain and known[n0 + k, lane]
        elif what == UNPACK:
            for k in range(7):
                if n1 >> k & 1:
                    values[n0 + k, lane], known[n0 + k, lane] = x >> k & 1, sure0
        elif what == TO_FLOAT:
            exact = _signed(x) if n0 & SIGNED else x
            near = np.float32(exact)
            if n1 and np.float64(near) < exact:  # towards plus infinity
                near = np.nextafter(near, np.float32(np.inf))
            out = _bits(near)
        elif what == FROM_FLOAT:
            number = np.float64(_float(x))
            out = 0 if not number > 0 else (MASK if number >= 4294967295.0 else np.int64(number))
        elif what == RECIPROCAL:
            out = _bits(np.float32(1) / _float(x))
        elif what == ONES:
            while x:
                x &= x - 1
                out += 1
        elif what == LEADING:
            out = -1
            while x:
                x >>= 1
                out += 1
        values[result2, lane], known[result2, lane] = second & MASK, certain2
        values[result, lane], known[result, lane] = out & MASK, certain


@njit(cache=True, error_model="numpy")
def _bits(number):
    """The 32 bits of a float."""
    one = np.empty(1, np.float32)
    one[0] = number
    return np.int64(one.view(np.uint32)[0])


@njit(cache=True, error_model="numpy")
def _float(bits):
    one = np.empty(1, np.uint32)
    one[0] = np.uint32(bits)
    return one.view(np.float32)[0]


@njit(cache=True, error_model="numpy")
def _places(row, values, known, on, out):
    """The address of each lane that is on, in ``out``; False if one is not known."""
    low, low2, high, high2 = row[SOURCES], row[SOURCES + 2], row[SOURCES + 4], row[SOURCES + 6]
    for lane in range(LANES):
        if not on[lane]:
            continue
        if not (known[low, lane] and known[low2, lane] and known[high, lane] and known[high2, lane]):
            return False
        at = values[low, lane] + values[low2, lane] + row[OFFSET]
        at += (values[high, lane] + values[high2, lane]) << 32
        out[lane] = at if row[WIDE_ADDRESS] else at & MASK
    return True


@njit(cache=True, error_model="numpy")
def bank_cycles(at, on, size):
    """Clocks that a warp's access of shared memory takes.

    Its 32 banks give 4 bytes each in a clock, so threads are served in groups whose accesses of ``size`` bytes are 128
    bytes together, and a group takes as many clocks as the busiest bank has different words (CUDA programming guide,
    shared memory of compute capability 5.0 and later)."""
    granule = max(4, size)
    group = min(32, 128 // granule)
    banks = 128 // granule
    cycles = 0
    counts = np.zeros(32, np.int64)
    seen = np.empty(32, np.int64)
    for first in range(0, LANES, group):
        counts[:] = 0
        n, worst = 0, 0
        for lane in range(first, first + group):
            if not on[lane]:
                continue
            word = at[lane] // granule
            new = True
            for k in range(n):
                if seen[k] == word:
                    new = False
                    break
            if new:
                seen[n] = word
                n += 1
                bank = word % banks
                counts[bank] += 1
                worst = max(worst, counts[bank])
        cycles += worst
    return cycles


@njit(cache=True, error_model="numpy")
def sector_bytes(at, on, tags, valid, ages, clock, cached):
    """Bytes of the 32-byte sectors that a warp's access of global memory touches; if ``cached``, of those only that the
    first-level cache (lines of 128 bytes, sectors filled one by one, the oldest line of a set replaced) lacks."""
    seen = np.empty(32, np.int64)
    n, moved = 0, 0
    for lane in range(LANES):
        if not on[lane]:
            continue
        sector = at[lane] >> 5
        new = True
        for k in range(n - 1, -1, -1):
            if seen[k] == sector:
                new = False
                break
        if not new:
            continue
        seen[n] = sector
        n += 1
        if not cached:
            moved += 32
            continue
        line, bit = sector >> 2, 1 << (sector & 3)
        index = (line ^ line >> 3 ^ line >> 6 ^ line >> 9 ^ line >> 12) % tags.shape[0]
        way, oldest = -1, 0
        for k in range(tags.shape[1]):
            if tags[index, k] == line:
                way = k
                break
            if ages[index, k] < ages[index, oldest]:
                oldest = k
        if way < 0:
            way = oldest
            tags[index, way], valid[index, way] = line, 0
        ages[index, way] = clock
        if valid[index, way] & bit == 0:
            valid[index, way] |= bit
            moved += 32
    return moved


@njit(cache=True, error_model="numpy", nogil=True)
def follow(
    table, values, known, pcs, alive, turn, runs, run_count, notes, phases, note_count, waited, armed, barriers,
    taken, hot, last, boxes, box_bytes, tags, valid, ages, totals,
):  # fmt: skip
    """Run a program's warps until all have ended, or until a buffer is full: then it may be called again.

    values, known: [warp, row, lane]; pcs, alive: [warp, lane]; runs: [warp, i, (first, count)]; notes, phases:
    [warp, i]; waited, armed: by barrier; taken: [warp, instruction]; hot: [warp, (first, last)]; last: [instruction,
    warp]; totals: bytes loaded, bytes stored, instructions, the cache's clock, assumed branches.
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
                        some, sure = False, True
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
                                totals[4] += 1
                                for lane in range(LANES):
                                    certain = known[w, guard, lane] and (what == EXIT or known[w, condition, lane])
                                    on[lane] = on[lane] and certain
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
                                    _compute(row, values[w], known[w], on, w * LANES)
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


@njit(cache=True, error_model="numpy")
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
        if not _places(row, values, known, on_one, place):
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
                if _places(row, values, known, on, place):
                    value = bank_cycles(place, on, size)
        else:
            if note == 4:
                wanted, flip = row[SOURCES + 8], 1 if row[SOURCES + 9] else 0
                for lane in range(LANES):
                    if on[lane] and known[wanted, lane]:
                        on[lane] = values[wanted, lane] ^ flip != 0
            if _places(row, values, known, on, place):
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


@njit(cache=True, error_model="numpy")
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
    """What one program executes. ``runs[w]``: (first, count) of instructions in a row; ``notes[w]``, ``phases[w]``: for
    each execution of a noted instruction, clocks or bytes, and the barrier's phase."""

    def __init__(
        self, table: NDArray[np.int64], start: NDArray[np.int64], warps: int, boxes: dict[int, int], l1_bytes: int
    ):
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
                *state, totals,
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
