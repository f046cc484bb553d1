"""What predictions of time need to know of each target: one common GPU of that architecture, by its data sheet.

NVIDIA: the architecture white papers and data sheets of A100 80GB SXM, A40, Jetson AGX Orin, L40S, H100 SXM, B200,
B300, RTX 5090, GB10. AMD: the data sheets of MI250X (one of its two dies), MI300X, MI355X, RX 7900 XTX, RX 9060 XT,
RX 9070 XT; their cache is the last one before memory (Infinity Cache). Peaks are dense ones, without sparsity, summed
in fp32. They bound times and rank plans of one network on one target; they are not a promise of speed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One GPU. ``narrow`` and ``tf32`` are its matrix units' rates for 16-bit and for TF32 products (0: none)."""

    name: str
    processors: int  # streaming multiprocessors, compute units
    memory: float  # TB/s
    cache: float  # MB
    narrow: float  # Tflop/s
    tf32: float  # Tflop/s
    vector: float  # Tflop/s in fp32, a fused multiply-add counted as two

    @property
    def bandwidth(self) -> float:
        """Bytes a second to and from memory."""
        return self.memory * 1e12

    def has_matrix_units(self, dtype: str) -> bool:
        return self._matrix(dtype) > 0

    def rate(self, dtype: str) -> float:
        """Operations a second of products in ``dtype``: those of the vector units where no matrix unit takes it."""
        return (self._matrix(dtype) or self.vector) * 1e12

    def _matrix(self, dtype: str) -> float:
        return self.narrow if dtype in ("fp16", "bf16") else self.tf32 if dtype == "tf32" else 0.0


MACHINES: dict[str, Machine] = {
    "sm_80": Machine("A100", 108, 2.04, 40, 312, 156, 19.5),
    "sm_86": Machine("A40", 84, 0.696, 6, 150, 75, 37.4),
    "sm_87": Machine("Jetson AGX Orin", 16, 0.205, 4, 43, 21, 5.3),
    "sm_89": Machine("L40S", 142, 0.864, 96, 362, 183, 91.6),
    "sm_90": Machine("H100 SXM", 132, 3.35, 50, 989, 495, 67),
    "sm_100": Machine("B200", 148, 7.7, 126, 2250, 1125, 75),
    "sm_103": Machine("B300", 148, 7.7, 126, 2250, 1125, 75),
    "sm_120": Machine("RTX 5090", 170, 1.79, 96, 210, 105, 105),
    "sm_121": Machine("GB10", 48, 0.273, 24, 125, 62, 31),
    "gfx90a": Machine("MI250X", 110, 1.6, 8, 191, 0, 24),
    "gfx942": Machine("MI300X", 304, 5.3, 256, 1307, 654, 163),
    "gfx950": Machine("MI355X", 256, 8.0, 256, 2516, 0, 157),
    "gfx1100": Machine("RX 7900 XTX", 96, 0.96, 96, 123, 0, 61),
    "gfx1200": Machine("RX 9060 XT", 32, 0.32, 32, 103, 0, 25.6),
    "gfx1201": Machine("RX 9070 XT", 64, 0.64, 64, 195, 0, 48.7),
}


def least_us(target: str, dtype: str, moved: float, flops: float) -> float:
    """Microseconds that a kernel needs at least: max(bytes / bandwidth, operations / their rate)."""
    machine = MACHINES[target]
    return 1e6 * max(moved / machine.bandwidth, flops / machine.rate(dtype))
