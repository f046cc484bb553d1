"""The NumPy interpreter: what every graph, and every fused plan, must compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..compiler.plan import Kernel, Plan
from ..ir.graph import Graph, Node
from ..ir.table import OPS, Environment, Source
from ..system.errors import TricnnError

Values = Mapping[str, np.ndarray]


def channels_last(x: np.ndarray) -> np.ndarray:
    """An array [N, C, H, W] whose memory is channels-last, copied only if the given one's is not."""
    if x.ndim != 4:
        return np.asarray(x, order="C")  # ascontiguousarray would give a scalar an axis
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def evaluate(node: Node, operands: list[np.ndarray], env: Environment) -> np.ndarray:
    """One row of the table, with the layer's name on anything that goes wrong."""
    try:
        return OPS[node.op].numpy(env, node.attrs, *operands)
    except TricnnError:
        raise
    except Exception as error:
        raise RuntimeError(f"while computing layer {node.name} ({node.op}): {error}") from error


def run_nodes(nodes: Iterable[Node], given: Values, env: Environment) -> dict[str, np.ndarray]:
    """Evaluate nodes in order, on top of the values given."""
    values = dict(given)
    for node in nodes:
        if node.name not in values:
            values[node.name] = evaluate(node, [values[v] for v in node.inputs], env)
    return values


def interpret(
    graph: Graph, inputs: Values, *, seed: int = 0, step: int = 0, dtype: Any = np.float64, keep: bool = False
) -> dict[str, np.ndarray]:
    """Run a graph on NumPy arrays (logical shapes, by name: inputs, parameters, buffers) in ``dtype``.

    Returns its outputs by output name, its updates by buffer name and its gradients by ``grad:<parameter>``; with
    ``keep``, every value by layer name as well.
    """
    env = Environment(seed, step)
    values: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.row.source in (Source.INPUT, Source.PARAMETER, Source.BUFFER):
            if node.name not in inputs:
                raise TricnnError(f"{node.op} {node.name}: no value given")
            x = np.asarray(inputs[node.name])
            floating = graph.types[node.name].dtype.startswith("float")
            values[node.name] = channels_last(x.astype(dtype, copy=False)) if floating else x
        else:
            result = evaluate(node, [values[v] for v in node.inputs], env)
            values[node.name] = result.astype(dtype) if node.row.source is Source.CONSTANT else result
    results = {o.name: values[o.value] for o in graph.outputs}
    results |= {buffer: values[v] for buffer, v in graph.updates}
    results |= {f"grad:{parameter}": values[v] for parameter, v in graph.gradients}
    return {**values, **results} if keep else results


def kernel_values(
    plan: Plan, kernel: Kernel, memory: Mapping[str, Any], env: Environment, stored: Mapping[str, Any] | None = None,
    evaluate: Callable[[Node, list[Any], Environment], Any] = evaluate,
) -> dict[str, Any]:  # fmt: skip
    """Every value inside one kernel of a plan, by name, given the values in memory (by the name of their storage).

    Side sums are of what was ``stored``, where that is given. Values are arrays, or what else can be sliced and
    ``evaluate`` takes.

    Only what the kernel declares to read is visible to it, so a plan that forgets a buffer fails here.
    """
    values = {v: memory[v] for v in kernel.reads}
    for node in kernel.nodes:
        operands = [fetch(plan, values, v, env, f"kernel {kernel.name}", evaluate) for v in node.inputs]
        if stored is not None and node.row.side_sum == "stored":
            operands = [stored.get(v, x) for v, x in zip(node.inputs, operands, strict=True)]
        values[node.name] = evaluate(node, operands, env)
    return values


def fetch(
    plan: Plan, values: dict[str, Any], value: str, env: Environment, who: str,
    evaluate: Callable[[Node, list[Any], Environment], Any] = evaluate,
) -> Any:  # fmt: skip
    """A value out of ``values``, or a view of what is there.
    A view is a part of another value, or the same memory under another shape; it is added to ``values``. ``who`` is the
    reader, for the error if it reads what is not there."""
    waiting = [value]
    while waiting:
        name = waiting[-1]
        node, whole = plan.graph.by_name[name], plan.place(name).buffer if name in plan.within else None
        missing = [v for v in ([whole] if whole else node.inputs) if v not in values]
        if name in values:
            waiting.pop()
        elif whole is None and name not in plan.views and node.row.source is not Source.CONSTANT:
            raise AssertionError(f"{who} reads {name}, which it does not declare")
        elif missing:
            waiting += missing
        else:
            at_hand = [values[v] for v in node.inputs] if whole is None else []
            values[name] = plan.sliced(name, values[whole]) if whole else evaluate(node, at_hand, env)
    return values[value]


def run_kernel(plan: Plan, kernel: Kernel, memory: Values, env: Environment) -> dict[str, np.ndarray]:
    """What one kernel of a plan writes, given the values in memory. What it does not compute of them is poisoned."""
    values = kernel_values(plan, kernel, memory, env)
    written = {v: values[v] for v in kernel.writes}
    image, (rows, columns) = plan.type(kernel.anchor.name).spatial, plan.covered(kernel)
    for value in written if image != (rows, columns) else ():
        x = written[value] = written[value].copy()
        if kernel.by_name[value].row.side_sum == "stored":
            x[...] = unwritten(x.dtype)
        elif plan.type(value).spatial == image:
            x[:, :, rows:] = x[:, :, :, columns:] = unwritten(x.dtype)
    return written


def unwritten(dtype: Any) -> Any:
    """What stands in memory that nothing has written: NaN, or the largest integer."""
    return np.nan if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max


def store(plan: Plan, memory: dict[str, np.ndarray], value: str, x: np.ndarray) -> None:
    """Put a value where the plan has it: by itself, or into its channels of another one."""
    place = plan.place(value)
    if place.buffer == value:
        memory[value] = x
        return
    if place.buffer not in memory:
        whole = plan.type(place.buffer)
        memory[place.buffer] = channels_last(np.full(whole.at(len(x)), unwritten(x.dtype), x.dtype))
    plan.sliced(value, memory[place.buffer])[...] = x
