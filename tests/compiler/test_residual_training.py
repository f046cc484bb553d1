"""Training fusion around a residual join: who stores the join, what is recomputed, how strided gradients stay small."""

import numpy as np
import pytest

import tricnn
from tricnn.check.verify import verify, verify_model
from tricnn.compiler.pipeline import planned
from tricnn.ir import Graph, GraphBuilder


def bottleneck(b: GraphBuilder, x: str, filters: int, stride: int, name: str) -> str:
    """ResNet v1.5: 1x1, 3x3 with the stride, 1x1; the shortcut projected where the shape changes."""

    def conv_bn(x: str, filters: int, size: int, conv: str, stride: int = 1) -> str:
        y = b.conv2d(x, filters, size, stride=stride, padding=size // 2, bias=False, name=conv)
        return b.batch_norm(y, name=f"{conv}_bn")

    with b.scope(name):
        y = b.relu(conv_bn(x, filters, 1, "conv1"))
        y = b.relu(conv_bn(y, filters, 3, "conv2", stride))
        y = conv_bn(y, 4 * filters, 1, "conv3")
        shortcut = x if b.type(x) == b.type(y) else conv_bn(x, 4 * filters, 1, "shortcut", stride)
        return b.relu(b.add_(y, shortcut), name="join")


def network() -> Graph:
    b = GraphBuilder("bottlenecks")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 9, 9)), 8, 3, padding=1, bias=False, name="stem")))
    for number, stride in enumerate((1, 1, 2, 1)):
        x = bottleneck(b, x, 4 if number < 2 else 8, stride, f"block{number}")
    return b.build(b.linear(b.flatten(b.global_avg_pool(x)), 5, name="fc"))


def step(executor: str, dtype: str, fuse: str = "all"):
    model = tricnn.compile(network(), "train", 3, dtype, executor, fuse=fuse, seed=2)
    x = np.random.default_rng(1).standard_normal((3, 3, 9, 9)).astype(np.float32)
    loss, grads = model.loss_and_grads(x, np.array([4, 0, 2]))
    return model, loss, grads


def test_fused_equals_unfused_in_float64():
    fused, loss, grads = step("numpy", "fp64")
    plain, expected, wanted = step("numpy", "fp64", fuse="none")
    assert loss == pytest.approx(expected, rel=1e-12)
    for parameter, gradient in wanted.items():
        np.testing.assert_allclose(grads[parameter], gradient, rtol=0, atol=1e-11, err_msg=parameter)
    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(fused.state_dict()[name], value, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("dtype", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_every_kernel_is_within_its_tolerance(dtype):
    model = tricnn.compile(network(), "train", 3, dtype, "triton", fuse="all", seed=2)
    assert [check for check in verify_model(model, 3) if not check.ok] == []


def kernel_of(plan, value: str, op: str):
    return next(k for k in plan.kernels if k.anchor.op == op and value in k.writes)


def test_the_next_convolution_computes_and_stores_the_join():
    """(f(z), conv2d(f(z))) = conv2d[prologue f, stored](z): no pass of its own, and nobody loads the join again to
    convolve it."""
    plan = step("numpy", "fp32")[0].plan
    for number in range(3):
        kernel = kernel_of(plan, f"block{number}.join", "conv2d")
        assert kernel.anchor.name == f"block{number + 1}.conv1"
        assert {f"block{number}.conv3", f"block{number}.join"} & set(kernel.reads) == {f"block{number}.conv3"}
    passes = {k.anchor.name for k in plan.kernels if k.kind == "pointwise"}
    assert not passes & {f"block{number}.join" for number in range(4)}


def test_the_mask_of_a_projected_join_is_recomputed():
    """Both batch norms' gradient sums load the two convolutions that were joined; the sign of their sum needs no more.
    Where the shortcut is the identity, it is not at hand, and the join is loaded."""
    plan = step("numpy", "fp32")[0].plan
    for number, projected in enumerate((True, False, True)):
        join = f"block{number}.join"
        kernel = next(k for k in plan.kernels if f"{join}.relu_grad" in k.writes)
        assert (join in kernel.reads) != projected
        assert kernel.anchor.op == "conv2d_grad_input"


def test_the_gradient_of_a_strided_projection_is_stored_small():
    plan = step("numpy", "fp32")[0].plan
    small = next(v for k in plan.kernels for v in k.writes if v.startswith("block2.shortcut.grad_input"))
    assert plan.type(small).spatial == (5, 5)
    assert not any("block2.shortcut.grad_input" in k.writes for k in plan.kernels), "spread out as it is loaded"


def stem() -> Graph:
    b = GraphBuilder("stem")
    x = b.conv2d(b.input("x", (3, 11, 11)), 8, 3, padding=1, bias=False, name="conv")
    x = b.max_pool2d(b.relu(b.batch_norm(x, name="bn"), name="act"), 3, 2, padding=1, name="pool")
    return b.build(b.linear(b.flatten(b.conv2d(x, 4, 3, name="next")), 5, name="fc"))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_batch_norms_gradient_sums_leave_with_the_gradient_of_a_pooling(dtype):
    """(max_pool2d_grad(dy), normalize_grad_sums(max_pool2d_grad(dy), z)) in one pass, where windows overlap."""
    model = tricnn.compile(stem(), "train", 3, dtype, "triton", fuse="all", seed=2)
    kernel = kernel_of(model.plan, "bn.grad_sums", "max_pool2d_grad")
    assert "conv" in kernel.reads
    assert [check for check in verify_model(model, 3) if not check.ok] == []


def test_a_bias_in_front_of_batch_norm_does_not_make_its_gradient_pass_through_memory():
    """channel_sum shares wgrad's load, so dz is read by two kernels, which form it as they load."""
    b = GraphBuilder("biased")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 8, 8)), 8, 3, name="first")))
    x = b.relu(b.batch_norm(b.conv2d(x, 8, 3, name="second")))
    plan = tricnn.compile(b.build(b.linear(b.flatten(b.global_avg_pool(x)), 5)), "train", 2, executor="numpy").plan
    assert not [v for k in plan.kernels for v in k.writes if plan.graph.by_name[v].op == "normalize_grad_input"]


def test_statistics_survive_a_large_mean():
    """Mean 1000, deviation 1, in fp32, which holds x^2 = 10^6 only in steps of 1/16: E[x^2] - E[x]^2 would not do."""
    b = GraphBuilder("large")
    x = b.batch_norm(b.conv2d(b.input("x", (4, 9, 9)), 4, 1, bias=False, name="conv"), name="bn")
    model = tricnn.compile(b.build(b.linear(b.flatten(x), 3, name="fc")), "train", 5, "fp32", "triton")
    assert any(n.op == "batch_stats" for n in kernel_of(model.plan, "conv", "conv2d").nodes), "a side sum"
    state = model.state_dict()
    state["conv.weight"] = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    model.load_state_dict(state)
    images = (1000 + np.random.default_rng(0).standard_normal((5, 4, 9, 9))).astype(np.float32)
    model.loss_and_grads(images, np.arange(5) % 3)
    z, after = images.astype(np.float64), model.state_dict()
    np.testing.assert_allclose(after["bn.running_mean"], 0.1 * z.mean((0, 2, 3)), rtol=1e-6)
    variance = (after["bn.running_var"] - 0.9 * 1.0) / 0.1
    np.testing.assert_allclose(variance, z.var((0, 2, 3), ddof=1), rtol=1e-3)


def three_branches() -> Graph:
    """Three normalised branches that are added up, as HRNet's resolutions are (Wang et al., 2020)."""
    b = GraphBuilder("three")
    x = b.relu(b.conv2d(b.input("x", (8, 4, 4)), 64, 1, name="stem"))
    parts = [b.batch_norm(b.conv2d(x, 64, 1, bias=False, name=f"conv{i}"), name=f"bn{i}") for i in range(3)]
    x = b.relu(b.add_(b.add_(parts[0], parts[1]), parts[2]))
    x = b.relu(b.batch_norm(b.conv2d(x, 64, 1, bias=False, name="last"), name="bn"))
    return b.build(b.linear(b.global_avg_pool(x), 8, name="fc"))


def test_a_kernel_leaves_sums_for_two_batch_norms_at_most_and_the_third_has_its_own() -> None:
    """On a target whose programs keep sums in registers, of which there are enough for those of two."""
    plan = planned(three_branches(), "train", "all")
    assert max(sum(n.row.side_sum == "stored" for n in kernel.nodes) for kernel in plan.kernels) == 2
    checks = verify(three_branches(), mode="train", batch=2, dtype="bf16", target="sm_90")
    assert checks and [c for c in checks if not c.ok] == []
