"""Batch norm where differences are small against what is subtracted: the first thing that fp32 gets wrong."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn

#: eager takes PyTorch's batch norm, which on a CPU multiplies before it subtracts
OURS = pytest.mark.parametrize("executor", ["numpy", "triton"])


def step(build, x, labels, executor, fuse="all", **given):
    """A training step of a network with the given parameters: the model, its state before, loss and gradients."""
    b = tricnn.GraphBuilder("net")
    graph = b.build(build(b, b.input("x", x.shape[1:])))
    model = tricnn.compile(graph, mode="train", batch=len(x), executor=executor, fuse=fuse, seed=3)
    state = {k: np.array(v) for k, v in model.state_dict().items()}
    state |= {name.replace("__", "."): value for name, value in given.items()}
    model.load_state_dict(state)
    loss, gradients = model.loss_and_grads(x, labels)
    return model, state, float(loss), {k: np.asarray(v) for k, v in gradients.items()}


def vectors(b, x):
    x = b.relu(b.batch_norm(b.linear(x, 16, name="fc1"), name="bn"))
    return b.linear(x, 4, name="fc2")


@OURS
@pytest.mark.parametrize("fuse", ["all", False])
def test_of_one_vector_the_result_is_the_bias_and_nothing_else(executor, fuse):
    """x - mean is 0, and 1/sqrt(eps) enlarges what is left of it 316 times. Against float64: the loss within 8 units
    of the last place, a gradient within 8 of its largest element."""
    rng = np.random.default_rng(0)
    x, bias = rng.standard_normal((1, 8), np.float32), rng.standard_normal(16).astype(np.float32)
    _, state, loss, gradients = step(vectors, x, np.array([1]), executor, fuse, bn__bias=bias)
    p = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in state.items() if "running" not in k}
    h = F.linear(torch.tensor(x).double(), p["fc1.weight"], p["fc1.bias"])
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * p["bn.weight"] + p["bn.bias"]
    expected = F.cross_entropy(F.linear(F.relu(h), p["fc2.weight"], p["fc2.bias"]), torch.tensor([1]))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=8 * 2**-24)
    for name, gradient in gradients.items():
        wanted = p[name].grad.numpy()
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=8 * 2**-24 * np.abs(wanted).max(), err_msg=name)


def constant(b, x):
    x = b.relu(b.batch_norm(b.conv2d(x, 6, 1, name="conv"), name="bn"))
    return b.linear(b.global_avg_pool(x), 3, name="fc")


@OURS
def test_a_channel_of_one_number_is_normalised_to_its_bias(executor):
    """A bias of 0 then gives 0, where relu has no gradient; what a rounding leaves instead would train."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    given = {"conv__weight": np.zeros((6, 3, 1, 1), np.float32), "bn__bias": np.zeros(6, np.float32),
             "conv__bias": rng.standard_normal(6).astype(np.float32)}  # fmt: skip
    _, _, _, gradients = step(constant, x, np.array([0, 2]), executor, **given)
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "fc.weight"):
        np.testing.assert_array_equal(gradients[name], 0, err_msg=name)


def image(b, x):
    return b.linear(b.global_avg_pool(b.batch_norm(x, name="bn", momentum=1.0)), 3, name="fc")


@pytest.mark.parametrize("executor", ["numpy", "eager", "triton"])
@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_statistics_of_values_far_from_zero(executor, mean):
    """Deviations of 1, M values. The mean: within a unit of its last place, 2^-23 of it. The variance: the mean of a
    tile of R values is rounded by 2^-23*mean/sqrt(12) and lies 1/sqrt(R) from the whole one's; twice their product, of
    either sign in each of M/R tiles, is 0.6 * 2^-23*mean/sqrt(M). Four times that, and 2^-18 for the sums of squares.
    PyTorch is held to the same."""
    rng = np.random.default_rng(2)
    x = (mean + rng.standard_normal((64, 4, 8, 8))).astype(np.float32)
    wide = x.astype(np.float64)
    model, *_ = step(image, x, np.arange(64) % 3, executor)
    state = {k: np.asarray(v) for k, v in model.state_dict().items()}
    pytorchs = torch.nn.BatchNorm2d(4, momentum=1.0)
    pytorchs(torch.tensor(x))
    ours = state["bn.running_mean"], state["bn.running_var"]
    for running_mean, running_var in (ours, (pytorchs.running_mean.numpy(), pytorchs.running_var.numpy())):
        np.testing.assert_allclose(running_mean, wide.mean((0, 2, 3)), rtol=2**-23)
        variance = wide.transpose(1, 0, 2, 3).reshape(4, -1).var(1, ddof=1)
        np.testing.assert_allclose(running_var, variance, rtol=2**-18 + 2.4 * 2**-23 * mean / np.sqrt(64 * 8 * 8))


@pytest.mark.parametrize("fuse", ["all", "none"])
@pytest.mark.parametrize("executor", ["numpy", "eager", "triton"])
def test_a_momentum_of_one_leaves_nothing_of_the_old_statistics(executor, fuse):
    """However large they are: not even their rounding errors."""
    x = np.random.default_rng(2).standard_normal((8, 4, 3, 3)).astype(np.float32)
    old = np.full(4, 1e6, np.float32)
    model, *_ = step(image, x, np.arange(8) % 3, executor, fuse, bn__running_mean=old, bn__running_var=old)
    state = {k: np.asarray(v) for k, v in model.state_dict().items()}
    np.testing.assert_allclose(state["bn.running_mean"], x.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    variance = x.transpose(1, 0, 2, 3).reshape(4, -1).var(1, ddof=1)
    np.testing.assert_allclose(state["bn.running_var"], variance, rtol=1e-5)
