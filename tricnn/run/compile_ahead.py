"""A program's kernels compiled for the GPU at hand before they are launched, side by side.

Triton compiles a kernel when it is first launched, one after another: minutes for a large network. Here several
processes (system/cores.py says how many) compile them into Triton's own cache. They also see what Triton does not look
at: a kernel that spills registers gets smaller tiles, as in :func:`tricnn.build.build.build`, so what runs is what
`tricnn compile` shows.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..build.build import may_refill_early, remembered, settle
from ..build.compile import CompileError, excess
from ..build.worker_pool import NoPlace, search_path
from ..compiler.plan import Plan
from ..emit.emit import emit
from ..lower.lower import lower
from ..lower.program import Function, Program
from ..machine.targets import Target, parse_target
from ..system.cores import workers
from ..system.errors import TargetError
from ..system.paths import user_path
from .triton_executor import emitted_file

SHARE = Path(__file__).with_name("compile_share.py")


@dataclass(frozen=True)
class Ready:
    """A kernel that launching will find in Triton's cache."""

    spill_bytes: int
    shared_bytes: int
    num_warps: int
    hazards: int = 0


def settled_for_launch(plan: Plan, dtype: str, batch: int, target: str) -> Program:
    """A plan lowered with forms that neither spill, ask for too much nor have a hazard, for the GPU at hand
    (``target``); its kernels are compiled. A kernel whose compilation ends otherwise than in an answer is left to
    Triton, with a warning.

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
    count = workers(len(functions))
    shares = [functions[i::count] for i in range(count)]
    answers: dict[str, dict[str, Any]] = {}
    processes = [_start(module, gpu, share, anew) for share in shares]
    try:
        for process in processes:
            out, err = process.communicate()
            answers |= {answer["name"]: answer for answer in map(json.loads, out.splitlines())}
            if process.returncode:
                reason = (err.strip().splitlines() or ["no message"])[-1][:200]
                warnings.warn(f"kernels are left to be compiled as they are launched: {reason}", stacklevel=2)
    finally:
        for process in processes:
            process.kill()
    return [_result(f.name, answers.get(f.name, {}), gpu) for f in functions]


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


def _start(module: str, gpu: Target, functions: Sequence[Function], anew: bool) -> subprocess.Popen[str]:
    kernels = [
        {"name": f.name, "signature": dict(f.parameters), "num_warps": f.num_warps, "num_stages": f.num_stages}
        for f in functions
    ]
    path = os.pathsep.join(search_path())
    settings = {"PYTHONPATH": path, "TRITON_DUMP_PTXAS_LOG": "1", "TRITON_INTERPRET": "0"}
    if anew:
        settings["TRITON_ALWAYS_COMPILE"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-P", str(SHARE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, **settings},
    )  # fmt: skip
    assert process.stdin is not None
    json.dump({"module": module, "target": [gpu.backend, gpu.arch, gpu.warp_size], "kernels": kernels}, process.stdin)
    process.stdin.close()
    process.stdin = None  # communicate() would flush it
    return process


def _result(name: str, answer: dict[str, Any], gpu: Target) -> Ready | CompileError:
    if "place" in answer:
        raise NoPlace(answer["place"])
    if "error" in answer:
        return CompileError(name, gpu.name, answer["error"])
    if not answer and may_refill_early(gpu):
        return CompileError(name, gpu.name, "its machine code could not be read, and Triton before 3.9 may refill "
                            "registers that a matrix instruction still reads")  # fmt: skip
    ready = Ready(*(int(answer.get(key, 0)) for key in ("spill_bytes", "shared_bytes", "num_warps", "hazards")))
    reason = excess(ready, gpu)
    return CompileError(name, gpu.name, reason) if reason else ready
