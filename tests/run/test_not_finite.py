"""What is not finite goes through every layer as it does in PyTorch, forward and backward, on every executor.

A network that diverges must show it, at the same places, wherever it runs: a mask that swallows a NaN in one executor
and not in another sends people looking in the wrong layer.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn
from tests.ir.samples import ENV
from tests.kernels.helpers import DEVICE
from tests.kernels.test_loss import loss_kernel
from tricnn.ir import OPS
from tricnn.ir.numpy_ops.random import keep_mask
from tricnn.kernels.numerics import INTERPRETED
from tricnn.run.quick_interpreter import quick_interpreter

NAN, INF = float("nan"), float("inf")

LAYERS = {
    "relu": (lambda b, x: b.relu(x), F.relu),
    "add": (lambda b, x: b.relu(b.add("add", x, b.tanh(x))), lambda x: F.relu(x + torch.tanh(x))),
    "max_pool": (lambda b, x: b.relu(b.max_pool2d(x, 2)), lambda x: F.relu(F.max_pool2d(x, 2))),
    "overlapping max_pool": (lambda b, x: b.max_pool2d(x, 3, 2, padding=1), lambda x: F.max_pool2d(x, 3, 2, 1)),
    "avg_pool": (lambda b, x: b.relu(b.avg_pool2d(x, 2)), lambda x: F.relu(F.avg_pool2d(x, 2))),
    "batch_norm": (
        lambda b, x: b.relu(b.batch_norm(x, name="bn")),
        lambda x: F.relu(F.batch_norm(x, None, None, training=True)),
    ),
}


def network(layer):
    """A convolution, the layer, a convolution and a dense layer."""
    b = tricnn.GraphBuilder("net")
    x = b.conv2d(b.input("x", (3, 6, 6)), 4, 3, padding=1, name="conv1")
    x = b.relu(b.conv2d(LAYERS[layer][0](b, x), 3, 3, padding=1, name="conv2"))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def by_pytorch(layer, state, x, labels):
    """The loss and every gradient, by autograd."""
    p = {k: torch.tensor(v, requires_grad=v.ndim > 0 and "running" not in k) for k, v in state.items()}
    h = F.conv2d(torch.tensor(x), p["conv1.weight"], p["conv1.bias"], padding=1)
    h = F.relu(F.conv2d(LAYERS[layer][1](h), p["conv2.weight"], p["conv2.bias"], padding=1))
    loss = F.cross_entropy(F.linear(h.mean((2, 3)), p["fc.weight"], p["fc.bias"]), torch.tensor(labels))
    loss.backward()
    return loss.item(), {k: v.grad.numpy() for k, v in p.items() if v.grad is not None}


CASES = [(layer, executor, "all") for layer in LAYERS for executor in ("numpy", "eager", "triton")]
CASES += [(layer, "triton", False) for layer in ("relu", "max_pool")]


@pytest.mark.parametrize("layer, executor, fuse", CASES)
def test_a_nan_in_a_bias_reaches_the_gradients_that_it_reaches_in_pytorch(layer, executor, fuse):
    graph, rng = network(layer), np.random.default_rng(1)
    x, labels = rng.standard_normal((2, 3, 6, 6)).astype(np.float32), np.array([0, 2])
    model = tricnn.compile(graph, mode="train", batch=2, executor=executor, fuse=fuse)
    state = {k: np.array(v) for k, v in model.state_dict().items()}
    state["conv1.bias"][:] = NAN, 0.5, -50, 0.5  # of which the third channel is 0 after relu everywhere
    model.load_state_dict(state)
    with np.errstate(invalid="ignore"):
        loss, gradients = model.loss_and_grads(x, labels)
    expected_loss, expected = by_pytorch(layer, state, x, labels)
    assert np.isnan(float(loss)) and np.isnan(expected_loss)
    for name, gradient in expected.items():
        if name.startswith("bn"):
            continue
        where = np.isnan(np.asarray(gradients[name]))
        np.testing.assert_array_equal(where, np.isnan(gradient), err_msg=name)
        np.testing.assert_array_equal(np.asarray(gradients[name])[~where], gradient[~where], err_msg=name)


SPECIAL = np.array([[NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 3e38, -3e38]], np.float32)
POINTWISE = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


@pytest.mark.parametrize("name", POINTWISE)
def test_an_activation_and_its_gradient_of_what_is_not_finite(name):
    """Every special value with every gradient: not a product with a mask, which would turn infinity into NaN."""
    x, dy = (torch.tensor(v.ravel()) for v in np.meshgrid(SPECIAL, SPECIAL))
    x.requires_grad_()
    y = POINTWISE[name](x)
    y.backward(dy)
    values, gradients = x.detach().numpy()[None], dy.numpy()[None]
    with np.errstate(all="ignore"):
        for cell, array in (("numpy", np.asarray), ("aten", torch.tensor)):
            forward = getattr(OPS[name], cell)(ENV, {}, array(values))
            backward = getattr(OPS[f"{name}_grad"], cell)(ENV, {}, array(gradients), forward)
            np.testing.assert_allclose(np.asarray(forward)[0], y.detach().numpy(), rtol=1e-6)
            np.testing.assert_allclose(np.asarray(backward)[0], x.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("executor", ["numpy", "eager", "triton"])
def test_dropout_is_a_product_with_its_mask(executor):
    """As in PyTorch: a NaN stays one where it is not kept. A layer that drops half of them hides none."""
    b = tricnn.GraphBuilder("net")
    h = b.dropout(b.linear(b.input("x", (4,)), 16, name="fc1"), 0.5)
    graph = b.build(b.linear(h, 3, name="fc2"))
    model = tricnn.compile(graph, mode="train", batch=2, executor=executor, seed=7)
    state = {k: np.array(v) for k, v in model.state_dict().items()}
    state["fc1.bias"][::2] = NAN
    model.load_state_dict(state)
    _, gradients = model.loss_and_grads(np.ones((2, 4), np.float32), np.array([0, 1]))
    layer = next(n.attrs["layer"] for n in model.plan.graph.nodes if n.op == "dropout")
    kept = keep_mask((2, 16), p=0.5, seed=7, layer=layer, step=0)
    assert (~kept[:, ::2]).any() and np.isnan(np.asarray(gradients["fc2.weight"])).all()
    assert np.isnan(np.asarray(gradients["fc1.bias"])).all()  # their dy is NaN, kept or not


LOGITS = [(3e38, -3e38), (INF, 0), (-INF, 0), (NAN, 0), (1e30, 0), (0, -INF)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("logits", LOGITS, ids=str)
def test_cross_entropy_of_logits_beyond_exp(logits, smoothing):
    """-sum of t*log(p) in exact arithmetic, rounded: infinite where a probability with a target is 0 or the difference
    of the logits is beyond the format, and a target of 0 adds nothing. NaN only for logits without a softmax."""
    for label in (0, 1):
        target = np.full(2, smoothing / 2) + (np.arange(2) == label) * (1 - smoothing)
        with np.errstate(all="ignore"):
            wide = np.array(logits, np.float64)
            log_p = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
            expected = -np.sum(np.where(target > 0, target * log_p, 0)).astype(np.float32)
            if abs(logits[0]) > 1e38 and np.isfinite(expected) and expected > 0:
                expected = np.float32(INF)  # the logits' difference alone is
            a = {"label_smoothing": smoothing, "weight": 1.0}
            x, y = np.array([logits], np.float32), np.array([label])
            by_numpy = OPS["cross_entropy"].numpy(ENV, a, x, y)
            by_aten = OPS["cross_entropy"].aten(ENV, a, torch.tensor(x), torch.tensor(y))
            device = {"device": DEVICE}
            by_triton, gradient = torch.empty(1, **device), torch.empty(1, 2, **device)
            with quick_interpreter() if INTERPRETED else nullcontext():
                loss_kernel[1,](
                    torch.tensor(x, **device), torch.tensor(y, **device), by_triton, None, gradient, 1, C=2, BLOCK_N=2,
                    SMOOTHING=smoothing, LOSSES=True, GRAD=True,
                )  # fmt: skip
        np.testing.assert_allclose(float(by_numpy), expected, rtol=1e-6)
        np.testing.assert_allclose(float(by_aten), expected, rtol=1e-6)
        np.testing.assert_allclose(float(by_triton), expected, rtol=1e-6)
        if smoothing < 1:
            by_pytorch = F.cross_entropy(torch.tensor(x), torch.tensor(y), label_smoothing=smoothing)
            np.testing.assert_allclose(float(by_pytorch), expected, rtol=1e-6)
