"""Find the fastest tiles for a network on the GPU at hand, or on a model of one, and write them to a file.
The repository keeps that file. A candidate must compute the right numbers before it may win. Nothing is tuned unless
this command is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    UsageError,
    add_compilation,
    add_model,
    add_target,
    chosen_target,
    file_path,
    load_graph,
    real,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tricnn.ir import Graph
    from tricnn.lower.program import Program
    from tricnn.machine.tiles import Tile
    from tricnn.measure.tune import Contest, Outcome, Site
    from tricnn.run.model import Model

    from .screen import Screen

EXAMPLES = """\
examples:
  tricnn tune resnet50 --mode train --batch 256 --dtype bf16
  tricnn tune resnet50 --batch 256 --dtype bf16 --budget 300 --out mine.toml
  tricnn tune lenet --dry-run                       what would be timed; needs no GPU
  tricnn tune lenet --target sm_90 --simulate --out mine.toml    by the simulated times of an H100; needs no GPU
  tricnn compile resnet50 --batch 256 --dtype bf16 --tuned mine.toml

Without --out the winners go to the file that comes with tricnn (tricnn/machine/tuned/), for everybody. What was
measured is never replaced by what was simulated, and comes before it.
"""
BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compilation(parser, mode="train", batch=BATCH)
    add_target(parser)
    parser.add_argument(
        "--out", type=file_path, metavar="FILE", help="write the winners there, beside what the file has already"
    )
    parser.add_argument(
        "--simulate", action="store_true", help="by times on a model of an H100 (sm_90 only), not measured ones"
    )
    parser.add_argument("--budget", type=real(), default=600.0, metavar="S", help="seconds to time tiles for (600)")
    parser.add_argument("--dry-run", action="store_true", help="list what would be timed, and time nothing")


def run(options: argparse.Namespace) -> int:
    from tricnn.lower.from_graph import lowered
    from tricnn.lower.lower import lower
    from tricnn.machine import tuned_files as tuning
    from tricnn.machine.tiles import GPU, chosen_for
    from tricnn.measure.simulate import check_target
    from tricnn.measure.tune import sites
    from tricnn.run.model import device_target, gpu_present

    from ..report.tables import stale
    from .screen import Screen

    screen = Screen(options.json)
    target, graph = chosen_target(options.target), load_graph(options)
    out = Path(options.out) if options.out is not None else tuning.FOLDER / f"{target}.toml"
    known = tuning.read(out) if out.exists() else {}
    if options.simulate:
        check_target(target)
    elif not options.dry_run:
        if not gpu_present():
            raise UsageError(
                "tune times kernels on a GPU, and there is none here; --simulate times them on a model of one, "
                "--dry-run lists what would be timed"
            )
        if target != device_target():
            raise UsageError(
                f"tune times kernels on the GPU at hand, a {device_target()}, not {target}; leave --target out"
            )
    with chosen_for(GPU):
        with tuning.only({}):
            program = lowered(graph, options.mode, options.batch, options.dtype, target, fuse=True)
        with tuning.using(str(out) if known else None):
            today = lower(program.plan, options.dtype, options.batch, target)
    wanted = sites(program)
    if options.simulate:
        wanted = [site for site in wanted if site.problem not in known or known[site.problem].simulated]
    result: dict[str, Any] = {
        "graph": graph.name, "mode": options.mode, "batch": options.batch, "dtype": options.dtype, "target": target,
        "dry_run": options.dry_run, "simulated": options.simulate, "file": str(out),
        "tuned": list(today.tuned), "stale": list(today.passed),
    }  # fmt: skip
    if options.dry_run:
        result["problems"] = [described(site) for site in wanted]
    else:
        find = simulated if options.simulate else measured
        result |= find(graph, options, program, wanted, out, known, screen)
    screen.json(result)
    show(result, screen)
    if today.passed:
        screen.show(f"before: {stale(today)}")
    return 0


def measured(
    graph: Graph, options: argparse.Namespace, program: Program, wanted: list[Site], out: Path, known: Any,
    screen: Screen,
) -> dict[str, Any]:  # fmt: skip
    """Tune on the GPU, and write what won."""
    from functools import partial

    import torch

    from tricnn.build.compile import compile_kernels
    from tricnn.machine import tuned_files as tuning
    from tricnn.measure.clock import CudaClock
    from tricnn.measure.tune import Tuner
    from tricnn.run.model import compile

    make = partial(compile, graph, options.mode, options.batch, options.dtype, "triton", program.target)
    compiler = partial(compile_kernels, target=program.target, return_errors=True)
    with tuning.only({}):
        tuner = Tuner(make(), CudaClock(), compiler)
    return tuned(tuner, make, torch.cuda.get_device_name(), wanted, options.budget, out, known, screen)


def simulated(
    graph: Graph, options: argparse.Namespace, program: Program, wanted: list[Site], out: Path, known: Any,
    screen: Screen,
) -> dict[str, Any]:  # fmt: skip
    """Tune by the simulator, check what won under Triton's interpreter, and write it."""
    import os
    from functools import partial

    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported; compilers are processes of their own

    from tricnn.build.compile import compile_kernels
    from tricnn.machine import tuned_files as tuning
    from tricnn.machine.tiles import GPU, chosen_for
    from tricnn.measure.tune_simulated import DEVICE, SimulatedTuner
    from tricnn.run.model import compile
    from tricnn.run.quick_interpreter import quick_interpreter

    make = partial(compile, graph, options.mode, options.batch, options.dtype, "triton", program.target)
    compiler = partial(compile_kernels, target=program.target, return_errors=True)
    with chosen_for(GPU), tuning.only({}), quick_interpreter():
        tuner = SimulatedTuner(program.plan, options.dtype, options.batch, program.target, compiler)
        return tuned(tuner, make, DEVICE, tuner.far(wanted), options.budget, out, known, screen)


def tuned(
    tuner: Contest, make: Callable[[], Model], device: str, wanted: list[Site], seconds: float, out: Path,
    known: Any, screen: Screen,
) -> dict[str, Any]:  # fmt: skip
    """Time tiles, hold what won to float64, and write it. ``make`` compiles the network with the tiles in force."""
    from datetime import UTC, datetime

    from tricnn.ir import TargetError
    from tricnn.machine import tuned_files as tuning
    from tricnn.measure.tune import faulty, one_line, winners

    from ..report.progress import Steps

    with Steps(screen.progress, "tuning", len(wanted), "problems") as steps:
        outcomes = tuner.tune(wanted, seconds, lambda outcome: steps.done(str(outcome.site.problem)))
    found = winners(outcomes, device, datetime.now(UTC).strftime("%Y-%m-%d"))
    aside = out.with_name(f"{out.name}.unchecked")  # what a run has left whose GPU failed
    left = tuning.read(aside) if aside.exists() else {}
    if tuner.lost is not None:
        if found:
            tuning.write(aside, {**left, **found})
        so_far = f"the winners so far are in {aside}, and the next run checks them" if found else "nothing had won"
        raise TargetError(f"{tuner.lost}; {so_far}")
    reached, problems = {outcome.site.problem for outcome in outcomes}, {site.problem for site in wanted}
    entries = {**{p: e for p, e in left.items() if p in problems - reached}, **found}
    if entries:
        tuning.write(aside, {**left, **entries})  # should the check not come to its end
    try:
        chosen = {problem: entry.tile for problem, entry in entries.items()}
        wrong = faulty(make, chosen, tuner.check) if chosen else set()
    except Exception as error:
        so_far = f"the winners so far are in {aside}, and the next run checks them"
        raise TargetError(f"what won could not be checked: {one_line(error)}; {so_far}") from error
    entries = {problem: entry for problem, entry in entries.items() if problem not in wrong}
    # What was timed anew and has no winner any more is the rule's again.
    settled = reached | wrong
    everything = {**{p: e for p, e in known.items() if p not in settled}, **entries}
    if everything != known:
        tuning.write(out, everything)
    rest = {problem: entry for problem, entry in left.items() if problem not in problems}
    tuning.write(aside, rest) if rest else aside.unlink(missing_ok=True)
    rows = [described(o.site, o, o.site.problem in entries, o.site.problem in wrong) for o in outcomes]
    return {"device": device, "winners": len(entries), "reached": len(outcomes), "of": len(wanted), "problems": rows}


def described(site: Site, outcome: Outcome | None = None, wins: bool = False, wrong: bool = False) -> dict[str, Any]:
    """A problem as JSON."""
    row: dict[str, Any] = {
        "kind": site.problem.kind, "shape": site.problem.text, "kernels": list(site.kernels),
        "launches": site.launches, "least_us": round(site.least_us, 3), "rule": shown(site.rule),
        "candidates": [shown(tile) for tile in site.tiles],
    }  # fmt: skip
    if outcome is not None:
        row["us"] = {shown(tile): round(us, 3) for tile, us in outcome.us.items()}
        row["refused"] = {shown(tile): reason for tile, reason in outcome.refused.items()}
        row["winner"] = shown(outcome.winner) if outcome.winner is not None and wins else None
        row["wrong"] = wrong
    return row


def shown(tile: Tile) -> str:
    return f"{tile.m}x{tile.n}x{tile.k}, {tile.warps} warps, {tile.stages} stages"


def show(result: dict[str, Any], screen: Screen) -> None:
    from ..report import tables
    from ..report.figures import plural

    rows = result["problems"]
    screen.show(tables.tuning(result))
    count = sum(len(row["candidates"]) for row in rows)
    if result["dry_run"]:
        screen.show(
            f"{plural(len(rows), 'problem')} to time in this order, with {plural(count, 'tile')}, the rules' own among "
            f"them. Winners would go to {result['file']}"
        )
        return
    screen.show(
        f"{result['reached']} of {plural(result['of'], 'problem')} timed on {result['device']}: "
        f"{plural(result['winners'], 'winner')} in {result['file']}"
    )
    for row in rows:
        if reason := row["refused"].get(row["rule"]):
            screen.show(f"{row['kind']} {row['shape']}: the rule's tile took no part ({reason})")
        if row["wrong"]:
            screen.show(f"{row['kind']} {row['shape']}: the fastest tile is outside its tolerance; the rule's stays")
