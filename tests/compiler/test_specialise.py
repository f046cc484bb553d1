"""Making a declared graph ready: inference, training, exact rewrites, folded batch norm.

Each pass may change what is computed how, never what comes out: a user who compiles must get the network declared.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.compiler import reference
from tests.compiler.nets import NETS
from tests.ir.random_graphs import networks, values_for
from tricnn.compiler.differentiate import differentiate
from tricnn.compiler.fold import fold_batch_norm, fold_sums, prepared_nodes
from tricnn.compiler.specialise import for_inference, for_training, tidy
from tricnn.graphs import lenet, repvgg_a0
from tricnn.ir import Graph, GraphBuilder, GraphError, from_text, to_text
from tricnn.run.interpreter import interpret
from tricnn.run.model import compile

RANDOM = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
by_net = pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)


# --- inference -------------------------------------------------------------------------------------------------------


def test_inference_leaves_out_dropout_and_the_heads_of_training():
    net = next(n for n in NETS if n.name == "branches")
    graph = for_inference(net)
    assert not graph.of("dropout")
    assert [o.name for o in graph.outputs] == ["logits"]
    assert not any(n.name.startswith("aux") for n in graph.nodes)
    assert graph.num_parameters == net.num_parameters - net.types["aux.fc.weight"].elements(1) - 5


def test_dropout_as_the_output_or_in_a_row_is_the_identity():
    b = GraphBuilder("g")
    x = b.relu(b.input("x", (4,)), name="r")
    b.output(b.dropout(b.dropout(x)), "y")
    graph = for_inference(b.build())
    assert [n.name for n in graph.nodes] == ["x", "r"] and graph.outputs[0].value == "r"


def test_a_network_of_training_heads_only_cannot_infer():
    b = GraphBuilder("g")
    b.output(b.input("x", (4,)), training_only=True)
    with pytest.raises(GraphError, match="no output"):
        for_inference(b.build())


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_running_statistics_move_as_in_pytorch(momentum):
    """running = (1 - momentum) * running + momentum * batch, with the unbiased variance m / (m - 1), m = N*H*W."""
    b = GraphBuilder("g")
    x = b.batch_norm(b.input("x", (3, 2, 2)), name="bn", momentum=momentum, eps=1e-3)
    graph = for_training(b.build(b.linear(x, 3, name="fc")))
    module = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=momentum, dtype=torch.float64)
    values = values_for(graph, batch=2)
    module.running_mean.copy_(torch.from_numpy(values["bn.running_mean"]))
    module.running_var.copy_(torch.from_numpy(values["bn.running_var"]))
    for step in range(3):
        values["x"] = np.random.default_rng(step).normal(3.0, 2.0, (2, 3, 2, 2))
        results = interpret(graph, values)
        module(torch.from_numpy(values["x"]))
        values |= {name: results[name] for name in ("bn.running_mean", "bn.running_var")}
        np.testing.assert_allclose(values["bn.running_mean"], module.running_mean.numpy(), rtol=1e-13)
        np.testing.assert_allclose(values["bn.running_var"], module.running_var.numpy(), rtol=1e-13)


def test_variance_survives_a_mean_far_from_zero():
    """In float32, E[x^2] - E[x]^2 of 10000 +- 1 has no correct digit; mean and deviations have them all."""
    b = GraphBuilder("g")
    x = b.batch_norm(b.input("x", (1, 8, 8)), name="bn", momentum=1.0)
    graph = for_training(b.build(b.linear(x, 3, name="fc")))
    values = values_for(graph, batch=16)
    values["x"] = 10000 + np.random.default_rng(0).normal(size=(16, 1, 8, 8)).astype(np.float32)
    variance = interpret(graph, values, dtype=np.float32)["bn.running_var"]
    assert float(variance[0]) == pytest.approx(values["x"].astype(np.float64).var(ddof=1), rel=1e-3)


def test_one_image_of_one_pixel_has_no_variance_and_gives_no_nan():
    b = GraphBuilder("g")
    x = b.batch_norm(b.input("x", (3,)), name="bn")
    graph = for_training(b.build(b.linear(x, 3, name="fc")))
    results = interpret(graph, values_for(graph, batch=1))
    assert all(np.isfinite(value).all() for value in results.values())


def test_training_wants_an_input_and_logits():
    b = GraphBuilder("g")
    sums = b.build(b.add("channel_sum", b.conv2d(b.input("x", (1, 4, 4)), 2, 3)))
    with pytest.raises(GraphError, match=r"output logits.*\[N, classes\] or \[N, classes, H, W\].*\[2\]"):
        for_training(sums)
    with pytest.raises(GraphError, match="no input"):
        for_training(from_text("graph g\nw = parameter(shape=[3])\noutput y = w\n"))


def test_the_training_graph_is_an_ordinary_graph():
    for net in NETS:
        graph = differentiate(for_training(net))
        assert from_text(to_text(graph)) == graph
        assert {name for name, _ in graph.gradients} == {n.name for n in net.parameters}
        assert {name for name, _ in graph.updates} == {n.name for n in net.buffers}
        assert graph.num_parameters == net.num_parameters


# --- exact rewrites --------------------------------------------------------------------------------------------------


def tied(graph: Graph, kind: str) -> dict[str, np.ndarray]:
    """Values that put a window's maximum in doubt: few distinct numbers, or none above zero, or exactly zero."""
    values = values_for(graph, batch=2, ties=True)
    for node in graph.parameters:
        values[node.name] = np.round(values[node.name])  # so that ties survive the layers
    if kind == "negative":
        values["x"] = -np.abs(values["x"]) - 1
    elif kind == "zero":
        values["x"] = np.zeros_like(values["x"])
    elif kind == "equal":
        values["x"] = np.ones_like(values["x"])
    return values


def pooled() -> Graph:
    """ReLU before overlapping and plain max pools, on the image itself and after a convolution."""
    b = GraphBuilder("pooled")
    x = b.input("x", (2, 9, 9))
    x = b.conv2d(x, 2, 1, name="same")
    x = b.max_pool2d(b.relu(x), 3, 2, padding=1)
    x = b.max_pool2d(b.relu(b.conv2d(x, 3, 2)), 2)
    x = b.dropout(b.sigmoid(b.flatten(x)), 0.3)
    return b.build(b.linear(b.tanh(x), 3, name="fc"))


def results_of_training(graph: Graph, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return interpret(differentiate(graph), values, seed=1, step=2)


@pytest.mark.parametrize("kind", ["few", "negative", "zero", "equal"])
@pytest.mark.parametrize("net", [lenet(width=0.5, input_shape=(1, 28, 28)), pooled()], ids=lambda g: g.name)
def test_tidying_keeps_every_bit_of_values_and_gradients_where_maxima_tie(net, kind):
    before = for_training(net)
    after = tidy(before)
    assert [n.name for n in after.nodes] != [n.name for n in before.nodes], "nothing was rewritten"
    values = tied(before, kind)
    expected, results = results_of_training(before, values), results_of_training(after, values)
    for name in expected:
        np.testing.assert_array_equal(results[name], expected[name], err_msg=name)


@RANDOM
@given(networks())
def test_tidying_keeps_random_networks(net):
    before = for_training(net)
    after = tidy(before)
    for ties in (False, True):
        values = values_for(before, batch=2, ties=ties)
        expected, results = results_of_training(before, values), results_of_training(after, values)
        for name in expected:
            np.testing.assert_array_equal(results[name], expected[name], err_msg=name)


def test_after_tidying_activations_touch_pooled_pixels_and_flatten_meets_its_dense_layer():
    graph = tidy(for_training(lenet()))
    for node in graph.of("relu"):
        assert graph.by_name[node.inputs[0]].op in ("max_pool2d", "linear")
    graph = tidy(for_training(pooled()))
    for node in graph.of("flatten"):
        assert [r.op for r in graph.consumers[node.name]] == ["linear"]


def test_what_somebody_else_reads_is_not_moved():
    b = GraphBuilder("g")
    r = b.relu(b.input("x", (2, 4, 4)), name="r")
    b.output(b.add_(b.max_pool2d(r, 2, name="p"), b.avg_pool2d(r, 2)), "y")
    graph = b.build()
    assert tidy(graph) == graph
    b = GraphBuilder("g")
    r = b.relu(b.input("x", (2, 4, 4)), name="r")
    b.output(b.max_pool2d(r, 2, name="p"), "y")
    b.output(r, "z")
    graph = b.build()
    assert tidy(graph) == graph


# --- folding ---------------------------------------------------------------------------------------------------------


def assert_folded_equals_unfolded(net: Graph, tolerance: float = 1e-12) -> Graph:
    before = for_inference(net)
    after = fold_batch_norm(before)
    values = values_for(before, batch=2)
    results, expected = interpret(after, values), interpret(before, values)
    for name in expected:
        scale = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(results[name], expected[name], rtol=0, atol=tolerance * scale)
    return after


@by_net
def test_folding_keeps_what_a_network_says(net):
    assert_folded_equals_unfolded(net)


@RANDOM
@given(networks(heads=False))
def test_folding_keeps_what_random_networks_say(net):
    assert_folded_equals_unfolded(net, tolerance=1e-11)


def test_a_network_of_convolutions_and_norms_has_no_norm_left():
    net = next(n for n in NETS if n.name == "residual")
    graph = assert_folded_equals_unfolded(net)
    assert not graph.of("batch_norm")
    assert len(prepared_nodes(graph)) == 2 * len(net.of("batch_norm"))
    assert {n.op for n in prepared_nodes(graph)} == {"fold_weight", "fold_bias"}
    assert from_text(to_text(graph)) == graph, "a folded network can be saved and read"
    assert {n.name for n in graph.parameters} <= {n.name for n in net.parameters}


def test_norms_that_cannot_be_folded_stay():
    b = GraphBuilder("g")
    x = b.input("x", (2, 4, 4))
    y = b.conv2d(x, 2, 1, name="read_twice")
    y = b.add_(b.batch_norm(y, name="kept1"), y)
    y = b.batch_norm(b.batch_norm(b.conv2d(y, 2, 1), name="folded"), name="kept2")
    y = b.batch_norm(b.relu(y), name="kept3")
    z = b.conv2d(y, 2, 1, name="an_output")
    b.output(z, "z")
    b.output(b.batch_norm(z, name="kept4"), "y")
    graph = assert_folded_equals_unfolded(b.build())
    assert {n.name for n in graph.of("batch_norm")} == {"kept1", "kept2", "kept3", "kept4"}


def test_folding_dense_layers_bias_or_none_and_one_weight_for_two_layers():
    b = GraphBuilder("g")
    x = b.input("x", (3, 4, 4))
    w = b.parameter("w", (3, 3, 1, 1), "constant(0)")
    for name in ("a", "b"):
        x = b.batch_norm(b.add("conv2d", x, w), name=name)
    x = b.batch_norm(b.linear(x, 4, name="fc", bias=False), name="n")
    x = b.batch_norm(b.linear(x, 4, name="fc2"), name="n2", eps=0.1)
    graph = assert_folded_equals_unfolded(b.build(x))
    assert not graph.of("batch_norm")


def test_folding_follows_the_parameters():
    """The folded weights are values of the graph: loading other parameters changes them."""
    net = next(n for n in NETS if n.name == "residual")
    graph = fold_batch_norm(for_inference(net))
    for seed in (0, 1):
        values = values_for(net, batch=2, seed=seed)
        np.testing.assert_allclose(
            interpret(graph, values)["logits"], reference.outputs(net, values)["logits"], rtol=1e-10, atol=1e-10
        )


def test_a_layer_may_have_the_name_that_folding_would_give():
    b = GraphBuilder("g")
    x = b.tanh(b.input("x", (2, 4, 4)), name="bn.folded_weight")
    x = b.batch_norm(b.conv2d(x, 2, 3), name="bn")
    assert_folded_equals_unfolded(b.build(b.tanh(x, name="bn.folded_bias")))


def test_one_batch_norm_used_twice_is_for_inference_only() -> None:
    """PyTorch would update its running statistics twice in a step, in the order of the calls; here it is once."""
    b = GraphBuilder("shared")
    x = b.batch_norm(b.input("x", (3, 4, 4)), name="bn")
    parts = b.nodes[-1].inputs[1:]
    again = b.add("batch_norm", b.relu(x), *parts, name="again")
    graph = b.build(b.linear(b.global_avg_pool(again), 2))
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    assert compile(graph, "infer", executor="numpy")(images).shape == (2, 2)
    with pytest.raises(GraphError, match=r"^layer again: it has the running statistics bn.running_mean of layer bn; "):
        for_training(graph)


def test_running_statistics_are_buffers_in_training() -> None:
    b = GraphBuilder("trained")
    parts = [b.parameter(f"p{i}", (3,), "constant(1)") for i in range(4)]
    x = b.add("batch_norm", b.input("x", (3, 4, 4)), *parts, name="bn")
    with pytest.raises(GraphError, match=r"^layer bn: p2 is not a buffer \(parameter\)"):
        for_training(b.build(b.linear(b.global_avg_pool(x), 2)))


# --- sums of convolutions --------------------------------------------------------------------------------------------


def two(first: dict[str, int], second: dict[str, int] | None, stride: int = 1, groups: int = 1) -> Graph:
    """relu(a(x) + b(x)); b is a batch norm if it has no window."""
    b = GraphBuilder("g")
    x = b.input("x", (4, 9, 9))
    y = b.batch_norm(b.conv2d(x, 4, name="a", stride=stride, groups=groups, bias=False, **first), name="bn")
    z = b.conv2d(x, 4, name="b", stride=stride, groups=groups, **second) if second else b.batch_norm(x, name="b")
    return b.build(b.linear(b.relu(b.add_(z, y, name="sum")), 3, name="fc"))


LARGE = {"kernel_size": 3, "padding": 1}


@pytest.mark.parametrize(
    "second, options",
    [
        (None, {}),
        (None, {"groups": 2}),
        ({"kernel_size": 1}, {"stride": 2}),
        ({"kernel_size": 3, "padding": 1}, {}),
        ({"kernel_size": (1, 3), "padding": (0, 1)}, {"groups": 2}),
        ({"kernel_size": 5, "padding": 2}, {}),
    ],
)
def test_convolutions_of_one_image_that_are_added_are_one(second, options):
    net = two(LARGE, second, **options)
    declared = for_inference(net)
    folded = fold_sums(fold_batch_norm(declared))
    assert len(folded.of("conv2d")) == 1 and not folded.of("batch_norm")
    values = values_for(declared, batch=2)
    values["b.running_var" if second is None else "b.bias"] += 0.7
    expected = interpret(declared, values)["logits"]
    np.testing.assert_allclose(interpret(folded, values)["logits"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "first, second",
    [
        ({**LARGE, "dilation": 2, "padding": 2}, {"kernel_size": 3, "padding": 1}),  # other pixels
        ({"kernel_size": 3, "padding": 1}, {"kernel_size": 2, "padding": 1, "dilation": 2}),
        ({"kernel_size": (3, 1), "padding": (1, 0)}, {"kernel_size": (1, 3), "padding": (0, 1)}),  # neither is larger
    ],
)
def test_convolutions_that_look_elsewhere_stay_two(first, second):
    net = for_inference(two(first, second))
    folded = fold_sums(fold_batch_norm(net))
    assert len(folded.of("conv2d")) == 2


def test_a_convolution_that_others_read_stays():
    b = GraphBuilder("g")
    x = b.input("x", (4, 5, 5))
    y, z = (b.conv2d(x, 4, 1, name=name) for name in ("a", "b"))
    graph = b.build(b.linear(b.add_(b.add_(y, z), z), 3, name="fc"))
    assert len(fold_sums(for_inference(graph)).of("conv2d")) == 2


def test_a_repvgg_is_a_plain_network_for_inference():
    """Ding et al., table 4: RepVGG-A0 has 8.30 M parameters then, trained with 9.11 M; a convolution in each block."""
    graph = fold_sums(fold_batch_norm(for_inference(repvgg_a0())))
    layers = graph.of("conv2d")
    assert len(layers) == 22 and {graph.types[n.inputs[1]].per_image[2:] for n in layers} == {(3, 3)}
    weights = [graph.types[v].elements(1) for n in (*layers, *graph.of("linear")) for v in n.inputs[1:]]
    assert int(sum(weights) / 1e4) == 830
