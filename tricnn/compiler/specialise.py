"""A declared graph, made ready for inference or for training."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from functools import partial

from ..ir.builder import GraphBuilder
from ..ir.graph import Graph, Node, Output, derived_name, topological
from ..ir.objective import Loss
from ..ir.table import Source
from ..ir.types import TensorType
from ..system.errors import GraphError

LABELS, CLASS_WEIGHTS = "labels", "class_weights"


def for_inference(graph: Graph) -> Graph:
    """Leave out dropout (the identity when not training) and the heads that only training wants."""
    kept = replace(graph, outputs=tuple(o for o in graph.outputs if not o.training_only))
    return _passed_over(kept, {n.name for n in graph.nodes if n.row.random or n.row.detaches}).pruned()


def without_detaches(graph: Graph) -> Graph:
    """A graph whose gradients are there, with ``detach(x) = x``."""
    return _passed_over(graph, {n.name for n in graph.nodes if n.row.detaches})


def _passed_over(graph: Graph, names: Container[str]) -> Graph:
    """The graph without layers of these names: who read one reads its operand now."""
    alias: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        if not alias.keys().isdisjoint(node.inputs):
            node = replace(node, inputs=tuple(alias.get(v, v) for v in node.inputs))
        if node.name in names:
            alias[node.name] = node.inputs[0]
        else:
            nodes.append(node)
    outputs = tuple(replace(o, value=alias.get(o.value, o.value)) for o in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def with_batch_statistics(graph: Graph) -> Graph:
    """Replace batch_norm, where it is not frozen, by its training form.

    ``batch_norm(x, w, b, mean, var) = normalize(x, batch_stats(x), w, b)``, and mean and var get their updates.
    """
    builder = GraphBuilder(graph.name)
    updates = []
    owner: dict[str, str] = {}  # of running statistics
    for node in graph.nodes:
        if node.row.running and not node.attrs["frozen"]:
            x, weight, bias, mean, var = node.inputs
            for buffer in (mean, var):
                if graph.by_name[buffer].row.source is not Source.BUFFER:
                    raise GraphError(
                        f"layer {node.name}: {buffer} is not a buffer ({graph.by_name[buffer].op}); training updates "
                        "running statistics, which only a buffer can hold"
                    )
                if owner.setdefault(buffer, node.name) != node.name or mean == var:
                    raise GraphError(
                        f"layer {node.name}: it has the running statistics {buffer} of layer {owner[buffer]}; training "
                        "updates them once a step, so each batch norm needs its own (for inference they may be shared)"
                    )
            part = partial(derived_name, node.name)
            taken = (graph.by_name, builder.types)
            stats = builder.add("batch_stats", x, name=part("stats", *taken))
            momentum = node.attrs["momentum"]
            builder.add("normalize", x, stats, weight, bias, name=node.name, eps=node.attrs["eps"])
            new_mean = builder.add("running_mean", mean, stats, name=part("new_mean", *taken), momentum=momentum)
            new_var = builder.add("running_var", var, stats, x, name=part("new_var", *taken), momentum=momentum)
            updates += [(mean, new_mean), (var, new_var)]
        else:
            builder.add(node.op, *node.inputs, name=node.name, **node.attrs)
    return Graph(graph.name, tuple(builder.nodes), graph.outputs, tuple(updates))


def for_training(graph: Graph, loss: Loss | None = None) -> Graph:
    """Batch norm by its training form (:func:`with_batch_statistics`), and the loss on the outputs.

    It is the sum over the outputs of loss_weight * loss(output, labels), cross entropy unless another is given. Cross
    entropy takes logits: of an output that is a softmax, what the softmax takes, so that the loss is -log of its
    probabilities.
    """
    loss = loss or Loss()
    if not graph.inputs:
        raise GraphError(f"graph {graph.name}: it has no input, so there is nothing to train on")
    learning = with_batch_statistics(graph)
    builder = GraphBuilder(graph.name, learning)
    batch = graph.types[graph.inputs[0].name].shape[:1]
    for output in graph.outputs:
        _check_output(graph, output, loss)
    scores = graph.types[graph.outputs[0].value]
    labels = TensorType((*batch, 1, *graph.rows) if graph.rows else batch, "int64")
    target = labels if loss.takes_labels else replace(scores, dtype="float32")
    targets = [builder.add("input", name=_unused(graph, LABELS), shape=target.shape, dtype=target.dtype)]
    if loss.weighs:
        name = _unused(graph, CLASS_WEIGHTS)
        targets.append(builder.add("input", name=name, shape=(scores.channels,), dtype="float32"))
    losses = []
    for output in graph.outputs:
        last = graph.by_name[output.value]
        name = _unused(graph, "loss" if len(graph.outputs) == 1 else f"loss.{output.name}")
        losses.append(
            builder.add(
                loss.row,
                last.inputs[0] if last.row.probabilities and loss.of_logits else last.name,
                *targets,
                name=name,
                **loss.attrs,
                weight=output.loss_weight,
            )
        )
    total = losses[0]
    for other in losses[1:]:
        total = builder.add("add", total, other, name=builder.fresh("loss.sum"))
    return Graph(graph.name, tuple(builder.nodes), (Output("loss", total),), learning.updates)


def _check_output(graph: Graph, output: Output, loss: Loss) -> None:
    """Raise GraphError unless the loss can be put on an output, with the same labels as on the first one."""
    type_, first = graph.types[output.value], graph.outputs[0]
    if len(type_.shape) not in (2, 4):
        raise GraphError(
            f"output {output.name}: training puts {loss.kind} on [N, classes] or [N, classes, H, W], this output is "
            f"{type_}"
        )
    if (type_.spatial if len(type_.shape) == 4 else ()) != graph.rows:
        raise GraphError(
            f"output {output.name}: it is {type_}, output {first.name} {graph.types[first.value]}; the same labels fit "
            "both only where height and width are the same"
        )
    if type_.channels != graph.classes and (loss.weighs or not loss.takes_labels):
        raise GraphError(
            f"output {output.name}: it has {type_.channels} numbers, another output {graph.classes}; {loss.kind} with "
            "targets or class weights needs as many in each"
        )
    if type_.channels < 2 and loss.of_logits:
        raise GraphError(
            f"output {output.name}: training needs at least 2 classes, this has 1; the loss of a single class is 0 "
            "whatever the network computes"
        )


def _unused(graph: Graph, name: str) -> str:
    while name in graph.by_name:
        name += "_"
    return name


def tidy(graph: Graph) -> Graph:
    """Exact rewrites that make the later passes simpler.

    ``max_pool2d(relu(x)) = relu(max_pool2d(x))``: both are monotone, and the activation touches fewer elements.
    ``f(flatten(x)) = flatten(f(x))`` for pointwise f of one input (dropout's random numbers follow the logical index,
    which flatten keeps), so that flatten ends up in front of the dense layer that absorbs it.
    """
    nodes = {node.name: node for node in graph.nodes}
    outputs = {output.name: output for output in graph.outputs}
    results: dict[str, list[str]] = {}  # value -> the outputs that it is
    for output in graph.outputs:
        results.setdefault(output.value, []).append(output.name)
    readers: dict[str, set[str]] = {name: set() for name in nodes}
    for node in graph.nodes:
        for value in node.inputs:
            readers[value].add(node.name)

    def swap(first: Node, second: Node) -> None:
        """Run ``second`` before ``first``, which it alone reads; who read ``second`` reads ``first`` now."""
        for name in readers[second.name]:
            inputs = tuple(first.name if v == second.name else v for v in nodes[name].inputs)
            nodes[name] = replace(nodes[name], inputs=inputs)
        for name in (moved := results.pop(second.name, [])):
            outputs[name] = replace(outputs[name], value=first.name)
        results[first.name] = moved
        readers[first.name], readers[second.name] = readers[second.name], {first.name}
        for value in first.inputs:
            readers[value] = readers[value] - {first.name} | {second.name}
        nodes[second.name] = replace(second, inputs=first.inputs)
        nodes[first.name] = replace(first, inputs=(second.name,))

    waiting = list(reversed(nodes))
    while waiting:
        node = nodes[waiting.pop()]
        if len(node.inputs) != 1 or node.inputs[0] not in nodes:
            continue
        before = nodes[node.inputs[0]]
        if len(readers[before.name]) != 1 or results.get(before.name):
            continue
        pool_after_relu = node.row.picks and before.row.activation and before.row.rises
        view_first = before.row.dense_view == "flat" and node.row.activation
        if pool_after_relu or view_first:
            swap(before, node)
            waiting += [*sorted(readers[before.name]), node.name]  # what stands behind others now
    return replace(graph, nodes=topological(nodes.values()), outputs=tuple(outputs.values()))
