"""The GPUs tricnn compiles for, by name. None of them has to be present.

Shared memory per block: for NVIDIA the "maximum amount of shared memory per thread block" of the CUDA programming
guide's table of compute capabilities; for AMD the local data share of a compute unit (instruction set guides).
"""

from __future__ import annotations

from dataclasses import dataclass

from tricnn.ir.errors import TargetError


@dataclass(frozen=True)
class Target:
    """One GPU architecture: what Triton needs to compile for it, and what a launch on it may ask for."""

    name: str  # "sm_90", "gfx942"
    backend: str  # Triton's name of the vendor: "cuda" or "hip"
    arch: int | str  # 90, "gfx942"
    warp_size: int  # threads in a warp (a wavefront, for AMD)
    shared_limit: int  # bytes of shared memory one block can have
    thread_limit: int = 1024  # threads one block can have; the same on all of them

    @property
    def binary_kind(self) -> str:
        return "cubin" if self.backend == "cuda" else "hsaco"

    def __str__(self) -> str:
        return self.name


_SHARED_KB_NVIDIA = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}
_SHARED_KB_AMD = {"gfx90a": 64, "gfx942": 64, "gfx950": 160, "gfx1100": 64, "gfx1200": 64, "gfx1201": 64}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in [
        *(Target(f"sm_{arch}", "cuda", arch, 32, kb * 1024) for arch, kb in _SHARED_KB_NVIDIA.items()),
        *(
            Target(arch, "hip", arch, 64 if arch.startswith("gfx9") else 32, kb * 1024)
            for arch, kb in _SHARED_KB_AMD.items()
        ),
    ]
}


def parse_target(name: str) -> Target:
    """The target called `name`: "sm_90", "gfx942", ...

    Also takes the names the vendors' own tools print for the same chips: "sm_90a" (NVIDIA's, with all features of the
    architecture, which Triton always uses) and "gfx942:sramecc+:xnack-" (AMD's, with its settings).

    Raises TargetError, listing the names that would do, for any other.
    """
    wanted = name.strip() if isinstance(name, str) else repr(name)
    canonical = wanted.partition(":")[0] if wanted.startswith("gfx") else wanted
    if wanted.startswith("sm_") and wanted.endswith("a"):
        canonical = wanted[:-1]
    target = TARGETS.get(canonical)
    if target is None:
        raise TargetError(f"unknown target {wanted!r}; supported: {', '.join(TARGETS)}")
    return target
