"""Registers refilled under a running matrix product: counted for the benchmark's networks with the Triton at hand.

    python -m benchmarks.hazard_matrix record FILE [--targets sm_90,sm_100] [--dtypes bf16,fp16] [--networks ...]
    python -m benchmarks.hazard_matrix table FILE

``record`` settles each network's program as ``tricnn compile`` does (build/settle.py) and writes a line for each
network, mode, dtype and target: how many functions the program has, how many of them have a matrix product, and the
hazards (build/hazards.py) and spilled bytes in the machine code of these. Only functions with a product are compiled:
no other has a matrix instruction that could still be reading. What the file has already for this version of Triton is
not computed again, so an interrupted record goes on.

Another Triton is tried without installing it for good:

    pip install --no-deps --target /tmp/triton-3.7.1 triton==3.7.1
    PYTHONPATH=/tmp/triton-3.7.1:$PWD python -m benchmarks.hazard_matrix record FILE

``table`` prints, for each Triton, target and dtype, the sums over the networks; it exits with 1 if there is a hazard, a
failure, or a case that the others have and one lacks. benchmarks/hazards.jsonl is the committed
record, not yet whole, of the kernels of commit 89094ca (2026-11-30).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.static_figures import MODES, some_of, status_of, targets
from tricnn.build.build import spec
from tricnn.build.compile import CompiledKernel, CompileError, compile_kernels, triton_version
from tricnn.build.settle import settle
from tricnn.cli.arguments import whole
from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.emit.emit import emit, standalone
from tricnn.graphs import ARCHITECTURES
from tricnn.ir import TricnnError
from tricnn.lower.program import Function, Program

NETWORKS = ("lenet", "alexnet", "resnet18", "resnet50", "googlenet_bn", "vgg16_bn", "inception_v3")
DTYPES = ("bf16", "fp16")

Case = tuple[str, str, str, str, str]  # Triton, target, dtype, network, mode


@dataclass(frozen=True)
class NoProduct:
    """What is known of a function without a matrix product, which is not compiled."""

    spill_bytes: int = 0
    hazards: int = 0


def has_product(function: Function) -> bool:
    """Whether a function, with the helpers that its text brings, multiplies matrices."""
    return "tl.dot(" in standalone(function)


def of_network(case: Case, batch: int, cache: Path | None) -> dict[str, Any]:
    """The counts of one network, mode, dtype and target, with the Triton at hand."""
    _, target, dtype, network, mode = case

    def compile(_: Program, missing: list[Function]) -> list[CompiledKernel | NoProduct | CompileError]:
        products = [f for f in missing if has_product(f)]
        made = compile_kernels([spec(f) for f in products], target, cache_dir=cache, return_errors=True)
        found = dict(zip((f.name for f in products), made, strict=True))
        return [found.get(f.name, NoProduct()) for f in missing]

    plan = planned(ARCHITECTURES[network](), mode, "auto", Cost(batch, dtype, target))
    program, known = settle(plan, dtype, batch, target, compile, cache)
    compiled = [kernel for kernel in known.values() if isinstance(kernel, CompiledKernel)]
    return {
        "functions": len(program.functions),
        "products": len(compiled),
        "tensor_core": sum(kernel.tensor_core for kernel in compiled),
        "hazards": sum(kernel.hazards for kernel in compiled),
        "spill_bytes": sum(kernel.spill_bytes for kernel in compiled),
        "sha256": hashlib.sha256(emit(program).encode()).hexdigest(),
    }


def record(cases: Iterable[Case], path: Path, batch: int, cache: Path | None, tell: Callable[[str], None]) -> None:
    """Write a line for each case that the file does not have yet."""
    known = read(path) if path.exists() else {}
    missing = [case for case in cases if case not in known]
    with path.open("a", encoding="utf-8") as file:
        for number, case in enumerate(missing, 1):
            tell(f"{number}/{len(missing)} triton {' '.join(case)}")
            try:
                found = of_network(case, batch, cache)
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
    recording.add_argument("--cache", type=Path, metavar="DIR", help="where compiled kernels are kept")
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.command == "table":
            rows, right = table(read(options.file))
            print("\n".join(rows))
            return 0 if right else 1
        cases = product([triton_version()], options.targets, options.dtypes, options.networks, MODES)
        tell = partial(print, file=sys.stderr, flush=True)
        record(cases, options.file, options.batch, options.cache, tell)
        return 0

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
