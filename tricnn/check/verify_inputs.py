"""What verification runs on: random images and labels, parameters at which every layer matters and none overflows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..compiler.plan import Plan
from ..ir.graph import Graph
from ..ir.table import Environment, Source
from ..run.inputs import random_images
from ..run.interpreter import evaluate
from ..run.model import Model


def random_batch(model: Model, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images and labels, by the name of the plan's input."""
    plan, given = model.plan, dict[str, np.ndarray]()
    for node in plan.graph.inputs:
        type_ = plan.type(node.name)
        if type_.dtype == "int64":
            given[node.name] = rng.integers(0, model.graph.classes or 1, type_.at(batch))
        elif type_.dtype == "uint8":
            given[node.name] = random_images(model.graph, batch, rng)
        else:
            given[node.name] = rng.standard_normal(type_.at(batch), dtype=np.float32)
    return given


def made_up(plan: Plan, value: str, batch: int, rng: np.random.Generator) -> np.ndarray:
    """A value as a kernel might have left it: activations and their gradients are normal.
    What is known of channels lies between a half and three halves, so that it may be a variance; positions are 0."""
    type_ = plan.type(value)
    if not type_.dtype.startswith("float"):
        return np.zeros(type_.at(batch), np.int64)
    if type_.dtype == "float" and type_.batched:
        return rng.standard_normal(type_.at(batch), dtype=np.float32)
    return rng.uniform(0.5, 1.5, type_.at(batch)).astype(np.float32)


def random_state(model: Model, images: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The initial parameters, those that start as constants spread out, so that no layer is trivially right."""
    state = model.state_dict()
    for name, x in state.items():
        if np.ptp(x) == 0:
            state[name] = (x + rng.uniform(-0.2, 0.2, x.shape)).astype(np.float32)
    return state if model.mode == "train" else {**state, **settled(model.graph, state, images)}


def settled(graph: Graph, state: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Running statistics that are those of the images, as after training.

    Where they do not belong to the network, each residual block adds to the last, and some fifty of them pass what fp16
    holds.

    A channel that hardly varies gets a tenth of the mean variance: dividing by its own would enlarge rounding errors,
    and with them the tolerance, as no trained network does.
    """
    values, found = {**state, **images}, dict[str, np.ndarray]()
    for node in graph.nodes:
        known = node.name in values or node.row.source in (Source.INPUT, Source.PARAMETER, Source.BUFFER)
        if known or not all(v in values for v in node.inputs):  # the latter: a head that inference leaves out
            continue
        if node.row.running:
            x, (mean, var) = values[node.inputs[0]], node.inputs[3:]
            axes = (0, *range(2, x.ndim))
            found[mean] = x.mean(axes, dtype=np.float32)
            spread = x.var(axes, dtype=np.float32)
            found[var] = np.maximum(spread, spread.mean() / 10)
            values |= found
        values[node.name] = evaluate(node, [values[v] for v in node.inputs], Environment())
    return found
