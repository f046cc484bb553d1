"""The NumPy executor: runs a plan, kernel by kernel, as the table of operations defines it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..compiler.plan import Kernel, Plan
from ..ir.table import Environment, Kind
from .interpreter import Values, channels_last, fetch, run_kernel, run_nodes, store
from .launches import Watcher, finished_after, summed_after

#: dtype -> what is computed in, and how many bits of mantissa a stored activation keeps (None: all)
COMPUTE = {"fp64": np.float64, "fp32": np.float32, "tf32": np.float32, "fp16": np.float32, "bf16": np.float32}


def round_stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """What is left of fp32 values once stored as ``dtype``: rounded to nearest, ties to even."""
    if dtype == "fp16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        bits = x.astype(np.float32).view(np.uint32)
        kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(x), x, kept.view(np.float32))
    return x


class NumpyExecutor:
    """Holds parameters and buffers as NumPy arrays in PyTorch's layout and runs the plan on them."""

    name = "numpy"
    device = "cpu"

    def __init__(self, plan: Plan, dtype: str):
        self.plan, self.dtype = plan, dtype
        self.real = COMPUTE[dtype]
        self.lock = threading.RLock()
        self.values: dict[str, np.ndarray] = {}
        self._prepared: dict[str, np.ndarray] = {}
        self._last: list[list[str]] = _last_uses(plan)
        written = [[plan.place(v).buffer for v in k.writes] for k in plan.kernels]
        self._finished = finished_after(plan, written, plan.graph.gradients)
        self._summed = summed_after(plan, [k.name for k in plan.kernels], written)

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take parameters and buffers (every one of the graph's)."""
        for name, x in state.items():
            self.values[name] = channels_last(np.array(x, dtype=self.real))
        given = run_nodes(self.plan.prepared, self.values, Environment())
        self._prepared = {n.name: given[n.name] for n in self.plan.prepared}

    def state(self, name: str) -> np.ndarray:
        return self.values[name].copy()

    def live(self, name: str) -> np.ndarray:
        return self.values[name]

    def to_logical(self, name: str, x: Any) -> np.ndarray:
        return np.asarray(x)

    def to_storage(self, name: str, x: Any) -> np.ndarray:
        return channels_last(np.array(x, dtype=self.real))

    def run(
        self, inputs: Mapping[str, Any], batch: int, seed: int, step: int, watch: Watcher | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs and gradients of one step by the name of their value; buffers are updated.

        ``watch`` is told, between kernels, what they have finished.
        """
        env = Environment(seed, step)
        memory = self.at_first({**self.values, **self._prepared}, inputs)
        self.compute(memory, range(len(self.plan.kernels)), env, watch)
        results = self.fetched(memory, self.plan.graph.results, env)
        for buffer, value in self.plan.graph.updates:
            self.values[buffer] = np.asarray(results[value], dtype=self.real)
        return results

    def at_first(self, lasting: Values, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What is in memory before a step: parameters and statistics, and the inputs as they are stored."""
        memory = dict(lasting)
        for name, x in inputs.items():
            memory[name] = self.as_stored(name, x)
        for name in lasting:
            if name in self.plan.within:
                store(self.plan, memory, name, memory[name])
        return memory

    def as_stored(self, name: str, x: Any) -> np.ndarray:
        """An input in memory: real numbers rounded, channels-last. Bytes are held as real numbers, which have them."""
        x = np.asarray(x)
        if self.plan.type(name).dtype not in ("float", "uint8"):
            return x
        return round_stored(channels_last(x.astype(self.real, copy=False)), self.dtype)

    def compute(
        self, memory: dict[str, np.ndarray], kernels: range, env: Environment, watch: Watcher | None = None
    ) -> None:
        """Run some of the plan's kernels; what nothing reads after them leaves the memory."""
        watch = watch or Watcher()
        for i in kernels:
            kernel, finished, told = self.plan.kernels[i], self._last[i], self._finished[i]
            written = run_kernel(self.plan, kernel, self._as_multiplied(kernel, memory), env)
            for value, x in written.items():
                stored = self.plan.type(value).dtype == "float"
                store(self.plan, memory, value, round_stored(x, self.dtype) if stored else x)
            for value in self._summed[i]:
                watch.sums(value, fetch(self.plan, memory, value, env, "the caller"))
            for parameter, value in told:
                watch.gradient(parameter, fetch(self.plan, memory, value, env, "the caller"))
            for value in finished:
                del memory[value]

    def fetched(self, memory: dict[str, np.ndarray], values: Iterable[str], env: Environment) -> dict[str, np.ndarray]:
        """Results of a step, out of memory."""
        for value in self.plan.within:
            memory.pop(value, None)  # what lies within another value is there, whatever it was before the step
        return {value: fetch(self.plan, memory, value, env, "the caller") for value in values}

    def _as_multiplied(self, kernel: Kernel, memory: Values) -> Values:
        """What a kernel finds in memory: products read weights in the type of the activations."""
        if kernel.anchor.kind is not Kind.CONTRACTION or self.dtype not in ("fp16", "bf16"):
            return memory
        weight = self.plan.storage(kernel.anchor.inputs[1])  # or, for a weight's gradient, an activation
        return {**memory, weight: round_stored(memory[weight], self.dtype)} if weight in memory else memory


def _last_uses(plan: Plan) -> list[list[str]]:
    """For each kernel the computed values that nothing reads after it."""
    keep = {plan.place(v).buffer for v in plan.graph.results}
    made = {plan.place(v).buffer for k in plan.kernels for v in k.writes}
    last: dict[str, int] = {}
    for i, kernel in enumerate(plan.kernels):
        for value in (*kernel.reads, *kernel.writes):
            last[plan.place(value).buffer] = i
    finished: list[list[str]] = [[] for _ in plan.kernels]
    for value, i in last.items():
        if value in made and value not in keep:
            finished[i].append(value)
    return finished
