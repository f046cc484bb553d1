"""What a device can do at most, by its maker's data sheet, and so the least time a kernel can take on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes a second to and from memory; dense floating-point operations a second by dtype."""

    device: str
    bandwidth: float
    flops: dict[str, float]


LIMITS = {
    "sm_80": Limits(
        "A100 80GB SXM", 2.039e12, {"fp32": 19.5e12, "tf32": 156e12, "fp16": 312e12, "bf16": 312e12}
    ),
    "sm_90": Limits("H100 SXM", 3.35e12, {"fp32": 67e12, "tf32": 494.7e12, "fp16": 989.4e12, "bf16": 989.4e12}),
    "gfx942": Limits("MI300X", 5.3e12, {"fp32": 163.4e12, "tf32": 653.7e12, "fp16": 1307.4e12, "bf16": 1307.4e12}),
}  # fmt: skip


def least_us(target: str, dtype: str, moved: float, flops: float) -> float:
    """Microseconds that a kernel needs at least: max(bytes / bandwidth, operations / their rate). A target without a
    data sheet here counts as an H100."""
    limits = LIMITS.get(target, LIMITS["sm_90"])
    return 1e6 * max(moved / limits.bandwidth, flops / limits.flops[dtype])
