"""Fusion: the fused plan computes what the graph does, kernel by kernel, and nothing is fused or left apart silently.

A plan is run as a device would run it: each kernel sees only what it declares to read, and leaves only what it declares
to write. A fusion that forgets a buffer, or runs too early, then fails here and not on somebody's GPU.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.compiler.nets import NETS
from tests.ir.random_graphs import networks, values_for
from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.compiler.plan import Plan
from tricnn.compiler.policies import RULES
from tricnn.compiler.views import pixel_ordered
from tricnn.graphs import lenet, lenet_sigmoid
from tricnn.ir import Environment, Graph, GraphBuilder, Kind
from tricnn.ir.types import TensorType
from tricnn.run.interpreter import channels_last, interpret, run_kernel, run_nodes, store
from tricnn.run.model import compile

ENV = Environment(seed=3, step=1)


def without(rule: str) -> str:
    """The policy of every rule but one."""
    return ",".join(r for r in RULES if r != rule)


def run_plan(plan: Plan, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of a plan, by the names ``interpret`` gives them."""
    graph = plan.graph
    sources = {n.name for n in graph.nodes if n.op in ("input", "parameter", "buffer")}
    memory = {name: channels_last(x) if x.dtype.kind == "f" else x for name, x in values.items() if name in sources}
    memory |= {n.name: run_nodes(plan.prepared, memory, ENV)[n.name] for n in plan.prepared}
    for name in [n for n in plan.within if n in sources]:
        store(plan, memory, name, memory[name])
    for kernel in plan.kernels:
        missing = [v for v in kernel.reads if v not in memory]
        assert not missing, f"{kernel.name} runs before {missing} are there"
        written = run_kernel(plan, kernel, memory, ENV)
        assert set(written) == set(kernel.writes)
        assert not set(written) & set(memory), "a value is written twice"
        for value, x in written.items():
            store(plan, memory, value, x)

    def fetch(value: str) -> np.ndarray:
        if value not in memory:
            node = graph.by_name[value]
            assert value in plan.views or node.op == "fill", f"nobody wrote the result {value}"
            memory[value] = run_nodes([node], {v: fetch(v) for v in node.inputs}, ENV)[value]
        return memory[value]

    results = {o.name: fetch(o.value) for o in graph.outputs}
    results |= {buffer: fetch(v) for buffer, v in graph.updates}
    return results | {f"grad:{parameter}": fetch(v) for parameter, v in graph.gradients}


def check_structure(plan: Plan) -> None:
    graph, views = plan.graph, plan.views
    prepared = {n.name for n in plan.prepared}
    computed = {n.name for n in graph.nodes if n.kind is not Kind.SOURCE} - prepared - set(views)
    computed -= {whole for whole, _ in plan.within.values()}
    homes = Counter(n.name for k in plan.kernels for n in k.nodes)
    written = Counter(v for k in plan.kernels for v in k.writes)
    assert set(homes) == computed, "every layer has a kernel"
    assert all(count == 1 for count in written.values())
    for kernel in plan.kernels:
        for node in kernel.nodes:  # what is stored elsewhere is recomputed only from what is loaded for other reasons
            if node.name in written and node.name not in kernel.writes:
                others = {v for n in kernel.nodes for v in n.inputs if n.name != node.name}
                images = [v for v in node.inputs if plan.type(v).batched and v in kernel.reads]
                assert set(images) <= others, f"{kernel.name} loads {images} only to recompute {node.name}"
    needed = {plan.place(v).buffer for k in plan.kernels for v in k.reads}
    needed |= {plan.place(v).buffer for v in graph.results}
    assert {plan.place(v).buffer for v in written} <= needed, "nothing is stored that nobody reads"
    assert len({k.name for k in plan.kernels}) == len(plan.kernels)
    for kernel in plan.kernels:
        assert kernel.name.isidentifier()
        assert kernel.anchor in kernel.nodes
        operands = {plan.place(v).buffer for n in kernel.nodes for v in n.inputs}
        assert set(kernel.reads) <= operands, "nothing is loaded that is not used"
        kinds = Counter(n.kind for n in kernel.nodes)
        assert kinds[Kind.CONTRACTION] <= 1, "one contraction a kernel"
        if kinds[Kind.CONTRACTION]:
            assert kernel.anchor.kind is Kind.CONTRACTION
        assert not set(kernel.reads) & {n.name for n in kernel.nodes}


def check_decisions(plan: Plan) -> None:
    """One for every edge between computed values: fused exactly where the value does not go through memory."""
    in_kernel = {n.name for k in plan.kernels for n in k.nodes}
    wholes = {whole for whole, _ in plan.within.values()}
    edges = {
        (plan.storage(v), n.name)
        for k in plan.kernels
        for n in k.nodes
        for v in n.inputs
        if plan.storage(v) in in_kernel | wholes
    }
    edges |= {(part, whole) for part, (whole, _) in plan.within.items() if part in in_kernel | wholes}
    assert {(d.producer, d.consumer) for d in plan.decisions} == edges
    assert len(plan.decisions) == len(edges)
    for decision in plan.decisions:
        loads = any(
            plan.place(decision.producer).buffer in k.reads and any(n.name == decision.consumer for n in k.nodes)
            for k in plan.kernels
        )
        assert decision.fused == (not loads), decision
        assert {answer.rule for answer in decision.answers} <= ({*RULES} if plan.fused else {"none"}), decision
        assert "no rule was tried" not in decision.text, decision
        type_ = plan.type(decision.producer)
        size = type_.elements(1) * (2 if type_.dtype == "float" else 1) if type_.batched else 0
        assert all(answer.bytes == size for answer in decision.answers), decision


def check_plan(
    net: Graph, mode: str, policy: str, batch: int = 2, ties: bool = False, cost: Cost | None = None
) -> Plan:  # fmt: skip
    plan = planned(net, mode, policy, cost)
    check_structure(plan)
    check_decisions(plan)
    unfused = planned(net, mode, "none").graph
    values = values_for(unfused, batch=batch, ties=ties)
    results = run_plan(plan, values)
    exact = interpret(plan.graph, values, seed=ENV.seed, step=ENV.step)
    assert set(results) == set(exact)
    for name in exact:
        np.testing.assert_array_equal(results[name], exact[name], err_msg=name)
    defined = interpret(unfused, values, seed=ENV.seed, step=ENV.step)
    for name, expected in defined.items():
        tolerance = 1e-11 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(results[name], expected, rtol=0, atol=tolerance, err_msg=name)
    return plan


def bytes_moved(plan: Plan) -> int:
    return sum(plan.type(v).elements(16) for k in plan.kernels for v in (*k.reads, *k.writes))


@pytest.mark.parametrize("policy", ["all", "none", "epilogue", *(without(rule) for rule in RULES[1:])])
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)
def test_a_plan_computes_what_its_graph_does(net, mode, policy):
    plan = check_plan(net, mode, policy)
    if policy == "none":
        assert all(len(k.nodes) == 1 for k in plan.kernels)
        assert {d.text for d in plan.decisions} <= {"none: fusion is off"}


class Never(Cost):
    """A model by which it never pays to recompute."""

    def recompute(self, together: float, apart: float, value: TensorType) -> bool:
        return False


class Sometimes(Cost):
    """One by which it pays half of the time, for no reason."""

    def recompute(self, together: float, apart: float, value: TensorType) -> bool:
        return round(together * 1e12) % 2 == 0


@pytest.mark.parametrize("model", [Never, Sometimes])
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)
def test_any_choice_computes_what_the_graph_does(net, mode, model):
    plan = check_plan(net, mode, "auto", cost=model(8, "bf16", "sm_90"))
    assert len(plan.kernels) >= len(planned(net, mode, "all").kernels)


@pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)
def test_a_fused_plan_has_fewer_launches_and_moves_fewer_bytes(net):
    for mode in ("infer", "train"):
        fused = planned(net, mode, "all")
        unfused = planned(net, mode, "none")
        assert len(fused.kernels) < len(unfused.kernels)
        assert bytes_moved(fused) < bytes_moved(unfused)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks())
def test_plans_of_random_networks_compute_what_their_graphs_do(net):
    for mode in ("infer", "train"):
        for policy in ("all", "none"):
            check_plan(net, mode, policy)
    check_plan(net, "train", "all", ties=True)


# --- how many kernels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [lenet(), lenet_sigmoid()], ids=lambda g: g.name)
def test_lenet_is_five_kernels_to_infer_and_fifteen_to_train(net):
    """One per layer with weights; and to train 5 forward, the loss, and per layer dgrad (but the first) and wgrad."""
    assert len(planned(net, "infer", "all").kernels) == 5
    assert len(planned(net, "train", "all").kernels) == 5 + 1 + 4 + 5


def one_layer(declare) -> Graph:
    b = GraphBuilder("g")
    return b.build(declare(b, b.input("x", (3, 8, 8)))).pruned()


@pytest.mark.parametrize(
    ("declare", "kernels"),
    [
        (lambda b, x: b.relu(b.batch_norm(b.conv2d(x, 4, 3))), 1),
        (lambda b, x: b.sigmoid(b.conv2d(x, 4, 3)), 1),
        (lambda b, x: b.relu(b.add_(b.batch_norm(b.conv2d(x, 3, 3, padding=1)), x)), 1),
        (lambda b, x: b.max_pool2d(b.relu(b.batch_norm(b.conv2d(x, 4, 3))), 2), 1),
        (lambda b, x: b.avg_pool2d(b.tanh(b.conv2d(x, 4, 3)), 2), 1),
        (lambda b, x: b.max_pool2d(b.relu(b.conv2d(x, 4, 3)), 3, 2), 2),  # windows overlap
        (lambda b, x: b.relu(b.batch_norm(b.linear(x, 4))), 1),  # flattening is free
        (lambda b, x: b.relu(b.linear(b.global_avg_pool(x), 4)), 2),
        (lambda b, x: b.conv2d(b.relu(b.batch_norm(x)), 4, 3), 1),  # a prologue
        (lambda b, x: b.relu(b.tanh(b.add_(b.sigmoid(x), x))), 1),
        (lambda b, x: b.concat([b.relu(b.conv2d(x, 4, 1)), b.relu(b.conv2d(x, 2, 1))]), 2),  # written in place
        (lambda b, x: b.concat([b.conv2d(x, 4, 1), x]), 2),  # the input lies elsewhere
    ],
    ids=["conv-bn-relu", "conv-sigmoid", "conv-bn-add-relu", "conv-bn-relu-pool", "conv-tanh-avg", "overlapping-pool",
         "linear-bn-relu", "mean-linear-relu", "bn-relu-conv", "pointwise", "concat", "concat-copied"],
)  # fmt: skip
def test_inference_kernels(declare, kernels):
    net = one_layer(declare)
    plan = check_plan(net, "infer", "all")
    assert len(plan.kernels) == kernels, str(plan)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_result_that_a_transposed_convolution_reads_is_there(parts):
    b = GraphBuilder("g")
    x = b.input("x", (3, 4, 4))
    joined = b.concat([b.conv2d(x, 2, 1) for _ in range(parts)], name="joined")
    b.output(joined, "joined")
    b.output(b.conv_transpose2d(joined, 3, 2), "image")
    for policy in ("auto", "all", "none"):
        check_plan(b.build(), "infer", policy)


def test_residual_blocks_infer_in_a_kernel_per_convolution():
    """The shortcut's addition and the ReLU after it belong to the convolution computed last."""
    net = next(n for n in NETS if n.name == "residual")
    plan = planned(net, "infer", "all")
    assert len(plan.kernels) == len(net.of("conv2d")) + 2  # the global mean and the dense layer
    joins = [k for k in plan.kernels if any(n.op == "add" for n in k.nodes)]
    assert len(joins) == 2 and all(k.anchor.op == "conv2d" for k in joins)


def test_the_backward_pass_of_a_dense_layer_is_two_kernels_with_mask_and_bias_fused():
    b = GraphBuilder("mlp")
    x = b.relu(b.linear(b.input("x", (6,)), 5, name="fc1"))
    net = b.build(b.linear(x, 4, name="fc2"))
    plan = check_plan(net, "train", "all")
    backward = {k.anchor.op: [n.op for n in k.nodes] for k in plan.kernels[3:]}
    assert len(plan.kernels) == 3 + 3
    assert backward["linear_grad_input"] == ["linear_grad_input", "relu_grad"]
    assert sorted(backward["linear_grad_weight"]) == ["channel_sum", "linear_grad_weight"]


# --- what a plan says of itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation, stored", [("gelu", "up"), ("silu", "up"), ("relu", "act"), ("tanh", "act")])
def test_of_an_activation_and_its_operand_one_is_stored(activation, stored):
    """f(z) is recomputed where the gradient wants z anyway; where f(z) will do for the gradient, z is not stored."""
    b = GraphBuilder("net")
    b.add(activation, b.conv2d(b.input("x", (3, 6, 6)), 8, 3, name="up"), name="act")
    b.conv2d("act", 4, 1, name="down")
    plan = planned(b.build(b.linear(b.global_avg_pool("down"), 5)), "train", "all")
    assert {v for k in plan.kernels for v in k.writes if v in ("up", "act")} == {stored}
    forward, gradient = (k for k in plan.kernels if k.anchor.name in ("down", "down.grad_weight"))
    for kernel in (forward, gradient):
        assert stored in kernel.reads and ("act" in {n.name for n in kernel.nodes}) == (stored == "up")


def test_what_cannot_be_fused_says_why():
    b = GraphBuilder("g")
    x = b.input("x", (3, 8, 8))
    overlap = b.max_pool2d(b.relu(b.conv2d(x, 4, 3, name="c1")), 3, 2, name="overlap")
    b.output(b.conv2d(overlap, 2, 1, name="c2"), "y")
    b.output(b.softmax(b.flatten(b.global_avg_pool(overlap, name="mean")), name="p"), "p")
    decisions = {(d.producer, d.consumer): d for d in planned(b.build(), "infer", "all").decisions}
    assert "overlap" in decisions["c1", "overlap"].text and not decisions["c1", "overlap"].fused
    assert "conv2d sums over 4 channels" in decisions["relu1", "c2"].text
    assert "all pixels of an image" in decisions["relu1", "mean"].text


def test_a_plan_prints_as_a_program():
    text = str(planned(lenet(), "train", "all"))
    lines = text.splitlines()
    assert lines[0] == "# plan of lenet: train, fused, 15 kernels"
    assert any(line.startswith("k00_conv1(x, conv1.weight, conv1.bias) -> ") for line in lines)
    assert "  * conv1 = conv2d(x, conv1.weight, conv1.bias, padding=[2, 2, 2, 2])" in lines
    assert "return loss = loss" in lines
    assert sum(line.startswith("k") for line in lines) == 15


def test_what_the_backward_pass_reads_of_the_forward_pass_is_kept():
    plan = planned(lenet(), "train", "all")
    assert {"act1", "act2", "act3", "act4"} <= set(plan.kept)
    assert not {"conv1", "conv2", "pool1", "fc1"} & set(plan.kept), "an activation is stored once"
    assert planned(lenet(), "infer", "all").kept == ()


# --- the order of pixels in dense weights ----------------------------------------------------------------------------


def dense_net(declare) -> Graph:
    b = GraphBuilder("g")
    x = b.relu(b.conv2d(b.input("x", (2, 6, 6)), 3, 3, name="c"))
    declare(b, x)
    return b.build()


def two_heads(b, x):
    f = b.flatten(x)
    b.output(b.linear(f, 3, name="one"), "one")
    b.output(b.linear(f, 3, name="two"), "two")


def one_weight_two_images(b, x):
    w = b.parameter("w", (3, 48), "constant(0)")
    y = [b.add("linear", b.flatten(v), w) for v in (x, b.tanh(x))]
    b.output(b.add_(*y))


def one_weight_read_in_two_orders(b, x):
    w = b.parameter("w", (3, 48), "constant(0)")
    f = b.flatten(x)
    b.output(b.add_(b.add("linear", f, w), b.add("linear", b.linear(f, 48, name="inner"), w)))


def test_dense_weights_lie_in_pixel_order_only_if_nobody_reads_them_otherwise():
    """``[O, C*H*W]`` kept as ``[O, H, W, C]`` makes flattening free; a second reader would take it for the first."""
    plan = planned(dense_net(two_heads), "train")
    ordered = pixel_ordered(plan.graph, "train")
    assert {"one.weight", "two.weight"} <= set(ordered)
    (unflatten,) = [n.name for n in plan.graph.of("unflatten")]
    assert plan.storage(unflatten) in ordered, "the sum of the two heads' gradients lies in pixel order as well"
    for net in (one_weight_two_images, one_weight_read_in_two_orders):
        assert "w" not in pixel_ordered(planned(dense_net(net), "train").graph, "train")


def weight_that_is_a_sum(b, x):
    """Its terms lie as they are declared, and so does their sum."""
    w = b.add("add", *[b.parameter(name, (3, 48), "constant(0)") for name in ("w1", "w2")])
    b.output(b.add("linear", b.flatten(x), w))


def norm_seen_flattened(b, x):
    """Channel c of the norm is not feature c of the dense layer that reads it: it must not be computed in its loop."""
    b.output(b.linear(b.relu(b.flatten(b.batch_norm(x, name="bn"))), 3, name="fc"))


def pool_of_one_pixel(b, x):
    b.output(b.linear(b.avg_pool2d(b.conv2d(x, 2, 1, name="c2"), 1), 3, name="fc"))


def one_filter_meets_a_dense_layer(b, x):
    """Their gradient is one buffer, of one channel to the convolution's bias and of 16 to the dense layer's."""
    filtered = b.flatten(b.conv2d(x, 1, 1, name="one"))
    b.output(b.linear(b.tanh(b.add_(filtered, b.linear(b.global_avg_pool(x), 16, name="dense"))), 3, name="fc"))


def features_as_an_image(b, x):
    """The mean's gradient is the same at all 16 pixels of an image, and none of the 16 features of the dense layer."""
    image = b.add("unflatten", b.tanh(b.linear(x, 16, name="dense")), shape=(1, 4, 4))
    b.output(b.linear(b.global_avg_pool(image), 3, name="fc"))


DENSE = [
    one_filter_meets_a_dense_layer,
    features_as_an_image,
    two_heads,
    one_weight_two_images,
    one_weight_read_in_two_orders,
    weight_that_is_a_sum,
    norm_seen_flattened,
    pool_of_one_pixel,
]


@pytest.mark.parametrize("declare", DENSE)
def test_what_is_seen_under_two_shapes_is_the_same_in_triton(declare):
    """The NumPy plan sees logical shapes and cannot tell; only the kernels' own addresses can be wrong."""
    assert_triton_equals_numpy(dense_net(declare), "train")


def test_a_norm_seen_flattened_infers_alike_in_triton():
    assert_triton_equals_numpy(dense_net(norm_seen_flattened), "infer")


def assert_triton_equals_numpy(net: Graph, mode: str) -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=net.types["x"].at(2)).astype(np.float32), np.array([2, 0])
    results = []
    for executor, dtype in (("triton", "fp32"), ("numpy", "fp64")):
        m = compile(net, mode=mode, batch=2, executor=executor, dtype=dtype, target="sm_90")
        rng = np.random.default_rng(1)
        state = {k: (rng.uniform(0.5, 2, v.shape)).astype(np.float32) for k, v in sorted(m.state_dict().items())}
        m.load_state_dict(state)
        if mode == "infer":
            y = m(x)
            results.append(dict(y) if isinstance(y, dict) else {"logits": y})
        else:
            loss, grads = m.loss_and_grads(x, labels)
            results.append({"loss": loss, **grads})
    got, expected = results
    for name in expected:
        scale = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(np.asarray(got[name]), expected[name], rtol=0, atol=1e-3 * scale, err_msg=name)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(most_layers=7))
def test_random_networks_are_the_same_in_triton(net):
    for mode in ("infer", "train"):
        assert_triton_equals_numpy(net, mode)
