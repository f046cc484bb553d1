"""Compile some kernels of an emitted file into Triton's own cache, where launching them will find them.

    python -P compile_share.py < JOB

JOB is JSON: ``module``, the file; ``target``, [backend, architecture, warp size]; ``kernels``, each with name,
signature, num_warps and num_stages. For each a line of JSON is printed: its name with spill_bytes, shared_bytes,
num_warps and hazards, or with an error, or with what is wrong with the place. What a kernel spills, and its hazards,
are known only if it is compiled here: TRITON_ALWAYS_COMPILE=1.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    job = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    sys.modules["torch"] = ModuleType("torch")  # which no kernel needs: it takes seconds to import
    import triton

    from tricnn.build.workplace import place_at_fault

    spec = importlib.util.spec_from_file_location("emitted", job["module"])
    assert spec is not None and spec.loader is not None
    module = sys.modules["emitted"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make_keys(module)
    for kernel in job["kernels"]:
        answer: dict[str, int | str]
        try:
            answer = compiled(getattr(module, kernel["name"]), kernel, job["target"])
        except Exception as error:  # whatever the compiler raises is the answer
            place = place_at_fault(error, Path(triton.knobs.cache.dir))
            answer = {"place": place} if place else {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": kernel["name"], **answer}), file=answers, flush=True)


def make_keys(module: ModuleType) -> None:
    """Have Triton form the keys of a file's functions, in their order: it forms each when it is first asked, from the
    constants that are known to have been used until then, so that another order gives other keys."""
    from triton.runtime import JITFunction

    for function in vars(module).values():
        if isinstance(function, JITFunction):
            _ = function.cache_key


def compiled(function: Any, kernel: dict[str, Any], target: list[Any]) -> dict[str, int | str]:
    """Compile a function just as launching it would, so that Triton files it under the same key."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tricnn.build import hazards
    from tricnn.build.inspect_binary import cuda_facts

    signature = {name: kernel["signature"][name] for name in function.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    options = {name: kernel[name] for name in ("num_warps", "num_stages")}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        made = triton.compile(ASTSource(function, signature, {}, aligned), target=GPUTarget(*target), options=options)
    facts: dict[str, int | str] = {
        "spill_bytes": 0,
        "shared_bytes": made.metadata.shared,
        "num_warps": made.metadata.num_warps,
        "hazards": 0,
    }
    if said.getvalue():
        disassembler = triton.knobs.nvidia.nvdisasm.path
        seen = cuda_facts(
            made.asm["cubin"], said.getvalue(), made.metadata.shared,
            lambda cubin: len(hazards.of_cubin(cubin, disassembler)),
        )  # fmt: skip
        facts |= {name: int(seen[name]) for name in ("spill_bytes", "shared_bytes", "hazards")}
    return facts


if __name__ == "__main__":
    main()
