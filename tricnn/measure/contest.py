"""One network, one mode, one batch size on a GPU: tricnn fused and unfused beside PyTorch eager and torch.compile.

Each contender is first held to what PyTorch eager computes from the same parameters and images (the logits; the loss
and, in fp32, all gradients), then timed in turns with it, so that what slows one slows both; a ratio is that of two
medians of one window. A training step is forward, backward and SGD with momentum. Two networks lie in memory at a time.
Peak memory is what a contender takes by itself, beyond what was there before it. Where PyTorch eager cannot run, the
others are timed alone.
"""

from __future__ import annotations

import gc
import math
import statistics
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .pytorch_network import Step, step

if TYPE_CHECKING:
    from tricnn.ir import Graph
    from tricnn.lower.program import Launch, Program

Work = Callable[[], Any]
BASELINE = "PyTorch eager"
#: of the largest logit, or of the loss: whole networks in that precision, not kernels, which `verify` holds to theirs
AGREEMENT = {"fp32": 1e-3, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1}
#: of a parameter's gradient, in norm. Rounding grows from layer to layer on the way back: in bf16 the gradients of a
#: small ResNet-50 with four images differ from eager's by more than their size, so nothing is asked of 16 bits
AGREEMENT_OF_GRADIENTS = {"fp32": 1e-2, "tf32": math.inf, "fp16": math.inf, "bf16": math.inf}
ACCEPTED = {"apart": AGREEMENT, "gradients_apart": AGREEMENT_OF_GRADIENTS}
#: of all gradients' norm: smaller ones are rounding, as a bias's before batch norm, which is 0
NEGLIGIBLE = 1e-2
CONTENDERS = ("tricnn fused", "tricnn fused, CUDA graph", "torch.compile", "tricnn unfused")
#: tries hundreds of kernels before it runs
SLOW_TO_START = ("torch.compile max-autotune",)


def fatal(error: Exception) -> bool:
    """Has the process lost the use of its GPU? Then every later call fails, too."""
    import torch

    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except Exception:
            return True
    return any(said in str(error) for said in ("CUDA error", "illegal", "misaligned", "launch failure"))


def random_batch(graph: Graph, batch: int) -> tuple[Any, Any]:
    """Images, channels last in memory, and labels."""
    import numpy as np

    from tricnn.run.inputs import random_images

    rng = np.random.default_rng(0)
    images = random_images(graph, batch, rng)
    if images.ndim == 4:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return images, rng.integers(0, graph.classes or 1, (batch, *graph.rows))


class Ours:
    """A compiled model whose inputs lie on the device already."""

    def __init__(self, graph: Graph, mode: str, batch: int, dtype: str, fuse: bool | str = True):
        import numpy as np

        from tricnn.run.model import compile

        self.batch = batch
        self.model = compile(graph, mode, batch, dtype, "triton", fuse=fuse)
        self.executor, self.program = self.model.executor, self.model.program
        self.tensors = self.executor.bind(self.batch)
        images, labels = random_batch(graph, self.batch)
        first, *others = self.model.plan.graph.inputs
        self.executor.put(self.tensors, first.name, images)
        for node in others:
            given = labels[:, None] if graph.rows else labels
            self.executor.put(self.tensors, node.name, np.float32(1.0) if node.attrs["tangent"] else given)
        self.update = self.optimiser() if mode == "train" else lambda: None

    def step(self) -> None:
        self.executor.module.step(self.tensors, self.batch, 0, 0)

    def optimiser(self) -> Work:
        """The update of all parameters, as the training loop makes it."""
        from tricnn.training.few_launches import FewLaunches
        from tricnn.training.optim import SGD

        from .pytorch_network import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY

        parameters = self.model.parameters()
        gradients = {p: self.executor.stored(self.tensors, v) for p, v in self.model.plan.graph.gradients}
        sgd = FewLaunches(SGD(MOMENTUM, weight_decay=WEIGHT_DECAY), rounded=self.model.rounded_weights())
        return lambda: sgd(parameters, gradients, LEARNING_RATE)

    def whole_step(self) -> None:
        """A training step with its update; an inference."""
        self.step()
        self.update()

    def gradients(self) -> dict[str, Any]:
        """Of the last step, by parameter, in PyTorch's layout, in float64 on the host."""
        found = self.model.plan.graph.gradients
        return {p: self.executor.fetch(self.tensors, v, self.batch).detach().double().cpu() for p, v in found}

    def result(self) -> Any:
        """The loss, or the logits, of the last step."""
        return self.executor.fetch(self.tensors, self.model.plan.graph.outputs[0].value, self.batch)

    def launch(self, launch: Launch) -> Work:
        """One of the step's launches by itself, ready to be made."""
        from tricnn.lower.program import step_numbers
        from tricnn.run.one_launch import prepared

        values = {**self.tensors, **step_numbers(self.batch)}
        return prepared(self.executor.module, self.program, launch, values, self.batch)


def in_turns(works: list[Work], rehearse: bool, seconds: float = 1.5) -> list[list[float]]:
    """Milliseconds per call of each, on the device's own clock, one after another in every round, after warming up."""
    from .clock import CudaClock, wall_clock
    from .in_turns import times_in_turns

    timers: dict[int, Callable[[], float]]
    if rehearse:
        timers = {i: partial(wall_clock, work) for i, work in enumerate(works)}
        times = times_in_turns(timers, least=1, most=1)
    else:
        timers = {}
        for i, work in enumerate(works):
            for _ in range(3):
                work()
            timers[i] = partial(CudaClock(CudaClock().enough(work), as_launched=True), work)
        times = times_in_turns(timers, least=5, most=50, seconds=seconds)
    return [[1e3 * t for t in times[i]] for i in range(len(works))]


def captured(work: Work, rehearse: bool) -> Work:
    """Work whose launches are replayed as one CUDA graph: what the device needs when no time is lost in Python."""
    if rehearse:
        return work
    import torch

    from tricnn.run.captured_step import capture

    return capture(work, torch.cuda)


class Memory:
    """Bytes that work takes on the device, at most, with all that it has kept since this was made; 0 on the CPU."""

    def __init__(self, rehearse: bool):
        import torch

        self.cuda = None if rehearse else torch.cuda
        if self.cuda:
            gc.collect()
            self.cuda.empty_cache()
            self.before = self.cuda.memory_allocated()

    def peak(self, work: Work) -> int:
        """Of work that has run before: searching for its fastest algorithms is over."""
        if self.cuda is None:
            return 0
        work()
        self.cuda.reset_peak_memory_stats()
        for _ in range(2):
            work()
        return int(self.cuda.max_memory_allocated() - self.before)


class Contest:
    """Contenders that are timed in turns, beside PyTorch eager.
    ``rehearse`` runs it on the CPU, once each, under Triton's interpreter: the times mean nothing then. Without
    ``beside`` nothing is compared with PyTorch eager."""

    def __init__(
        self, graph: Graph, mode: str, batch: int, dtype: str, rehearse: bool = False, policy: str = "auto",
        beside: bool = True,
    ):  # fmt: skip
        from tricnn.run.model import compile

        self.policy = policy
        self.graph, self.mode, self.batch, self.dtype, self.rehearse = graph, mode, batch, dtype, rehearse
        self.state = compile(graph, mode, batch, "fp32", "numpy").state_dict()
        self.baseline: Step | None = None
        self.first: dict[str, Any] = {"name": BASELINE, "error": "not run"}
        if beside:
            try:
                self.measure_baseline()
            except Exception as error:
                if fatal(error):
                    raise
                self.first = {"name": BASELINE, "error": traceback.format_exc()[-600:]}

    def measure_baseline(self) -> None:
        memory = Memory(self.rehearse)
        baseline = self.pytorch()
        self.expected, self.expected_gradients = numbers(baseline()), baseline.gradients()
        peak = memory.peak(baseline)
        (alone,) = in_turns([baseline], self.rehearse)
        self.first = {**summary(BASELINE, alone, self.batch), "ratio": 1.0, "peak_bytes": peak}
        self.baseline = baseline

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
        timed, ours = self.make(name)
        result = timed()
        mine = numbers(ours.result() if ours else result)
        peak = memory.peak(timed)
        if self.baseline is None:
            (samples,) = in_turns([timed], self.rehearse)
            row = {**summary(name, samples, self.batch), "peak_bytes": peak}
        else:
            apart = self.apart(mine, (ours or timed).gradients())
            for what, accepted in ACCEPTED.items():
                found, limit = apart[what], accepted[self.dtype]
                if found is not None and not found <= limit:
                    error = f"differs from {BASELINE}: {what} {found:.3g}, accepted {limit:g}"
                    return {"name": name, "error": error}
            samples, theirs = in_turns([timed, self.baseline], self.rehearse)
            row = {**summary(name, samples, self.batch), "peak_bytes": peak, **apart}
            row["ratio"] = row["milliseconds"] / statistics.median(theirs)
        return row if ours is None else row | figures(ours.program, self.batch, row["milliseconds"])

    def pytorch(self, wrap: Callable[[Any], Any] = lambda network: network) -> Step:
        device = "cpu" if self.rehearse else "cuda"
        images, labels = random_batch(self.graph, self.batch)
        return step(self.graph, self.mode, self.state, images, labels, self.dtype, device, wrap, update=True)

    def compiled(self, **options: Any) -> Step:
        import torch

        if self.rehearse:
            options = {"backend": "eager"}
        return self.pytorch(lambda network: torch.compile(network, **options))

    def make(self, name: str) -> tuple[Step, Ours | None]:
        """What is timed, and the model, if it is ours."""
        if name.startswith("tricnn"):
            ours = Ours(self.graph, self.mode, self.batch, self.dtype, "none" if "unfused" in name else self.policy)
            timed = captured(ours.whole_step, self.rehearse) if "graph" in name else ours.whole_step
            return Step(timed, ours.gradients), ours
        return self.compiled(mode="max-autotune") if "autotune" in name else self.compiled(), None

    def apart(self, result: Any, gradients: dict[str, Any]) -> dict[str, float | None]:
        """How far a contender's numbers and gradients are from the baseline's; None where both draw random numbers.
        That of the numbers is the largest difference, in parts of the largest number."""
        if self.mode == "train" and any(n.row.random for n in self.graph.nodes):
            return {"apart": None, "gradients_apart": None}
        apart = float((result - self.expected).abs().max() / self.expected.abs().max())
        return {"apart": apart, "gradients_apart": distance(gradients, self.expected_gradients)}


def distance(mine: dict[str, Any], theirs: dict[str, Any]) -> float | None:
    """How far gradients are apart: the largest over the parameters of |g - g'| / |g'|, in Euclid's norm.
    Gradients that are NEGLIGIBLE beside all of them count as so large."""
    if not theirs:
        return None
    least = NEGLIGIBLE * sum(float(g.norm()) ** 2 for g in theirs.values()) ** 0.5
    apart = [float((mine[name] - g).norm()) / max(float(g.norm()), least) for name, g in theirs.items()]
    return math.nan if any(map(math.isnan, apart)) else max(apart)


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
