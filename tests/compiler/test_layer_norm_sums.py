"""The gradients of layer norm's weight and bias, taken along by the kernel of its third gradient: users of ConvNeXt
would lose a fortieth of a step's bytes, or, were they wrong, their training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn
from tricnn.check.verify import verify
from tricnn.compiler.pipeline import planned
from tricnn.ir import Graph, GraphBuilder
from tricnn.run.triton_executor import interpreting


def normed() -> Graph:
    """A layer norm before a product, one behind a join, and one whose image is itself no parameter's: the network's."""
    b = GraphBuilder("normed")
    x = b.conv2d(b.layer_norm(b.input("x", (12, 5, 3)), name="n0", eps=1e-3), 20, 3, padding=1, name="c0")
    y = b.pixel_linear(b.layer_norm(x, name="n1", eps=1e-3), 20, name="f")
    y = b.layer_norm(b.add_(b.tanh(y), x, name="join"), name="n2", eps=1e-3)
    return b.build(b.linear(b.global_avg_pool(y), 4, name="fc"))


def by_pytorch(state: dict[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of the same network in PyTorch's words."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        rows, weight, bias = x.movedim(1, -1), state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(rows, rows.shape[-1:], weight, bias, 1e-3).movedim(-1, 1)

    x = F.conv2d(norm(x, "n0"), state["c0.weight"], state["c0.bias"], padding=1)
    y = F.linear(norm(x, "n1").movedim(1, -1), state["f.weight"], state["f.bias"]).movedim(-1, 1)
    y = norm(torch.tanh(y) + x, "n2").mean((2, 3))
    return F.cross_entropy(F.linear(y, state["fc.weight"], state["fc.bias"]), labels)


@pytest.mark.parametrize("executor, dtype, fuse", [
    ("numpy", "fp64", "all"), ("numpy", "fp64", "none"), ("eager", "fp64", "all"), ("triton", "fp32", "all"),
])  # fmt: skip
def test_gradients_are_those_of_autograd(executor: str, dtype: str, fuse: str) -> None:
    """Planned for nine images, of which four come: in Triton two of three programs have no block."""
    graph, rng = normed(), np.random.default_rng(5)
    state = {node.name: rng.normal(size=node.attrs["shape"]) for node in graph.parameters}
    x, labels = rng.normal(size=(4, 12, 5, 3)), np.array([0, 3, 2, 2])
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in state.items()}
    by_pytorch(tensors, torch.tensor(x), torch.tensor(labels)).backward()
    model = tricnn.compile(graph, "train", 9, dtype, executor, fuse=fuse)
    model.load_state_dict(state)
    _, gradients = model.loss_and_grads(x, labels)
    near = {"rtol": 1e-9, "atol": 1e-12} if dtype == "fp64" else {"rtol": 1e-3, "atol": 1e-5}
    for name, tensor in tensors.items():
        np.testing.assert_allclose(gradients[name], tensor.grad.numpy(), **near, err_msg=name)


def test_no_product_loads_an_image_for_the_sums_alone() -> None:
    """They are in the kernel of the gradient by x; where nobody wants that, in the kernel that stores dy."""
    kernels = {n.inputs[1]: k.anchor for k in planned(normed(), "train", "all").kernels
               for n in k.nodes if n.op == "layer_normalize_grad_sums"}  # fmt: skip
    assert {x: anchor.op for x, anchor in kernels.items()} == {
        "x": "conv2d_grad_input", "c0": "layer_normalize_grad_input", "join": "layer_normalize_grad_input",
    }  # fmt: skip


@pytest.mark.skipif(not interpreting(), reason="Triton's interpreter runs the kernels")
def test_kernels_are_right_where_programs_have_several_blocks() -> None:
    """300 pixels are five blocks of 64, for the four programs that the interpreter is given."""
    checks = verify(normed(), batch=20, dtype="bf16", fuse="all")
    assert {"n1.layer_normalize_grad_sums", "n2.layer_normalize_grad_sums"} <= {check.value for check in checks}
    assert [check for check in checks if not check.ok] == []
