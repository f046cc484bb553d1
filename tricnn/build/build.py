"""Ahead-of-time compilation of a whole plan: machine code for every kernel, and what is in it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from ..compiler.plan import Plan
from ..emit.emit import emit, launches_of, standalone
from ..ir.table import Source
from ..lower.predicted_time import microseconds, predicted_seconds
from ..lower.program import Function, Program
from ..machine.targets import parse_target
from ..system.errors import TricnnError
from .compile import CompiledKernel, CompileError, KernelSpec, compile_kernels
from .settle import settle

SYMBOL = "kernel"  # the name of every compiled kernel inside its binary


def tensors_of(program: Program) -> dict[str, Any]:
    """What must be known of a program's buffers to fill them and to read its results.

    ``placed``: parameters and gradients that lie within another buffer; ``prepared``: weights computed from parameters
    before the first step, none of which is read otherwise; ``rounded``: weights and their 16-bit copies; ``gradients``,
    by parameter; ``updates``: running statistics and their new values, which are the same memory; ``sums``: the
    partial results that the last launch adds up.
    """
    plan = program.plan
    graph = plan.graph
    known = [n.name for n in graph.nodes if n.row.source in (Source.PARAMETER, Source.BUFFER)] + [
        value for _, value in graph.gradients
    ]
    places = {name: plan.place(name) for name in known}
    return {
        "placed": {name: {"buffer": place.buffer, "first": place.offset, "elements": prod(plan.type(name).per_image)}
                   for name, place in places.items() if place.buffer != name},
        "prepared": {n.name: {"op": n.op, "inputs": list(n.inputs), **n.attrs} for n in plan.prepared},
        "rounded": dict(program.rounded),
        "gradients": dict(graph.gradients),
        "updates": dict(graph.updates),
        "sums": [asdict(s) for s in program.sums],
    }  # fmt: skip


@dataclass(frozen=True)
class Build:
    """A program and its machine code for one target."""

    program: Program
    source: str
    target: str
    compiled: dict[str, CompiledKernel]
    seconds: float

    @property
    def kernels(self) -> list[dict[str, Any]]:
        """One row per distinct kernel, in the order of their first launch; bytes and operations are of all launches."""
        program, rows = self.program, []
        seconds = predicted_seconds(program)
        for function in program.functions:
            launches, code = launches_of(program, function), self.compiled[function.name]
            rows.append({
                "name": function.name,
                "kind": launches[0].kind,
                "layers": list(dict.fromkeys(layer for launch in launches for layer in launch.layers)),
                "launches": len(launches),
                "dram_bytes": sum(program.launch_bytes(launch, program.batch) for launch in launches),
                "flops": sum(launch.flops for launch in launches) * program.batch,
                "registers": code.registers,
                "spill_bytes": code.spill_bytes,
                "shared_bytes": code.shared_bytes,
                "tensor_core": code.tensor_core,
                "bulk_copy": code.bulk_copy,
                "hazards": code.hazards,
                "predicted_us": microseconds(
                    s for launch, s in zip(program.launches, seconds, strict=True) if launch.function == function.name
                ),
            })  # fmt: skip
        return rows

    def manifest(self) -> dict[str, Any]:
        """What the folder holds: for each launch its kernel, grid and arguments, for each kernel its files."""
        program = self.program
        files = {
            name: {"binary": f"{name}.{code.binary_kind}", "assembly": [f"{name}.{kind}" for kind in code.assembly],
                   "symbol": SYMBOL, "sha256_of_inputs": code.digest, "num_warps": code.num_warps}
            for name, code in self.compiled.items()
        }  # fmt: skip
        return {
            "format": 1,
            "graph": program.plan.graph.name,
            "mode": program.plan.mode,
            "dtype": program.dtype,
            "batch": program.batch,
            "target": self.target,
            "distinct_kernels": len(program.functions),
            "kernels": [{**row, **files[row["name"]], "signature": dict(self._function(row["name"]).parameters)}
                        for row in self.kernels],
            "launches": [{"kernel": launch.function, "grid": list(map(str, launch.grid)),
                          "arguments": list(map(str, launch.arguments)), "layers": list(launch.layers)}
                         for launch in program.launches],
            "buffers": {b.name: {"dtype": b.dtype, "elements": str(b.size), "persistent": b.persistent,
                                 **({"packing": asdict(b.packing)} if b.packing else {})}
                        for b in program.buffers.values()},
            "descriptors": {d.name: {"buffer": d.buffer, "shape": list(d.shape), "box": list(d.box),
                                     **({"window": list(d.window)} if d.window else {}),
                                     **({"channels": list(d.channels)} if d.channels else {})}
                            for d in program.descriptors.values()},
            "pixel_ordered": {name: list(shape) for name, shape in program.order.items()},
            **tensors_of(program),
        }  # fmt: skip

    def _function(self, name: str) -> Function:
        return next(f for f in self.program.functions if f.name == name)

    def write(self, folder: Path) -> list[Path]:
        """Write ``kernels.py``, ``manifest.json`` and one binary and assembly file per kernel into ``folder``.

        Everything is written beside it first and moved in at the end, so the folder never holds half a build. Files of
        an earlier build there are replaced, others are left alone. Raises TricnnError if it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".tricnn-", dir=folder))
        except OSError as error:
            raise TricnnError(f"cannot write to {folder}: {error.strerror or error}") from None
        try:
            contents: dict[str, bytes] = {"kernels.py": self.source.encode()}
            for name, code in self.compiled.items():
                contents[f"{name}.{code.binary_kind}"] = code.binary
                contents |= {f"{name}.{kind}": text.encode() for kind, text in code.assembly.items()}
            contents["manifest.json"] = (json.dumps(self.manifest(), indent=1) + "\n").encode()
            for name, data in contents.items():
                (staging / name).write_bytes(data)
            for name in contents:
                os.replace(staging / name, folder / name)
            return [folder / name for name in contents]
        except OSError as error:
            raise TricnnError(f"cannot write to {folder}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def build(
    plan: Plan, dtype: str, batch: int, target: str, *, cache_dir: Path | None = None, workers: int | None = None,
    on_done: Callable[[CompiledKernel], None] | None = None,
) -> Build:  # fmt: skip
    """Compile every kernel of a plan for ``target`` (which need not be there).

    A kernel that spills registers, or asks for more shared memory than the target has, is compiled again with smaller
    tiles, until it does not; one whose machine code has a hazard (hazards.py), without pipelining. Raises CompileError
    if no form of it will do.
    """
    start = time.perf_counter()
    target = parse_target(target).name

    def compile(program: Program, missing: list[Function]) -> list[CompiledKernel | CompileError]:
        return compile_kernels(
            [spec(f) for f in missing], target, cache_dir=cache_dir, workers=workers, on_done=on_done,
            return_errors=True,
        )  # fmt: skip

    program, found = settle(plan, dtype, batch, target, compile, cache_dir)
    compiled = {name: replace(kernel, name=name) for name, kernel in found.items()}
    return Build(program, emit(program), target, compiled, time.perf_counter() - start)


def spec(function: Function) -> KernelSpec:
    """A function of the emitted file as a kernel to compile by itself.
    Its symbol does not depend on the layer, so layers of one shape, and networks that share shapes, share the machine
    code in the cache."""
    return KernelSpec(
        SYMBOL, standalone(function).replace(function.name, SYMBOL), dict(function.parameters), {}, function.num_warps,
        function.num_stages,
    )  # fmt: skip
