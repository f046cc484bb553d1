"""Instructions as rows of numbers, for the tracer: which values they read, what they compute, what they write.

Every value that an instruction can name is one row of the tracer's file of values: general registers, uniform ones,
predicates, and each constant (an immediate, a word of constant bank 0) a row of its own. So an operand is a row and a
modifier (minus, complement, absolute), whatever it was in the text, and the tracer knows only rows.

Only integer instructions are computed; what they are for is addresses and branches. A float, or whatever else writes a
register, leaves a value that is not known.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ..sass import MATRIX, Instruction, written
from .costs import NOTED, Kind, access_bytes, cost

REGISTERS, UNIFORM, PREDICATES, UNIFORM_PREDICATES = 0, 256, 320, 328
ZERO, TRUE = 255, 327
SINK = 336  # what is written to it, or behind it, is lost
PROGRAM = 338  # the program's own number in the grid, along x, y and z
FIRST_CONSTANT = 341
NEGATED, COMPLEMENT, ABSOLUTE = 1, 2, 4


class Op(IntEnum):
    """What the tracer computes."""

    NOTHING = 0
    UNKNOWN = 1  # a result that is not known
    ADD = 2
    MULTIPLY = 3
    MULTIPLY_WIDE = 4
    MULTIPLY_HIGH = 5
    LOGIC = 6
    COMPARE = 7
    PREDICATE_LOGIC = 8
    SELECT = 9
    SHIFT = 10
    SHIFT_ADD = 11
    EXTEND = 12
    PERMUTE = 13
    MINMAX = 14
    COPY = 15
    LANE = 16
    FIRST_LANE = 17
    ELECT = 18
    VOTE = 19
    SHUFFLE = 20
    PACK = 21
    UNPACK = 22
    TO_FLOAT = 23
    FROM_FLOAT = 24
    RECIPROCAL = 25
    ONES = 26
    LEADING = 27
    BRANCH = 28
    EXIT = 29
    REFUSED = 30  # a jump that cannot be followed
    SET = 31


#: columns of a row: what, guard, its modifier, results (two), sources (five pairs), numbers (three), what it notes,
#: bytes, branch target, whether the tracer must compute it, whether it must when only branches are followed
WHAT, GUARD, GUARD_MODIFIER, RESULT, RESULT_2, SOURCES, NUMBERS = 0, 1, 2, 3, 4, 5, 15
NOTE, SIZE, TARGET, NEEDED, STEERING, OFFSET, WIDE_ADDRESS, COLUMNS = 18, 19, 20, 21, 22, 23, 24, 26
#: values of NUMBERS
COMPARISONS = {"LT": 0, "LE": 1, "GT": 2, "GE": 3, "EQ": 4, "NE": 5, "T": 6, "F": 7}
SIGNED, EXTENDED, OR, XOR, HIGH, RIGHT = 1, 2, 4, 8, 16, 32
NOTE_CODES = {Kind.SHARED: 1, Kind.LOAD: 2, Kind.STORE: 3, Kind.ASYNC_COPY: 4, Kind.BULK_LOAD: 5, Kind.BULK_STORE: 6,
              Kind.PHASE_WAIT: 7}  # fmt: skip
NOTE_ONCE, NOTE_ARM, NOTE_MATRICES = 8, 9, 10  # lanes exchange, a barrier is armed, LDSM and STSM

_NUMBER = re.compile(r"-?(0x[0-9a-f]+|\d+)$")
_BANK = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]$")
_NAMED = re.compile(r"(UR|UP|R|P)(\d+)")


@dataclass(frozen=True)
class Decoded:
    """The rows of a function, and what the rows of values hold before it begins.
    Constants are behind all registers; -1 is a value that is not known. Each program puts its own number into those
    from ``PROGRAM`` on."""

    table: NDArray[np.int64]
    values: NDArray[np.int64]


class _Decoder:
    def __init__(self, bank: Mapping[int, int]):
        self.bank = bank
        self.constants: dict[int | None, int] = {}

    def constant(self, value: int | None) -> int:
        """The row of a constant; None: one that is not known."""
        key = None if value is None else value & 0xFFFFFFFF
        if key == 0:
            return ZERO
        return self.constants.setdefault(key, FIRST_CONSTANT + len(self.constants))

    def source(self, text: str) -> tuple[int, int]:
        """Row and modifier of an operand."""
        text = text.removesuffix(".reuse")
        if _NUMBER.match(text):
            return self.constant(int(text, 0)), 0
        modifier = 0
        if text[:1] in ("-", "~", "!"):
            modifier, text = (NEGATED if text[0] == "-" else COMPLEMENT), text[1:]
        if text.startswith("|"):
            modifier, text = modifier | ABSOLUTE, text.strip("|")
        if text in ("RZ", "URZ", "SRZ"):
            return ZERO, modifier
        if text in ("PT", "UPT"):
            return TRUE, modifier
        if bank := _BANK.match(text):
            return self.constant(self.bank.get(int(bank[1], 16))), modifier
        if named := _NAMED.match(text):
            if "." in text and not text.endswith((".64", ".X16", ".X8", ".X4")):
                return self.constant(None), modifier
            first = {"R": REGISTERS, "UR": UNIFORM, "P": PREDICATES, "UP": UNIFORM_PREDICATES}[named[1]]
            return first + int(named[2]), modifier
        return self.constant(None), modifier

    def above(self, text: str) -> tuple[int, int]:
        """The upper half of a 64-bit operand."""
        text = text.removesuffix(".reuse")
        row, _ = self.source(text)
        if bank := _BANK.match(text):
            return self.constant(self.bank.get(int(bank[1], 16) + 4)), 0
        if _NUMBER.match(text):
            return self.constant(-1 if int(text, 0) < 0 else 0), 0
        return (row + 1 if row < SINK and row != ZERO else row), 0

    def result(self, text: str) -> int:
        row, _ = self.source(text)
        return SINK if row in (ZERO, TRUE) or row >= SINK else row


def _is_predicate(text: str) -> bool:
    return re.fullmatch(r"!?U?P(\d|T)(\.reuse)?", text) is not None


def decoded(code: Sequence[Instruction], bank: Mapping[int, int]) -> Decoded:
    """A function's rows. ``bank``: what is known of constant bank 0, by word."""
    decoder = _Decoder(bank)
    table = np.zeros((len(code), COLUMNS), np.int64)
    effects = []
    for at, x in enumerate(code):
        row = table[at]
        guard, modifier = decoder.source(x.guard) if x.guard else (TRUE, 0)
        row[GUARD], row[GUARD_MODIFIER] = guard, modifier
        row[RESULT] = row[RESULT_2] = SINK
        row[SOURCES : SOURCES + 10 : 2] = ZERO
        row[TARGET] = -1 if x.target is None else x.target
        _arithmetic(decoder, x, row)
        extra = _access(decoder, x, row)
        reads = {int(row[SOURCES + 2 * i]) for i in range(5)} | {guard} | extra
        writes = {int(row[RESULT]), int(row[RESULT_2])}
        if row[WHAT] == Op.MULTIPLY_WIDE:
            writes |= {int(row[RESULT]) + 1}
        if row[WHAT] == Op.UNKNOWN:
            writes |= set(range(int(row[NUMBERS]), int(row[NUMBERS] + row[NUMBERS + 1])))
        if row[WHAT] == Op.PACK:
            reads |= set(range(int(row[NUMBERS]), int(row[NUMBERS]) + 7))
        if row[WHAT] == Op.UNPACK:
            writes |= set(range(int(row[NUMBERS]), int(row[NUMBERS]) + 7))
        effects.append((reads, writes - {SINK}))
    for column, also in ((NEEDED, True), (STEERING, False)):
        _slice(table, effects, column, also)
    words = np.full(FIRST_CONSTANT + len(decoder.constants), -1, np.int64)
    for value, at in decoder.constants.items():
        words[at] = -1 if value is None else value
    words[:FIRST_CONSTANT] = 0
    words[TRUE] = 1
    return Decoded(table, words)


def _slice(table: NDArray[np.int64], effects: list[tuple[set[int], set[int]]], column: int, addresses: bool) -> None:
    """Mark what must be computed so that branches can be followed and, if ``addresses``, accesses be placed.
    It is found backwards from what they read, in whatever order the instructions run."""
    steering = {int(Op.BRANCH), int(Op.EXIT), int(Op.REFUSED)}
    always = {NOTE_CODES[Kind.BULK_LOAD], NOTE_CODES[Kind.BULK_STORE], NOTE_CODES[Kind.PHASE_WAIT], NOTE_ARM}
    wanted: set[int] = set()
    for row, (reads, _) in zip(table, effects, strict=True):
        note = int(row[NOTE])
        if int(row[WHAT]) in steering or note in always or (addresses and note and note != NOTE_ONCE):
            wanted |= reads
    changed = True
    while changed:
        changed = False
        for row, (reads, writes) in zip(table, effects, strict=True):
            if not row[column] and writes & wanted:
                row[column] = 1
                changed = True
                if row[WHAT] != Op.UNKNOWN:
                    wanted |= reads
                else:
                    wanted.add(int(row[GUARD]))


def _arithmetic(decoder: _Decoder, x: Instruction, row: NDArray[np.int64]) -> None:
    """Fill in an instruction's row with what it computes, or say there that the result is not known."""
    name, parts, given = x.base, x.suffixes, list(x.operands)
    base = name[1:] if name.startswith("U") and name not in ("UTMALDG", "UTMASTG") else name

    def put(what: Op, sources: Sequence[tuple[int, int]], numbers: Sequence[int] = ()) -> None:
        row[WHAT] = what
        for i, (at, modifier) in enumerate(sources):
            row[SOURCES + 2 * i], row[SOURCES + 2 * i + 1] = at, modifier
        row[NUMBERS : NUMBERS + len(numbers)] = numbers

    if base == "BRA":
        conditions = [o for o in given[:-1] if _is_predicate(o)]
        if "DIV" in parts or x.target is None:
            # to where threads that went apart are brought together: here they never are apart
            put(Op.NOTHING if "DIV" in parts else Op.REFUSED, [])
            return
        put(Op.BRANCH, [decoder.source(o) for o in conditions[:1]] or [(TRUE, 0)])
        return
    if base in ("BRX", "JMX", "JMP", "CALL", "RET"):
        put(Op.REFUSED, [])
        return
    if base == "EXIT":
        put(Op.EXIT, [])
        return
    kind = cost(x).kind
    if not given or kind in (Kind.BULK_LOAD, Kind.BULK_STORE, Kind.ASYNC_COPY):
        return
    if kind is Kind.STORE and not base.startswith("ATOM"):
        return
    if base in ("BAR", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "BSSY", "BSYNC", "STS", "STSM", "CCTL", "MEMBAR", "FENCE"):
        return

    sources = decoder.source
    row[RESULT] = decoder.result(given[0])
    rest = given[1:]
    carries: list[str] = []
    if base in ("IADD3", "LEA", "IMAD"):
        while rest and _is_predicate(rest[0]):
            carries.append(rest.pop(0))
        row[RESULT_2] = decoder.result(carries[0]) if carries else SINK
    unsigned = "U32" in parts
    match base:
        case "MOV" | "CS2R" if "64" not in parts:
            wide = base == "CS2R" and "32" not in parts
            put(Op.COPY if rest[0] in ("SRZ", "RZ", "URZ") or base == "MOV" else Op.UNKNOWN, [sources(rest[0])])
            row[RESULT_2] = row[RESULT] + 1 if wide else SINK
            row[SOURCES + 2] = row[SOURCES]
        case "LDC" | "LDCU" if _BANK.match(rest[0]) and access_bytes(x) in (4, 8):
            put(Op.COPY, [sources(rest[0]), decoder.above(rest[0])])
            row[RESULT_2] = row[RESULT] + 1 if access_bytes(x) == 8 else SINK
        case "S2R" | "S2UR":
            _special(decoder, x, row, put)
        case "IADD3" if "64" not in parts:
            incoming = [sources(o) for o in rest[3:5]] if "X" in parts else []
            put(Op.ADD, [*map(sources, rest[:3]), *incoming])
        case "VIADD" if "16x2" not in x.name:
            put(Op.ADD, [sources(o) for o in rest[:2]])
        case "IMAD" if "WIDE" in parts:
            put(Op.MULTIPLY_WIDE, [*map(sources, rest[:3]), decoder.above(rest[2])], [0 if unsigned else SIGNED])
        case "IMAD" if "HI" in parts:
            put(Op.MULTIPLY_HIGH, [*map(sources, rest[:3]), decoder.above(rest[2])], [0 if unsigned else SIGNED])
        case "IMAD":
            incoming = [sources(rest[3])] if "X" in parts and len(rest) > 3 else []
            put(Op.MULTIPLY, [*map(sources, rest[:3]), *incoming])
        case "LOP3":
            if _is_predicate(given[0]):
                row[RESULT_2], row[RESULT], rest = decoder.result(given[0]), decoder.result(given[1]), given[2:]
            put(Op.LOGIC, [sources(o) for o in rest[:3]], [int(rest[3], 0)])
        case "ISETP":
            row[RESULT_2] = decoder.result(rest[0])
            low = [sources(rest[4])] if "EX" in parts else []
            flags = (0 if unsigned else SIGNED) | (EXTENDED if low else 0)
            flags |= OR if "OR" in parts else XOR if "XOR" in parts else 0
            put(Op.COMPARE, [*map(sources, rest[1:4]), *low], [COMPARISONS[parts[0]], flags])
        case "PLOP3":
            row[RESULT_2] = decoder.result(rest[0])
            put(Op.PREDICATE_LOGIC, [sources(o) for o in rest[1:4]], [int(rest[4], 0), int(rest[5], 0)])
        case "SEL":
            put(Op.SELECT, [sources(o) for o in rest[:3]])
        case "SHF":
            flags = (SIGNED if {"S32", "S64"} & set(parts) else 0) | (HIGH if "HI" in parts else 0)
            put(Op.SHIFT, [sources(o) for o in rest[:3]], [flags | (RIGHT if "R" in parts else 0)])
        case "LEA":
            _shift_add(decoder, parts, rest, put)
        case "SGXT":
            put(Op.EXTEND, [sources(o) for o in rest[:2]], [0 if unsigned else SIGNED])
        case "PRMT" if len(parts) == 0:
            put(Op.PERMUTE, [sources(o) for o in rest[:3]])
        case "VIADDMNMX" if set(parts) <= {"U32"}:
            put(Op.MINMAX, [*map(sources, rest[:3]), sources(rest[3])], [0 if unsigned else SIGNED, 1])
        case "VIMNMX" | "IMNMX" if set(parts) <= {"U32"}:
            put(Op.MINMAX, [*map(sources, rest[:2]), (ZERO, 0), sources(rest[2])], [0 if unsigned else SIGNED, 0])
        case "R2UR":
            put(Op.FIRST_LANE, [sources(rest[-1])])
        case "ELECT":
            put(Op.ELECT, [])
        case "VOTE" | "VOTEU":
            whole = not _is_predicate(given[0])  # a register takes the lanes, one bit each
            put(Op.VOTE, [sources(rest[-1])], [int("ALL" in parts), int(whole)])
        case "SHFL" if parts[0] in ("IDX", "BFLY"):
            row[RESULT] = decoder.result(rest[0])
            put(Op.SHUFFLE, [sources(rest[1]), sources(rest[2])], [int(parts[0] == "BFLY")])
        case "P2R" | "P2UR":
            first = UNIFORM_PREDICATES if name.startswith("UP") else PREDICATES
            put(Op.PACK, [sources(rest[1])], [first, int(rest[-1], 0)])
        case "R2P":
            row[RESULT] = SINK
            put(Op.UNPACK, [sources(rest[0])], [PREDICATES, int(rest[-1], 0)])
        case "I2F" | "I2FP" if "F64" not in parts and "F16" not in parts:
            put(Op.TO_FLOAT, [sources(rest[0])], [0 if unsigned else SIGNED, int("RP" in parts)])
        case "F2I" if "U32" in parts and "F16" not in parts:
            put(Op.FROM_FLOAT, [sources(rest[0])])
        case "MUFU" if "RCP" in parts:
            put(Op.RECIPROCAL, [sources(rest[0])])
        case "IABS":
            row_at, modifier = sources(rest[0])
            put(Op.COPY, [(row_at, modifier | ABSOLUTE)])
        case "POPC":
            put(Op.ONES, [sources(rest[0])])
        case "FLO" if "U32" in parts and "SH" not in parts:
            put(Op.LEADING, [sources(rest[0])])
        case "SYNCS":
            if "PHASECHK" in x.name:
                put(Op.SET, [])  # what it waits for is the timing model's to know
            else:
                row[RESULT] = SINK
        case "HFMA2" if rest[:2] == ["-RZ", "RZ"] and len(rest) == 4:
            halves = [int.from_bytes(struct.pack("<e", float(o)), "little") for o in rest[2:]]
            put(Op.COPY, [(decoder.constant(halves[0] << 16 | halves[1]), 0)])
        case _:
            registers = range(0) if x.base in MATRIX else written(x)
            put(Op.UNKNOWN, [], [registers.start, len(registers)])
            row[RESULT] = SINK if registers or x.base in MATRIX else decoder.result(given[0])
            if len(given) > 1 and _is_predicate(given[0]):
                row[RESULT_2] = decoder.result(given[1]) if _is_predicate(given[1]) or x.base == "SHFL" else SINK


def _special(decoder: _Decoder, x: Instruction, row: NDArray[np.int64], put: object) -> None:
    """S2R, S2UR: the thread's and the program's numbers."""
    assert callable(put)
    which = x.operands[1]
    if which in ("SR_TID.X", "SR_LANEID"):
        put(Op.LANE, [], [int(which == "SR_TID.X")])
    elif which.startswith("SR_CTAID."):
        put(Op.COPY, [(PROGRAM + "XYZ".index(which[-1]), 0)])
    elif "Cga" in which or which in ("SR_TID.Y", "SR_TID.Z"):
        put(Op.COPY, [(ZERO, 0)])  # clusters of one program, threads along one axis
    else:
        put(Op.UNKNOWN, [])


def _shift_add(decoder: _Decoder, parts: list[str], rest: list[str], put: object) -> None:
    """LEA: (a << s) + b, or with HI the upper half of (c:a << s), plus b; c is a's sign with SX32."""
    assert callable(put)
    high, sign = "HI" in parts, "SX32" in parts
    shift = int(rest[3 if high and not sign else 2], 0)
    upper = decoder.source(rest[2]) if high and not sign else (ZERO, 0)
    incoming = decoder.source(rest[-1]) if "X" in parts else (ZERO, 0)
    flags = (HIGH if high else 0) | (SIGNED if sign else 0)
    put(Op.SHIFT_ADD, [decoder.source(rest[0]), decoder.source(rest[1]), upper, incoming], [shift, flags])


def _access(decoder: _Decoder, x: Instruction, row: NDArray[np.int64]) -> set[int]:
    """What an instruction notes at each execution, and where it accesses memory; the rows that decide it.

    An address is a register, a uniform one and a number: rows SOURCES and SOURCES + 2 of an access, their upper halves
    behind them where the address has 64 bits, OFFSET the number."""
    kind = cost(x).kind
    if x.base == "SYNCS":
        if "TRYWAIT" not in x.name and not ("ARRIVE" in x.name and "TRANS64" in x.name):
            return set()
        row[NOTE] = NOTE_CODES[Kind.PHASE_WAIT] if "TRYWAIT" in x.name else NOTE_ARM
        return _address(decoder, x.operands[1], row)
    if kind not in NOTED:
        return set()
    row[NOTE] = NOTE_CODES[kind]
    if x.base in ("SHFL", "REDUX", "VOTE", "MATCH"):
        row[NOTE] = NOTE_ONCE
        return set()
    if kind in (Kind.BULK_LOAD, Kind.BULK_STORE):
        # [UR16], [UR4]: what is behind the first says where in shared memory, and one further on which barrier is told
        pairs = [_NAMED.search(o) for o in x.operands[:2]]
        assert pairs[0] is not None and pairs[1] is not None
        place, described = (UNIFORM + int(m[2]) for m in pairs if m is not None)
        row[SOURCES : SOURCES + 6 : 2] = described, described + 1, place + 1
        return {described, described + 1, place + 1}
    row[SIZE] = access_bytes(x)
    if x.base in ("LDSM", "STSM"):
        count = int(m[1]) if (m := re.search(r"88\.(\d)", x.name)) else 1
        row[NOTE], row[SIZE] = NOTE_MATRICES, count
    places = [o for o in x.operands if "[" in o]
    if kind is Kind.ASYNC_COPY:
        found = _address(decoder, places[-1], row)
        if _is_predicate(x.operands[-1]):  # false: zeros, and nothing is read
            row[SOURCES + 8], row[SOURCES + 9] = decoder.source(x.operands[-1])
        else:
            row[SOURCES + 8] = TRUE
        return found | {int(row[SOURCES + 8])}
    return _address(decoder, places[0], row)


def _address(decoder: _Decoder, text: str, row: NDArray[np.int64]) -> set[int]:
    inside = re.findall(r"\[([^\]]*)\]", text)[-1]
    offset, at = 0, SOURCES
    found = set()
    for part in inside.replace("+-", "+~").split("+"):
        part = part.strip()
        if re.match(r"~?(0x|\d)", part):
            offset += -int(part[1:], 0) if part.startswith("~") else int(part, 0)
            continue
        wide = part.endswith(".64")
        lower = decoder.constant(None) if ".X" in part else decoder.source(part.partition(".")[0])[0]
        row[at], row[at + 1] = lower, 0
        row[at + 4] = lower + 1 if wide and lower not in (ZERO,) else ZERO
        row[WIDE_ADDRESS] |= int(wide)
        found |= {lower, int(row[at + 4])}
        at += 2
    row[OFFSET] = offset
    return found
