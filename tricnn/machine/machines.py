"""What a GPU is, in one table: processors, memories, and the rates of its data sheet beside those that were measured.

Whoever needs a number of a GPU takes it from here: what a target can be compiled for (targets.py), tiles and persistent
grids (tiles.py), the time model that chooses between plans (compiler/cost.py), predictions and rooflines. A target is
an architecture; its first machine below is the common GPU of it, and stands for it where no GPU is at hand.

Sources, unless a line says otherwise. NVIDIA: the architecture white paper and data sheet of the GPU that is named;
shared memory and registers by the CUDA programming guide's table of compute capabilities. AMD: the GPU's data sheet and
its instruction set guide (the local data share of a compute unit, the vector registers of its SIMDs); the cache is the
last one before memory (Infinity Cache). Rates of products are dense ones, without sparsity, summed in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from math import log2

#: the last cache serves so many times as much as memory. Of these machines only A100's is published, 5120 bytes a clock
#: (its white paper: 7.2 TB/s, 3.5 times as much); as many on an H100 are 2.8 times
CACHE_OVER_MEMORY = 2.8
#: the share of a data sheet's bandwidth that copies reach where nobody measured them: of an H100's 3.35 TB/s, 3.0
COPIED = 0.9


@dataclass(frozen=True)
class Measured:
    """Rates that a GPU reached, and how they were measured.
    ``copy`` is in TB/s, reads and writes together; ``narrow`` in Tflop/s, of one large product of 16-bit numbers. None:
    nobody has measured it."""

    copy: float | None = None
    narrow: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Machine:
    """One GPU. Rates are its data sheet's; ``measured`` has what it reached."""

    name: str
    target: str
    multiprocessors: int  # compute units, for AMD
    clock: float  # GHz, boost: the one for which the data sheet states the rates of products
    shared: int  # KB of shared memory of a multiprocessor
    shared_limit: int  # KB of it that one program can have
    registers: int  # KB of registers of a multiprocessor
    cache: float  # MB, the last one before memory
    memory: float  # TB/s
    narrow: float  # Tflop/s, products of 16-bit numbers
    tf32: float  # Tflop/s (0: its matrix units do not take TF32)
    vector: float  # Tflop/s in fp32, a fused multiply-add counted as two
    measured: Measured = field(default_factory=Measured)

    @property
    def bandwidth(self) -> float:
        """Bytes a second to and from memory."""
        return self.memory * 1e12

    @property
    def cache_bandwidth(self) -> float:
        """Bytes a second from the last cache."""
        return CACHE_OVER_MEMORY * self.bandwidth

    def rate(self, dtype: str) -> float:
        """Operations a second of products in ``dtype``: of the vector units where no matrix unit takes that type."""
        return (self._matrix(dtype) or self.vector) * 1e12

    def has_matrix_units(self, dtype: str) -> bool:
        return self._matrix(dtype) > 0

    def least_us(self, dtype: str, moved: float, flops: float) -> float:
        """Microseconds that a kernel needs at least: max(bytes / bandwidth, operations / their rate)."""
        return 1e6 * max(moved / self.bandwidth, flops / self.rate(dtype))

    def reached(self) -> Machine:
        """A machine with measured rates in place of the data sheet's.
        Where nobody measured them, copies are taken to reach the same share of it as an H100's."""
        copy, narrow = self.measured.copy or COPIED * self.memory, self.measured.narrow or self.narrow
        return replace(self, memory=copy, narrow=narrow)

    # --- each clock -----------------------------------------------------------------

    def products_a_clock(self, dtype: str) -> int:
        """Operations of products in ``dtype`` that one multiprocessor does in a clock.
        It is the power of two nearest to what the data sheet says for all of them."""
        return 2 ** round(log2(self.rate(dtype) / (self.multiprocessors * self.clock * 1e9)))

    @property
    def cache_bytes_a_clock(self) -> Fraction:
        """Bytes from the last cache that one multiprocessor gets, if all take as much."""
        each_clock = round(self.cache_bandwidth / (self.clock * 1e9))
        return Fraction(each_clock, self.multiprocessors)

    def _matrix(self, dtype: str) -> float:
        return self.narrow if dtype in ("fp16", "bf16") else self.tf32 if dtype == "tf32" else 0.0


_H100 = Machine(
    "H100 SXM", "sm_90", 132, 1.83, 228, 227, 256, 50, 3.35, 989, 495, 67,
    measured=Measured(3.0, 798, "2026, on one H100: bytes read and written by a copy; bf16, 8192 x 8192 x 8192"),
)  # fmt: skip
MACHINES: tuple[Machine, ...] = (
    Machine("A100", "sm_80", 108, 1.41, 164, 163, 256, 40, 2.04, 312, 156, 19.5),
    Machine("A40", "sm_86", 84, 1.74, 100, 99, 256, 6, 0.696, 150, 75, 37.4),
    Machine("Jetson AGX Orin", "sm_87", 16, 1.3, 164, 163, 256, 4, 0.205, 43, 21, 5.3),
    Machine("L40S", "sm_89", 142, 2.52, 100, 99, 256, 96, 0.864, 362, 183, 91.6),
    _H100,
    replace(_H100, name="H200", memory=4.8, measured=Measured(4.3, source="2026, on one H200: the same copy")),
    Machine("B200", "sm_100", 148, 1.85, 228, 227, 256, 126, 7.7, 2250, 1125, 75),
    Machine("B300", "sm_103", 148, 1.85, 228, 227, 256, 126, 7.7, 2250, 1125, 75),
    Machine("RTX 5090", "sm_120", 170, 2.41, 100, 99, 256, 96, 1.79, 210, 105, 105),
    Machine("GB10", "sm_121", 48, 2.5, 100, 99, 256, 24, 0.273, 125, 62, 31),
    Machine("MI250X", "gfx90a", 110, 1.7, 64, 64, 512, 8, 1.6, 191, 0, 24),  # one of its two dies
    Machine("MI300X", "gfx942", 304, 2.1, 64, 64, 512, 256, 5.3, 1307, 654, 163),
    Machine("MI355X", "gfx950", 256, 2.4, 160, 160, 512, 256, 8.0, 2516, 0, 157),
    Machine("RX 7900 XTX", "gfx1100", 96, 2.5, 64, 64, 384, 96, 0.96, 123, 0, 61),
    Machine("RX 9060 XT", "gfx1200", 32, 3.13, 64, 64, 384, 32, 0.32, 103, 0, 25.6),
    Machine("RX 9070 XT", "gfx1201", 64, 2.97, 64, 64, 384, 64, 0.64, 195, 0, 48.7),
)  # fmt: skip
#: the machine that stands for each target
COMMON: dict[str, Machine] = {machine.target: machine for machine in reversed(MACHINES)}


@cache
def machine_of(target: str, device: str = "") -> Machine:
    """The machine that ``device`` is, a GPU's name as its driver gives it ("NVIDIA H200").
    If it is not known, the common one of ``target``."""
    words = device.upper().split()
    for machine in MACHINES:
        if machine.target == target and machine.name.upper().split()[0] in words:
            return machine
    return COMMON[target]
