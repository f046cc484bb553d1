"""The eager executor: the graph node by node through ATen (cuDNN, oneDNN). The unfused baseline, by somebody else."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from ..compiler.plan import Plan
from ..ir.graph import Node
from ..ir.table import OPS, Environment
from .launches import Watcher

#: held while PyTorch's settings, which are the whole process's, are those of one executor
SETTINGS = threading.RLock()


@contextmanager
def tf32_products(torch: Any, allowed: bool) -> Iterator[None]:
    """A context in which matrix products and convolutions may use TF32, or may not.
    Afterwards the settings are as they were. Other threads' products wait."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    with SETTINGS:
        before = [setting.allow_tf32 for setting in settings]
        try:
            for setting in settings:
                setting.allow_tf32 = allowed
            yield
        finally:
            for setting, value in zip(settings, before, strict=True):
                setting.allow_tf32 = value


class EagerExecutor:
    """Parameters as torch tensors (channels-last where 4-D); every layer is one ATen call or a few."""

    name = "eager"

    def __init__(self, plan: Plan, dtype: str):
        import torch

        self.torch, self.plan, self.dtype = torch, plan, dtype
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        kinds = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16,
                 "bf16": torch.bfloat16}  # fmt: skip
        self.real = kinds[dtype]
        self.wide = torch.float64 if dtype == "fp64" else torch.float32
        self.lock = threading.RLock()
        self.values: dict[str, Any] = {}
        self._last: dict[str, str] = {}  # value -> the last node that reads it
        for node in plan.graph.nodes:
            self._last.update(dict.fromkeys(node.inputs, node.name))

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        for name, x in state.items():
            self.values[name] = self.to_storage(name, x)

    def state(self, name: str) -> np.ndarray:
        return self.to_logical(name, self.values[name]).copy()

    def live(self, name: str) -> Any:
        return self.values[name]

    def to_logical(self, name: str, x: Any) -> np.ndarray:
        return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)

    def to_storage(self, name: str, x: Any) -> Any:
        return self._last_channels(self.torch.as_tensor(np.array(x)).to(self.device, self.wide))

    def _last_channels(self, x: Any) -> Any:
        return x.contiguous(memory_format=self.torch.channels_last) if x.dim() == 4 else x.contiguous()

    def run(
        self, inputs: Mapping[str, Any], batch: int, seed: int, step: int, watch: Watcher | None = None
    ) -> dict[str, Any]:
        """Outputs and gradients of one step by the name of their value.
        Buffers are updated. ``watch`` is told what layers have finished."""
        graph = self.plan.graph
        values = {**self.values, **{name: self.as_stored(name, x) for name, x in inputs.items()}}
        self.compute(values, graph.nodes, Environment(seed, step), watch)
        for buffer, value in graph.updates:
            self.values[buffer] = values[value]
        return {value: values[value] for value in graph.results}

    def as_stored(self, name: str, x: Any) -> Any:
        """An input in memory: real numbers in the type of activations, channels-last, and so are bytes."""
        x = x if hasattr(x, "detach") else self.torch.as_tensor(np.asarray(x))
        if self.plan.type(name).dtype not in ("float", "uint8"):
            return x.to(self.device)
        return self._last_channels(x.to(self.device, self.real))

    def compute(
        self, values: dict[str, Any], nodes: Iterable[Node], env: Environment, watch: Watcher | None = None
    ) -> None:
        """Compute some nodes of the graph, in its order, into ``values``.
        What nothing reads after them is forgotten, but for results and what was there from the beginning."""
        torch, graph, watch = self.torch, self.plan.graph, watch or Watcher()
        keep = {*graph.results, *values}
        of: dict[str, list[str]] = {}  # value -> the parameters whose gradient it is
        for parameter, value in graph.gradients:
            of.setdefault(value, []).append(parameter)
        settings = tf32_products(torch, self.dtype == "tf32") if self.device == "cuda" else nullcontext()
        with settings, torch.no_grad():
            for node in nodes:
                if node.name not in values:
                    operands = [values[v] for v in node.inputs]
                    y = OPS[node.op].aten(env, node.attrs, *operands)
                    kind = graph.types[node.name].dtype
                    if kind.startswith("float"):
                        y = y.to(self.real if kind == "float" else self.wide)
                    values[node.name] = self._last_channels(y) if y.dim() == 4 else y
                    if node.row.of_batch:
                        watch.sums(node.name, values[node.name])
                    for parameter in of.get(node.name, ()):
                        watch.gradient(parameter, values[node.name])
                for value in node.inputs:
                    if self._last[value] == node.name and value not in keep:
                        values.pop(value, None)
