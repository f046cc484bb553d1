"""Every gradient in the table, against finite differences and against PyTorch's autograd.

A wrong gradient still trains, only worse, and nothing else says so. The samples keep away from kinks and ties, where
a derivative does not exist.
"""

import numpy as np
import pytest
import torch

from tests.ir.samples import BATCH, ENV, SAMPLES, Sample
from tricnn.compiler.differentiate import differentiate
from tricnn.ir import OPS, Graph, GraphBuilder, Kind, N, Output
from tricnn.run.interpreter import interpret
from tricnn.system.errors import GraphError

CLASSES = 4
#: normalisations, whose gradients include those of the statistics that they are given: what computes these, of which
#: operand, and which operand they are
STATISTICS = {
    "normalize": ("batch_stats", "x0", "x1"), "layer_normalize": ("pixel_stats", "x0", "x1"),
    "normalize_grad_sums": ("batch_stats", "x1", "x2"), "normalize_grad_input": ("batch_stats", "x1", "x2"),
    "layer_normalize_grad_sums": ("pixel_stats", "x1", "x2"),
    "layer_normalize_grad_input": ("pixel_stats", "x1", "x2"),
}  # fmt: skip
DIFFERENTIABLE = [s for s in SAMPLES if callable(OPS[s.op].gradient)]


def depends_on(graph: Graph, name: str) -> bool:
    """Says a gradient rule that there is something to derive? Where it does not, a measured slope must be 0."""
    try:
        return bool(differentiate(graph, wrt=[name]).gradients)
    except GraphError as error:
        assert "does not depend on it" in str(error)
        return False


def with_loss(sample: Sample) -> tuple[Graph, list[str]]:
    """The sample under a dense layer and cross entropy, a loss that is curved in everything; and what to derive by."""
    b = GraphBuilder("sample", sample.graph())
    y = "y"
    if sample.op in STATISTICS:
        of, x, stats = STATISTICS[sample.op]
        b = GraphBuilder("sample")
        for node in sample.graph().nodes:
            if node.name == stats:
                b.add(of, x, name=stats)
            else:
                b.add(node.op, *node.inputs, name=node.name, **node.attrs)
    if b.type(y).is_weight or (b.type(y).dtype == "float32" and len(b.type(y).shape) == 2):
        # a weight has no pixels to put a loss on: those of what it makes of an image
        probe = b.add("input", name="probe", shape=(N, *b.type(y).per_image[1:]))
        y = b.add("conv2d" if b.type(y).is_weight else "linear", probe, y, name="probed")
    elif not b.type(y).batched and len(b.type(y).shape) == 1:
        y = b.add("mul", b.add("input", name="probe", shape=(N, *b.type(y).per_image)), y, name="probed")
    if b.type(y).shape:
        if len(b.type(y).shape) == 4:
            y = b.add("flatten", y, name="flat")
        weight = b.parameter("head.weight", (CLASSES, b.type(y).channels), "constant(0)")
        labels = b.add("input", name="labels", shape=(N,), dtype="int64")
        y = b.add("cross_entropy", b.add("linear", y, weight, name="head"), labels, name="loss", label_smoothing=0.2)
    graph = Graph("sample", tuple(b.nodes), (Output("loss", y),))
    return graph, [name for name in sample.wrt() if depends_on(graph, name)]


def drawn(graph: Graph, sample: Sample) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    values = {f"x{i}": operand.draw(rng) for i, operand in enumerate(sample.operands)}
    if "probe" in graph.types:
        values["probe"] = rng.normal(size=graph.types["probe"].at(BATCH))
    if "head" in graph.types:
        values["head.weight"] = rng.normal(size=graph.types["head.weight"].shape)
        values["labels"] = rng.integers(0, CLASSES, BATCH)
    return {name: value for name, value in values.items() if graph.by_name[name].kind is Kind.SOURCE}


def loss_of(graph: Graph, values: dict[str, np.ndarray]) -> float:
    return float(interpret(graph, values, seed=ENV.seed, step=ENV.step)["loss"])


def test_every_row_has_a_gradient_or_a_sample_that_shows_it():
    assert {s.op for s in DIFFERENTIABLE} == {name for name, row in OPS.items() if callable(row.gradient)}


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_gradient_equals_central_differences_and_autograd(sample):
    graph, wrt = with_loss(sample)
    values = drawn(graph, sample)
    gradients = interpret(differentiate(graph, wrt=wrt), values, seed=ENV.seed, step=ENV.step)
    equals_central_differences(sample, graph, wrt, values, gradients)
    if uses_pytorch_throughout(sample):
        equals_autograd(graph, wrt, values, gradients)


def equals_central_differences(sample, graph, wrt, values, gradients):
    """``(L(x + hv) - L(x - hv)) / 2h = <dL/dx, v>`` up to h^2 and eps / h, both 1e-11 or so for h = 1e-5."""
    rng = np.random.default_rng(2)
    for name in sample.wrt():
        step = 1e-5
        direction = rng.choice([-1.0, 1.0], values[name].shape) / np.sqrt(values[name].size)
        ahead = loss_of(graph, {**values, name: values[name] + step * direction})
        behind = loss_of(graph, {**values, name: values[name] - step * direction})
        measured = (ahead - behind) / (2 * step)
        found = float((gradients[f"grad:{name}"] * direction).sum()) if name in wrt else 0.0
        assert found == pytest.approx(measured, rel=1e-6, abs=1e-9), name


def uses_pytorch_throughout(sample: Sample) -> bool:
    """PyTorch has no average pooling with uneven padding; that cell borrows NumPy's."""
    top, bottom, left, right = sample.attrs.get("padding", (0, 0, 0, 0))
    return sample.op != "avg_pool2d" or (top == bottom and left == right)


def equals_autograd(graph, wrt, values, gradients):
    tensors = {name: torch.from_numpy(value.copy()) for name, value in values.items()}
    for name in wrt:
        tensors[name].requires_grad_(True)
    for node in graph.nodes:
        if node.name not in tensors:
            operands = [tensors[v] for v in node.inputs]
            if node.op == "normalize":  # PyTorch's batch norm treats statistics it is given as constants
                x, _, weight, bias = operands
                y = torch.nn.functional.batch_norm(x, None, None, weight, bias, True, eps=node.attrs["eps"])
            else:
                y = OPS[node.op].aten(ENV, node.attrs, *operands)
            tensors[node.name] = y
    # of detach nothing is wanted: tests/frontends/test_module.py has it amid layers
    expected = torch.autograd.grad(tensors[graph.outputs[0].value], [tensors[name] for name in wrt]) if wrt else ()
    for name, gradient in zip(wrt, expected):
        np.testing.assert_allclose(gradients[f"grad:{name}"], gradient.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


def test_relu_has_no_gradient_at_its_kink_as_in_pytorch():
    for op in ("relu", "max_pool2d"):
        x = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
        y = torch.relu(x) if op == "relu" else torch.nn.functional.max_pool2d(x, 2)
        y.sum().backward()
        if op == "relu":
            dx = OPS["relu_grad"].numpy(ENV, {}, np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)))
        else:
            a = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0), "ceil_mode": False}
            index = OPS["max_pool2d_index"].numpy(ENV, a, x.detach().numpy())
            dx = OPS["max_pool2d_grad"].numpy(ENV, {**a, "input_size": (2, 2)}, np.ones((1, 1, 1, 1)), index)
        np.testing.assert_array_equal(dx, x.grad.numpy())
