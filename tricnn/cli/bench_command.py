"""How fast it is. Exact static figures of the fused and the unfused program, the least times they allow, and times of
one run, side by side: on a GPU fused, unfused, eager PyTorch (channels-last) and torch.compile; without one, the NumPy
executor against PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .arguments import (
    UsageError,
    add_compilation,
    add_fusion,
    add_model,
    add_target,
    chosen_target,
    load_graph,
    lowered,
    real,
    static_figures,
)
from .timing import CudaClock, Work, in_turns, wall_clock

if TYPE_CHECKING:
    from tricnn.ir import Graph

    from .screen import Screen

EXAMPLES = """\
examples:
  tricnn bench lenet                               one training step
  tricnn bench resnet18 --mode infer --batch 8
  tricnn bench resnet50 --batch 256 --dtype bf16   on a GPU
  tricnn bench lenet --json > bench.json

Times are medians; the contenders take turns, so that whatever else the machine does slows all of them.
"""

MACS_ON_CPU = 10e9  # of a step without a GPU: the batch is chosen to need about so many multiply-adds, if none is given
BATCH_ON_GPU = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compilation(parser, mode="train", batch=None)
    add_target(parser)
    add_fusion(parser)
    parser.add_argument("--seconds", type=real(), default=20.0, metavar="S", help="how long to measure (20)")


def run(options: argparse.Namespace) -> int:
    from tricnn.runtime.model import gpu_present

    from .screen import Screen

    screen = Screen(options.json)
    target, graph, on_gpu = chosen_target(options.target), load_graph(options), gpu_present()
    if len(graph.inputs) != 1:
        raise UsageError(f"bench gives a network one input; {graph.name} has {len(graph.inputs)}")
    batch = options.batch or (BATCH_ON_GPU if on_gpu else fitting_batch(graph))
    how = (options.mode, batch, options.batch or BATCH_ON_GPU, options.dtype, target)
    result = measured(graph, *how, options.seconds, screen, options.fuse)
    screen.json(result)
    show(result, screen)
    return 0


def fitting_batch(graph: Graph) -> int:
    """The power of two, from 1 to 256, whose training step is quick on a CPU."""
    batch = 256
    while batch > 1 and 3 * graph.macs * batch > MACS_ON_CPU:
        batch //= 2
    return batch


def measured(
    graph: Graph, mode: str, batch: int, compiled_batch: int, dtype: str, target: str, seconds: float, screen: Screen,
    policy: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """The object that ``--json`` prints. What is not timed is of kernels compiled for ``compiled_batch``; what it calls
    fused is fused by ``policy``."""
    from tricnn.runtime.model import gpu_present

    from ..report.predict import least

    on_gpu = gpu_present()
    programs = {
        name: lowered(graph, mode, compiled_batch, dtype, target, fuse=fuse)
        for name, fuse in (("fused", policy), ("unfused", "none"))
    }
    static = {name: static_figures(program) for name, program in programs.items()}
    predicted = {name: least(program, target) for name, program in programs.items()}
    totals = {f"{name}_least_us": sum(k["least_us"] for k in kernels) for name, kernels in predicted.items()}
    contenders = on_the_gpu(graph, mode, batch, dtype, policy) if on_gpu else on_the_cpu(graph, mode, batch, policy)

    def tell(text: str) -> None:
        if screen.progress and screen.progress.is_terminal:
            screen.progress.print(f"{text}   ", end="\r")
        elif screen.progress and not text.startswith("round"):
            screen.progress.print(text)

    rows = in_turns(contenders, CudaClock() if on_gpu else wall_clock, images=batch, seconds=seconds, tell=tell)
    found = {r["name"]: r["median_seconds"] for r in rows if "median_seconds" in r}
    baseline = "PyTorch eager" if on_gpu else "PyTorch"
    return {
        "graph": graph.name,
        "mode": mode,
        "batch": batch,
        "dtype": dtype if on_gpu else "fp32",
        "target": target,
        "fuse": policy,
        "device": device_name(on_gpu),
        "versions": versions(),
        "static": static,
        "static_batch": compiled_batch,
        "predicted": {"limits_of": limits_of(target), **totals, "kernels": predicted["fused"]},
        "timings": rows,
        "baseline": baseline,
        "ratios": {name: t / found[baseline] for name, t in found.items()} if baseline in found else {},
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
        tables.least(predicted["kernels"], f"{known}: the least times on one {predicted['limits_of']} (predicted)"),
        f"{brief(predicted['fused_least_us'] / 1e6)} at least; unfused {brief(predicted['unfused_least_us'] / 1e6)}\n",
        tables.timings(
            result["timings"],
            f"{what}, {result['dtype']}, on {result['device']}" + (", one step" if result["mode"] == "train" else ""),
            result["baseline"],
        ),
    )
    screen.show(*(f"{r['name']} failed: {r['error']}" for r in result["timings"] if r.get("error")))


def limits_of(target: str) -> str:
    from tricnn.codegen.limits import LIMITS

    return LIMITS.get(target, LIMITS["sm_90"]).device


def random_batch(graph: Graph, batch: int) -> tuple[Any, Any]:
    """Images and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal(graph.types[graph.inputs[0].name].at(batch), dtype=np.float32)
    if images.ndim == 4:  # channels last in memory
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return images, rng.integers(0, graph.types[graph.outputs[0].value].channels, batch)


def on_the_cpu(graph: Graph, mode: str, batch: int, policy: str) -> dict[str, Callable[[], Work]]:
    """NumPy, PyTorch's autograd, and the eager executor, all in fp32."""
    from tricnn.runtime.model import compile

    from .pytorch_network import step

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
        "tricnn eager": lambda: ours("eager", "none"),
    }


def on_the_gpu(graph: Graph, mode: str, batch: int, dtype: str, policy: str) -> dict[str, Callable[[], Work]]:
    """tricnn's kernels launched one by one and as a CUDA graph; PyTorch eager, as a CUDA graph, and compiled.

    Only the step is timed: its inputs are on the device already, its results stay there.
    """
    import torch

    from tricnn.runtime.model import compile

    from .pytorch_network import step

    images, labels = random_batch(graph, batch)

    def ours(fuse: str) -> Work:
        model = compile(graph, mode, batch, dtype, "triton", fuse=fuse)
        executor = model.executor
        tensors = executor.bind(batch)
        first, *others = model.plan.graph.inputs
        executor.put(tensors, first.name, images)
        for node in others:
            executor.put(tensors, node.name, labels)
        return lambda: executor.module.step(tensors, batch, 0, 0)

    def pytorch(wrap: Callable[[Any], Any] = lambda network: network) -> Work:
        state = compile(graph, mode, batch, "fp32", "numpy").state_dict()
        return step(graph, mode, state, images, labels, dtype, "cuda", wrap)

    return {
        "tricnn fused": lambda: ours(policy),
        "tricnn unfused": lambda: ours("none"),
        "PyTorch eager": pytorch,
        "torch.compile": lambda: pytorch(torch.compile),
        "tricnn fused, CUDA graph": lambda: captured(ours(policy)),
        "tricnn unfused, CUDA graph": lambda: captured(ours("none")),
        "PyTorch eager, CUDA graph": lambda: captured(pytorch()),
        "torch.compile, CUDA graph": lambda: captured(pytorch(torch.compile)),
    }


def captured(work: Work) -> Work:
    """The same launches, replayed as one CUDA graph: what the device needs when no time is lost in Python."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def device_name(on_gpu: bool) -> str:
    if on_gpu:
        import torch

        return str(torch.cuda.get_device_name())
    import os

    return f"CPU, {len(os.sched_getaffinity(0))} cores"


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
