"""What a warp's access of memory comes to: addresses, clocks of shared memory's banks, sectors of global memory."""

from __future__ import annotations

import numpy as np

from .compiled import inner
from .decode import OFFSET, SOURCES, WIDE_ADDRESS
from .lanes import LANES, MASK


@inner
def places(row, values, known, on, out):
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


@inner
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
        for bank in range(banks):
            counts[bank] = 0
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


@inner
def sector_bytes(at, on, tags, valid, ages, clock, cached):
    """Bytes of the 32-byte sectors that a warp's access of global memory touches.
    If ``cached``, they are of those only that the first-level cache (lines of 128 bytes, sectors filled one by one, the
    oldest line of a set replaced) lacks."""
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
