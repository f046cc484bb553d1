"""When everything happens: some multiprocessors of a Hopper GPU replay the paths of their programs, clock by clock.

Each scheduler issues at most one instruction a clock, of the warps that are its own, in each warp's order: the last one
that issued first, then the next in turn. A warp's instruction issues when

- its stall count since the one before has passed, and the scoreboards that it waits for are free;
- its pipe has room: an arithmetic pipe is free every ``busy`` clocks; the load/store pipe of the multiprocessor takes
  the clocks that an access's bank conflicts, or its bytes at 128 a clock, need, and lets 16 clocks queue; a tensor core
  lets ``matrix_queue`` products queue;
- what it waits for is there: a barrier's other warps, groups of copies or of products, a bulk copy's phase.

A request to memory of b bytes ends after three queues in a row, each served in order of arrival:

    port     b / port_bytes_per_clock                     of its multiprocessor
    L2       b / (l2_bytes_per_clock * multiprocessors)   shared
    DRAM     b / (their part of DRAM's bandwidth)         shared, for the share of requests that reach it

and then the latency of L2, or of DRAM. Which requests reach DRAM is spread evenly among all.

What every warp waits for is added up, in warp clocks: the whole of a program's life is the sum of :data:`WAITS` and of
its issues.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .costs import Kind

WAITS = (
    "issue slots", "fixed latency", "barrier", "global loads", "shared memory", "special functions", "other results",
    "arithmetic pipes", "load/store pipe", "asynchronous copies", "tensor cores", "matrix products", "bulk copies",
    "program start",
)  # fmt: skip
(SLOT, FIXED, AT_BARRIER, GLOBAL, ON_SHARED, ON_SPECIAL, OTHER, PIPE, LSU, COPIES, TENSOR, PRODUCTS, BULK, START) = (
    range(len(WAITS))
)
#: columns of an instruction's costs
KIND, STALL, WRITE, READ, WAIT, BUSY, LATENCY, SHARED_CLOCKS, COST_COLUMNS = range(9)
#: figures that the model returns
FIGURES = ("clocks", "finished", "last_end", "issued", "warm_clock", "warm_issued", "dram", "l2", "tensor", "failed")
ALU, FMA, SPECIAL, UNIFORM, VARIABLE, FREE, SHARED, LOAD, STORE, ASYNC_COPY = (int(Kind(i)) for i in range(10))
COMMIT, COPY_WAIT, BARRIER, WARP_MATRIX, MATRIX, MATRIX_WAIT, BULK_LOAD, BULK_STORE, PHASE_WAIT, EXIT = (
    int(Kind(i)) for i in range(10, 20)
)
assert int(Kind.EXIT) == EXIT == 19
NEVER = 1e18
RING = 16  # groups of copies or products in flight that are told apart
PHASES = 8  # phases of one barrier that are told apart
BARRIERS = 64  # most barriers in shared memory that one program uses
NAMED = 16  # barriers of a program that BAR.SYNC names
(
    DRAM, L2, PORT, DRAM_LATENCY, L2_LATENCY, L1_LATENCY, PROGRAM_START, LOAD_SHARE, MATRIX_SLOWDOWN, MATRIX_QUEUE,
    MATRIX_SHARED, COPY_CLOCKS, MOST_CLOCKS, SPREAD, FIGURES_GIVEN,
) = range(15)  # fmt: skip


@njit(cache=True, error_model="numpy")
def _memory(t, size, store, s, port, queues, given, spent):
    """When a request of so many bytes is served.
    queues: when L2 and DRAM are free again, and what of a request's share of DRAM is left over from those before;
    spent: bytes so far."""
    if size <= 0:
        return t + given[L1_LATENCY]
    port[s] = max(t, port[s]) + size / given[PORT]
    queues[0] = max(t, queues[0]) + size / given[L2]
    at, latency = max(port[s], queues[0]), given[L2_LATENCY]
    spent[1] += size
    # a sequence that is spread evenly, and has no period that loops could share (the golden ratio's)
    queues[2] = (queues[2] + 0.6180339887498949) % 1.0
    if store or queues[2] < given[LOAD_SHARE]:
        queues[1] = max(t, queues[1]) + size / given[DRAM]
        at, latency = max(at, queues[1]), given[DRAM_LATENCY]
        spent[0] += size
    return at + latency


@njit(cache=True, error_model="numpy", nogil=True)
def replay(costs, noted, runs, run_at, notes, phases, note_at, shape, given):
    """Run ``shape`` = (multiprocessors, programs on each, warps, programs in all, different programs).

    costs: [instruction, column]; runs: all warps' (first, count), those of warp w of program p from run_at[p, w] on;
    notes, phases: so too. Returns (figures, warp clocks by what they waited for)."""
    sms, slots, warps, total, kinds = shape
    ctas, most = sms * slots, given[MOST_CLOCKS]
    # of each scheduler
    pipes = np.zeros((sms, 4, 5))  # ALU, FMA, special functions, uniform, tensor core: when they are free
    wake = np.zeros((sms, 4))
    latest = np.zeros((sms, 4), np.int64)
    # of each multiprocessor
    lsu, port = np.zeros(sms), np.zeros(sms)
    queues, spent = np.zeros(3), np.zeros(3)
    # of each place for a program
    active = np.zeros(ctas, np.bool_)
    live = np.zeros(ctas, np.int64)
    starts = np.empty(ctas)
    arrived = np.zeros((ctas, NAMED), np.int64)
    generation = np.zeros((ctas, NAMED), np.int64)
    released = np.zeros((ctas, NAMED))
    phase_number = np.full((ctas, BARRIERS, PHASES), -1, np.int64)
    phase_done = np.zeros((ctas, BARRIERS, PHASES))
    # of each warp
    pc, left = np.zeros((ctas, warps), np.int64), np.zeros((ctas, warps), np.int64)
    run, run_end = np.zeros((ctas, warps), np.int64), np.zeros((ctas, warps), np.int64)
    note = np.zeros((ctas, warps), np.int64)
    done = np.ones((ctas, warps), np.bool_)
    ready = np.zeros((ctas, warps))
    at_barrier = np.full((ctas, warps), -1, np.int64)
    met = np.zeros((ctas, warps), np.int64)
    board = np.zeros((ctas, warps, 6))
    board_of = np.zeros((ctas, warps, 6), np.int64)
    copies = np.zeros((ctas, warps))
    copy_groups = np.zeros((ctas, warps, RING))
    copy_count = np.zeros((ctas, warps), np.int64)
    products = np.zeros((ctas, warps, RING))
    product_count = np.zeros((ctas, warps), np.int64)
    reason = np.full((ctas, warps), START, np.int64)
    since = np.zeros((ctas, warps))
    waits = np.zeros(len(WAITS))
    figures = np.zeros(len(FIGURES))

    dither = 0.0
    for c in range(ctas):
        dither = (dither + 0.6180339887498949) % 1.0
        # the launch gives every multiprocessor its first program, then its second: c // sms counts them
        starts[(c % sms) * slots + c // sms] = np.floor(dither * given[SPREAD]) + c // sms * 20
    t, started, finished, issued, warm = 0.0, 0, 0, 0, most / 4
    warm_clock, warm_issued, last_end, tensor = -1.0, 0, 0.0, 0.0
    next_start = 0.0
    while finished < total and t < most:
        if t >= next_start:
            next_start = NEVER
            for c in range(ctas):
                if starts[c] > t:
                    next_start = min(next_start, starts[c])
                    continue
                starts[c] = NEVER
                if started == total:
                    continue
                p = started % kinds
                started += 1
                s = c // slots
                active[c], live[c] = True, warps
                arrived[c] = 0
                generation[c] = 0
                phase_number[c] = -1
                for w in range(warps):
                    run[c, w], run_end[c, w], note[c, w] = run_at[p, w], run_at[p, w + 1], note_at[p, w]
                    pc[c, w], left[c, w] = runs[run[c, w], 0], runs[run[c, w], 1]
                    done[c, w], ready[c, w], at_barrier[c, w] = False, t + given[PROGRAM_START], -1
                    board[c, w] = 0
                    copies[c, w] = 0
                    copy_count[c, w] = product_count[c, w] = 0
                    reason[c, w], since[c, w] = START, t
                wake[s] = t
        for s in range(sms):
            for q in range(4):
                if wake[s, q] > t:
                    continue
                mine = (warps - q + 3) // 4  # warps of a program that are this scheduler's
                n = slots * mine
                any_issued, upcoming = False, NEVER
                for k in range(n):
                    turn = (latest[s, q] + k) % n
                    c = s * slots + turn // mine
                    w = q + turn % mine * 4
                    if not active[c] or done[c, w]:
                        continue
                    if ready[c, w] > t:
                        upcoming = min(upcoming, ready[c, w])
                        continue
                    b = at_barrier[c, w]
                    why, until = -1, NEVER
                    if b >= 0:
                        if generation[c, b] == met[c, w]:
                            why = AT_BARRIER
                        elif released[c, b] > t:
                            why, until = AT_BARRIER, released[c, b]
                        else:
                            at_barrier[c, w] = -1
                    x = costs[pc[c, w]]
                    kind = int(x[KIND])
                    if why < 0:
                        mask = int(x[WAIT])
                        for i in range(6):
                            if mask >> i & 1 and board[c, w, i] > t and (why < 0 or board[c, w, i] > until):
                                why, until = board_of[c, w, i], board[c, w, i]
                    value, phase = 0.0, -1
                    if why < 0 and noted[pc[c, w]]:
                        value, phase = notes[note[c, w]], phases[note[c, w]]
                    if why < 0:
                        if kind in (ALU, FMA, UNIFORM):
                            pipe = 0 if kind == ALU else 1 if kind == FMA else 3
                            if pipes[s, q, pipe] > t:
                                why, until = PIPE, pipes[s, q, pipe]
                        elif kind == SPECIAL:
                            if pipes[s, q, 2] > t + 8:
                                why, until = PIPE, pipes[s, q, 2] - 8
                        elif kind in (SHARED, LOAD, ASYNC_COPY):
                            if lsu[s] > t + 16:
                                why, until = LSU, lsu[s] - 16
                        elif kind == STORE:
                            if lsu[s] > t + 16 or port[s] > t + 600:
                                why, until = LSU, max(lsu[s] - 16, port[s] - 600)
                        elif kind in (MATRIX, WARP_MATRIX):
                            length = max(x[BUSY], 4 * x[SHARED_CLOCKS])
                            if pipes[s, q, 4] > t + given[MATRIX_QUEUE] * length:
                                why, until = TENSOR, pipes[s, q, 4] - given[MATRIX_QUEUE] * length
                        elif kind == COPY_WAIT:
                            wanted = copy_count[c, w] - int(x[LATENCY])
                            if wanted > 0 and copy_groups[c, w, (wanted - 1) % RING] > t:
                                why, until = COPIES, copy_groups[c, w, (wanted - 1) % RING]
                        elif kind == MATRIX_WAIT:
                            wanted = product_count[c, w] - int(x[LATENCY])
                            if wanted > 0 and products[c, w, (wanted - 1) % RING] > t:
                                why, until = PRODUCTS, products[c, w, (wanted - 1) % RING]
                        elif kind == PHASE_WAIT:
                            barrier = int(value)
                            if phase_number[c, barrier, phase % PHASES] < phase:
                                why = BULK
                            elif phase_number[c, barrier, phase % PHASES] == phase:
                                until = phase_done[c, barrier, phase % PHASES]
                                if until > t:
                                    why = BULK
                    if why >= 0:
                        upcoming = min(upcoming, max(t + 1, np.ceil(until)))
                        if reason[c, w] != why:
                            _count(waits, reason, since, ready, c, w, t)
                            reason[c, w] = why
                        continue

                    # it issues
                    _count(waits, reason, since, ready, c, w, t)
                    reason[c, w] = FIXED
                    result, released_at, source = 0.0, 0.0, OTHER
                    if kind == ALU:
                        pipes[s, q, 0] = t + x[BUSY]
                    elif kind == FMA:
                        pipes[s, q, 1] = t + x[BUSY]
                        result = t + x[LATENCY]
                    elif kind == UNIFORM:
                        pipes[s, q, 3] = t + x[BUSY]
                        result = t + x[LATENCY]
                    elif kind == SPECIAL:
                        pipes[s, q, 2] = max(pipes[s, q, 2], t) + x[BUSY]
                        result, released_at, source = pipes[s, q, 2] + x[LATENCY], t + 6, ON_SPECIAL
                    elif kind == SHARED:
                        lsu[s] = max(lsu[s], t) + max(value, x[BUSY])
                        result, released_at, source = lsu[s] + x[LATENCY], lsu[s] + 6, ON_SHARED
                    elif kind == LOAD:
                        lsu[s] = max(lsu[s], t) + max(1.0, value / 128)
                        result = _memory(t, value, False, s, port, queues, given, spent)
                        released_at, source = lsu[s] + 8, GLOBAL
                    elif kind == STORE:
                        lsu[s] = max(lsu[s], t) + max(1.0, value / 128)
                        _memory(t, value, True, s, port, queues, given, spent)
                        released_at, source = lsu[s] + 10, LSU
                    elif kind == ASYNC_COPY:
                        lsu[s] = max(lsu[s], t) + max(1.0, value / 128) * given[COPY_CLOCKS]
                        copies[c, w] = max(copies[c, w], _memory(t, value, False, s, port, queues, given, spent))
                        released_at, source = lsu[s] + 8, LSU
                    elif kind == COMMIT:
                        k_group = copy_count[c, w]
                        before = copy_groups[c, w, (k_group - 1) % RING] if k_group else 0.0
                        copy_groups[c, w, k_group % RING] = max(before, copies[c, w])
                        copy_count[c, w], copies[c, w] = k_group + 1, 0.0
                    elif kind == BARRIER:
                        b = int(x[SHARED_CLOCKS])
                        arrived[c, b] += 1
                        if x[BUSY] == 0:
                            at_barrier[c, w], met[c, w] = b, generation[c, b]
                        if arrived[c, b] == (min(live[c], int(x[LATENCY])) if x[LATENCY] else live[c]):
                            arrived[c, b] = 0
                            generation[c, b] += 1
                            released[c, b] = t + 22
                            for other in range(4):
                                wake[s, other] = min(wake[s, other], t + 1)
                    elif kind == WARP_MATRIX:
                        pipes[s, q, 4] = max(pipes[s, q, 4], t) + x[BUSY] * given[MATRIX_SLOWDOWN]
                        tensor += x[BUSY]
                        result, released_at, source = pipes[s, q, 4] + x[LATENCY], pipes[s, q, 4], PRODUCTS
                    elif kind == MATRIX:
                        length = max(x[BUSY], 4 * x[SHARED_CLOCKS])
                        pipes[s, q, 4] = max(pipes[s, q, 4], t) + length * given[MATRIX_SLOWDOWN]
                        lsu[s] = max(lsu[s], t) + x[SHARED_CLOCKS] * given[MATRIX_SHARED]
                        tensor += x[BUSY]
                        if x[LATENCY]:
                            products[c, w, product_count[c, w] % RING] = pipes[s, q, 4] + 24
                            product_count[c, w] += 1
                    elif kind == BULK_LOAD:
                        if phase >= 0:
                            ends, remaining = 0.0, value
                            while remaining > 0:
                                size = min(remaining, 2048.0)
                                ends = max(ends, _memory(t, size, False, s, port, queues, given, spent))
                                remaining -= size
                            barrier, number = phase % BARRIERS, phase // BARRIERS
                            slot = number % PHASES
                            if phase_number[c, barrier, slot] != number:
                                phase_number[c, barrier, slot], phase_done[c, barrier, slot] = number, 0.0
                            phase_done[c, barrier, slot] = max(phase_done[c, barrier, slot], ends + 100)
                            for other in range(4):
                                wake[s, other] = min(wake[s, other], t + 1)
                        released_at, source = t + 30, BULK
                    elif kind == BULK_STORE:
                        _memory(t, value, True, s, port, queues, given, spent)
                    elif kind == PHASE_WAIT:
                        result = t + 20
                    elif kind == VARIABLE:
                        result = t + x[LATENCY]
                    i = int(x[WRITE])
                    if i < 6 and kind != COMMIT:
                        when = max(np.floor(result), t + 1)
                        if when >= board[c, w, i]:
                            board[c, w, i], board_of[c, w, i] = when, source
                    i = int(x[READ])
                    if i < 6 and released_at:
                        when = max(np.floor(released_at), t + 1)
                        if when >= board[c, w, i]:
                            board[c, w, i], board_of[c, w, i] = when, LSU if source == GLOBAL else source
                    if noted[pc[c, w]]:
                        note[c, w] += 1
                    issued += 1
                    any_issued = True
                    latest[s, q] = turn
                    ready[c, w] = t + x[STALL]
                    left[c, w] -= 1
                    if left[c, w]:
                        pc[c, w] += 1
                    elif run[c, w] + 1 < run_end[c, w]:
                        run[c, w] += 1
                        pc[c, w], left[c, w] = runs[run[c, w], 0], runs[run[c, w], 1]
                    else:
                        if kind != EXIT:
                            figures[9] = 1
                            return figures, waits
                        done[c, w] = True
                        live[c] -= 1
                        for b in range(NAMED):
                            if arrived[c, b] and arrived[c, b] == live[c]:
                                arrived[c, b] = 0
                                generation[c, b] += 1
                                released[c, b] = t + 20
                                wake[s] = np.minimum(wake[s], t + 1)
                        if live[c] == 0:
                            active[c] = False
                            finished += 1
                            last_end = t
                            starts[c] = t + 1
                            next_start = min(next_start, t + 1)
                    break
                # a barrier or a copy may have set its own scheduler's clock already
                wake[s, q] = t + 1 if any_issued else upcoming
        step = NEVER
        for s in range(sms):
            for q in range(4):
                step = min(step, wake[s, q])
        step = min(step, next_start)
        if step >= NEVER:
            figures[9] = 2  # every warp waits for something that nothing will bring
            break
        t = max(t + 1, step)
        if warm_clock < 0 and t >= warm:
            warm_clock, warm_issued = t, issued
    last_end = max(last_end, max(queues[0], queues[1]))  # what was stored last still drains
    figures[0], figures[1], figures[2], figures[3] = t, finished, last_end, issued
    figures[4], figures[5] = max(warm_clock, 0.0), warm_issued
    figures[6], figures[7], figures[8] = spent[0], spent[1], tensor
    return figures, waits


@njit(cache=True, error_model="numpy")
def _count(waits, reason, since, ready, c, w, t):
    """Add up what a warp waited for since it was looked at last.
    It waited for a fixed latency until it was ready, from then on for its turn."""
    if reason[c, w] == FIXED or reason[c, w] == START:
        until = max(since[c, w], min(t, ready[c, w]))
        waits[reason[c, w]] += until - since[c, w]
        waits[SLOT] += t - until
    else:
        waits[reason[c, w]] += t - since[c, w]
    since[c, w] = t
