"""Ahead-of-time compilation of a whole plan: machine code for every kernel, and what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..compiler.plan import Plan
from ..emit.emit import emit, launches_of, standalone
from ..ir.table import Source
from ..lower.lower import lower
from ..lower.predicted_time import microseconds, predicted_seconds
from ..lower.program import Function, Program
from ..machine import tuned_files as tuning
from ..machine.targets import Target, parse_target
from ..machine.tiles import Form
from ..system.errors import TricnnError
from ..system.paths import cache_folder
from .cache import Entry, KernelCache
from .compile import CompiledKernel, CompileError, KernelSpec, compile_kernels, toolchain, triton_version

SYMBOL = "kernel"  # the name of every compiled kernel inside its binary
ATTEMPTS = 8  # how many times a kernel's tiles may be made smaller


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
            "buffers": {b.name: {"dtype": b.dtype, "elements": str(b.size), "persistent": b.persistent}
                        for b in program.buffers.values()},
            "descriptors": {d.name: {"buffer": d.buffer, "shape": list(d.shape), "box": list(d.box)}
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


class Inspected(Protocol):
    """What is known of a compiled kernel, at least."""

    @property
    def spill_bytes(self) -> int: ...

    @property
    def hazards(self) -> int: ...


Compiled = TypeVar("Compiled", bound=Inspected)


def settle(
    plan: Plan, dtype: str, batch: int, target: str,
    compile: Callable[[Program, list[Function]], Sequence[Compiled | CompileError]], cache_dir: Path | None = None,
) -> tuple[Program, dict[str, Compiled]]:  # fmt: skip
    """A plan's program in forms that compile as they must, and what ``compile`` says of each function.

    A kernel that spills registers or needs too much shared memory gets smaller tiles; one whose machine code refills
    registers that are still read (hazards.py) is no longer pipelined. Which forms those are is remembered, so that
    whoever settles the plan again begins with them.

    Raises CompileError for a kernel that no form makes right.
    """
    known = remembered(plan, dtype, batch, target, cache_dir)
    forms = dict(known or {})
    done: dict[str, tuple[Function, Compiled]] = {}
    for _ in range(ATTEMPTS + 2):
        program = lower(plan, dtype, batch, target, forms)
        functions = {f.name: f for f in program.functions}
        missing = {name: f for name, f in functions.items() if name not in done or done[name][0] != f}
        results = compile(program, list(missing.values()))
        # A step to smaller tiles may change nothing for a kernel that is small already; then the next one is taken.
        stuck = [
            n for n in functions if n not in missing and done[n][1].spill_bytes and _form(forms, n).smaller < ATTEMPTS
        ]
        for name in stuck:
            _smaller(program, name, forms)
        again = bool(stuck)
        for (name, one), result in zip(missing.items(), results, strict=True):
            form = _form(forms, name)
            if isinstance(result, CompileError):
                if form.smaller >= ATTEMPTS or "shared memory" not in result.reason:
                    raise CompileError(name, target, result.reason, result.detail)
                again = _smaller(program, name, forms)
                continue
            done[name] = (one, result)
            if result.hazards and form.pipelined:
                again = _reform(program, name, forms, replace(form, pipelined=False))
            elif result.spill_bytes and form.smaller < ATTEMPTS:
                again = _smaller(program, name, forms)
        if not again:
            break
    for name in functions:
        if hazards := done[name][1].hazards:
            raise CompileError(name, target, refilled(hazards))
    if known is None:
        memory = KernelCache(cache_folder() if cache_dir is None else cache_dir)
        facts = {name: [form.smaller, form.pipelined] for name, form in forms.items()}
        memory.put(plan_digest(plan, dtype, batch, target), Entry(facts, {}))
    return program, {name: done[name][1] for name in functions}


def may_refill_early(gpu: Target) -> bool:
    """Whether the Triton at hand pipelines a product whose left operand is in registers wrongly on a GPU: before 3.9 on
    Hopper, whose matrix instructions run beside the program."""
    version = tuple(int(part) for part in re.findall(r"\d+", triton_version())[:2])
    return gpu.name.startswith("sm_90") and version < (3, 9)


def refilled(count: int) -> str:
    """Why a kernel whose machine code has so many hazards is refused."""
    return (
        f"Triton {triton_version()} overwrites registers in {count} places before a matrix instruction has read them; "
        "triton >= 3.9 does not"
    )


def remembered(
    plan: Plan, dtype: str, batch: int, target: str, cache_dir: Path | None = None
) -> dict[str, Form] | None:
    """The forms of a plan's functions that are not the first ones, if it was settled before."""
    memory = KernelCache(cache_folder() if cache_dir is None else cache_dir)
    known = memory.get(plan_digest(plan, dtype, batch, target))
    return None if known is None else _forms(known.facts)


def _forms(facts: Mapping[str, Any]) -> dict[str, Form] | None:
    """What an entry of the cache says, if that is what :func:`settle` writes."""
    forms = {}
    for name, fact in facts.items():
        match fact:
            case [int(smaller), bool(pipelined)] if 0 <= smaller <= ATTEMPTS:
                forms[name] = Form(smaller, pipelined)
            case _:
                return None
    return forms


def plan_digest(plan: Plan, dtype: str, batch: int, target: str) -> str:
    """What decides which tiles a plan ends up with: the next build of it begins with those."""
    known = [str(plan), dtype, batch, target, toolchain(), _lowering(), tuning.digest(target)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@cache
def _lowering() -> str:
    """The code that writes kernels."""
    root = Path(__file__).parents[1]
    files = [path for room in ("build", "emit", "lower", "machine", "kernels") for path in (root / room).glob("*.py")]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()


def _form(forms: dict[str, Form], name: str) -> Form:
    return forms.get(name, Form())


def _smaller(program: Program, name: str, forms: dict[str, Form]) -> bool:
    """Make the tiles of a function smaller."""
    form = _form(forms, name)
    return _reform(program, name, forms, replace(form, smaller=form.smaller + 1))


def _reform(program: Program, name: str, forms: dict[str, Form], form: Form) -> bool:
    """Give a function another form, and with it those of every kernel that shares it. True: compile again."""
    sharing = [launch.kernel for launch in program.launches if launch.function == name]
    suffix = name[len(sharing[0]) :]
    forms.update({kernel + suffix: form for kernel in sharing})
    return True


def spec(function: Function) -> KernelSpec:
    """A function of the emitted file as a kernel to compile by itself. Its symbol does not depend on the layer, so
    layers of one shape, and networks that share shapes, share the machine code in the cache."""
    return KernelSpec(
        SYMBOL, standalone(function).replace(function.name, SYMBOL), dict(function.parameters), {}, function.num_warps,
        function.num_stages,
    )  # fmt: skip
