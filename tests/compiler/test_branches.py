"""Concatenation without copies: common ends move behind it, parts are written into their channels of the whole."""

import numpy as np
import pytest

import tricnn
from tricnn.check.verify import verify_model
from tricnn.compiler.plan import Place
from tricnn.graphs import inception_block
from tricnn.ir import Graph, GraphBuilder

RNG = np.random.default_rng(0)


def unit(b: GraphBuilder, x: str, filters: int, name: str) -> str:
    with b.scope(name):
        return b.relu(b.batch_norm(b.conv2d(x, filters, 1, bias=False, name="conv"), name="bn"), name="relu")


def block(name: str) -> Graph:
    """A concatenation of each kind that matters, under a dense head."""
    if name in BLOCKS:
        return BLOCKS[name]()
    b = GraphBuilder(name)
    x = b.input("x", (3, 6, 6))
    a = unit(b, x, 8, "stem")
    if name == "units":  # everything in common
        y = b.concat([unit(b, a, 4, "one"), unit(b, a, 5, "two"), unit(b, a, 3, "three")], name="join")
    elif name == "mixed":  # one branch ends otherwise
        y = b.concat([unit(b, a, 4, "one"), b.max_pool2d(a, 3, 1, padding=1, name="pool")], name="join")
    elif name == "nested":
        inner = b.concat([unit(b, a, 4, "one"), unit(b, a, 3, "two")], name="inner")
        y = b.concat([unit(b, a, 5, "three"), inner], name="join")
    elif name == "twice":  # one value in two concatenations, and twice in one
        one = unit(b, a, 4, "one")
        y = b.concat([one, b.concat([one, unit(b, a, 3, "two")], name="inner"), one], name="join")
    elif name == "dense":  # DenseNet: the whole so far lies within the next whole
        y = b.concat([a, unit(b, a, 3, "one")], name="inner")
        y = b.concat([y, unit(b, y, 3, "two")], name="join")
    else:
        y = b.concat([x, unit(b, a, 4, "one")], name="join")
    y = unit(b, y, 6, "after")
    return b.build(b.linear(b.flatten(b.global_avg_pool(y)), 5, name="fc"))


def training_block() -> Graph:
    """Szegedy et al. (2014), figure 2b, with batch norm: the convolutions b1, r3 and r5 read the same image."""
    b = GraphBuilder("inception")
    a = unit(b, b.input("x", (3, 6, 6)), 8, "stem")
    branches = [
        unit(b, a, 4, "b1"),
        unit(b, unit(b, a, 2, "r3"), 3, "b3"),
        unit(b, unit(b, a, 3, "r5"), 2, "b5"),
        unit(b, b.max_pool2d(a, 3, 1, padding=1, name="pool"), 3, "pooled"),
    ]
    y = unit(b, b.concat(branches, name="join"), 6, "after")
    return b.build(b.linear(b.flatten(b.global_avg_pool(y)), 5, name="fc"))


def plain_block(activation: str) -> Graph:
    """Without batch norm, with biases; a sibling amid the concatenation, one at its end, one read twice."""
    b = GraphBuilder("plain")
    a = b.relu(b.conv2d(b.input("x", (3, 6, 6)), 8, 3, padding=1, name="stem"))

    def unit(x: str, filters: int, name: str) -> str:
        return b.add(activation, b.conv2d(x, filters, 1, name=name), name=f"{name}.act")

    shared = unit(a, 3, "shared")
    three = b.conv2d(shared, 4, 3, padding=1, name="three")
    y = b.concat([three, unit(a, 2, "middle"), unit(shared, 3, "again"), unit(a, 4, "end")], name="join")
    return b.build(b.linear(b.flatten(b.global_avg_pool(b.conv2d(y, 6, 1, name="after"))), 5, name="fc"))


BLOCKS = {"inception": training_block, "plain relu": lambda: plain_block("relu"),
          "plain tanh": lambda: plain_block("tanh")}  # fmt: skip
NAMES = (*BLOCKS, "units", "mixed", "nested", "twice", "dense", "input")


def step(graph: Graph, dtype: str, executor: str, fuse: str = "all"):
    model = tricnn.compile(graph, "train", 3, dtype, executor, fuse=fuse, seed=1)
    x = np.random.default_rng(1).standard_normal((3, *graph.types["x"].per_image)).astype(np.float32)
    loss, grads = model.loss_and_grads(x, np.array([0, 2, 1]))
    return model, loss, grads


@pytest.mark.parametrize("name", NAMES)
def test_fused_equals_unfused_in_float64(name):
    graph = block(name)
    fused, loss, grads = step(graph, "fp64", "numpy")
    plain, expected, wanted = step(graph, "fp64", "numpy", fuse="none")
    assert loss == pytest.approx(expected, rel=1e-12)
    assert list(grads) == list(wanted) == [p.name for p in graph.parameters]
    for parameter, gradient in wanted.items():
        np.testing.assert_allclose(grads[parameter], gradient, rtol=0, atol=1e-12, err_msg=parameter)
    for value, expected in plain.state_dict().items():
        np.testing.assert_allclose(fused.state_dict()[value], expected, rtol=0, atol=1e-12, err_msg=value)


#: of these the plans are held to NumPy above; under the interpreter the others have every kind of join
ALIKE = ("plain relu", "units", "mixed", "twice")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in NAMES])
def test_kernels_equal_numpy(name):
    graph = block(name)
    kernels, loss, grads = step(graph, "fp32", "triton")
    _, expected, wanted = step(graph, "fp64", "numpy")
    assert loss == pytest.approx(expected, rel=1e-5)
    for parameter, gradient in wanted.items():
        np.testing.assert_allclose(grads[parameter], gradient, rtol=0, atol=2e-5, err_msg=parameter)
    assert all(check.ok for check in verify_model(kernels, 3))


def test_no_block_of_units_is_copied_and_what_shares_its_input_is_one_convolution():
    plan = step(block("units"), "fp32", "numpy")[0].plan
    kinds = [k.kind for k in plan.kernels]
    assert not {"concat", "slice_channels", "pad_channels", "concat_filters"} & set(kinds)
    assert [kinds.count(k) for k in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")] == [3, 2, 3]
    assert plan.place("two.bn.weight") == Place("join.bn.weight", 4, 12)
    assert plan.place("two.conv.weight").offset == 4 * 8  # filters of 8 channels, 1x1
    gradient = dict(plan.graph.gradients)
    assert plan.place(gradient["three.conv.weight"]) == Place("one.conv.siblings.grad_weight", 9 * 8, 8)


def test_an_inception_block_lies_in_one_buffer_that_its_merged_convolution_and_its_concatenation_share():
    """Channels: those of the 3x3's reduction, of the 5x5's, then the block's four branches."""
    plan = step(training_block(), "fp32", "numpy")[0].plan
    kinds = [k.kind for k in plan.kernels]
    assert not {"concat", "slice_channels", "pad_channels", "concat_filters"} & set(kinds)
    parts = ("r3.conv.siblings", "b3.conv", "b5.conv", "pooled.conv")
    assert [plan.place(part).offset for part in parts] == [0, 9, 12, 14] and plan.place("b3.conv").pitch == 17
    assert len({plan.place(part).buffer for part in parts}) == 1
    join = plan.graph.by_name["join.bn.conv"]
    assert (join.op, join.attrs) == ("slice_channels", {"start": 5, "stop": 17})
    gradients = {plan.place(f"{n}.relu_grad") for n in ("r3.relu", "r5.relu", "join")}
    assert {p.offset for p in gradients} == {0, 2, 5} and len({p.buffer for p in gradients}) == 1
    assert kinds.count("conv2d_grad_input") == kinds.count("conv2d_grad_weight") - 1 == 5  # r3, r5, b1 in one


def test_weights_that_live_in_a_whole_load_save_and_train():
    model, *_ = step(block("units"), "fp32", "numpy")
    state = {name: RNG.standard_normal(x.shape).astype(np.float32) for name, x in model.state_dict().items()}
    model.load_state_dict(state)
    for name, x in model.state_dict().items():
        np.testing.assert_array_equal(x, state[name], err_msg=name)
    images = RNG.standard_normal((3, 3, 6, 6)).astype(np.float32)  # of one number, they would be normalised to 0
    before = model.loss_and_grads(images, np.array([0, 1, 2]))[0]
    model.parameters()["two.bn.weight"][...] *= 3.0
    assert model.loss_and_grads(images, np.array([0, 1, 2]))[0] != before


def test_an_inception_block_infers_in_a_launch_for_three_merged_convolutions_and_one_for_each_other_layer():
    plan = tricnn.compile(inception_block(), "infer", 1, "fp32", "numpy").plan
    kinds = sorted(k.kind for k in plan.kernels)
    assert kinds.count("conv2d") == 4 and set(kinds) <= {"conv2d", "max_pool2d", "global_avg_pool", "linear"}


def test_a_concatenation_within_another_is_placed_as_well():
    plan = tricnn.compile(block("nested"), "infer", 1, "fp32", "numpy").plan
    decision = next(d for d in plan.decisions if (d.producer, d.consumer) == ("inner", "join"))
    assert plan.within["inner"][0] == "join" and "inner" not in {k.anchor.name for k in plan.kernels}
    assert decision.fused and decision.text.startswith("placement")


def test_a_concatenation_that_copies_says_why():
    plan = tricnn.compile(block("input"), "infer", 1, "fp32", "numpy").plan
    reasons = [d.text for d in plan.decisions if d.consumer == "join" and not d.fused]
    assert reasons and all("placement: no kernel stores x (input)" in reason for reason in reasons)
