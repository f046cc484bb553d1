"""Networks of pointwise operations: each executor trains to PyTorch's gradients, and every kernel is verified."""

import numpy as np
import pytest

import tricnn
from tests.compiler.reference import training_step
from tests.ir.pointwise_networks import NETWORKS
from tricnn.check.verify import verify
from tricnn.ir import OPS


def random_values(graph, batch):
    """Images, labels and parameters, away from 0."""
    rng = np.random.default_rng(4)
    state = {n.name: 0.4 * rng.standard_normal(graph.types[n.name].shape) for n in graph.parameters}
    state |= {n.name: np.full(graph.types[n.name].shape, 1.0 if "var" in n.name else 0.0) for n in graph.buffers}
    state = {name: value.astype(np.float32) for name, value in state.items()}
    return state, rng.standard_normal((batch, 3, 6, 5)).astype(np.float32), np.arange(batch) % 3


def gradients_of(graph, executor, dtype):
    state, x, labels = random_values(graph, 3)
    model = tricnn.compile(graph, "train", 3, dtype, executor)
    model.load_state_dict(state)
    loss, grads = model.loss_and_grads(x, labels)
    return loss, {name: np.asarray(g) for name, g in grads.items()}


def by_pytorch(graph):
    state, x, labels = random_values(graph, 3)
    values = {name: v.astype(np.float64) for name, v in {**state, "x": x}.items()}
    return training_step(graph, values, labels)


def assert_trains_to_pytorch_s_gradients(graph, executor, dtype, tolerance):
    loss, grads = gradients_of(graph, executor, dtype)
    expected = by_pytorch(graph)
    assert loss == pytest.approx(float(expected["loss"]), rel=tolerance)
    largest = max(np.abs(expected[f"grad:{name}"]).max() for name in grads)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, expected[f"grad:{name}"], rtol=0, atol=tolerance * largest, err_msg=name)


@pytest.mark.parametrize("executor, dtype, tolerance", [("numpy", "fp64", 1e-10), ("eager", "fp32", 1e-4)])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_to_pytorch_s_gradients(name, executor, dtype, tolerance):
    assert_trains_to_pytorch_s_gradients(NETWORKS[name], executor, dtype, tolerance)


@pytest.mark.parametrize("name", ["smooth", "gated"])
def test_kernels_train_to_pytorch_s_gradients(name):
    assert_trains_to_pytorch_s_gradients(NETWORKS[name], "triton", "fp32", 1e-4)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_every_kernel_is_within_its_tolerance(name, dtype):
    checks = verify(NETWORKS[name], mode="train", batch=2, dtype=dtype)
    assert checks and [c for c in checks if not c.ok] == []


def test_every_activation_is_in_a_network():
    used = {n.op for graph in NETWORKS.values() for n in graph.nodes}
    known = {
        "tanh",
        "scale",
        "sqrt",
        "reciprocal",
        "log",
        "from_bytes",
        "round_weight",
        "spread_channels",
    }  # in other tests' networks; not of a value that may be negative
    declared = {op for op, row in OPS.items() if row.scalar is not None and not row.gradient_of}
    assert declared - used - known == set()
