"""What the machine code of whole networks says without running it: spills, hazards, tensor cores.

    python -m benchmarks.static_checks record FILE [--networks unet,densenet121] [--targets sm_90] [--modes train] ...
    python -m benchmarks.static_checks table FILE

``record`` compiles every kernel of each network, mode and target as ``tricnn compile`` does, and writes a line for
each: how many kernels there are, how many of them multiply matrices, and of these how many do it on tensor cores; the
bytes that are spilled and the hazards (build/hazards.py) in all; the kernels of which one of these is not as it should
be; the largest number of registers of a thread. What the file has already for this version of Triton is not computed
again, and compiled kernels are kept (``TRICNN_CACHE``), so an interrupted record goes on where it was.

``table`` prints it, and exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.hazard_matrix import DTYPES, has_product
from benchmarks.static_figures import MODES, some_of, status_of, targets
from tricnn.build.build import Build, build
from tricnn.build.compile import triton_version
from tricnn.cli.arguments import whole
from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.graphs import ARCHITECTURES
from tricnn.system.errors import TricnnError

NETWORKS = ("mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "densenet121", "unet")

Case = tuple[str, str, str, str, str]  # Triton, target, dtype, network, mode


def checked(built: Build) -> dict[str, Any]:
    """The counts of one network's machine code."""
    code = {f.name: (f, built.compiled[f.name]) for f in built.program.functions}
    products = {name for name, (function, _) in code.items() if has_product(function)}
    wrong = [
        name for name, (_, kernel) in code.items()
        if kernel.spill_bytes or kernel.hazards or (name in products and not kernel.tensor_core)
    ]  # fmt: skip
    kernels = [kernel for _, kernel in code.values()]
    return {
        "kernels": len(code),
        "products": len(products),
        "tensor_core": sum(code[name][1].tensor_core for name in products),
        "spill_bytes": sum(kernel.spill_bytes for kernel in kernels),
        "hazards": sum(kernel.hazards for kernel in kernels),
        "registers": max(kernel.registers for kernel in kernels),
        "wrong": wrong,
    }


def right(found: Mapping[str, Any]) -> bool:
    """Is everything as it should be?"""
    return "error" not in found and not found["wrong"]


def record(cases: Iterable[Case], path: Path, batch: int, cache: Path | None, tell: Callable[[str], None]) -> None:
    """Write a line for each case that the file does not have yet."""
    known = read(path)
    missing = [case for case in cases if (case, batch) not in known]
    for number, case in enumerate(missing, 1):
        tell(f"{number}/{len(missing)} triton {' '.join(case)}, batch {batch}")
        _, target, dtype, network, mode = case
        try:
            plan = planned(ARCHITECTURES[network](), mode, "auto", Cost(batch, dtype, target))
            found = checked(build(plan, dtype, batch, target, cache_dir=cache))
        except TricnnError as error:
            found = {"error": str(error)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"case": case, "batch": batch, **found}) + "\n")


def read(path: Path) -> dict[tuple[Case, int], Mapping[str, Any]]:
    """The lines of a record, by case and batch; none where there is no file."""
    lines: dict[tuple[Case, int], Mapping[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        found = json.loads(line)
        triton, target, dtype, network, mode = found["case"]
        lines[(triton, target, dtype, network, mode), found["batch"]] = found
    return lines


def table(lines: Mapping[tuple[Case, int], Mapping[str, Any]]) -> list[str]:
    """A line of Markdown for each case."""
    rows = [
        "| network | mode | target | dtype, batch | kernels | with a product | on tensor cores | spilled | hazards "
        "| registers at most | Triton |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for (triton, target, dtype, network, mode), batch in sorted(lines, key=lambda c: (c[0][3], c[0][4], c[0][1])):
        found = lines[(triton, target, dtype, network, mode), batch]
        figures = ("kernels", "products", "tensor_core", "spill_bytes", "hazards", "registers")
        cells = [found["error"]] if "error" in found else [f"{found[figure]:,}" for figure in figures]
        rows.append(f"| {' | '.join([f'`{network}`', mode, target, f'{dtype}, {batch}', *cells, triton])} |")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="compile networks with the Triton at hand, and count")
    showing = commands.add_parser("table", help="print a record")
    for command in (recording, showing):
        command.add_argument("file", type=Path, metavar="FILE")
    recording.add_argument("--targets", type=targets, default=["sm_90", "sm_80"], metavar="A,B", help="(sm_90,sm_80)")
    recording.add_argument("--dtypes", type=some_of(DTYPES), default=["bf16"], metavar="A,B", help="(bf16)")
    recording.add_argument("--networks", type=some_of(tuple(ARCHITECTURES)), default=list(NETWORKS), metavar="A,B")
    recording.add_argument("--modes", type=some_of(MODES), default=list(MODES), metavar="A,B", help="(infer,train)")
    recording.add_argument("--batch", type=whole(1), default=128, help="(128)")
    recording.add_argument("--cache", type=Path, metavar="DIR", help="where compiled kernels are kept")
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.command == "table":
            lines = read(options.file)
            print("\n".join(table(lines)))
            return 0 if lines and all(map(right, lines.values())) else 1
        networks = product(options.networks, options.modes, options.targets, options.dtypes)
        cases = [(triton_version(), target, dtype, network, mode) for network, mode, target, dtype in networks]
        record(cases, options.file, options.batch, options.cache, partial(print, file=sys.stderr, flush=True))
        return 0

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
