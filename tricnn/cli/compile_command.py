"""A network compiled to GPU kernels for a target, which need not be there.
Shown is which layers share a kernel, what each kernel moves, and what its machine code uses."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import (
    add_compilation,
    add_fusion,
    add_model,
    add_target,
    chosen_target,
    file_path,
    load_graph,
    output_folder,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tricnn.build.build import Build
    from tricnn.ir import Graph
    from tricnn.lower.program import Program

    from .screen import Screen

EXAMPLES = """\
examples:
  tricnn compile lenet                                           for inference, on the GPU at hand or sm_90
  tricnn compile lenet --mode train --batch 256 --dtype bf16     one training step
  tricnn compile resnet18 --target gfx942 --out out/resnet18     kernels.py, machine code, manifest.json
  tricnn compile mine.txt --mode train --fuse epilogue           pointwise chains only; --no-fuse: one kernel a layer
  tricnn compile resnet18 --target sm_90 --simulate              each kernel's time on an H100, by its machine code

Columns: bytes counts each operand read once and each result written once, per launch; spills and registers are per
thread; "unfused" is the same layers as one kernel each; tensor cores and bulk copies (TMA) say whether the machine
code has their instructions.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compilation(parser)
    add_target(parser)
    add_fusion(parser)
    parser.add_argument(
        "--out",
        type=file_path,
        metavar="DIR",
        help="write kernels.py, which runs without tricnn, the machine code and manifest.json there",
    )
    parser.add_argument("--all", action="store_true", help="a row for every kernel, also of large networks")
    parser.add_argument(
        "--simulate", action="store_true",
        help="replay each kernel's machine code on a model of an H100 (sm_90 only): simulated, not measured",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from tricnn.lower.from_graph import lowered
    from tricnn.run.dump import Dump

    from ..report import tables
    from ..report.figures import plural, size
    from ..report.similar import MOST_ROWS, grouped
    from .screen import Screen

    screen = Screen(options.json)
    target = chosen_target(options.target)
    if options.simulate:
        from tricnn.measure.simulate import check_target

        check_target(target)
    with screen.waiting(f"fusing {options.model}"):
        graph = load_graph(options)
        how = (options.mode, options.batch, options.dtype, target)
        dump = Dump.asked_for(graph, options.mode)
        program = lowered(graph, *how, fuse=options.fuse, show=dump)
        dump.kernels(lambda: program)
        unfused = program if options.fuse == "none" else lowered(graph, *how, fuse="none")
    with output_folder(options.out) as folder:
        built = compile_shown(program, target, screen)
        files = built.write(folder) if folder else []
    result = summary(graph, built, unfused)
    if options.simulate:
        result |= simulated(built, result["kernels"], screen)
    screen.json(result)
    beside = None if options.fuse == "none" else _replaced(built, unfused)
    whole = options.all or len(result["kernels"]) <= MOST_ROWS
    shown = result if whole else {**result, "kernels": grouped(result["kernels"], built.program)}
    made = tables.kernels(shown, beside, screen.out.width)
    if whole:
        screen.show(made, *sentences(result))
    else:
        kinds = f"{plural(len(result['kernels']), 'kernel')} of {plural(len(shown['kernels']), 'kind')}"
        screen.show(*sentences(result), f"{kinds}, a row each; --all: a row for every kernel\n", made)
    if options.simulate:
        screen.show(tables.simulated(result), *simulated_sentences(result))
    if files:
        total = sum(f.stat().st_size for f in files)
        count = f"{plural(len(files), 'file')} ({size(total)})"
        screen.show(f"{count} in {options.out}: kernels.py, manifest.json, machine code")
    return 1 if options.simulate and result["simulated_us"] is None else 0


def simulated(built: Build, kernels: list[dict[str, Any]], screen: Screen) -> dict[str, Any]:
    """What ``--simulate`` adds to the object that ``--json`` prints; None where a kernel could not be simulated.
    Its figures of each kernel are put into ``kernels``."""
    from tricnn.machine.simulator import VERSION
    from tricnn.measure.simulate import rows, summed

    from ..report.progress import Steps

    launches = built.program.launches
    with Steps(screen.progress, "simulating for an H100", len(launches), "launches") as steps:
        by_kernel = summed(rows(built, on_done=steps.done))
    for kernel in kernels:
        kernel.update(by_kernel[kernel["name"]])
    times = [k["simulated_us"] for k in kernels]
    return {
        "simulated_us": None if None in times else round(sum(times), 3),
        "limit_us": round(sum(k["limit_us"] for k in kernels), 3),
        "simulator": {"version": VERSION, "gpu": "H100 SXM"},
    }


def simulated_sentences(result: dict[str, Any]) -> list[str]:
    """What the table of simulated times comes to, and what could not be simulated."""
    from ..report.figures import brief, plural

    failed = [k for k in result["kernels"] if k["simulated_us"] is None]
    lines = [f"{k['name']} cannot be simulated: {k['problem']}" for k in failed]
    if failed:
        return [
            *lines,
            f"no simulated time in all: {plural(len(failed), 'kernel')} of {len(result['kernels'])} lack one",
        ]
    us, version = result["simulated_us"], result["simulator"]["version"]
    return [
        f"simulated, not measured (model {version}, {result['simulator']['gpu']}): {brief(us / 1e6)}, "
        f"{result['batch'] / us * 1e6:,.0f} images/s, {result['limit_us'] / us:.0%} of the rates that kernels reach "
        "(3.0 TB/s, 660 TFLOP/s); docs/simulator.md says how far to trust it"
    ]


def _replaced(built: Build, unfused: Program) -> dict[str, tuple[int, int]]:
    from ..report.replaced import replaced

    return replaced(built.program, unfused)


def compile_shown(program: Program, target: str, screen: Screen, cache_dir: Path | None = None) -> Build:
    """Compile a program's plan, with its progress on the screen."""
    from tricnn.build.build import build

    from ..report.progress import Steps

    with Steps(screen.progress, f"compiling for {target}", len(program.functions), "kernels") as steps:
        return build(
            program.plan, program.dtype, program.batch, target, cache_dir=cache_dir,
            on_done=lambda kernel: steps.done(),
        )  # fmt: skip


def summary(graph: Graph, built: Build, unfused: Program) -> dict[str, Any]:
    """The object that ``--json`` prints; its keys are a contract."""
    from tricnn.lower.from_graph import static_figures
    from tricnn.lower.predicted_time import microseconds, predicted_seconds

    program = built.program
    return {
        "graph": graph.name,
        "mode": program.plan.mode,
        "batch": program.batch,
        "dtype": program.dtype,
        "target": built.target,
        **static_figures(program),
        "parameters": graph.num_parameters,
        "macs_per_image": graph.macs,
        "compile_seconds": round(built.seconds, 3),
        "kernels": built.kernels,
        "unfused": {"launches": len(unfused.launches), "dram_bytes": unfused.dram_bytes()},
        "fuse": program.plan.policy,
        "predicted_us": microseconds(predicted_seconds(program)),
        "hazards": sum(kernel.hazards for kernel in built.compiled.values()),
    }


def sentences(result: dict[str, Any]) -> list[str]:
    """What the table comes to."""
    from ..report.figures import brief, plural, scaled, size, times

    plain = result["unfused"]
    lines = [
        f"{plural(result['launches'], 'launch')} moving {size(result['dram_bytes'])}; unfused "
        f"{plural(plain['launches'], 'launch')} moving {size(plain['dram_bytes'])} "
        f"({times(plain['dram_bytes'] / max(1, result['dram_bytes']))} as much)",
        f"{scaled(result['flops'])} floating-point operations, {size(result['peak_memory_bytes'])} of memory at most, "
        f"compiled in {result['compile_seconds']:.1f} s; predicted time of "
        f"{'a step' if result['mode'] == 'train' else 'a batch'} on {result['target']}: "
        f"{brief(result['predicted_us'] / 1e6)}",
    ]
    lines.append(f"hazards: {result['hazards']} (registers refilled while a matrix instruction may still read them)")
    spilling = [k["name"] for k in result["kernels"] if k["spill_bytes"]]
    if spilling:
        lines.append(f"{plural(len(spilling), 'kernel')} spill registers to memory: {', '.join(spilling)}")
    return lines
