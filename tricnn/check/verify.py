"""Verification: every emitted kernel against float64 NumPy, on the same inputs.

Each kernel of the plan gets the inputs the kernels before it really left in memory; the interpreter computes the same
kernel from them in float64. So an error cannot hide behind, or be blamed on, an earlier one. Every launch is run.

Triton's interpreter takes its time for each operation of each program, so without a GPU the tiles are chosen for it (a
few large ones) unless a target is named: then they are the target's.

Tolerances are derived, not picked: error_bounds.py says how far each element may be off, by its own operands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiler.plan import Kernel
from ..ir.graph import Graph
from ..ir.objective import Loss
from ..ir.table import Environment
from ..lower.program import Launch, element, step_numbers
from ..machine import tiles
from ..machine.dtypes import DTYPES
from ..run.interpreter import kernel_values
from ..run.model import Model, compile
from ..run.numpy_executor import round_stored
from ..run.one_launch import prepared
from ..run.poison import first_written, poison
from ..run.triton_executor import interpreting, launching
from .error_bounds import TINY, Bounded, beyond_rounding, bounding, exact, relative, worst
from .verify_inputs import made_up, random_batch, random_state

#: what surrounds each launch
Watch = Callable[[Launch], AbstractContextManager[None]]


def unwatched(launch: Launch) -> AbstractContextManager[None]:
    return nullcontext()


def both(*watches: Watch) -> Watch:
    """One watch of several."""

    @contextmanager
    def watch(launch: Launch) -> Iterator[None]:
        with ExitStack() as stack:
            for each in watches:
                stack.enter_context(each(launch))
            yield

    return watch


@dataclass(frozen=True)
class Check:
    """The worst element of a value that one kernel wrote, and what is accepted there.
    It is the one whose error (beyond rounding to the type of storage) is the most of its tolerance. ``relative``: the
    largest tolerance in the value by the largest number in it."""

    kernel: str
    kind: str
    layers: tuple[str, ...]
    value: str
    error: float
    tolerance: float
    relative: float = 0.0

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # a NaN is not


def verify(
    graph: Graph, *, mode: str = "train", batch: int = 2, dtype: str = "fp32", fuse: bool | str = True, seed: int = 0,
    target: str | None = None, on_done: Callable[[Check], None] | None = None,
) -> list[Check]:  # fmt: skip
    """Run the compiled step once, on random images, and check every value that goes through memory.

    Raises TargetError where neither a GPU nor Triton's interpreter is there.
    """
    model = compiled(graph, mode=mode, batch=batch, dtype=dtype, fuse=fuse, seed=seed, target=target)
    return verify_model(model, batch, seed, on_done)


def compiled(
    graph: Graph, *, mode: str, batch: int, dtype: str, fuse: bool | str = True, seed: int = 0,
    target: str | None = None, loss: Loss | str = "cross_entropy",
) -> Model:  # fmt: skip
    """The model to verify, with tiles for what will run it: the GPU, Triton's interpreter, or the target named."""
    machine = tiles.INTERPRETER if interpreting() and target is None else tiles.GPU
    with tiles.chosen_for(machine):
        return compile(graph, mode, batch, dtype, "triton", target, fuse, seed=seed, loss=loss)


def verify_model(
    model: Model, batch: int, seed: int = 0, on_done: Callable[[Check], None] | None = None, watch: Watch = unwatched,
    kernels: Collection[str] | None = None,
) -> list[Check]:  # fmt: skip
    """A check of each value that each kernel of a compiled model wrote, as :func:`verify` gives them for a graph.
    The model's parameters are replaced by random ones. Each launch is made inside ``watch(launch)``. ``kernels``: those
    to run and check, if not all, on made-up values where they read what others would have left."""
    rng = np.random.default_rng(seed)
    given = random_batch(model, batch, rng)
    model.load_state_dict(random_state(model, given, rng))
    executor, program, plan = model.executor, model.program, model.plan
    tensors = executor.bind(batch)
    for name, x in given.items():
        executor.put(tensors, name, x)
    env = Environment(seed, 0)
    checks: list[Check] = []

    def host(value: str) -> np.ndarray:
        x = executor.fetch(tensors, value, batch)
        real = plan.type(value).dtype.startswith("float")
        return np.array(x.detach().float().cpu().numpy(), dtype=np.float64) if real else x.detach().cpu().numpy()

    def multiplied(value: str) -> np.ndarray:
        """What a kernel finds in memory: of some weights, products read copies in 16 bits."""
        x = host(value)
        return round_stored(x, model.dtype).astype(np.float64) if value in program.rounded else x

    arguments = {**tensors, **step_numbers(batch, seed)}

    def check(kernel: Kernel, values: Mapping[str, Bounded], names: Iterable[str]) -> None:
        for value in names:
            checks.append(
                Check(kernel.name, kernel.kind, kernel.layers, value, *_compare(model, kernel, value, values, host))
            )
            if on_done is not None:
                on_done(checks[-1])

    made = {value for kernel in plan.kernels for value in kernel.writes}
    first = dict(zip(map(id, program.launches), first_written(program.launches), strict=True))
    late = {s.target for s in program.sums}  # what the last launch finishes, for many kernels
    last = [launch for launch in program.launches if set(launch.writes) & late]
    waiting: list[tuple[Kernel, dict[str, Bounded]]] = []
    for kernel in plan.kernels:
        launches = [x for x in program.launches if x.kernel == kernel.name and x not in last]
        if kernels is not None:
            if kernel.name not in kernels:
                continue
            for value in made & set(kernel.reads):
                executor.fetch(tensors, value, batch).copy_(executor.torch.as_tensor(made_up(plan, value, batch, rng)))
        memory = {v: exact(multiplied(v)) for v in kernel.reads}
        _poison(model, tensors, kernel, [b for x in launches for b in first[id(x)]], batch)
        beside = _Beside(model, tensors, kernel, batch)
        _run(model, launches, arguments, batch, watch)
        checks += beside.overwritten()
        stored = {v: exact(host(v)) for v in kernel.writes}
        values = kernel_values(plan, kernel, memory, env, stored, bounding(plan, kernel, model.dtype))
        check(kernel, values, [v for v in kernel.writes if v not in late])
        if late & set(kernel.writes):
            waiting.append((kernel, values))
    for value in late:
        poison(tensors[value])
    _run(model, last, arguments, batch, watch)
    for kernel, values in waiting:
        check(kernel, values, [v for v in kernel.writes if v in late])
    return checks


def _run(model: Model, launches: list[Launch], values: Mapping[Any, Any], batch: int, watch: Watch) -> None:
    """Launch a kernel, and what adds up the partial results it leaves."""
    with launching():
        for launch in launches:
            make = prepared(model.executor.module, model.program, launch, values, batch)
            with watch(launch):
                make()


def _poison(model: Model, tensors: Mapping[str, Any], kernel: Kernel, fresh: Iterable[str], batch: int) -> None:
    """Fill what the kernel must write, so that an element it forgets shows.
    Of the buffers that nobody has written yet that is all, of others the channels that are its own; not what it updates
    in place, nor what a later launch of the kernel writes where an earlier one still reads."""
    place = model.plan.place
    updated = {tensors[v].data_ptr() for v in kernel.reads}
    read = {b: _span(tensors[b]) for b in (place(v).buffer for v in kernel.reads)}

    def still_read(buffer: str) -> bool:
        first, end = _span(tensors[buffer])
        return any(b != buffer and first < read_end and read_first < end for b, (read_first, read_end) in read.items())

    own = [(place(v).buffer, model.executor.fetch(tensors, v, batch)) for v in kernel.writes]
    for buffer, tensor in (*((b, tensors[b]) for b in fresh), *own):
        if tensor.data_ptr() not in updated and not still_read(buffer):
            poison(tensor)


def _span(tensor: Any) -> tuple[int, int]:
    """The first address of a flat tensor's memory, and the one behind its last."""
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes


class _Beside:
    """What lies beside a kernel's own channels in the buffers that it writes: nothing there may change."""

    def __init__(self, model: Model, tensors: Mapping[str, Any], kernel: Kernel, batch: int):
        self.model, self.tensors, self.kernel, self.batch = model, tensors, kernel, batch
        plan = model.plan
        shared = {plan.place(v).buffer for v in plan.within} & {plan.place(v).buffer for v in kernel.writes}
        self.before = {b: tensors[b].clone() for b in sorted(shared)}

    def overwritten(self) -> list[Check]:
        """A failed check for each buffer that does not have the same bits there as before."""
        executor, plan, kernel = self.model.executor, self.model.plan, self.kernel
        before, found = {**self.tensors, **self.before}, []
        for value in kernel.writes:
            if plan.place(value).buffer in self.before:
                executor.fetch(before, value, self.batch).copy_(executor.fetch(self.tensors, value, self.batch))
        for buffer, x in self.before.items():
            same = x.view(executor.torch.uint8).equal(self.tensors[buffer].view(executor.torch.uint8))
            if not same:
                what = f"{buffer}, beside its own"
                found.append(Check(kernel.name, kernel.kind, kernel.layers, what, float("nan"), 0.0))
        return found


def _compare(
    model: Model, kernel: Kernel, value: str, values: Mapping[str, Bounded], host: Callable[[str], np.ndarray]
) -> tuple[float, float, float]:  # fmt: skip
    """The worst error of a value, the tolerance there, and the largest one of the largest number."""
    node, got, want = kernel.by_name[value], host(value), values[value]
    if node.row.index:  # what it points at must be a maximum, and the first, unless rounding decides
        x = values[node.inputs[0]]
        (chosen, e), (best, f) = ([_at_index(a, i, node.attrs) for a in (x.value, x.error)] for i in (got, want.value))
        error = np.where((got != want.value) & (e + f == 0), np.nan, np.abs(chosen - best))
        return *worst(error, e + f + TINY), relative(e + f, best)
    stored = element(model.plan.type(value), DTYPES[model.dtype][0])
    error = np.where(np.isfinite(got), beyond_rounding(got, want.value, stored), np.nan)
    return *worst(error, want.error + TINY), relative(want.error, want.value)


def _at_index(x: np.ndarray, index: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    """The element of each window that an index points at."""
    (r, s), (sh, sw), (top, _, left, _) = attrs["kernel_size"], attrs["stride"], attrs["padding"]
    p, q = index.shape[2:]
    height, width = (p - 1) * sh + r, (q - 1) * sw + s
    pads = ((0, 0), (0, 0), (top, max(0, height - x.shape[2] - top)), (left, max(0, width - x.shape[3] - left)))
    wide = np.pad(x, pads, constant_values=-np.inf)
    found = np.full(index.shape, np.nan)
    for tap in range(r * s):
        i, j = divmod(tap, s)
        view = wide[:, :, i : i + (p - 1) * sh + 1 : sh, j : j + (q - 1) * sw + 1 : sw]
        found = np.where(index == tap, view, found)
    return found
