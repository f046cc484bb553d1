"""What the compiler did to a network, as one page that needs nothing but a browser.
It has the network folded by its layers' names, each kernel with its layers, its edges (fused or why not) and its
source, what it moves, and, if asked, what its machine code uses, its simulated time, and how it was verified."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    UsageError,
    add_compilation,
    add_fusion,
    add_model,
    add_target,
    chosen_target,
    file_path,
    load_graph,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tricnn.build.build import Build
    from tricnn.ir import Graph
    from tricnn.lower.program import Program
    from tricnn.report.page.facts import Machine

    from .screen import Screen

EXAMPLES = """\
examples:
  tricnn report resnet50 --mode train --batch 256 --dtype bf16 --out resnet50.html
  tricnn report lenet --mode train --compile --out lenet.html     registers, spills, shared memory
  tricnn report lenet --simulate --target sm_90 --out lenet.html  simulated times too (not measured)
  tricnn report resnet50 --machine-code k29 k30 --out r50.html     their instructions beside the source
  tricnn report lenet --mode train --verify --out lenet.html      every kernel against float64
  tricnn report lenet --mode train --batch 256 --bench bench.json  times that tricnn bench --json measured
  tricnn report torchvision.models:resnet50 --out mine.html
  tricnn report --diff before.html after.html --out diff.html     two pages: policies, targets, commits

The page is one file: it can be attached, mailed, and read without a network or scripts. Links lead to kernels and
layers: page.html#k29, page.html#layer1.0.conv1.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, required=False)
    add_compilation(parser)
    add_target(parser)
    add_fusion(parser)
    parser.add_argument("--out", type=file_path, metavar="FILE", help="the page to write, .html (MODEL.html)")
    parser.add_argument("--compile", action="store_true", help="compile: registers, spills, shared memory")
    parser.add_argument(
        "--simulate", action="store_true",
        help="compile, and simulate each launch on a model of an H100 (sm_90 only); not measured",
    )  # fmt: skip
    parser.add_argument(
        "--machine-code", nargs="+", metavar="KERNEL", default=[],
        help="compile, and show the instructions of these kernels (k29, or whole names; all) beside their source",
    )  # fmt: skip
    parser.add_argument(
        "--bench",
        type=file_path,
        metavar="FILE",
        help="measured times, from a file of tricnn bench --json or of the GPU suite (make gpu, make bench)",
    )
    parser.add_argument("--verify", action="store_true", help="run the kernels, and hold them to float64 NumPy")
    parser.add_argument(
        "--diff", nargs=2, type=file_path, metavar=("A", "B"),
        help="instead of a MODEL: what changed from one page (or object of --json) to another",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from tricnn.lower.from_graph import lowered
    from tricnn.system.files import write_atomically

    from ..report.figures import plural, size
    from ..report.page.facts import NOTHING, gathered
    from ..report.page.machine_code import machine_code
    from ..report.page.measured import measured
    from ..report.page.write import page
    from ..report.tables import stale
    from .compile_command import compile_shown
    from .screen import Screen

    screen = Screen(options.json)
    if options.diff:
        return compared(options, screen)
    if options.model is None:
        raise UsageError("report: a MODEL is needed, or two pages behind --diff (see: tricnn report --help)")
    target = chosen_target(options.target)
    if options.simulate:
        from tricnn.measure.simulate import check_target

        check_target(target)
    with screen.waiting(f"fusing {options.model}"):
        graph = load_graph(options)
        out = page_path(options.out, graph.name)
        how = (options.mode, options.batch, options.dtype, target)
        fused = lowered(graph, *how, fuse=options.fuse)
        unfused = fused if options.fuse == "none" else lowered(graph, *how, fuse="none")
    wanted = functions_of(fused, options.machine_code)
    machine, shown = NOTHING, None
    if options.compile or options.simulate or wanted:
        built = compile_shown(fused, target, screen)
        fused, machine = built.program, of_machine(built, options.simulate, screen)
    if options.bench:
        machine = replace(machine, measured=measured(Path(options.bench), graph.name, fused))
    if wanted:
        with screen.waiting("compiling with a table of lines"):
            shown = machine_code(fused, wanted, built.compiled)
    verification = verified(graph, options, screen) if options.verify else None
    facts = gathered(graph, fused, unfused, machine)
    text = page(facts, verification, shown).encode()
    write_atomically(out, text, durable=False)
    screen.json({**facts, "page": str(out), "verification": verification, **({"machine_code": shown} if shown else {})})
    what = f"{plural(facts['launches'], 'launch')}, {plural(len(facts['kernels']), 'kernel')}"
    screen.show(f"{out}: {size(len(text))}, {what}")
    if fused.passed:
        screen.show(stale(fused))
    return 0 if verification is None or verification["ok"] else 1


def compared(options: argparse.Namespace, screen: Screen) -> int:
    """Show the tables of ``--diff A B``, and write the page where --out says so."""
    from tricnn.system.files import write_atomically

    from ..report import tables
    from ..report.figures import plural, size
    from ..report.page.compare import diff_page, difference, read

    if options.model is not None:
        raise UsageError(f"report --diff takes two pages; {options.model} is one too many")
    out = page_path(options.out, "diff") if options.out is not None else None
    names = [Path(path).name for path in options.diff]
    found = difference(*(read(Path(path)) for path in options.diff))
    if out is not None:
        text = diff_page(found, names).encode()
        write_atomically(out, text, durable=False)
    screen.json(found)
    apart = [row for row in found["kernels"] if row["what"] != "same"]
    screen.show(
        tables.differences(found, names),
        f"of {plural(len(found['kernels']), 'kernel')} {len(apart)} differ; {plural(len(found['edges']), 'edge')} "
        f"fused in one only; {plural(len(found['sources']), 'function')} of other source",
    )
    if out is not None:
        screen.show(f"{out}: {size(len(text))}")
    return 0


def page_path(given: str | None, name: str) -> Path:
    """Where the page is written. Raises UsageError if nothing can be."""
    path = Path(given if given is not None else f"{name}.html")
    if not given and given is not None:
        raise UsageError("--out needs the name of a file")
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder; the page is one file, such as {path / name}.html")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}")
    return path


def functions_of(program: Program, kernels: Sequence[str]) -> list[str]:
    """The functions that some kernels launch: ``k29``, a whole name, or ``all``. Raises UsageError for others."""
    names = {k.name: {launch.function for launch in program.launches if launch.kernel == k.name}
             for k in program.plan.kernels}  # fmt: skip
    found: set[str] = set()
    for wanted in kernels:
        own = [name for name in names if wanted in ("all", name, name.partition("_")[0])]
        if not own:
            last = program.plan.kernels[-1].name
            raise UsageError(f"--machine-code: there is no kernel {wanted}; they are k00 to {last}, or all")
        found.update(*(names[name] for name in own))
    return [function.name for function in program.functions if function.name in found]


def of_machine(built: Build, simulate: bool, screen: Screen) -> Machine:
    """What is known of a build's machine code, with simulated times where they are asked for."""
    from ..report.page.facts import Machine

    code = {row["name"]: row for row in built.kernels}
    if not simulate:
        return Machine(code, {})
    from tricnn.machine.simulator import VERSION
    from tricnn.measure.simulate import rows

    from ..report.progress import Steps

    simulated: dict[int, dict[str, Any]] = {}
    with Steps(screen.progress, "simulating for an H100", len(built.program.launches), "launches") as steps:
        for number, row in enumerate(rows(built, on_done=steps.done)):
            simulated[number] = {"limit_us": round(row.limit_us, 3), "limit": row.limit, "simulated_us": None}
            if row.result is None:
                simulated[number]["problem"] = row.problem
            else:
                share = row.limit_us / row.result.us if row.result.us else 0.0
                simulated[number] |= {"simulated_us": round(row.result.us, 3), "share": round(share, 4),
                                      "waits_for": row.result.reason}  # fmt: skip
    return Machine(code, simulated, {"version": VERSION, "gpu": "H100 SXM"})


def verified(graph: Graph, options: argparse.Namespace, screen: Screen) -> dict[str, Any]:
    """The object of ``tricnn verify --json``, of the same network, or, without a GPU, of a small member of it."""
    from . import verify_command
    from .arguments import sizes, small_arguments

    on_gpu = verify_command.runs_on_gpu()
    small = {} if on_gpu or options.input or options.width else small_arguments(options.model)
    member = load_graph(options, **small) if small else graph
    batch = verify_command.BATCH_ON_GPU if on_gpu else verify_command.BATCH_INTERPRETED
    return sizes(member, graph if small else None) | verify_command.verified(
        member, screen, mode=options.mode, batch=batch, dtype=options.dtype, target=None, fuse=options.fuse, seed=0,
    )  # fmt: skip
