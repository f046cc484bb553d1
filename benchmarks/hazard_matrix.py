"""Registers refilled under a running matrix product: counted for the benchmark's networks with the Triton at hand.

    python -m benchmarks.hazard_matrix record FILE [--targets sm_90,sm_100] [--dtypes bf16,fp16] [--networks ...]
    python -m benchmarks.hazard_matrix table FILE

``record`` settles each network's program as ``tricnn compile`` does (build/settle.py) and writes a line for each
network, mode, dtype and target: how many functions the program has, how many of them have a matrix product, and the
hazards (build/hazards.py) and spilled bytes in the machine code of these. Only functions with a product are compiled:
no other has a matrix instruction that could still be reading. What the file has already for this version of Triton is
not computed again, so an interrupted record goes on.

With ``--by-operands`` a function is compiled to machine code only where a product in it reads registers or tensor
memory while the program goes on, which Triton's own last form (TTGIR) says. A hazard is a refill of these, so no other
function can have one; what the others spill is then not known, and they stay in the first form that settling tries.
"beside" in the record counts, by the machine code, the functions with such a product.

Another Triton is tried without installing it for good:

    pip install --no-deps --target /tmp/triton-3.7.1 triton==3.7.1
    PYTHONPATH=/tmp/triton-3.7.1:$PWD python -m benchmarks.hazard_matrix record FILE

``table`` prints, for each Triton, target and dtype, the sums over the networks, with the number of functions that were
compiled where that is not all. It exits with 1 if there is a hazard, a failure, or a case that the others have and one
lacks. benchmarks/hazards.jsonl is the committed record, of the kernels of commit 89094ca (2026-11-30).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.static_figures import MODES, some_of, status_of, targets
from tricnn.build import compile_worker
from tricnn.build.build import spec
from tricnn.build.compile import CompiledKernel, CompileError, KernelSpec, compile_kernels, job_of, triton_version
from tricnn.build.inspect_binary import multiplies_beside_the_program
from tricnn.build.settle import settle
from tricnn.cli.arguments import whole
from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.emit.emit import emit, standalone
from tricnn.graphs import ARCHITECTURES
from tricnn.ir import TricnnError
from tricnn.lower.program import Function, Program
from tricnn.machine.targets import parse_target

NETWORKS = ("lenet", "alexnet", "resnet18", "resnet50", "googlenet_bn", "vgg16_bn", "inception_v3")
DTYPES = ("bf16", "fp16")

Case = tuple[str, str, str, str, str]  # Triton, target, dtype, network, mode


@dataclass(frozen=True)
class NotCompiled:
    """What stands for a function whose machine code is not looked at: it can have no hazard."""

    spill_bytes: int = 0
    hazards: int = 0


class _Stopped(Exception):
    """A kernel's TTGIR, where its compilation was ended."""


def gpu_form(one: KernelSpec, target: str) -> str:
    """A kernel in Triton's own last form for a GPU (TTGIR), from which LLVM's is made. Raises what Triton raises."""
    import triton

    def stop(*stages_of: Any) -> tuple[str, str] | None:
        if not stages_of:
            return "TTGIR", "TTGIR"  # newer ones ask first how the key of their cache differs

        def stopped(module: object, metadata: object) -> None:
            raise _Stopped(str(module))

        stages_of[1]["llir"] = stopped
        return None

    job = job_of(one, parse_target(target))
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope(), triton.knobs.runtime.scope():
        triton.knobs.cache.dir = str(Path(folder, "cache"))
        triton.knobs.runtime.add_stages_inspection_hook = stop
        try:
            compile_worker.compiled(job, *compile_worker.described(job, Path(folder)))
        except _Stopped as stopped:
            return str(stopped)
    raise AssertionError("Triton compiles without a stage llir")


def multiplies_beside(form: str) -> bool:
    """Whether a product in a kernel's TTGIR reads registers or tensor memory while the program goes on.

    Those that go beside it are Hopper's ``warp_group_dot`` and Blackwell's ``tc_gen5_mma``; their left operand's type
    says where it lies. ``tt.dot`` ends before the program goes on. Raises ValueError if no product is found.
    """
    products = re.findall(r"\b(ttng\.warp_group_dot|ttng\.tc_gen5_mma\w*|tt\.dot\w*)\s+%(.*)", form)
    if not products:
        raise ValueError("no product of matrices is known in a function that has one")
    lefts = [(kind, re.sub(r"\{[^{}]*\}", "", rest).partition(" : ")[2]) for kind, rest in products]
    return any(
        left.startswith("tensor<") or "tensor_memory" in left.partition(">, ")[0]
        for kind, left in lefts if not kind.startswith("tt.dot")
    )  # fmt: skip


def has_product(function: Function) -> bool:
    """Whether a function, with the helpers that its text brings, multiplies matrices."""
    return "tl.dot(" in standalone(function)


def of_network(case: Case, batch: int, cache: Path | None, by_operands: bool) -> dict[str, Any]:
    """The counts of one network, mode, dtype and target, with the Triton at hand."""
    _, target, dtype, network, mode = case

    def wanted(one: KernelSpec) -> bool:
        try:
            return not by_operands or multiplies_beside(gpu_form(one, target))
        except Exception:  # of Triton's compiler; compiling it as usual says what, and of which kernel
            return True

    def compile(_: Program, missing: list[Function]) -> list[CompiledKernel | NotCompiled | CompileError]:
        chosen = {f.name: one for f in missing if has_product(f) and wanted(one := spec(f))}
        made = compile_kernels(list(chosen.values()), target, cache_dir=cache, return_errors=True)
        found = dict(zip(chosen, made, strict=True))
        return [found.get(f.name, NotCompiled()) for f in missing]

    plan = planned(ARCHITECTURES[network](), mode, "auto", Cost(batch, dtype, target))
    with tempfile.TemporaryDirectory() as empty:  # forms that were settled without all machine code are nobody else's
        program, known = settle(plan, dtype, batch, target, compile, Path(empty) if by_operands else cache)
    compiled = [kernel for kernel in known.values() if isinstance(kernel, CompiledKernel)]
    return {
        "functions": len(program.functions),
        "products": sum(map(has_product, program.functions)),
        "compiled": len(compiled),
        "beside": sum(multiplies_beside_the_program(kernel.binary) for kernel in compiled),
        "tensor_core": sum(kernel.tensor_core for kernel in compiled),
        "hazards": sum(kernel.hazards for kernel in compiled),
        "spill_bytes": sum(kernel.spill_bytes for kernel in compiled),
        "sha256": hashlib.sha256(emit(program).encode()).hexdigest(),
    }


def record(
    cases: Iterable[Case], path: Path, batch: int, cache: Path | None, by_operands: bool, tell: Callable[[str], None]
) -> None:
    """Write a line for each case that the file does not have yet."""
    known = read(path) if path.exists() else {}
    missing = [case for case in cases if case not in known]
    with path.open("a", encoding="utf-8") as file:
        for number, case in enumerate(missing, 1):
            tell(f"{number}/{len(missing)} triton {' '.join(case)}")
            try:
                found = of_network(case, batch, cache, by_operands)
            except TricnnError as error:
                found = {"error": str(error)}
            file.write(json.dumps({"case": case, "batch": batch, **found}) + "\n")
            file.flush()


def read(path: Path) -> dict[Case, Mapping[str, Any]]:
    """The lines of a record, by case. Raises ValueError, naming the line, for one that is none."""
    lines: dict[Case, Mapping[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found = json.loads(line)
            triton, target, dtype, network, mode = found["case"]
            _ = found["error"] if "error" in found else int(found["hazards"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: line {number} is not one that `record` writes") from None
        lines[triton, target, dtype, network, mode] = found
    return lines


def table(lines: Mapping[Case, Mapping[str, Any]]) -> tuple[list[str], bool]:
    """The sums over networks and modes as lines of Markdown, and whether every case is there and right."""
    groups: dict[tuple[str, str, str], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for (triton, target, dtype, network, mode), found in lines.items():
        groups.setdefault((triton, target, dtype), {})[network, mode] = found
    expected = {work for works in groups.values() for work in works}
    rows = [
        "| Triton | target | dtype | networks x modes | functions | with a product | hazards | spilled bytes |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    right = bool(groups)
    for group in sorted(groups):
        works = groups[group]
        done = [found for found in works.values() if "error" not in found]
        sums = [sum(found[figure] for found in done) for figure in ("functions", "products", "hazards", "spill_bytes")]
        right = right and len(done) == len(expected) and sums[2] == 0
        cells = [*group, f"{len(done)} of {len(expected)}", *(f"{value:,}" for value in sums)]
        if any(found.get("compiled", found["products"]) < found["products"] for found in done):
            cells[-1] += f" in {sum(found.get('compiled', found['products']) for found in done):,}"
        rows.append(f"| {' | '.join(cells)} |")
        rows += [f"{' '.join(work)}: {found['error']}" for work, found in works.items() if "error" in found]
    return rows, right


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="count the hazards with the Triton at hand")
    showing = commands.add_parser("table", help="print the sums of a record")
    for command in (recording, showing):
        command.add_argument("file", type=Path, metavar="FILE")
    recording.add_argument("--targets", type=targets, default=["sm_90", "sm_100"], metavar="A,B", help="(sm_90,sm_100)")
    recording.add_argument("--dtypes", type=some_of(DTYPES), default=list(DTYPES), metavar="A,B", help="(bf16,fp16)")
    recording.add_argument("--networks", type=some_of(tuple(ARCHITECTURES)), default=list(NETWORKS), metavar="A,B")
    recording.add_argument("--batch", type=whole(1), default=256, help="(256)")
    recording.add_argument("--by-operands", action="store_true", help="machine code only where there can be a hazard")
    recording.add_argument("--cache", type=Path, metavar="DIR", help="where compiled kernels are kept")
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.command == "table":
            rows, right = table(read(options.file))
            print("\n".join(rows))
            return 0 if right else 1
        cases = product([triton_version()], options.targets, options.dtypes, options.networks, MODES)
        tell = partial(print, file=sys.stderr, flush=True)
        record(cases, options.file, options.batch, options.cache, options.by_operands, tell)
        return 0

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
