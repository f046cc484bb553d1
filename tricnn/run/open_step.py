"""Open plans: outputs for inputs, and, given the gradients of the outputs, those of what is wanted.

    forward(inputs, parameters) -> outputs, saved        backward(saved, tangents) -> gradients

Whatever loss lies between is somebody else's. What the backward pass reads is in ``saved``, so that any number of
forwards may be under way before the first backward; parameters are given at every forward, and are nobody's here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from ..build.compile_ahead import settled_for_launch
from ..compiler.cost import Cost
from ..compiler.modes import OPEN
from ..compiler.pipeline import planned
from ..compiler.plan import Plan
from ..ir.graph import Graph
from ..ir.table import Environment, Source
from ..lower.lower import lower
from ..lower.names import SUM_TABLE
from ..lower.program import SUM_BLOCK, Program
from ..system.errors import TargetError
from .channels_last import to_storage
from .dump import Dump
from .eager_executor import EagerExecutor
from .interpreter import channels_last
from .launches import counting_programs
from .model import device_target
from .numpy_executor import NumpyExecutor
from .poison import poisoned
from .rounded_weights import RoundedWeights
from .triton_executor import TritonExecutor, described, launching, ordinary_tensors, pick_device

#: beside a forward's tensors: the addresses of the gradients of which its table of sums knows
POINTED = "gradients:addresses"


@dataclass
class Saved:
    """What one forward leaves for its backward.
    ``memory`` holds the values by name; ``release`` gives it back, which happens when this is forgotten, too. A
    backward pass may be run once, unless it is told to keep everything."""

    memory: dict[str, Any]
    batch: int
    seed: int
    step: int
    release: Callable[[dict[str, Any]], None] = lambda memory: None
    spent: bool = False

    def spend(self) -> None:
        """Forget what was saved."""
        if not self.spent:
            self.spent = True
            memory, self.memory = self.memory, {}
            self.release(memory)

    def __del__(self) -> None:
        self.spend()


class OpenStep:
    """An open plan of a graph that computes the gradients of ``wants``, and what runs it.

    ``wants`` are parameters and inputs, by name. ``batch`` is the size that tiles are chosen for; any other runs too.

    Threads may share it: nothing of one call is another's. Raises what :func:`tricnn.compile` does.
    """

    def __init__(
        self,
        graph: Graph,
        wants: tuple[str, ...] = (),
        batch: int = 1,
        dtype: str = "fp32",
        executor: str = "numpy",
        target: str | None = None,
        fuse: bool | str = True,
    ):
        self.graph, self.wants, self.batch, self.dtype = graph, wants, batch, dtype
        self.target = target or device_target()
        dump = Dump.asked_for(graph, OPEN)
        self.plan = planned(graph, OPEN, fuse, Cost(batch, dtype, self.target), wants=wants, show=dump)
        first = self.plan.kernels[: self.plan.forward_kernels]
        late = {v for k in self.plan.kernels for v in k.writes} - {v for k in first for v in k.writes}
        results = [*(o.value for o in self.plan.graph.outputs), *(value for _, value in self.plan.graph.updates)]
        assert late.isdisjoint(map(self.plan.storage, results)), "a result of the forward pass is made after it"
        if executor == "triton" and dtype == "fp64":
            raise TargetError("dtype fp64 is for the numpy and eager executors; triton has fp32, tf32, fp16 and bf16")
        self.on_gpu = executor == "triton" and pick_device() == "cuda"
        self.executor: NumpyOpen | EagerOpen | TritonOpen
        if executor == "numpy":
            self.executor = NumpyOpen(self.plan, dtype)
        elif executor == "eager":
            self.executor = EagerOpen(self.plan, dtype)
        else:
            self.executor = TritonOpen(self.plan, self.program, self.target)
        if dtype != "fp64":
            dump.kernels(lambda: self.program)

    @cached_property
    def program(self) -> Program:
        """The plan lowered to kernels, launches and buffers."""
        if self.on_gpu and self.target == device_target() and self.target.startswith("sm_"):
            return settled_for_launch(self.plan, self.dtype, self.batch, self.target)
        return lower(self.plan, self.dtype, self.batch, self.target)

    @property
    def reads_again(self) -> frozenset[str]:
        """The inputs, parameters and buffers that the backward pass reads."""
        later = self.plan.kernels[self.plan.forward_kernels :]
        read = {self.plan.place(v).buffer for kernel in later for v in kernel.reads}
        sources = [n.name for n in self.plan.graph.nodes if n.row.source not in (None, Source.CONSTANT)]
        return frozenset(name for name in sources if self.plan.place(name).buffer in read)

    def peak_memory_bytes(self, batch: int | None = None) -> int:
        """The bytes that a forward and its backward take: parameters, what the plan allocates, and the copies.
        Copied are outputs, which the caller gets, and what kernels do not read where the caller has it (4-D parameters
        being channels-last). Gradients are the caller's where kernels write them."""
        batch, buffers, graph = batch or self.batch, self.program.buffers, self.plan.graph
        copied = [n.name for n in graph.parameters if self.plan.place(n.name).buffer != n.name]
        copied += [n.name for n in graph.buffers] + [o.value for o in graph.outputs]
        copied += [value for _, value, own in handed_over(self.plan) if not own]
        types = [(self.plan.type(v), buffers[self.plan.place(v).buffer].dtype) for v in copied]
        width = {"fp32": 4, "fp16": 2, "bf16": 2}
        return self.program.peak_memory_bytes(batch) + sum(t.elements(batch) * width[d] for t, d in types)

    def forward(self, given: Mapping[str, Any], seed: int = 0, step: int = 0) -> tuple[dict[str, Any], Saved]:
        """Outputs by name, new running statistics by the buffer's name, and what the backward pass needs.
        They are in logical shape, and the caller's: nobody else reads or writes their memory. ``given`` has inputs,
        parameters and buffers by name, NumPy arrays or tensors in PyTorch's layout; ``seed`` and ``step`` choose
        dropout's masks."""
        inputs = [n.name for n in self.plan.graph.inputs if not n.attrs["tangent"]]
        batch = int(given[inputs[0]].shape[0])
        with self.executor.lock:
            return self.executor.forward(given, batch, seed, step)

    def backward(self, saved: Saved, tangents: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
        """The gradients of what is wanted, by name, given the gradients of outputs by the outputs' names.
        They are in logical shape, and the caller's: nobody else reads or writes their memory. An output's gradient that
        is not given is zero. ``keep``: a further backward may follow."""
        if saved.spent:
            raise TargetError(f"{self.graph.name}: a backward pass of this forward was run already; keep what it reads")
        graph = self.plan.graph
        given = {}
        for output, name in graph.tangents.items():
            tangent = tangents.get(output)
            given[name] = np.zeros(graph.types[name].at(saved.batch), np.float32) if tangent is None else tangent
        with self.executor.lock:
            return self.executor.backward(saved, given, keep)


def returned(plan: Plan) -> dict[str, str]:
    """The value of each output, and of each running statistic after the step, by the name of either."""
    return {o.name: o.value for o in plan.graph.outputs} | dict(plan.graph.updates)


def handed_over(plan: Plan) -> list[tuple[str, str, bool]]:
    """The gradients: whose it is, its value, and whether the caller can have the memory that kernels write it to.
    He cannot where that is an input's (a gradient that is an output's, as it came), or the gradient of something else,
    too."""
    sources = {n.name for n in plan.graph.nodes if n.row.source is not None}
    found, taken = [], set()
    for target, value in plan.graph.gradients:
        place = plan.place(value)
        found.append((target, value, place.buffer not in sources and (place.buffer, place.offset) not in taken))
        taken.add((place.buffer, place.offset))
    return found


class NumpyOpen(NumpyExecutor):
    """An open plan in NumPy."""

    def __init__(self, plan: Plan, dtype: str):
        super().__init__(plan, dtype)
        self.lock: Any = nullcontext()  # nothing of one call is another's
        later = plan.kernels[plan.forward_kernels :]
        self._later = {plan.place(v).buffer for kernel in later for v in kernel.reads}

    def forward(self, given: Mapping[str, Any], batch: int, seed: int, step: int) -> tuple[dict[str, Any], Saved]:
        graph, env = self.plan.graph, Environment(seed, step)
        lasting = {
            n.name: channels_last(np.asarray(as_numpy(given[n.name]), dtype=self.real))
            for n in (*graph.parameters, *graph.buffers)
        }
        inputs = {n.name: as_numpy(given[n.name]) for n in graph.inputs if not n.attrs["tangent"]}
        with np.errstate(over="ignore", invalid="ignore"):
            memory = self.at_first(lasting, inputs)
            self.compute(memory, range(self.plan.forward_kernels), env)
            wanted = returned(self.plan)
            values = self.fetched(memory, wanted.values(), env)
        results = {name: np.array(values[value], order="K") for name, value in wanted.items()}
        return results, Saved({b: x for b, x in memory.items() if b in self._later}, batch, seed, step)

    def backward(self, saved: Saved, tangents: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        memory = {b: x.copy(order="K") if keep else x for b, x in saved.memory.items()}
        if not keep:
            saved.spend()
        env = Environment(saved.seed, saved.step)
        with np.errstate(over="ignore", invalid="ignore"):
            memory |= {name: self.as_stored(name, as_numpy(x)) for name, x in tangents.items()}
            given = {id(_owner(x)) for x in memory.values()}
            self.compute(memory, range(self.plan.forward_kernels, len(self.plan.kernels)), env)
            values = self.fetched(memory, [value for _, value in self.plan.graph.gradients], env)
        return {
            target: x if own and x.flags.writeable and id(_owner(x)) not in given else np.array(x, order="K")
            for target, x, own in ((target, values[value], own) for target, value, own in handed_over(self.plan))
        }


class EagerOpen(EagerExecutor):
    """An open graph through ATen, node by node."""

    def __init__(self, plan: Plan, dtype: str):
        super().__init__(plan, dtype)
        self.lock: Any = nullcontext()
        graph = plan.graph
        needed = set(returned(plan).values())
        for node in reversed(graph.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        self._first = [n for n in graph.nodes if n.name in needed]
        self._rest = [n for n in graph.nodes if n.name not in needed and not n.attrs.get("tangent")]
        self._later = {v for n in self._rest for v in n.inputs} | {v for _, v in graph.gradients}

    def forward(self, given: Mapping[str, Any], batch: int, seed: int, step: int) -> tuple[dict[str, Any], Saved]:
        graph = self.plan.graph
        values = {
            n.name: self._last_channels(self.torch.as_tensor(given[n.name]).detach().to(self.device, self.wide))
            for n in (*graph.parameters, *graph.buffers)
        }
        values |= {n.name: self.as_stored(n.name, given[n.name]) for n in graph.inputs if not n.attrs["tangent"]}
        self.compute(values, self._first, Environment(seed, step))
        saved = Saved({v: x for v, x in values.items() if v in self._later}, batch, seed, step)
        return {name: values[value].clone() for name, value in returned(self.plan).items()}, saved

    def backward(self, saved: Saved, tangents: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        values = dict(saved.memory)
        if not keep:
            saved.spend()
        values |= {name: self.as_stored(name, x) for name, x in tangents.items()}
        self.compute(values, self._rest, Environment(saved.seed, saved.step))
        return {target: values[value].clone() for target, value in self.plan.graph.gradients}


class TritonOpen(TritonExecutor):
    """An open plan in Triton: ``forward`` and ``backward`` of the emitted file.
    Each forward has tensors of its own, which come back for another one when its backward has run or it is forgotten;
    parameters it reads where the caller has them, if they lie there as kernels read them (4-D ones channels-last).
    Gradients are written to tensors that are made for each backward, and stay with the caller."""

    def __init__(self, plan: Plan, program: Program, target: str):
        super().__init__(plan, program, target)
        self.persistent, self.rounded = {}, RoundedWeights({}, {})  # parameters are given at every step
        self.bound = [n.name for n in plan.graph.parameters if plan.place(n.name).buffer == n.name]
        self.handed = sorted({plan.place(value).buffer for _, value, own in handed_over(plan) if own})
        self._boxes = [d for d in program.descriptors.values() if d.buffer in self.handed]
        ends = list(accumulate(-(-s.length // SUM_BLOCK) for s in program.sums))
        #: the rows of the table of sums that say where a part of a gradient goes
        self._rows = [(s.target, a, b) for s, a, b in zip(program.sums, [0, *ends], ends, strict=False)]
        self._rows = [row for row in self._rows if row[0] in self.handed]
        self._free: dict[int, list[dict[str, Any]]] = {}
        self._free_lock = threading.Lock()

    @ordinary_tensors
    def take(self, batch: int) -> dict[str, Any]:
        """Every tensor of a forward and its backward, by name, that nobody else has."""
        self._check_size(batch)
        with self._free_lock:
            free = self._free.get(batch)
            tensors = free.pop() if free else None
        if tensors is None:
            lasting = self.module.parameters(self.device)
            lasting = {name: x for name, x in lasting.items() if name not in self.bound}
            tensors = self.module.allocate(batch, self.device, lasting)
            tensors[POINTED] = {name: tensors[name].data_ptr() for name in self.handed}
            self._forget(tensors)
        elif self.device == "cuda":
            self._after(tensors)
        return tensors

    def give_back(self, batch: int, tensors: dict[str, Any]) -> None:
        """Let another forward have these tensors; of a batch size that was not seen for long they are forgotten."""
        self._forget(tensors)
        if self.device == "cuda":
            tensors["stream"] = self.torch.cuda.current_stream()
        with self._free_lock:
            kept = self._free.pop(batch, [])
            self._free[batch] = [*kept, tensors][-2:]
            while len(self._free) > 2:
                del self._free[next(iter(self._free))]

    def _forget(self, tensors: dict[str, Any]) -> None:
        """Forget what is the caller's: parameters, and gradients."""
        for name in (*self.bound, *self.handed, *(d.name for d in self._boxes)):
            tensors.pop(name, None)

    def _make_gradients(self, tensors: dict[str, Any], batch: int) -> None:
        """New tensors for the gradients, and launches told where these are."""
        buffers, before = self.program.buffers, tensors[POINTED]
        for name in self.handed:
            size, dtype = buffers[name].size.at(batch), self.dtypes[buffers[name].dtype]
            tensors[name] = self.torch.empty(size, dtype=dtype, device=self.device)
        tensors |= described(self._boxes, tensors)
        tensors[POINTED] = {name: tensors[name].data_ptr() for name in self.handed}
        moved = [row for row in self._rows if tensors[POINTED][row[0]] != before[row[0]]]
        if moved:  # PyTorch's allocator often gives the same memory again, as the loop gives back the last gradients
            targets = tensors[SUM_TABLE].view(-1, 5)[:, 1]
            shifts = [tensors[POINTED][name] - before[name] for name, _, _ in moved]
            self.torch._foreach_add_([targets[first:end] for _, first, end in moved], shifts)

    def _after(self, tensors: dict[str, Any]) -> None:
        """Wait for the work of the stream that had these tensors, if it is another one."""
        stream, before = self.torch.cuda.current_stream(), tensors.pop("stream")
        if stream != before:
            stream.wait_stream(before)

    def forward(self, given: Mapping[str, Any], batch: int, seed: int, step: int) -> tuple[dict[str, Any], Saved]:
        graph, tensors = self.plan.graph, self.take(batch)
        saved = Saved(tensors, batch, seed, step, lambda memory: self.give_back(batch, memory))
        for node in graph.inputs:
            if not node.attrs["tangent"]:
                self.put(tensors, node.name, given[node.name])
        for node in (*graph.parameters, *graph.buffers):
            self._put_parameter(tensors, node.name, given[node.name])
        if self.program.rounded:
            self.module.round_weights(tensors)
        with launching(), counting_programs(tensors), self._poisoned(tensors, 0):
            self.module.forward(tensors, batch, seed, step)
        return {name: self.fetch(tensors, v, batch).clone() for name, v in returned(self.plan).items()}, saved

    def backward(self, saved: Saved, tangents: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        batch, tensors = saved.batch, self._copied(saved) if keep else saved.memory
        for name, x in tangents.items():
            self.put(tensors, name, x)
        if self.plan.graph.gradients:
            self._make_gradients(tensors, batch)
            first = self.program.forward_launches
            with launching(), counting_programs(tensors), self._poisoned(tensors, first):
                self.module.backward(tensors, batch, saved.seed, saved.step)
        found = [(target, self.fetch(tensors, v, batch), own) for target, v, own in handed_over(self.plan)]
        results = {target: x if own else x.clone() for target, x, own in found}
        if keep:
            self.give_back(batch, tensors)
        else:
            saved.spend()
        return results

    def _put_parameter(self, tensors: dict[str, Any], name: str, x: Any) -> None:
        """A parameter, in PyTorch's layout, to where kernels read it."""
        x = x.detach() if hasattr(x, "detach") else self.torch.as_tensor(np.asarray(x))
        stored = to_storage(x.to(self.device, self.torch.float32)).reshape(-1)
        if name in self.bound:
            tensors[name] = stored
        else:
            self.stored(tensors, name).copy_(stored)

    def _copied(self, saved: Saved) -> dict[str, Any]:
        """Tensors of one's own with the same numbers in them, but for addresses."""
        tensors = self.take(saved.batch)
        for name in self.program.buffers:
            if name in self.bound:
                tensors[name] = saved.memory[name]
            elif name != SUM_TABLE and name not in self.handed:
                tensors[name].copy_(saved.memory[name])
        return tensors

    def _poisoned(self, tensors: dict[str, Any], first: int) -> Any:
        """A context in which memory is poisoned that nothing has written yet; tests ask for it by :attr:`poisons`."""
        return poisoned(self.module, self.program, tensors, first) if self.poisons else nullcontext()


def _owner(x: Any) -> Any:
    """What has an array's memory: the array of which it is a view, or what that was made of."""
    while isinstance(x, np.ndarray) and x.base is not None:
        x = x.base
    return x


def as_numpy(x: Any) -> np.ndarray:
    """An array or a tensor as a NumPy array, without a copy where that is possible."""
    if not hasattr(x, "detach"):
        return np.asarray(x)
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).detach().cpu().numpy()
