"""Verification: every emitted kernel against float64 NumPy, on the same inputs.

Each kernel of the plan gets the inputs the kernels before it really left in memory; the interpreter computes the same
kernel from them in float64. So an error cannot hide behind, or be blamed on, an earlier one. Every launch is run.

Triton's interpreter takes its time for each operation of each program, so without a GPU the tiles are chosen for it (a
few large ones) unless a target is named: then they are the target's.

Tolerances are derived, not picked. A sum of K products a*b whose operands are rounded with unit roundoff u, accumulated
in fp32, has errors that behave as independent: they add up to about

    (u + u32 * sqrt(K)) * sqrt(sum (a*b)^2)        Higham, "Accuracy and stability of numerical algorithms", 3.1, 4.2

of which ``SAFETY`` times as much is accepted, the largest over the tensor; storing the result may add u_stored
* |result|. u is 0 where the operands are multiplied as they lie in memory: products of 16-bit numbers are exact in
fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np

from ..codegen import tiles
from ..codegen.program import DTYPES, Launch, element, evaluate, scalars
from ..compiler.plan import Kernel
from ..compiler.roles import SIDE_SUMS
from ..ir.graph import Graph, Node
from ..ir.table import OPS, Environment, Kind
from .interpreter import kernel_values
from .model import Model, compile
from .numpy_executor import round_stored
from .quick_interpreter import quick_interpreter
from .triton_executor import interpreting
from .verify_inputs import random_batch, random_state

SAFETY = 4.0
#: operations that choose or drop numbers, and so round nothing
EXACT = ("relu", "relu_grad", "max_pool2d_grad")
#: sums of terms that are not products of independent numbers
LEANING = ("channel_sum", "normalize_grad_sums")
#: what surrounds each launch
Watch = Callable[[Launch], AbstractContextManager[None]]
ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}


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
    """One value that one kernel wrote: the largest error anywhere in it, and what is accepted."""

    kernel: str
    kind: str
    layers: tuple[str, ...]
    value: str
    error: float
    tolerance: float

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
    target: str | None = None,
) -> Model:  # fmt: skip
    """The model to verify, with tiles for what will run it: the GPU, Triton's interpreter, or the target named."""
    machine = tiles.INTERPRETER if interpreting() and target is None else tiles.GPU
    with tiles.chosen_for(machine):
        return compile(graph, mode, batch, dtype, "triton", target, fuse, seed=seed)


def verify_model(
    model: Model, batch: int, seed: int = 0, on_done: Callable[[Check], None] | None = None, watch: Watch = unwatched
) -> list[Check]:
    """The same for a model that is compiled already. Its parameters are replaced by random ones. Each launch is made
    inside ``watch(launch)``."""
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

    arguments = {**tensors, **scalars(batch, seed)}

    def check(kernel: Kernel, values: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
        written = {v: host(v) for v in kernel.writes}
        for value in names:
            error, tolerance = _compare(model, kernel, value, values, written)
            checks.append(Check(kernel.name, kernel.kind, kernel.layers, value, error, tolerance))
            if on_done is not None:
                on_done(checks[-1])

    late = {s.target for s in program.sums}  # what the last launch finishes, for many kernels
    last = [launch for launch in program.launches if set(launch.writes) & late]
    waiting: list[tuple[Kernel, dict[str, np.ndarray]]] = []
    for kernel in plan.kernels:
        memory = {v: host(v) for v in kernel.reads}
        memory |= {v: round_stored(memory[v], model.dtype) for v in memory.keys() & program.rounded.keys()}
        launches = [x for x in program.launches if x.kernel == kernel.name and x not in last]
        _poison(model, tensors, kernel, launches, batch)
        _run(model, launches, arguments, batch, watch)
        values = kernel_values(plan, kernel, memory, env, {v: host(v) for v in kernel.writes})
        check(kernel, values, [v for v in kernel.writes if v not in late])
        if late & set(kernel.writes):
            waiting.append((kernel, values))
    for value in late:
        tensors[value].fill_(float("nan"))
    _run(model, last, arguments, batch, watch)
    for kernel, values in waiting:
        check(kernel, values, [v for v in kernel.writes if v in late])
    return checks


def _run(model: Model, launches: list[Launch], values: Mapping[str, Any], batch: int, watch: Watch) -> None:
    """Launch a kernel, and what adds up the partial results it leaves."""
    functions = {f.name: f for f in model.program.functions}
    with quick_interpreter() if interpreting() else nullcontext():
        for launch in launches:
            function = functions[launch.function]
            grid = tuple(evaluate(g, batch) for g in launch.grid)
            options = {"num_warps": function.num_warps, "num_stages": function.num_stages}
            jitted = getattr(model.executor.module, launch.function)
            with watch(launch):
                jitted[grid](*(values[a] for a in launch.arguments), **options)


def _poison(model: Model, tensors: Mapping[str, Any], kernel: Kernel, launches: list[Launch], batch: int) -> None:
    """Fill what the kernel must write with NaN, so that an element it forgets shows. Not what it updates in place, nor
    the channels that other kernels wrote beside its own."""
    plan = model.plan
    read = {tensors[v].data_ptr() for v in kernel.reads}
    whole = {plan.place(v).buffer for v in plan.within}
    own = [model.executor.fetch(tensors, v, batch) for v in kernel.writes if plan.place(v).buffer in whole]
    for tensor in [*own, *(tensors[b] for launch in launches for b in launch.writes if b not in whole)]:
        if tensor.data_ptr() not in read:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 255)


def _compare(
    model: Model, kernel: Kernel, value: str, values: Mapping[str, np.ndarray], written: Mapping[str, np.ndarray]
) -> tuple[float, float]:  # fmt: skip
    node, got = kernel.by_name[value], written[value]
    if node.op in SIDE_SUMS:
        values = {**values, **{v: written[v] for v in node.inputs if v in written}}
    want = values[value]
    stored = element(model.plan.type(value), DTYPES[model.dtype][0])
    arithmetic = _arithmetic_error(model, kernel, node, values)
    if node.op == "max_pool2d_index":
        x = values[node.inputs[0]]
        chosen = _at_index(x, got, node.attrs)
        return float(np.max(np.abs(chosen - _at_index(x, want, node.attrs)), initial=0.0)), SAFETY * arithmetic
    scale = float(np.max(np.abs(want), initial=0.0))
    error = float(np.max(np.abs(got - want), initial=0.0)) if np.isfinite(got).all() else float("nan")
    tiny = 2.0**-24 if stored == "fp16" else 2.0**-126  # half of the least step of fp16; nothing for the others
    return error, ROUNDOFF[stored] * scale + tiny + SAFETY * arithmetic


def _arithmetic_error(model: Model, kernel: Kernel, node: Node, values: Mapping[str, np.ndarray]) -> float:
    """What computing in the chosen precision may cost, before the result is stored."""
    u32 = ROUNDOFF["fp32"]
    anchor = node if node.op == "channel_sum" or node.op in SIDE_SUMS else kernel.anchor
    operands = [values[v] for v in anchor.inputs]
    u = _operand_roundoff(model, kernel, anchor)
    floor = 2.0**-14 if model.dtype == "fp16" and u else 0.0  # below it fp16 rounds to a fixed step, u * 2**-14
    depth = _depth(anchor, operands)
    magnitude = _magnitude(anchor, operands, values, floor)
    steps = len(kernel.nodes) + 1
    real = [values[n.name] for n in kernel.nodes if _real(values[n.name])]
    largest = max((float(np.max(np.abs(x), initial=0.0)) for x in real), default=0.0)
    amplify = _amplification(kernel, values)
    # What accumulating rounds is the partial sums. They wander as far as the magnitude; but terms that lean one way, as
    # the gradients that a global pooling hands to all pixels alike, take them as far as the result.
    reached = float(np.max(np.abs(values[anchor.name]))) if anchor.op in LEANING else 0.0
    if node.op == "normalize_grad_sums" and kernel.anchor is not node and node.inputs[0] not in kernel.writes:
        # What is summed was never stored: it has the anchor's errors. Those of rounded weights are the same at every
        # pixel, so they add up.
        u, magnitude = _operand_roundoff(model, kernel, kernel.anchor), _gradient_sums(node, operands, np.abs)
    return (u * magnitude + u32 * sqrt(depth) * max(magnitude, reached)) * amplify + u32 * steps * largest


def _operand_roundoff(model: Model, kernel: Kernel, node: Node) -> float:
    """The unit roundoff of what is multiplied; 0 where that is just what lies in memory."""
    if node.kind is not Kind.CONTRACTION and node.op != "channel_sum":
        return ROUNDOFF["fp32"]
    if model.dtype == "tf32" and node.kind is Kind.CONTRACTION:
        return ROUNDOFF["tf32"]
    for raw in node.inputs[:2]:
        value = model.plan.storage(raw)
        weights = model.plan.type(value).dtype == "float32" and not _narrow(model, value)
        if weights or _computed(model, kernel, value):
            return ROUNDOFF[model.dtype]
    return 0.0


def _narrow(model: Model, weight: str) -> bool:
    """Do products read a weight in 16 bits?"""
    buffers, name = model.program.buffers, model.program.rounded.get(weight, weight)
    return name in buffers and buffers[name].dtype in ("fp16", "bf16")


def _computed(model: Model, kernel: Kernel, value: str) -> bool:
    """Does this kernel compute the value, and not just choose among numbers that lie in memory? Then it rounds it
    to multiply it."""
    node = kernel.by_name.get(value)
    if node is None:
        return False
    return node.op not in EXACT or any(_computed(model, kernel, model.plan.storage(v)) for v in node.inputs)


def _real(x: np.ndarray) -> bool:
    return np.issubdtype(np.asarray(x).dtype, np.floating)


def _amplification(kernel: Kernel, values: Mapping[str, np.ndarray]) -> float:
    """How much the epilogue may enlarge an error of the anchor: batch norm and dropout scale, the rest do not."""
    factor = 1.0
    for node in kernel.nodes:
        if node is kernel.anchor:
            continue
        if node.op == "batch_norm":
            weight, var = values[node.inputs[1]], values[node.inputs[4]]
            factor *= max(1.0, float(np.max(np.abs(weight) / np.sqrt(var + node.attrs["eps"]))))
        elif node.op == "dropout":
            factor /= 1 - node.attrs["p"]
        elif node.op == "scale":
            factor *= max(1.0, abs(node.attrs["factor"]))
    return factor


def _depth(node: Node, operands: list[np.ndarray]) -> int:
    """How many terms each result sums."""
    if node.op == "conv2d_grad_input":
        return prod(operands[1].shape) // operands[1].shape[1]
    if node.op in ("conv2d", "linear"):
        return prod(operands[1].shape[1:]) + 1
    if node.op == "linear_grad_input":
        return int(operands[1].shape[0])
    if node.op in ("cross_entropy", "cross_entropy_grad"):
        return int(operands[-2].shape[1]) * 4
    if node.kind in (Kind.REDUCTION, Kind.WINDOW, Kind.CONTRACTION):
        return max(1, operands[0].size // max(1, operands[0].shape[1] if operands[0].ndim > 1 else 1))
    return 1


def _magnitude(
    node: Node, operands: list[np.ndarray], values: Mapping[str, np.ndarray], floor: float
) -> float:  # fmt: skip
    """The size of a typical error in units of roundoff: sqrt(sum of squared terms), the largest over the results."""

    def top(x: Any) -> float:
        return float(np.max(np.abs(x), initial=0.0))

    if node.kind is Kind.CONTRACTION:
        squares = [np.square(x) + floor**2 for x in operands[:2]]
        terms = sqrt(top(OPS[node.op].numpy(Environment(), node.attrs, *squares)))
        return terms + (top(operands[2]) if len(operands) > 2 else 0.0)
    if node.op == "channel_sum":
        return sqrt(top((np.square(operands[0]) + floor**2).sum(axis=(0, *range(2, operands[0].ndim)))))
    if node.op == "normalize_grad_sums":
        return sqrt(_gradient_sums(node, operands, np.square))
    if node.op == "batch_stats":
        return top(operands[0]) * max(1.0, top(operands[0]))
    if node.op == "cross_entropy":
        return 1.0 + top(operands[0]) * 2
    if node.op == "cross_entropy_grad":
        return (1.0 + top(operands[1]) * 2) * node.attrs["weight"] / operands[1].shape[0]
    return max((top(x) for x in (*operands, values[node.name]) if _real(x)), default=1.0)


def _gradient_sums(node: Node, operands: list[np.ndarray], of: Callable[[Any], Any]) -> float:
    """The largest sum over pixels of the terms of normalize_grad_sums, of their absolute values or squares."""
    dy, x, stats = operands
    mean, var = (s.reshape(1, -1, *[1] * (x.ndim - 2)) for s in stats)
    xhat = (x - mean) / np.sqrt(var + node.attrs["eps"])
    axes = (0, *range(2, x.ndim))
    return float(np.max(of(dy).sum(axes)) + np.max(of(dy * xhat).sum(axes)))


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
