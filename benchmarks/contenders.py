"""One network, one mode, one batch size: tricnn fused and unfused beside PyTorch eager and torch.compile.

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
from typing import Any

from benchmarks.part import Case, Part, declared, fatal, random_batch

Work = Callable[[], Any]
BASELINE = "PyTorch eager"
#: of the largest logit, or of the loss: whole networks in that precision, not kernels, which `verify` holds to theirs
AGREEMENT = {"fp32": 1e-3, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1}
CONTENDERS = ("tricnn fused", "tricnn fused, CUDA graph", "torch.compile", "tricnn unfused")
SLOW_TO_START = ("torch.compile max-autotune",)


class Ours:
    """A compiled model whose inputs lie on the device already."""

    def __init__(self, case: Case, rehearse: bool, fuse: bool = True):
        import tricnn

        self.batch = case["batch"]
        graph = declared(case["network"], rehearse)
        self.model = tricnn.compile(graph, case["mode"], self.batch, case["dtype"], "triton", fuse=fuse)
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

    def launch(self, launch: Any) -> None:
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
    def __init__(self, case: Case, rehearse: bool):
        import tricnn

        self.case, self.rehearse = case, rehearse
        self.graph = declared(case["network"], rehearse)
        numpy = tricnn.compile(self.graph, case["mode"], case["batch"], "fp32", "numpy")
        self.state = numpy.state_dict()

    def pytorch(self, wrap: Callable[[Any], Any] = lambda network: network) -> Work:
        from tricnn.cli.pytorch_network import step

        case, device = self.case, "cpu" if self.rehearse else "cuda"
        images, labels = random_batch(self.graph, case["batch"])
        return step(self.graph, case["mode"], self.state, images, labels, case["dtype"], device, wrap)

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
            ours = Ours(self.case, self.rehearse, fuse="unfused" not in name)
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
        if self.case["mode"] == "train" and self.graph.of("dropout"):
            return None
        mine, theirs = (numbers(work()) for work in (result, baseline))
        return float((mine - theirs).abs().max() / theirs.abs().max())


def numbers(x: Any) -> Any:
    """A loss, or the logits of the first output, in float64 on the host."""
    return (x[0] if isinstance(x, list | tuple) else x).detach().double().cpu().reshape(-1)


def bench(case: Case, part: Part, rehearse: bool) -> None:
    contest = Contest(case, rehearse)
    rows: list[dict[str, Any]] = part.found.get("contenders", [])
    known = {row["name"] for row in rows}
    memory = Memory(rehearse)
    part.write(contenders=rows, doing=BASELINE)
    baseline, _, _ = contest.make(BASELINE)
    (alone,) = in_turns([baseline], rehearse)
    if BASELINE not in known:
        rows.append({**summary(BASELINE, alone, case["batch"]), "ratio": 1.0, "peak_bytes": memory.peak()})
    for name in case["contenders"]:
        if name in known:
            continue
        part.write(contenders=rows, doing=name)
        memory = Memory(rehearse)
        try:
            rows.append(against(contest, name, baseline, memory))
        except Exception as error:
            if fatal(error):
                raise  # nothing else will run in this process
            rows.append({"name": name, "error": traceback.format_exc()[-600:]})
        part.write(contenders=rows)
    part.found.pop("doing", None)
    failed = [row for row in rows if "error" in row and row["name"].startswith("tricnn")]
    if failed:
        part.write(error=f"{failed[0]['name']}: {failed[0]['error'][-300:]}")
    part.write(contenders=rows, status="failed" if failed else "passed")


def against(contest: Contest, name: str, baseline: Work, memory: Memory) -> dict[str, Any]:
    """One contender's row: checked, then timed in turns with the baseline."""
    case, rehearse = contest.case, contest.rehearse
    work, result, ours = contest.make(name)
    apart = contest.disagreement(result, baseline)
    if apart is not None and not apart <= AGREEMENT[case["dtype"]]:
        accepted = AGREEMENT[case["dtype"]]
        return {"name": name, "error": f"differs from {BASELINE} by {apart:.3g} of its result, accepted {accepted:g}"}
    mine, theirs = in_turns([work, baseline], rehearse)
    row = summary(name, mine, case["batch"])
    row |= {"ratio": row["milliseconds"] / statistics.median(theirs), "peak_bytes": memory.peak(), "apart": apart}
    return row if ours is None else row | figures(ours.program, case["batch"], row["milliseconds"])


def summary(name: str, samples: list[float], batch: int) -> dict[str, Any]:
    median = statistics.median(samples)
    return {
        "name": name, "milliseconds": median, "fastest": min(samples), "slowest": max(samples),
        "rounds": len(samples), "images_per_second": batch / median * 1e3,
    }  # fmt: skip


def figures(program: Any, batch: int, milliseconds: float) -> dict[str, Any]:
    moved, flops = program.dram_bytes(batch), program.flops(batch)
    return {
        "launches": len(program.launches), "dram_bytes": moved, "flops": flops,
        "planned_bytes": program.peak_memory_bytes(batch), "gigabytes_per_second": moved / milliseconds * 1e-6,
        "teraflops": flops / milliseconds * 1e-9,
    }  # fmt: skip
