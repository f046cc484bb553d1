"""What an instruction costs: the pipe it needs, how long it keeps that pipe, how long its result takes.

The assembler's stall counts say how long results of fixed latency take, so the latencies here are those of instructions
whose end a scoreboard announces. A scheduler has 16 lanes for integers, 32 for fp32 arithmetic (integer products half
of that), 4 for special functions (CUDA programming guide, table of arithmetic throughput, compute capability 9.0), so
one warp's instruction takes 2, 1 (2) and 8 clocks of them. Latencies: Luo et al., "Benchmarking and Dissecting the
Nvidia Hopper GPU Architecture via Microbenchmarking", 2024, where it has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from ..sass import MATRIX, Instruction


class Kind(IntEnum):
    """What the timing model must do for an instruction."""

    ALU = 0
    FMA = 1
    SPECIAL = 2
    UNIFORM = 3
    VARIABLE = 4  # a result after a while, from no pipe that is counted
    FREE = 5  # an issue slot only
    SHARED = 6
    LOAD = 7
    STORE = 8
    ASYNC_COPY = 9
    COMMIT = 10
    COPY_WAIT = 11
    BARRIER = 12
    WARP_MATRIX = 13
    MATRIX = 14
    MATRIX_WAIT = 15
    BULK_LOAD = 16
    BULK_STORE = 17
    PHASE_WAIT = 18
    EXIT = 19


#: kinds of which every execution has figures of its own: clocks, bytes, a barrier's phase
NOTED = frozenset(
    [Kind.SHARED, Kind.LOAD, Kind.STORE, Kind.ASYNC_COPY, Kind.BULK_LOAD, Kind.BULK_STORE, Kind.PHASE_WAIT]
)


@dataclass(frozen=True)
class Cost:
    """What an instruction costs: the pipe that it takes, how long, and when its result is there.
    ``busy``: clocks that the pipe is taken; ``latency``: further clocks until the result is there (of what is free:
    clocks that its warp stands still; of a matrix product: 1 if it closes a group; of a wait: how many groups may be
    left; of a barrier: how many warps it is for, 0: all); ``shared``: bytes of shared memory that one warp's part of a
    product reads."""

    kind: Kind
    busy: float = 0
    latency: float = 0
    shared: float = 0


_FMA = frozenset(["FADD", "FMUL", "FFMA", "HFMA2", "HADD2", "HMUL2", "FSWZADD"])
_CONVERSIONS = frozenset(["F2F", "F2I", "I2F", "FRND"])
_ACROSS_LANES = frozenset(["SHFL", "REDUX", "VOTE", "MATCH"])
_VARIABLE = {"S2R": 25, "S2UR": 25, "LDC": 40, "ULDC": 30, "LDCU": 30, "R2UR": 12, "P2R": 10, "VOTEU": 10}
_FREE = frozenset([
    *("BSSY", "BSYNC", "NOP", "WARPSYNC", "BREAK", "FENCE", "MEMBAR", "ERRBAR", "CCTL", "UTMACMDFLUSH", "UTMACCTL"),
    *("ACQBULK", "ELECT", "YIELD", "BRA", "BRX", "USETMAXREG", "NANOSLEEP", "CALL", "RET", "BMOV", "WARPGROUP"),
])  # fmt: skip
#: clocks until all that was stored before a fence is seen by the whole GPU, and until an atomic operation's result is
#: back from L2: guesses, two trips to memory and to L2
_FENCE, _ATOMIC = 600, 540
_PLAIN = {
    **dict.fromkeys(_FMA, Cost(Kind.FMA, 1)),
    **dict.fromkeys(_CONVERSIONS, Cost(Kind.SPECIAL, 8, 10)),
    **dict.fromkeys(_ACROSS_LANES, Cost(Kind.SHARED, 1, 22)),
    **dict.fromkeys(("LDS", "LDSM"), Cost(Kind.SHARED, 0, 28)),
    **dict.fromkeys(("STS", "STSM", "ATOMS"), Cost(Kind.SHARED, 0, 20)),
    **dict.fromkeys(("LDG", "LD", "LDL"), Cost(Kind.LOAD)),
    **dict.fromkeys(("STG", "ST", "STL", "RED", "REDG", "ATOM", "ATOMG"), Cost(Kind.STORE)),
    **{name: Cost(Kind.VARIABLE, latency=clocks) for name, clocks in _VARIABLE.items()},
    **dict.fromkeys(_FREE, Cost(Kind.FREE)),
    "MUFU": Cost(Kind.SPECIAL, 8, 14),
    "LDGSTS": Cost(Kind.ASYNC_COPY),
    "LDGDEPBAR": Cost(Kind.COMMIT),
    "UTMALDG": Cost(Kind.BULK_LOAD),
    "UTMASTG": Cost(Kind.BULK_STORE),
    "EXIT": Cost(Kind.EXIT),
}


def cost(x: Instruction) -> Cost:
    """What an instruction costs."""
    if x.base in MATRIX:
        return _product(x)
    if x.base == "HMMA":
        # 16x8x16: 2048 multiply-adds, of which a scheduler's tensor core does 512 a clock for wgmma, and for this
        # older instruction about six tenths of that (Luo et al.: 62 % of the peak)
        depth = int(m[1]) if (m := re.search(r"168(\d+)", x.name)) else 16
        return Cost(Kind.WARP_MATRIX, depth * 0.4, 20)
    if x.base in ("IMAD", "IDP"):
        return Cost(Kind.FMA, 1 if "MOV" in x.name else 2)
    if x.base == "DEPBAR":
        return Cost(Kind.COPY_WAIT, latency=int(x.operands[1], 0)) if len(x.operands) > 1 else Cost(Kind.FREE)
    if x.base == "WARPGROUP" and "DEPBAR" in x.name:
        return Cost(Kind.MATRIX_WAIT, latency=int(x.operands[-1], 0))
    if x.base == "BAR":
        threads = x.operands[1] if len(x.operands) > 1 else ""
        return Cost(Kind.BARRIER, 1 if "ARV" in x.name else 0, int(threads, 0) / 32 if threads[:1].isdigit() else 0)
    if x.base == "SYNCS":
        return Cost(Kind.PHASE_WAIT) if "TRYWAIT" in x.name else Cost(Kind.VARIABLE, latency=20)
    if x.base == "MEMBAR" and "CTA" not in x.suffixes:
        return Cost(Kind.FREE, latency=_FENCE)
    if counts(x):
        return Cost(Kind.VARIABLE, latency=_ATOMIC)
    if x.base in _PLAIN:
        return _PLAIN[x.base]
    return Cost(Kind.UNIFORM, 1, 12) if x.base.startswith("U") else Cost(Kind.ALU, 2)


def counts(x: Instruction) -> bool:
    """Whether an instruction is an atomic operation on global memory whose result is used.
    Programs count themselves so."""
    return x.base in ("ATOM", "ATOMG") and x.operands[:2] != ("PT", "RZ") and x.operands[:1] != ("RZ",)


def _product(x: Instruction) -> Cost:
    """The cost of a product of a warp group, 64 x n x k.
    Each scheduler's tensor core does 512 16-bit multiply-adds a clock, 989 TFLOP/s at 1.83 GHz on 132 multiprocessors,
    so 64 * n * k / 4 / 512 clocks, k being 32 bytes of a row. It reads its right operand from shared memory, and its
    left one unless that is in registers."""
    shape = re.search(r"64x(\d+)x(\d+)", x.name)
    assert shape is not None
    n, k = int(shape[1]), int(shape[2])
    size = 32 // k if k < 32 else 1
    left = 0 if re.match(r"R\d", x.operands[1]) else 64 * k
    closes = any("gsb0" in operand for operand in x.operands)
    return Cost(Kind.MATRIX, n / 2, float(closes), (n * k + left) * size / 4)


def access_bytes(x: Instruction) -> int:
    """Bytes that one thread loads or stores."""
    sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((sizes[part] for part in x.suffixes if part in sizes), 4)
