"""The gradient of a layer scale, y = s * conv(x), of which neither the convolution's result nor its product with dy is
stored: users of ConvNeXt would lose a tenth of a step's bytes, or, were it wrong, their training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn
from tricnn.check.verify import verify
from tricnn.compiler.pipeline import planned
from tricnn.ir import Graph, GraphBuilder
from tricnn.run.triton_executor import interpreting


def scaled(init: str = "constant(0.5)") -> Graph:
    """Layers of each kind with a scale behind: grouped with a bias, 1x1 without one, depthwise, dense."""
    b = GraphBuilder("scaled")
    x = b.tanh(b.conv2d(b.input("x", (3, 7, 6)), 8, 3, padding=1, name="c0"))
    for i, kind in enumerate(({"groups": 2, "stride": 2, "padding": 1}, {"bias": False}, {"groups": 8, "padding": 1})):
        size = 1 if kind == {"bias": False} else 3
        x = b.tanh(b.layer_scale(b.conv2d(x, 8, size, name=f"c{i + 1}", **kind), name=f"s{i + 1}", init=init))
    x = b.linear(b.tanh(b.linear(b.global_avg_pool(x), 12, name="l1")), 5, name="l2")
    return b.build(b.add("mul", x, b.parameter("s4", (5,), init)))


def by_pytorch(state: dict[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of the same network in PyTorch's words."""
    x = torch.tanh(F.conv2d(x, state["c0.weight"], state["c0.bias"], padding=1))
    x = torch.tanh(state["s1"] * F.conv2d(x, state["c1.weight"], state["c1.bias"], stride=2, padding=1, groups=2))
    x = torch.tanh(state["s2"] * F.conv2d(x, state["c2.weight"]))
    x = torch.tanh(state["s3"] * F.conv2d(x, state["c3.weight"], state["c3.bias"], padding=1, groups=8))
    x = torch.tanh(F.linear(x.mean((2, 3)), state["l1.weight"], state["l1.bias"]))
    return F.cross_entropy(state["s4"] * F.linear(x, state["l2.weight"], state["l2.bias"]), labels)


def drawn(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {node.name: rng.normal(size=node.attrs["shape"]) for node in graph.parameters}


@pytest.mark.parametrize("executor", ["numpy", "eager"])
@pytest.mark.parametrize("fuse", ["all", "auto", "none"])
def test_gradients_are_those_of_autograd(executor: str, fuse: str) -> None:
    graph = scaled()
    state, x, labels = drawn(graph), np.random.default_rng(4).normal(size=(3, 3, 7, 6)), np.array([0, 4, 2])
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in state.items()}
    by_pytorch(tensors, torch.tensor(x), torch.tensor(labels)).backward()
    model = tricnn.compile(graph, "train", 3, "fp64", executor, fuse=fuse)
    model.load_state_dict(state)
    _, gradients = model.loss_and_grads(x, labels)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(gradients[name], tensor.grad.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_nothing_as_large_as_the_image_is_kept_for_a_scale() -> None:
    plan = planned(scaled(), "train", "all")
    stored = {value for kernel in plan.kernels for value in kernel.writes}
    assert stored.isdisjoint({"c1", "c2", "c3", "l2"})  # the products' own results
    large = {n.name for n in plan.graph.nodes if n.row.product_of_two and plan.type(n.name).spatial != (1, 1)}
    assert stored.isdisjoint(large)
    assert not any(kernel.anchor.row.side_sum == "loaded" for kernel in plan.kernels)  # no pass for a sum


def test_a_layer_whose_result_is_kept_anyway_is_left_alone() -> None:
    b = GraphBuilder("twice")
    y = b.conv2d(b.input("x", (3, 4, 4)), 4, 3, padding=1, name="c")
    y = b.add_(b.layer_scale(y, name="s", init="constant(1)"), b.tanh(y))
    graph = b.build(b.linear(b.global_avg_pool(y), 3, name="fc"))
    assert not any(n.row.of_filters for n in planned(graph, "train", "all").graph.nodes)
    assert not any(n.row.of_filters for n in planned(scaled(), "train", "all", frozen=("c*", "l*")).graph.nodes)


@pytest.mark.skipif(not interpreting(), reason="Triton's interpreter runs the kernels")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_kernels_are_right(dtype: str) -> None:
    checks = verify(scaled(), batch=3, dtype=dtype, fuse="all", target="sm_90" if dtype == "bf16" else None)
    assert "s1.mul.channel_sum" in {check.value for check in checks}
    assert [check for check in checks if not check.ok] == []


@pytest.mark.skipif(not interpreting(), reason="Triton's interpreter runs the kernels")
def test_a_scale_that_fp16_can_hardly_hold_gives_no_gradient_less() -> None:
    """1e-6 * dy is 0 in fp16, so a scale folded into dy, or into the weight, would give a gradient of 0."""
    b = GraphBuilder("small")
    y = b.conv2d(b.input("x", (4, 5, 5)), 6, 3, padding=1, name="c")
    graph = b.build(b.flatten(b.global_avg_pool(b.layer_scale(y, name="s", init="constant(1e-6)"))))
    state, x, labels = drawn(graph), np.random.default_rng(4).normal(size=(3, 4, 5, 5)), np.array([0, 4, 2])
    state["s"] = np.full((6, 1, 1), 1e-6)
    found = {}
    for executor, dtype in (("numpy", "fp64"), ("triton", "fp16")):
        model = tricnn.compile(graph, "train", 3, dtype, executor, fuse="all")
        model.load_state_dict({k: v.astype(np.float64 if dtype == "fp64" else np.float32) for k, v in state.items()})
        found[dtype] = model.loss_and_grads(x, labels)[1]
    for name in ("c.weight", "s"):
        right = found["fp64"][name]
        np.testing.assert_allclose(found["fp16"][name], right, rtol=0.02, atol=np.abs(right).max() / 100)
