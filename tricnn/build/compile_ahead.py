"""A program's kernels compiled for the GPU at hand before they are launched, side by side.

Triton compiles a kernel when it is first launched, one after another: minutes for a large network. Here several
processes (worker_pool.py) compile them into Triton's own cache. They also see what Triton does not look
at: a kernel that spills registers gets smaller tiles, as in :func:`tricnn.build.build.build`, so what runs is what
`tricnn compile` shows.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..compiler.plan import Plan
from ..emit.emit import emit
from ..lower.lower import lower
from ..lower.program import Function, Program
from ..machine.targets import Target, parse_target
from ..system.cores import workers
from ..system.errors import TargetError
from ..system.paths import user_path
from .compile import CompileError, CompilerFailed, excess
from .emitted_module import emitted_file
from .settle import may_refill_early, remembered, settle
from .worker_pool import POOL, WorkerDied, as_launched


@dataclass(frozen=True)
class Ready:
    """A kernel that launching will find in Triton's cache."""

    spill_bytes: int
    shared_bytes: int
    num_warps: int
    hazards: int = 0


def settled_for_launch(plan: Plan, dtype: str, batch: int, target: str) -> Program:
    """A plan's program for the GPU at hand (``target``), in forms that compile as they must, its kernels compiled.

    None of these spills, asks for too much or has a hazard. A kernel whose compilation ends otherwise than in an answer
    is left to Triton, with a warning.

    Raises CompileError, naming the kernel, for one that no tile makes fit.
    """
    forms = remembered(plan, dtype, batch, target)
    if forms is None:
        program, _ = settle(plan, dtype, batch, target, lambda p, missing: compiled_ahead(p, missing, target, True))
    else:
        program = lower(plan, dtype, batch, target, forms)
    compiled_ahead(program, program.functions, target)  # Triton's key has the line where a function begins
    return program


def compiled_ahead(
    program: Program, functions: Sequence[Function], target: str, anew: bool = False
) -> list[Ready | CompileError]:
    """What became of each function, all compiled at once; what they spill only if they are compiled ``anew``."""
    gpu, module = parse_target(target), str(emitted_file(emit(program)))
    check_triton_cache()
    jobs = [_job(function, module, gpu, anew) for function in functions]
    results: dict[int, Ready | CompileError] = {}
    for number, answer in POOL.run(jobs, workers(len(jobs)), as_launched):
        if isinstance(answer, WorkerDied):
            warnings.warn(f"kernels are left to be compiled as they are launched: {answer}", stacklevel=2)
        results[number] = _result(functions[number].name, answer, gpu)
    return [results[number] for number in range(len(jobs))]


def check_triton_cache() -> None:
    """Raise TargetError where somebody else could put code into the folder that Triton launches kernels from."""
    import triton

    folder = user_path(triton.knobs.cache.dir)
    if not folder.exists() or not hasattr(os, "getuid"):
        return
    status = folder.stat()
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & stat.S_IWOTH:
        raise TargetError(
            f"{folder}: Triton launches kernels from there, and other users can write them; TRITON_CACHE_DIR names a "
            "folder of your own"
        )


def _job(function: Function, module: str, gpu: Target, anew: bool) -> dict[str, Any]:
    """What a worker is told: compile_worker.py."""
    return {
        "name": function.name, "module": module, "signature": dict(function.parameters), "anew": anew,
        "options": {"num_warps": function.num_warps, "num_stages": function.num_stages},
        "target": {"backend": gpu.backend, "arch": gpu.arch, "warp_size": gpu.warp_size},
    }  # fmt: skip


def _result(name: str, answer: dict[str, Any] | WorkerDied, gpu: Target) -> Ready | CompileError:
    if isinstance(answer, WorkerDied):
        if may_refill_early(gpu):
            return CompileError(name, gpu.name, "its machine code could not be read, and Triton before 3.9 may refill "
                                "registers that a matrix instruction still reads")  # fmt: skip
        return Ready(0, 0, 0)
    if "error" in answer:
        return CompilerFailed(name, gpu.name, answer["error"], answer["detail"])
    ready = Ready(**answer["facts"])
    reason = excess(ready, gpu)
    return CompileError(name, gpu.name, reason) if reason else ready
