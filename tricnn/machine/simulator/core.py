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

from .compiled import inner, kept
from .costs import Kind
from .state import BARRIERS, NAMED, PHASES, RING, SCHEDULERS, SCOREBOARDS

WAITS = (
    "issue slots", "fixed latency", "barrier", "global loads", "shared memory", "special functions", "other results",
    "arithmetic pipes", "load/store pipe", "asynchronous copies", "tensor cores", "matrix products", "bulk copies",
    "program start",
)  # fmt: skip
(SLOT, FIXED, AT_BARRIER, GLOBAL, ON_SHARED, ON_SPECIAL, OTHER, PIPE, LSU, COPIES, TENSOR, PRODUCTS, BULK, START) = (
    range(len(WAITS))
)
ALU, FMA, SPECIAL, UNIFORM, VARIABLE, FREE, SHARED, LOAD, STORE, ASYNC_COPY = (int(Kind(i)) for i in range(10))
COMMIT, COPY_WAIT, BARRIER, WARP_MATRIX, MATRIX, MATRIX_WAIT, BULK_LOAD, BULK_STORE, PHASE_WAIT, EXIT = (
    int(Kind(i)) for i in range(10, 20)
)
assert int(Kind.EXIT) == EXIT == 19
NEVER = 1e18
GOLDEN = 0.6180339887498949  # whose multiples' fractions are spread evenly, without a period that loops could share
#: why a replay failed: a path that ends without an exit; warps that wait for what nothing will bring
NO_EXIT, STUCK = 1, 2


@inner
def _memory(t, size, store, unit, gpu, given):
    """When a request of so many bytes of a multiprocessor is served."""
    if size <= 0:
        return t + given.l1_latency
    unit.port = max(t, unit.port) + size / given.port
    gpu.l2_free = max(t, gpu.l2_free) + size / given.l2
    at, latency = max(unit.port, gpu.l2_free), given.l2_latency
    gpu.l2 += size
    gpu.share = (gpu.share + GOLDEN) % 1.0
    if store or gpu.share < given.load_share:
        gpu.dram_free = max(t, gpu.dram_free) + size / given.dram
        at, latency = max(at, gpu.dram_free), given.dram_latency
        gpu.dram += size
    return at + latency


@inner
def _count(waits, warp, t):
    """Add up what a warp waited for since it was looked at last.
    It waited for a fixed latency until it was ready, from then on for its turn."""
    if warp.reason == FIXED or warp.reason == START:
        until = max(warp.since, min(t, warp.ready))
        waits[warp.reason] += until - warp.since
        waits[SLOT] += t - until
    else:
        waits[warp.reason] += t - warp.since
    warp.since = t


@inner
def _held(x, warp, program, scheduler, unit, given, value, phase, t):
    """Why a warp's next instruction cannot issue now, and until when; -1 if it can."""
    b = warp.at_barrier
    if b >= 0:
        if program.generation[b] == warp.met:
            return AT_BARRIER, NEVER
        if program.released[b] > t:
            return AT_BARRIER, program.released[b]
        warp.at_barrier = -1
    why, until = -1, NEVER
    for i in range(SCOREBOARDS):
        if x.wait >> i & 1 and warp.board[i] > t and (why < 0 or warp.board[i] > until):
            why, until = warp.board_of[i], warp.board[i]
    if why >= 0:
        return why, until
    kind = x.kind
    if kind in (ALU, FMA, UNIFORM):
        free = scheduler.alu if kind == ALU else scheduler.fma if kind == FMA else scheduler.uniform
        if free > t:
            return PIPE, free
    elif kind == SPECIAL:
        if scheduler.special > t + 8:
            return PIPE, scheduler.special - 8
    elif kind in (SHARED, LOAD, ASYNC_COPY):
        if unit.lsu > t + 16:
            return LSU, unit.lsu - 16
    elif kind == STORE:
        if unit.lsu > t + 16 or unit.port > t + 600:
            return LSU, max(unit.lsu - 16, unit.port - 600)
    elif kind in (MATRIX, WARP_MATRIX):
        queued = given.matrix_queue * max(x.busy, 4 * x.shared)
        if scheduler.tensor > t + queued:
            return TENSOR, scheduler.tensor - queued
    elif kind in (COPY_WAIT, MATRIX_WAIT):
        copies = kind == COPY_WAIT
        wanted = (warp.copies if copies else warp.products) - int(x.latency)
        at = (wanted - 1) % RING
        done = warp.copy_done[at] if copies else warp.product_done[at]
        if wanted > 0 and done > t:
            return COPIES if copies else PRODUCTS, done
    elif kind == PHASE_WAIT:
        number, done = program.phase[int(value), phase % PHASES], program.phase_done[int(value), phase % PHASES]
        if number < phase:
            return BULK, NEVER
        if number == phase and done > t:
            return BULK, done
    return -1, NEVER


@inner
def _wake(schedulers, s, at):
    """Have the schedulers of a multiprocessor look again at a clock."""
    for q in range(SCHEDULERS):
        schedulers[s, q].wake = min(schedulers[s, q].wake, at)


@inner
def _meet(program, b, wanted, at):
    """Open a program's barrier from a clock on if so many warps stand at it. Returns whether it opens."""
    if program.arrived[b] != wanted:
        return False
    program.arrived[b] = 0
    program.generation[b] += 1
    program.released[b] = at
    return True


@inner
def _bulk(program, number, barrier, ends):
    """Note that what a phase of a barrier waits for is there at a clock, or later where other copies are."""
    slot = number % PHASES
    if program.phase[barrier, slot] != number:
        program.phase[barrier, slot], program.phase_done[barrier, slot] = number, 0.0
    program.phase_done[barrier, slot] = max(program.phase_done[barrier, slot], ends)


@inner
def _access(x, warp, unit, gpu, given, value, t):
    """Issue an access of shared or global memory. Returns as :func:`_issue` does."""
    kind = x.kind
    if kind == SHARED:
        unit.lsu = max(unit.lsu, t) + max(value, x.busy)
        return unit.lsu + x.latency, unit.lsu + 6, ON_SHARED
    clocks = max(1.0, value / 128)
    unit.lsu = max(unit.lsu, t) + (clocks * given.copy_clocks if kind == ASYNC_COPY else clocks)
    served = _memory(t, value, kind == STORE, unit, gpu, given)
    if kind == LOAD:
        return served, unit.lsu + 8, GLOBAL
    if kind == STORE:
        return 0.0, unit.lsu + 10, LSU
    warp.copied = max(warp.copied, served)
    return 0.0, unit.lsu + 8, LSU


@inner
def _product(x, warp, scheduler, unit, gpu, given, t):
    """Issue a matrix product. Returns as :func:`_issue` does."""
    gpu.tensor += x.busy
    if x.kind == WARP_MATRIX:
        scheduler.tensor = max(scheduler.tensor, t) + x.busy * given.matrix_slowdown
        return scheduler.tensor + x.latency, scheduler.tensor, PRODUCTS
    scheduler.tensor = max(scheduler.tensor, t) + max(x.busy, 4 * x.shared) * given.matrix_slowdown
    unit.lsu = max(unit.lsu, t) + x.shared * given.matrix_shared
    if x.latency != 0:
        warp.product_done[warp.products % RING] = scheduler.tensor + 24
        warp.products += 1
    return 0.0, 0.0, OTHER


@inner
def _issue(x, warp, program, scheduler, schedulers, s, unit, gpu, given, value, phase, t):
    """Issue a warp's next instruction.
    Returns when its result is there, when its operands are read (0: at once), and what waits for these wait for."""
    kind = x.kind
    if kind == ALU:
        scheduler.alu = t + x.busy
    elif kind == FMA:
        scheduler.fma = t + x.busy
        return t + x.latency, 0.0, OTHER
    elif kind == UNIFORM:
        scheduler.uniform = t + x.busy
        return t + x.latency, 0.0, OTHER
    elif kind == SPECIAL:
        scheduler.special = max(scheduler.special, t) + x.busy
        return scheduler.special + x.latency, t + 6, ON_SPECIAL
    elif kind in (SHARED, LOAD, STORE, ASYNC_COPY):
        return _access(x, warp, unit, gpu, given, value, t)
    elif kind == COMMIT:
        group = warp.copies
        before = warp.copy_done[(group - 1) % RING] if group else 0.0
        warp.copy_done[group % RING] = max(before, warp.copied)
        warp.copies, warp.copied = group + 1, 0.0
    elif kind == BARRIER:
        b = x.barrier
        program.arrived[b] += 1
        if x.busy == 0:
            warp.at_barrier, warp.met = b, program.generation[b]
        if _meet(program, b, min(program.live, int(x.latency)) if x.latency != 0 else program.live, t + 22):
            _wake(schedulers, s, t + 1)
    elif kind in (WARP_MATRIX, MATRIX):
        return _product(x, warp, scheduler, unit, gpu, given, t)
    elif kind == BULK_LOAD:
        if phase >= 0:
            ends, remaining = 0.0, value
            while remaining > 0:
                ends = max(ends, _memory(t, min(remaining, 2048.0), kind == BULK_STORE, unit, gpu, given))
                remaining -= min(remaining, 2048.0)
            _bulk(program, phase // BARRIERS, phase % BARRIERS, ends + 100)
            _wake(schedulers, s, t + 1)
        return 0.0, t + 30, BULK
    elif kind == BULK_STORE:
        _memory(t, value, kind == BULK_STORE, unit, gpu, given)
    elif kind == PHASE_WAIT:
        return t + 20, 0.0, OTHER
    elif kind == VARIABLE:
        return t + x.latency, 0.0, OTHER
    return 0.0, 0.0, OTHER


@inner
def _announce(warp, scoreboard, clock, source, t):
    """Have a scoreboard of a warp say when something is there, unless it waits for something later."""
    when = max(np.floor(clock), t + 1)
    if when >= warp.board[scoreboard]:
        warp.board[scoreboard], warp.board_of[scoreboard] = when, source


@inner
def _end(x, warp, program, schedulers, s, gpu, t):
    """End a warp, and its program with the last of them. Returns False where its path ends without an exit."""
    if x.kind != EXIT:
        return False
    warp.done = 1
    program.live -= 1
    for b in range(NAMED):
        if program.arrived[b] and _meet(program, b, program.live, t + 20):
            _wake(schedulers, s, t + 1)
    if program.live == 0:
        program.active = 0
        gpu.finished += 1
        gpu.last_end = t
        program.start = t + 1
        gpu.next_start = min(gpu.next_start, t + 1)
    return True


@inner
def _start(programs, all_warps, schedulers, gpu, given, runs, run_at, note_at, t):
    """Start programs at all places where one may now, and note when the next one does."""
    gpu.next_start = NEVER
    slots, warps = len(programs) // len(schedulers), all_warps.shape[1]
    for c in range(len(programs)):
        program = programs[c]
        if program.start > t:
            gpu.next_start = min(gpu.next_start, program.start)
            continue
        program.start = NEVER
        if gpu.started == gpu.total:
            continue
        p = gpu.started % gpu.kinds
        gpu.started += 1
        program.active, program.live = 1, warps
        for b in range(NAMED):
            program.arrived[b] = program.generation[b] = 0
        for b in range(BARRIERS):
            for i in range(PHASES):
                program.phase[b, i] = -1
        for w in range(warps):
            warp = all_warps[c, w]
            warp.run, warp.run_end, warp.note = run_at[p, w], run_at[p, w + 1], note_at[p, w]
            warp.pc, warp.left = runs[warp.run, 0], runs[warp.run, 1]
            warp.done, warp.ready, warp.at_barrier = 0, t + given.program_start, -1
            for i in range(SCOREBOARDS):
                warp.board[i] = 0.0
            warp.copied = 0.0
            warp.copies = warp.products = 0
            warp.reason, warp.since = START, t
        for q in range(SCHEDULERS):
            schedulers[c // slots, q].wake = t


@inner
def _turn(s, q, slots, programs, all_warps, schedulers, unit, gpu, given, costs, runs, notes, phases, waits, t):
    """Issue an instruction of the first of a scheduler's warps that can. Returns when the scheduler looks again."""
    scheduler = schedulers[s, q]
    mine = (all_warps.shape[1] - q + 3) // SCHEDULERS  # warps of a program that are this scheduler's
    n = slots * mine
    upcoming = NEVER
    for k in range(n):
        turn = (scheduler.latest + k) % n
        c = s * slots + turn // mine
        program, warp = programs[c], all_warps[c, q + turn % mine * SCHEDULERS]
        if program.active == 0 or warp.done == 1:
            continue
        if warp.ready > t:
            upcoming = min(upcoming, warp.ready)
            continue
        x = costs[warp.pc]
        value, phase = 0.0, -1
        if x.noted:
            value, phase = notes[warp.note], phases[warp.note]
        why, until = _held(x, warp, program, scheduler, unit, given, value, phase, t)
        if why >= 0:
            upcoming = min(upcoming, max(t + 1, np.ceil(until)))
            if warp.reason != why:
                _count(waits, warp, t)
                warp.reason = why
            continue

        _count(waits, warp, t)
        warp.reason = FIXED
        result, released, source = _issue(
            x, warp, program, scheduler, schedulers, s, unit, gpu, given, value, phase, t
        )  # fmt: skip
        if x.write < SCOREBOARDS and x.kind != COMMIT:
            _announce(warp, x.write, result, source, t)
        if x.read < SCOREBOARDS and released != 0:
            _announce(warp, x.read, released, LSU if source == GLOBAL else source, t)
        warp.note += x.noted
        gpu.issued += 1
        scheduler.latest = turn
        warp.ready = t + x.stall
        warp.left -= 1
        if warp.left:
            warp.pc += 1
        elif warp.run + 1 < warp.run_end:
            warp.run += 1
            warp.pc, warp.left = runs[warp.run, 0], runs[warp.run, 1]
        elif not _end(x, warp, program, schedulers, s, gpu, t):
            gpu.failed = NO_EXIT
        return t + 1
    return upcoming


@kept
def replay(costs, runs, run_at, notes, phases, note_at, whole, figures, units, schedulers, programs, all_warps, waits):
    """Run programs on some multiprocessors until all are through, or the clocks are.

    costs: the instructions' records; runs: all warps' (first, count), those of warp w of program p from run_at[p, w]
    on; notes, phases: so too. whole and figures: one record each, WHOLE and GIVEN; units, schedulers, programs,
    all_warps: as :func:`.state.fresh` makes them; waits: warp clocks by what they waited for."""
    gpu, given = whole[0], figures[0]
    slots, most = len(programs) // len(units), given.most_clocks
    dither = 0.0
    for c in range(len(programs)):
        dither = (dither + GOLDEN) % 1.0
        # the launch gives every multiprocessor its first program, then its second: c // len(units) counts them
        start = np.floor(dither * given.spread) + c // len(units) * 20
        programs[(c % len(units)) * slots + c // len(units)].start = start
    t, warm = 0.0, most / 4
    gpu.warm_clock = -1.0
    while gpu.finished < gpu.total and t < most:
        if t >= gpu.next_start:
            _start(programs, all_warps, schedulers, gpu, given, runs, run_at, note_at, t)
        step = NEVER
        for s in range(len(units)):
            for q in range(SCHEDULERS):
                if schedulers[s, q].wake <= t:
                    # a barrier or a copy may have set its own scheduler's clock already
                    schedulers[s, q].wake = _turn(
                        s, q, slots, programs, all_warps, schedulers, units[s], gpu, given, costs, runs, notes, phases,
                        waits, t,
                    )  # fmt: skip
                    if gpu.failed:
                        return
        for s in range(len(units)):
            for q in range(SCHEDULERS):
                step = min(step, schedulers[s, q].wake)
        step = min(step, gpu.next_start)
        if step >= NEVER:
            gpu.failed = STUCK
            break
        t = max(t + 1, step)
        if gpu.warm_clock < 0 and t >= warm:
            gpu.warm_clock, gpu.warm_issued = t, gpu.issued
    gpu.clocks = t
    gpu.last_end = max(gpu.last_end, max(gpu.l2_free, gpu.dram_free))  # what was stored last still drains
    gpu.warm_clock = max(gpu.warm_clock, 0.0)
