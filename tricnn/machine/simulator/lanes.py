"""One instruction, executed for the lanes of a warp: integers, predicates and conversions, on values that are known.

A value that comes from memory, or from a float that does, is not known; neither is what is computed from one.
"""

from __future__ import annotations

import numpy as np

from .compiled import inner
from .decode import (
    ABSOLUTE,
    COMPLEMENT,
    EXTENDED,
    HIGH,
    NEGATED,
    NUMBERS,
    OR,
    RESULT,
    RESULT_2,
    RIGHT,
    SIGNED,
    SOURCES,
    WHAT,
    XOR,
    Op,
)

LANES = 32
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
ONES, LEADING, SET, UNKNOWN = _O["ONES"], _O["LEADING"], _O["SET"], _O["UNKNOWN"]


@inner
def _modified(value, modifier):
    """A 32-bit value with its operand's modifier; minus carries into bit 32, as the adder's complement does."""
    if modifier & ABSOLUTE and value >> 31:
        value = (-value) & MASK
    if modifier & NEGATED:
        return ((~value) & MASK) + 1
    if modifier & COMPLEMENT:
        return (~value) & MASK
    return value


@inner
def _signed(value):
    value &= MASK
    return value - (1 << 32) if value >> 31 else value


@inner
def execute(row, values, known, on, warp_first):
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


@inner
def _bits(number):
    """The 32 bits of a float."""
    return np.int64(np.float32(number).view(np.uint32))


@inner
def _float(bits):
    return np.uint32(bits).view(np.float32)
