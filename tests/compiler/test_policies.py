"""Policies of fusion: every one computes the same step, and more rules never move more bytes."""

import numpy as np
import pytest

import tricnn
from tests.compiler.nets import NETS
from tricnn.compiler.pipeline import planned
from tricnn.compiler.policies import POLICIES, RULES, policy_named, rules_of
from tricnn.graphs import ARCHITECTURES, resnet18
from tricnn.ir import GraphBuilder, TargetError
from tricnn.lower.from_graph import lowered
from tricnn.lower.predicted_time import predicted_seconds

#: none, one rule, some, all
LADDER = ("none", "epilogue", "epilogue,side_sums,siblings", "all")


def step(net, fuse):
    rng = np.random.default_rng(5)
    model = tricnn.compile(net, "train", 4, "fp64", "numpy", fuse=fuse, seed=1)
    images = rng.standard_normal(net.types[net.inputs[0].name].at(4))
    loss, grads = model.loss_and_grads(images, rng.integers(0, 5, 4))
    return {"loss": np.float64(loss), **grads, **model.state_dict()}


@pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)
def test_every_policy_computes_the_same_step(net):
    """Loss, gradients and running statistics; parameters are as they were."""
    expected = step(net, "none")
    for policy in ("auto", *LADDER[1:], "prologue", "placement,prologue", "side_sums,at_hand"):
        for name, value in step(net, policy).items():
            scale = max(1.0, float(np.abs(expected[name]).max()))
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-10 * scale, err_msg=f"{policy} {name}")


@pytest.mark.parametrize("net", [*NETS, resnet18()], ids=lambda g: g.name)
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_more_rules_move_no_more_bytes_and_launch_no_more_kernels(net, mode):
    programs = [lowered(net, mode, 256, "bf16", "sm_90", fuse=policy) for policy in LADDER]
    volumes, launches = [p.dram_bytes() for p in programs], [len(p.launches) for p in programs]
    assert volumes == sorted(volumes, reverse=True) and volumes[0] > 1.2 * volumes[-1]
    assert launches == sorted(launches, reverse=True) and launches[0] > launches[-1]


QUICK = [("lenet", 1), ("cifar_resnet20", 1), ("lenet", 256), ("vgg11_bn", 256), ("resnet18", 256)]


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        pytest.param(name, batch, marks=[pytest.mark.slow] * ((name, batch) not in QUICK))
        for name in ("lenet", "resnet18", "vgg11_bn", "cifar_resnet20")
        for batch in (1, 8, 64, 256)
    ],
)
def test_no_named_policy_is_predicted_to_be_faster_than_the_choice_per_site(name, batch):
    """By the whole program's own bytes and grids, not by the sketches that the choice is made from."""
    for mode, dtype, target in (("train", "bf16", "sm_90"), ("infer", "fp16", "sm_80")):
        predicted = {}
        for policy in ("auto", "all", "epilogue", "none"):
            program = lowered(ARCHITECTURES[name](), mode, batch, dtype, target, fuse=policy)
            predicted[policy] = sum(predicted_seconds(program))
        assert predicted["auto"] <= min(predicted.values())


def test_the_choice_depends_on_the_batch():
    """Most is fused where launches are what takes time; less where recomputing is, be it of many images."""
    kernels = {batch: len(lowered(resnet18(), "train", batch, "bf16", "sm_90", fuse="auto").plan.kernels)
               for batch in (1, 8, 64)}  # fmt: skip
    fewest = len(lowered(resnet18(), "train", 1, "bf16", "sm_90", fuse="all").plan.kernels)
    assert fewest < kernels[1] < min(kernels[8], kernels[64]) and kernels[8] != kernels[64]


def test_names():
    assert (policy_named(True), policy_named(False)) == ("auto", "none")
    assert [policy_named(p) for p in POLICIES] == list(POLICIES)
    assert policy_named("side_sums, epilogue") == "epilogue,side_sums"
    assert rules_of("none") < rules_of("epilogue") < rules_of("all") == rules_of("auto") == set(RULES)


@pytest.mark.parametrize("fuse", ["most", "", "epilogue,", "all,none", None, 1, ["all"]])
def test_a_policy_that_is_none(fuse):
    with pytest.raises(TargetError, match=r"accepted: auto, all, none, or rules .* epilogue, pooling, prologue"):
        tricnn.compile(NETS[0], fuse=fuse)


def test_a_pooling_whose_positions_are_found_by_another_kernel_leaves_every_pixel_stored():
    """7 pixels, windows of 2: pooled in the convolution's tile, the last row and column would never be written."""
    b = GraphBuilder("net")
    x = b.max_pool2d(b.conv2d(b.input("x", (3, 7, 7)), 4, 3, padding=1, name="conv"), 2, name="pool")
    graph = b.build(b.linear(b.global_avg_pool(x), 5))
    for policy, fused in (("pooling,siblings", True), ("pooling", False)):
        decision = next(
            d for d in planned(graph, "train", policy).decisions if (d.producer, d.consumer) == ("conv", "pool")
        )  # fmt: skip
        assert decision.fused == fused and ("no window covers" in decision.text) != fused


@pytest.mark.parametrize("channels, apart", [(64, True), (512, False)])
def test_siblings_of_which_some_have_an_activation_are_merged_where_that_moves_less(channels, apart):
    """A bottleneck with a projected shortcut, as ResNet-50's first, in inference. Merged, relu of 64 of its channels is
    a pass of its own, for a 3x3 convolution forms nothing; apart, the image is read twice: 2 * 64 against ``channels``
    numbers for each pixel. ``all`` merges in any case: one launch less."""
    b = GraphBuilder("projected")
    x = b.input("x", (channels, 56, 56))
    y = b.conv2d(b.relu(b.conv2d(x, 64, 1, name="first")), 64, 3, padding=1, name="second")
    y = b.add_(b.conv2d(y, 256, 1, name="third"), b.conv2d(x, 256, 1, name="shortcut"))
    graph = b.build(b.linear(b.global_avg_pool(b.relu(y)), 10, name="fc"))
    auto, all_rules = (lowered(graph, "infer", 256, "bf16", "sm_90", fuse=policy) for policy in ("auto", "all"))
    kinds = [launch.kind for launch in auto.launches]
    assert kinds.count("conv2d") == (4 if apart else 3) and kinds.count("pointwise") == (0 if apart else 1)
    assert len(auto.launches) == len(all_rules.launches) + 1
    assert sum(predicted_seconds(auto)) < sum(predicted_seconds(all_rules))
