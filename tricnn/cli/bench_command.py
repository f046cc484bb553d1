"""How fast a network is, fused, beside what else could run it.
Exact static figures of the fused and the unfused program, the time predicted for them, times of one run, side by side:
on a GPU fused, unfused, eager PyTorch (channels-last) and torch.compile; without one, the NumPy executor against
PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..measure.clock import Work, wall_clock
from ..measure.in_turns import in_turns
from .arguments import (
    UsageError,
    add_compilation,
    add_fusion,
    add_model,
    add_target,
    check_memory,
    chosen_target,
    load_graph,
    real,
)

if TYPE_CHECKING:
    from tricnn.ir import Graph

    from .screen import Screen

EXAMPLES = """\
examples:
  tricnn bench lenet                               one training step
  tricnn bench resnet18 --mode infer --batch 8
  tricnn bench resnet50 --batch 256 --dtype bf16   on a GPU
  tricnn bench lenet --json > bench.json
  tricnn bench lenet --dtype bf16 --target sm_90 --simulate   without a GPU: times of an H100, simulated

Without --batch the figures are of a batch of 64; what a CPU is timed with is chosen by its work, 256 at most.
Times are medians; the contenders take turns, so that whatever else the machine does slows all of them. On a GPU each
is first held to what PyTorch computes. `make bench` runs all networks, and draws them.
"""

MACS_ON_CPU = 10e9  # of a step without a GPU: the batch is chosen to need about so many multiply-adds, if none is given
BATCH_ON_GPU = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compilation(parser, mode="train", batch=None)
    add_target(parser)
    add_fusion(parser)
    parser.add_argument("--seconds", type=real(), default=20.0, metavar="S", help="how long to measure on a CPU (20)")
    parser.add_argument(
        "--simulate", action="store_true",
        help="also compile the kernels and replay their machine code on a model of an H100 (sm_90 only): not measured",
    )  # fmt: skip
    parser.add_argument("--max-autotune", action="store_true", help="torch.compile's slowest mode too: minutes")


def run(options: argparse.Namespace) -> int:
    from tricnn.run.model import gpu_present

    from .screen import Screen

    screen = Screen(options.json)
    target, graph, on_gpu = chosen_target(options.target), load_graph(options), gpu_present()
    if len(graph.inputs) != 1:
        raise UsageError(f"bench gives a network one input; {graph.name} has {len(graph.inputs)}")
    batch = options.batch or (BATCH_ON_GPU if on_gpu else fitting_batch(graph))
    if not on_gpu:
        check_memory(graph, batch, options.mode)
    how = (options.mode, batch, options.batch or BATCH_ON_GPU, options.dtype, target)
    peers = ("tricnn fused", "tricnn fused, CUDA graph", "tricnn unfused", "torch.compile")
    peers += ("torch.compile max-autotune",) * options.max_autotune
    simulated = simulated_step(graph, how, options.fuse, screen) if options.simulate else None
    result = {**measured(graph, *how, options.seconds, peers, screen, options.fuse), "simulated": simulated}
    screen.json(result)
    show(result, screen)
    return 0


def simulated_step(
    graph: Graph, how: tuple[str, int, int, str, str], policy: str, screen: Screen
) -> dict[str, Any]:  # fmt: skip
    """What ``--simulate`` adds to the object that ``--json`` prints.
    That is the fused kernels' simulated times on an H100, at the batch that they are compiled for, and the version of
    the model. Raises TargetError for other targets."""
    from tricnn.lower.from_graph import lowered
    from tricnn.measure.simulate import check_target

    from .compile_command import compile_shown, simulated

    mode, _, batch, dtype, target = how
    check_target(target)
    built = compile_shown(lowered(graph, mode, batch, dtype, target, fuse=policy), target, screen)
    about = {"graph": graph.name, "mode": mode, "batch": batch, "dtype": dtype}
    kernels = built.kernels
    return {**about, **simulated(built, kernels, screen), "kernels": kernels}


def fitting_batch(graph: Graph) -> int:
    """The power of two, from 1 to 256, whose training step is quick on a CPU."""
    batch = 256
    while batch > 1 and 3 * graph.macs * batch > MACS_ON_CPU:
        batch //= 2
    return batch


def measured(
    graph: Graph, mode: str, batch: int, compiled_batch: int, dtype: str, target: str, seconds: float,
    peers: Sequence[str], screen: Screen, policy: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """The object that ``--json`` prints. What is not timed is of kernels compiled for ``compiled_batch``."""
    from tricnn.lower.from_graph import lowered, static_figures
    from tricnn.lower.predicted_time import microseconds, predicted_seconds
    from tricnn.machine.machines import machine_of
    from tricnn.run.model import gpu_present

    from ..report.kernel_times import predicted_kernels

    on_gpu = gpu_present()
    programs = {
        name: lowered(graph, mode, compiled_batch, dtype, target, fuse=fuse)
        for name, fuse in (("fused", policy), ("unfused", "none"))
    }
    static = {name: static_figures(program) for name, program in programs.items()}
    totals = {f"{name}_us": microseconds(predicted_seconds(program)) for name, program in programs.items()}
    by_kernel = predicted_kernels(programs["fused"])

    def tell(text: str) -> None:
        if screen.progress and screen.progress.is_terminal:
            screen.progress.print(f"{text}   ", end="\r")
        elif screen.progress and not text.startswith("round"):
            screen.progress.print(text)

    if on_gpu:
        rows = on_the_gpu(graph, mode, batch, dtype, policy, peers, tell)
    else:
        rows = in_turns(on_the_cpu(graph, mode, batch, policy), wall_clock, images=batch, seconds=seconds, tell=tell)
    found = {r["name"]: r["median_seconds"] for r in rows if "median_seconds" in r}
    baseline = "PyTorch eager" if on_gpu else "PyTorch"
    return {
        "graph": graph.name,
        "mode": mode,
        "batch": batch,
        "dtype": dtype if on_gpu else "fp32",
        "target": target,
        "device": device_name(on_gpu),
        "versions": versions(),
        "static": static,
        "static_batch": compiled_batch,
        "predicted": {"machine": machine_of(target).name, **totals, "kernels": by_kernel},
        "timings": rows,
        "baseline": baseline,
        "ratios": {r["name"]: r.get("ratio", found[r["name"]] / found[baseline]) for r in rows if r["name"] in found}
        if baseline in found
        else {},
    }


def show(result: Mapping[str, Any], screen: Screen) -> None:
    from ..report import tables
    from ..report.figures import brief

    what = f"{result['graph']}: {result['mode']}, batch {result['batch']}"
    known = f"{result['graph']}: {result['mode']}, batch {result['static_batch']}"
    if result["device"].startswith("CPU"):
        screen.show(
            "There is no GPU here. Exact figures and predictions come first, then times of the CPU executors.\n"
        )
    predicted = result["predicted"]
    screen.show(
        tables.static(result["static"], f"{known}, as compiled for {result['target']}"),
        tables.predicted(predicted["kernels"], f"{known}: predicted for one {predicted['machine']}"),
        f"predicted: {brief(predicted['fused_us'] / 1e6)}; unfused {brief(predicted['unfused_us'] / 1e6)}\n",
        tables.timings(
            result["timings"],
            f"{what}, {result['dtype']}, on {result['device']}" + (", one step" if result["mode"] == "train" else ""),
            result["baseline"],
        ),
    )
    if result["simulated"] is not None:
        from .compile_command import simulated_sentences

        screen.show(tables.simulated(result["simulated"]), *simulated_sentences(result["simulated"]))
    screen.show(*(f"{r['name']} failed: {r['error']}" for r in result["timings"] if r.get("error")))


def on_the_cpu(graph: Graph, mode: str, batch: int, policy: str) -> dict[str, Callable[[], Work]]:
    """What is timed on the CPU, by name: NumPy, PyTorch's autograd, and the eager executor, all in fp32."""
    from tricnn.run.model import compile

    from ..measure.contest import random_batch
    from ..measure.pytorch_network import step

    images, labels = random_batch(graph, batch)

    def ours(executor: str, fuse: str = policy) -> Work:
        model = compile(graph, mode, batch, "fp32", executor, fuse=fuse)
        return (lambda: model(images)) if mode == "infer" else (lambda: model.loss_and_grads(images, labels))

    def pytorch() -> Work:
        state = compile(graph, mode, batch, "fp32", "numpy").state_dict()
        return step(graph, mode, state, images, labels, "fp32", "cpu")

    return {
        "tricnn numpy": lambda: ours("numpy"),
        "PyTorch": pytorch,
        "tricnn eager": lambda: ours("eager", fuse="none"),
    }


def on_the_gpu(
    graph: Graph, mode: str, batch: int, dtype: str, policy: str, names: Sequence[str], tell: Callable[[str], None]
) -> list[dict[str, Any]]:  # fmt: skip
    """Times of PyTorch eager, and of each of ``names``, checked against it and timed in turns with it.

    Only the step is timed: its inputs are on the device already, its results stay there.
    """
    from ..measure.contest import BASELINE, Contest

    tell(f"timing {BASELINE}")
    contest = Contest(graph, mode, batch, dtype, policy=policy)
    rows = [contest.first]
    for name in names:
        tell(f"timing {name}")
        rows.append(contest.row(name))
    return [in_seconds(row) for row in rows]


KEPT = ("images_per_second", "rounds", "ratio", "peak_bytes")


def in_seconds(row: dict[str, Any]) -> dict[str, Any]:
    """A contest's row as this command prints it."""
    if "error" in row:
        return {"name": row["name"], "error": (row["error"].strip() or "ended").splitlines()[-1][:200]}
    times = {"median_seconds": row["milliseconds"] / 1e3, "fastest_seconds": row["fastest"] / 1e3}
    return {"name": row["name"], **times, **{k: row[k] for k in KEPT if k in row}}


def device_name(on_gpu: bool) -> str:
    if on_gpu:
        import torch

        return str(torch.cuda.get_device_name())
    from tricnn.system.cores import usable_cores

    from ..report.figures import plural

    return f"CPU, {plural(usable_cores(), 'core')}"


def versions() -> dict[str, str]:
    """What was measured with what."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in ("torch", "triton", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found
