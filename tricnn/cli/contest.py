"""One network, one mode, one batch size on a GPU: tricnn fused and unfused beside PyTorch eager and torch.compile.

Each contender is first held to what PyTorch eager computes from the same parameters and images, then timed in turns
with it, so that what slows one slows both; a ratio is that of two medians of one window. Two networks lie in memory at
a time. Peak memory is what a contender takes beyond what was there before it.
"""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .pytorch_network import step

if TYPE_CHECKING:
    from tricnn.codegen.program import Launch, Program
    from tricnn.ir import Graph

Work = Callable[[], Any]
BASELINE = "PyTorch eager"
#: of the largest logit, or of the loss: whole networks in that precision, not kernels, which `verify` holds to theirs
AGREEMENT = {"fp32": 1e-3, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1}
CONTENDERS = ("tricnn fused", "tricnn fused, CUDA graph", "torch.compile", "tricnn unfused")
#: tries hundreds of kernels before it runs
SLOW_TO_START = ("torch.compile max-autotune",)


def fatal(error: Exception) -> bool:
    """Has the process lost the use of its GPU?"""
    return "CUDA error" in str(error) or "illegal" in str(error)


def random_batch(graph: Graph, batch: int) -> tuple[Any, Any]:
    """Images, channels last in memory, and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal(graph.types[graph.inputs[0].name].at(batch), dtype=np.float32)
    if images.ndim == 4:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return images, rng.integers(0, graph.types[graph.outputs[0].value].channels, batch)


class Ours:
    """A compiled model whose inputs lie on the device already."""

    def __init__(self, graph: Graph, mode: str, batch: int, dtype: str, fuse: bool | str = True):
        from tricnn.runtime.model import compile

        self.batch = batch
        self.model = compile(graph, mode, batch, dtype, "triton", fuse=fuse)
        self.executor, self.program = self.model.executor, self.model.program
        self.tensors = self.executor.bind(self.batch)
        images, labels = random_batch(graph, self.batch)
        first, *others = self.model.plan.graph.inputs
        self.executor.put(self.tensors, first.name, images)
        for node in others:
            self.executor.put(self.tensors, node.name, labels)

    def step(self) -> None:
        self.executor.module.step(self.tensors, self.batch, 0, 0)

    def result(self) -> Any:
        """The loss, or the logits, of the last step."""
        return self.executor.fetch(self.tensors, self.model.plan.graph.outputs[0].value, self.batch)

    def launch(self, launch: Launch) -> None:
        """One of the step's launches by itself."""
        from tricnn.codegen.program import evaluate

        function = next(f for f in self.program.functions if f.name == launch.function)
        options = {"num_warps": function.num_warps, "num_stages": function.num_stages}
        scalars = {"N": self.batch, "seed_lo": 0, "seed_hi": 0, "step": 0}
        arguments = [scalars[a] if a in scalars else self.tensors[a] for a in launch.arguments]
        grid = tuple(evaluate(g, self.batch) for g in launch.grid)
        getattr(self.executor.module, launch.function)[grid](*arguments, **options)


def in_turns(works: list[Work], rehearse: bool, seconds: float = 1.5) -> list[list[float]]:
    """Milliseconds per call of each, on the device's own clock, one after another in every round, after warming up."""
    samples: list[list[float]] = [[] for _ in works]
    if rehearse:
        for work, times in zip(works, samples, strict=True):
            start = time.perf_counter()
            work()
            times.append((time.perf_counter() - start) * 1e3)
        return samples
    import torch

    repeats = []
    for work in works:
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        repeats.append(max(1, min(50, int(0.02 / max(time.perf_counter() - start, 1e-5)))))
    began = time.perf_counter()
    while len(samples[0]) < 5 or (len(samples[0]) < 50 and time.perf_counter() - began < seconds):
        for work, times, count in zip(works, samples, repeats, strict=True):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(count):
                work()
            last.record()
            torch.cuda.synchronize()
            times.append(first.elapsed_time(last) / count)
    return samples


def captured(work: Work, rehearse: bool) -> Work:
    """The same launches, replayed as one CUDA graph: what the device needs when no time is lost in Python."""
    if rehearse:
        return work
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


class Memory:
    """Bytes taken on the device, at most, since it was made; 0 where there is none."""

    def __init__(self, rehearse: bool):
        import torch

        self.cuda = None if rehearse else torch.cuda
        if self.cuda:
            gc.collect()
            self.cuda.empty_cache()
            self.before = self.cuda.memory_allocated()
            self.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return int(self.cuda.max_memory_allocated() - self.before) if self.cuda else 0


class Contest:
    """``rehearse`` runs it on the CPU, once each, under Triton's interpreter: the times mean nothing then."""

    def __init__(
        self, graph: Graph, mode: str, batch: int, dtype: str, rehearse: bool = False, policy: str = "auto"
    ):  # fmt: skip
        from tricnn.runtime.model import compile

        self.policy = policy
        self.graph, self.mode, self.batch, self.dtype, self.rehearse = graph, mode, batch, dtype, rehearse
        self.state = compile(graph, mode, batch, "fp32", "numpy").state_dict()
        memory = Memory(rehearse)
        self.baseline, _, _ = self.make(BASELINE)
        (alone,) = in_turns([self.baseline], rehearse)
        self.first = {**summary(BASELINE, alone, batch), "ratio": 1.0, "peak_bytes": memory.peak()}

    def row(self, name: str) -> dict[str, Any]:
        """A contender's times, or why it has none. Raises what leaves no GPU to go on with."""
        try:
            return self.against(name)
        except Exception as error:
            if fatal(error):
                raise
            return {"name": name, "error": traceback.format_exc()[-600:]}

    def against(self, name: str) -> dict[str, Any]:
        """One contender's row: checked, then timed in turns with the baseline."""
        memory = Memory(self.rehearse)
        work, result, ours = self.make(name)
        apart, accepted = self.disagreement(result, self.baseline), AGREEMENT[self.dtype]
        if apart is not None and not apart <= accepted:
            error = f"differs from {BASELINE} by {apart:.3g} of its result, accepted {accepted:g}"
            return {"name": name, "error": error}
        mine, theirs = in_turns([work, self.baseline], self.rehearse)
        row = summary(name, mine, self.batch)
        row |= {"ratio": row["milliseconds"] / statistics.median(theirs), "peak_bytes": memory.peak(), "apart": apart}
        return row if ours is None else row | figures(ours.program, self.batch, row["milliseconds"])

    def pytorch(self, wrap: Callable[[Any], Any] = lambda network: network) -> Work:
        device = "cpu" if self.rehearse else "cuda"
        images, labels = random_batch(self.graph, self.batch)
        return step(self.graph, self.mode, self.state, images, labels, self.dtype, device, wrap)

    def compiled(self, **options: Any) -> Work:
        import torch

        if self.rehearse:
            options = {"backend": "eager"}
        return self.pytorch(lambda network: torch.compile(network, **options))

    def make(self, name: str) -> tuple[Work, Work, Ours | None]:
        """What is timed, what gives its result, and the model, if it is ours."""
        if name == BASELINE:
            work = self.pytorch()
        elif name.startswith("tricnn"):
            fuse = "none" if "unfused" in name else self.policy
            ours = Ours(self.graph, self.mode, self.batch, self.dtype, fuse)
            timed = captured(ours.step, self.rehearse) if "graph" in name else ours.step

            def result() -> Any:
                timed()
                return ours.result()

            return timed, result, ours
        else:
            work = self.compiled(mode="max-autotune") if "autotune" in name else self.compiled()
        return work, work, None

    def disagreement(self, result: Work, baseline: Work) -> float | None:
        """The largest difference from the baseline's result, in parts of its largest number; None where both draw
        random numbers of their own."""
        if self.mode == "train" and self.graph.of("dropout"):
            return None
        mine, theirs = (numbers(work()) for work in (result, baseline))
        return float((mine - theirs).abs().max() / theirs.abs().max())


def numbers(x: Any) -> Any:
    """A loss, or the logits of the first output, in float64 on the host."""
    return (x[0] if isinstance(x, list | tuple) else x).detach().double().cpu().reshape(-1)


def summary(name: str, samples: list[float], batch: int) -> dict[str, Any]:
    median = statistics.median(samples)
    return {
        "name": name, "milliseconds": median, "fastest": min(samples), "slowest": max(samples),
        "rounds": len(samples), "images_per_second": batch / median * 1e3,
    }  # fmt: skip


def figures(program: Program, batch: int, milliseconds: float) -> dict[str, Any]:
    moved, flops = program.dram_bytes(batch), program.flops(batch)
    return {
        "launches": len(program.launches), "dram_bytes": moved, "flops": flops,
        "planned_bytes": program.peak_memory_bytes(batch), "gigabytes_per_second": moved / milliseconds * 1e-6,
        "teraflops": flops / milliseconds * 1e-9,
    }  # fmt: skip
