"""The GPUs tricnn compiles for, by name. None of them has to be present; what each is like says machines.py."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from tricnn.system.errors import TargetError

from .machines import COMMON, MACHINES, Machine


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

    @property
    def bulk_copies(self) -> bool:
        """Whether a target copies whole boxes by tensor descriptors (Hopper's TMA)."""
        return isinstance(self.arch, int) and self.arch >= 90

    @property
    def arrivals(self) -> bool:
        """Whether the last of several programs may read what the others stored.
        A barrier must order all threads' stores before one thread's atomic addition. On AMD's GPUs Triton's barrier
        waits for shared memory only."""
        return self.backend == "cuda"

    def __str__(self) -> str:
        return self.name


def _target(machine: Machine) -> Target:
    name, shared = machine.target, machine.shared_limit * 1024
    if name.startswith("sm_"):
        return Target(name, "cuda", int(name[3:]), 32, shared)
    return Target(name, "hip", name, 64 if name.startswith("gfx9") else 32, shared)


TARGETS: dict[str, Target] = {name: _target(COMMON[name]) for name in dict.fromkeys(m.target for m in MACHINES)}


#: GPUs by what is printed on them
GPUS = {
    "sm_80": ("a100", "a30", "a800"),
    "sm_86": ("a10", "a40", "a6000", "3060", "3070", "3080", "3090"),
    "sm_89": ("l4", "l40", "l40s", "4060", "4070", "4080", "4090"),
    "sm_90": ("h100", "h200", "h800", "h20", "gh200", "hopper"),
    "sm_100": ("b100", "b200", "gb200"),
    "sm_103": ("b300", "gb300"),
    "sm_120": ("5060", "5070", "5080", "5090"),
    "gfx90a": ("mi210", "mi250", "mi250x"),
    "gfx942": ("mi300", "mi300a", "mi300x", "mi325x"),
    "gfx950": ("mi350x", "mi355x"),
    "gfx1100": ("7900",),
    "gfx1201": ("9070",),
}
CAPABILITY = re.compile(r"(?:sm|compute)?_?(\d{1,2})\.?(\d)[af]?")
NAMED = {gpu: target for target, gpus in GPUS.items() for gpu in gpus}


def parse_target(name: str) -> Target:
    """The target called `name`: "sm_90", "gfx942", ...; or the GPU: "H100", "RTX 4090", "MI300X".

    Also takes the names the vendors' own tools print for the same chips: "sm_90a" (NVIDIA's, with all features of the
    architecture, which Triton always uses) and "gfx942:sramecc+:xnack-" (AMD's, with its settings).

    Raises TargetError, listing the names that would do, for any other.
    """
    wanted = name.strip() if isinstance(name, str) else repr(name)
    canonical = wanted.partition(":")[0] if wanted.startswith("gfx") else wanted
    if capability := CAPABILITY.fullmatch(wanted):  # sm_90a, sm90, compute_90, 9.0
        canonical = "sm_" + "".join(capability.groups())
    for word in re.split(r"[^a-z0-9]+", wanted.lower()):
        canonical = NAMED.get(word.removeprefix("rtx"), canonical)
    target = TARGETS.get(canonical)
    if target is None:
        near = difflib.get_close_matches(wanted[:40].lower(), [*TARGETS, *NAMED], 1)
        hint = f"did you mean {NAMED.get(near[0], near[0])}? " if near else ""
        raise TargetError(f"unknown target {wanted!r}; {hint}supported: {', '.join(TARGETS)}, or a GPU's name (H100)")
    return target
