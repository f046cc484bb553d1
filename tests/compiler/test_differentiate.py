"""Differentiation, graph to graph: whole networks against PyTorch's autograd in float64.

The rows are tested one by one in tests/ir; here it is how they are joined: sums at forks, several losses, what is
left out. A user would otherwise train a network whose gradient misses a branch.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.compiler import reference
from tests.compiler.nets import NETS
from tests.ir.random_graphs import networks, values_for
from tricnn.compiler.differentiate import differentiate
from tricnn.compiler.specialise import for_inference, for_training
from tricnn.graphs import lenet
from tricnn.ir import Graph, GraphBuilder, GraphError, Loss, N
from tricnn.run.interpreter import interpret


def assert_equal_to_pytorch(declared: Graph, label_smoothing: float = 0.0, tolerance: float = 1e-9) -> None:
    graph = differentiate(for_training(declared, Loss(label_smoothing=label_smoothing)))
    values = values_for(graph, batch=3)
    ours = interpret(graph, values, seed=5, step=3)
    theirs = reference.training_step(
        declared, values, values["labels"], label_smoothing=label_smoothing, seed=5, step=3
    )
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)
def test_loss_gradients_and_running_statistics_equal_pytorchs(net):
    assert_equal_to_pytorch(net)
    assert_equal_to_pytorch(net, label_smoothing=0.1)


@pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)
def test_inference_equals_pytorchs(net):
    values = values_for(net, batch=3)
    ours = interpret(for_inference(net), values)
    for name, expected in reference.outputs(net, values).items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks_equal_pytorch(net):
    assert_equal_to_pytorch(net, tolerance=1e-7)  # norms of almost constant channels magnify the last bits


def loss_graph(b: GraphBuilder, logits: str) -> Graph:
    labels = b.add("input", name="labels", shape=(N,), dtype="int64")
    return b.build(b.add("cross_entropy", logits, labels, name="loss"))


def test_the_gradients_of_a_forks_readers_are_added_in_the_order_of_the_readers():
    """Float addition is not associative: the order is part of the result, and must not depend on a hash or a sort."""
    b = GraphBuilder("fork")
    x = b.input("x", (4,))
    stem = b.linear(x, 4, name="stem")
    readers = [b.tanh(stem, name=name) for name in ("zebra", "ant", "moth")]
    total = readers[0]
    for reader in readers[1:]:
        total = b.add_(total, reader)
    graph = differentiate(loss_graph(b, total))
    (sum2,) = [n for n in graph.nodes if n.op == "add" and n.name.startswith("stem.")][-1:]
    (sum1,) = [n for n in graph.nodes if n.name == sum2.inputs[0]]
    made_by = [graph.by_name[v].name for v in (*sum1.inputs, sum2.inputs[1])]
    assert [name.split(".")[0] for name in made_by] == ["zebra", "ant", "moth"]


def test_the_backward_layers_are_named_after_their_forward_layer_and_none_is_made_twice():
    graph = differentiate(for_training(lenet()))
    forward = {n.name for n in for_training(lenet()).nodes}
    backward = [n for n in graph.nodes if n.name not in forward]
    assert all(any(n.name.startswith(f"{f}.") for f in forward) for n in backward)
    calls = [(n.op, n.inputs, tuple(n.attrs.items())) for n in backward]
    assert len(set(calls)) == len(calls)
    assert not any(n.op == "conv2d_grad_input" and n.name.startswith("conv1.") for n in graph.nodes), (
        "nobody asked for the gradient of the image"
    )


def test_the_gradient_of_the_image_is_there_for_who_asks():
    net = NETS[0]
    graph = differentiate(for_training(net), wrt=["x", "conv1.weight"])
    assert [name for name, _ in graph.gradients] == ["x", "conv1.weight"]
    values = values_for(graph, batch=2)
    whole = interpret(graph, values)
    direction = np.random.default_rng(0).normal(size=values["x"].shape)
    h = 1e-6
    ahead, behind = (
        float(interpret(graph, {**values, "x": values["x"] + sign * h * direction})["loss"]) for sign in (1, -1)
    )
    assert float((whole["grad:x"] * direction).sum()) == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_the_heads():
    net = next(n for n in NETS if n.name == "branches")
    graph = for_training(net)
    values = values_for(graph, batch=3)
    all_values = interpret(graph, values, keep=True)
    weights = {o.value: o.loss_weight for o in net.outputs}
    parts = {n.inputs[0]: all_values[n.name] for n in graph.of("cross_entropy")}
    assert set(parts) == set(weights)
    plain = {
        v: -np.log(np.exp(z := all_values[v])[np.arange(3), values["labels"]] / np.exp(z).sum(1)).mean() for v in parts
    }
    assert float(all_values["loss"]) == pytest.approx(sum(weights[v] * plain[v] for v in parts), rel=1e-12)


def test_what_cannot_be_differentiated_is_refused_in_one_line():
    b = GraphBuilder("g")
    x = b.input("x", (4,))
    b.parameter("idle", (3,), "constant(0)")
    graph = loss_graph(b, b.linear(x, 4, name="fc"))
    cases = [
        (lambda: differentiate(graph), ["idle", "does not depend on it", "remove it"]),
        (lambda: differentiate(graph, loss="fc"), ["fc", "scalar", "[N, 4]"]),
        (lambda: differentiate(graph, loss="nowhere"), ["nowhere"]),
        (lambda: differentiate(graph, wrt=["fc"]), ["fc", "parameter or input"]),
        (lambda: differentiate(graph, wrt=["nowhere"]), ["nowhere"]),
        (lambda: differentiate(graph, wrt=["labels"]), ["labels"]),
    ]
    for attempt, words in cases:
        with pytest.raises(GraphError) as error:
            attempt()
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)
    assert [p for p, _ in differentiate(graph, wrt=["fc.weight"]).gradients] == ["fc.weight"]


def test_a_layer_without_a_gradient_in_between_is_named():
    b = GraphBuilder("g")
    y = b.conv2d(b.input("x", (2, 4, 4)), 3, 3, name="conv")
    graph = loss_graph(b, b.flatten(b.add("local_response_norm_grad", y, y, name="twice")))
    with pytest.raises(GraphError, match=r"layer twice: local_response_norm_grad cannot be differentiated: second"):
        differentiate(graph)
    b = GraphBuilder("g")
    y = b.conv2d(b.input("x", (2, 4, 4)), 3, 3, name="conv")
    filters = b.add("standardize_filters_grad", "conv.weight", "conv.weight", name="again")
    graph = loss_graph(b, b.flatten(b.add("conv2d", "x", filters, name="conv2")))
    with pytest.raises(GraphError, match=r"layer again: standardize_filters_grad cannot be differentiated by the wei"):
        differentiate(graph)


def test_layers_with_the_longest_names_can_be_trained():
    b = GraphBuilder("g")
    x = b.input("x", (2, 3, 3))
    x = b.batch_norm(b.conv2d(x, 3, 2, name="c" * 121), name="n" * 115)
    x = b.relu(x, name="r" * 128)
    declared = b.build(b.linear(x, 3, name="f" * 120))
    assert_equal_to_pytorch(declared)


def test_names_like_those_a_pass_would_choose_are_left_to_the_user():
    b = GraphBuilder("g")
    x = b.input("labels", (2, 3, 3))
    x = b.batch_norm(x, name="bn")
    for name in ("bn.stats", "loss", "bn.new_mean", "loss.grad", "fc.grad_weight", "fc.channel_sum"):
        x = b.tanh(x, name=name)
    declared = b.build(b.linear(x, 3, name="fc"))
    graph = differentiate(for_training(declared))
    values = values_for(graph, batch=3)
    (labels,) = [n.name for n in graph.inputs if graph.types[n.name].dtype == "int64"]
    theirs = reference.training_step(declared, values, values[labels])
    ours = interpret(graph, values)
    for name in ("grad:fc.weight", "grad:bn.weight", "bn.running_mean"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-10, atol=1e-12)


def test_frozen_batch_norm_is_an_affine_map():
    """Fine-tuning with fixed statistics: differentiate the declared graph under a loss, without for_training."""
    b = GraphBuilder("frozen")
    x = b.conv2d(b.input("x", (2, 4, 4)), 3, 3, name="conv")
    x = b.linear(b.relu(b.batch_norm(x, name="bn")), 4, name="fc")
    declared = b.build(x)
    b.outputs.clear()
    graph = differentiate(loss_graph(b, x))
    values = values_for(graph, batch=3)
    tensors = reference.as_tensors(declared, values)
    for node in declared.parameters:
        tensors[node.name].requires_grad_(True)
    reference.run(declared, tensors, training=False)
    torch.nn.functional.cross_entropy(tensors[x], torch.from_numpy(values["labels"])).backward()
    ours = interpret(graph, values)
    for node in declared.parameters:
        np.testing.assert_allclose(ours[f"grad:{node.name}"], tensors[node.name].grad.numpy(), rtol=1e-9, atol=1e-12)
