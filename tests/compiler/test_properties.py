"""What must hold of every graph: whatever is declared, every policy of fusion computes what PyTorch does.

``networks()`` draws graphs of all operations that can be declared. In float64 a NumPy plan equals PyTorch's autograd of
the graph as it was declared, to rounding; the emitted kernels, under Triton's interpreter, equal float64 NumPy within
the tolerances that `verify` derives.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tricnn
from tests.compiler import reference
from tests.ir.random_graphs import CLASSES, drawn, networks, values_for
from tricnn.check.verify import verify_model
from tricnn.ir import Graph

BATCH = 3
POLICIES = ("all", "auto", "epilogue", "none")
#: every operation of a declared graph, as `GraphBuilder` and the text form offer them
DECLARED = {
    "input", "parameter", "buffer", "conv2d", "linear", "batch_norm", "relu", "sigmoid", "tanh", "add", "mul",
    "scale", "max_pool2d", "avg_pool2d", "global_avg_pool", "concat", "slice_channels", "pad_channels", "flatten",
    "unflatten", "local_response_norm", "dropout", "softmax", "conv_transpose2d", "upsample_nearest2d",
    "upsample_bilinear2d",
    "adaptive_avg_pool2d", "zero_pad2d", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "stochastic_depth",
    "dropout2d",
}  # fmt: skip


def settled(examples: int):
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def test_every_operation_that_can_be_declared_is_drawn():
    assert {node.op for seed in range(300) for node in drawn(seed, images=True).nodes} == DECLARED


def compiled(net: Graph, mode: str, policy: str, values: dict[str, np.ndarray], dtype: str = "fp64"):
    model = tricnn.compile(net, mode, BATCH, dtype, "numpy" if dtype == "fp64" else "triton", fuse=policy, seed=5)
    model.load_state_dict({name: values[name] for name in model.state_dict()})
    return model


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: str) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10 * scale, err_msg=f"{what}: {name}")


def training_equals_pytorch(net: Graph, seed: int) -> None:
    values = values_for(net, BATCH, seed)
    labels = np.random.default_rng(seed).integers(0, CLASSES, BATCH)
    expected = reference.training_step(net, values, labels, seed=5)
    for policy in POLICIES:
        model = compiled(net, "train", policy, values)
        loss, grads = model.loss_and_grads(values["x"], labels)
        state = model.state_dict()
        found = {"loss": np.asarray(loss), **{f"grad:{name}": g for name, g in grads.items()}}
        close(found | {n.name: state[n.name] for n in net.buffers}, expected, policy)


@settled(25)
@given(networks(most_layers=8), st.integers(0, 1000))
def test_training_steps_of_all_policies_equal_pytorch(net, seed):
    """Loss, every gradient, running statistics."""
    training_equals_pytorch(net, seed)


@settled(25)
@given(networks(most_layers=8, images=True), st.integers(0, 1000))
def test_inference_by_all_policies_equals_pytorch(net, seed):
    values = values_for(net, BATCH, seed)
    expected = reference.outputs(net, values)
    for policy in POLICIES:
        found = compiled(net, "infer", policy, values)(values["x"])
        close(found if isinstance(found, dict) else dict.fromkeys(expected, found), expected, policy)


@pytest.mark.slow
@settled(400)
@given(networks(most_layers=10), st.integers(0, 1000))
def test_many_training_steps_of_all_policies_equal_pytorch(net, seed):
    training_equals_pytorch(net, seed)


def kernels_are_right(net: Graph, mode: str, dtype: str) -> None:
    for policy in POLICIES:
        model = tricnn.compile(net, mode, BATCH, dtype, "triton", fuse=policy, seed=5)
        assert [check for check in verify_model(model, BATCH) if not check.ok] == [], policy


@settled(4)
@given(networks(most_layers=5), st.sampled_from(["infer", "train"]), st.sampled_from(["fp32", "fp16", "bf16"]))
def test_kernels_of_all_policies_are_right(net, mode, dtype):
    kernels_are_right(net, mode, dtype)


@pytest.mark.slow
@settled(80)
@given(networks(most_layers=8), st.sampled_from(["infer", "train"]), st.sampled_from(["fp32", "fp16", "bf16"]))
def test_kernels_of_all_policies_are_right_for_many_networks(net, mode, dtype):
    kernels_are_right(net, mode, dtype)


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(np.asarray(a[name]), np.asarray(b[name])) for name in a)


@pytest.mark.parametrize("executor", ["numpy", "triton"])
def test_two_runs_give_the_same_bits(executor):
    for seed in range(3 if executor == "numpy" else 1):
        net, runs = drawn(seed), []
        for _ in range(2):
            values = values_for(net, BATCH, 1)
            model = tricnn.compile(net, "train", BATCH, "fp32", executor, seed=5)
            model.load_state_dict({name: values[name] for name in model.state_dict()})
            loss, grads = model.loss_and_grads(values["x"].astype(np.float32), np.array([0, 2, 1]))
            runs.append({"loss": loss, **grads, **model.state_dict()})
        assert same_bits(*runs)


def test_one_compilation_trains_batches_of_7_and_of_256():
    net = tricnn.graphs.cifar_resnet20(width=0.25, input_shape=(3, 8, 8))
    fused = tricnn.compile(net, "train", 64, "fp64", "numpy", seed=1)
    for batch in (7, 256):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 8))
        labels = np.arange(batch) % 10
        plain = tricnn.compile(net, "train", batch, "fp64", "numpy", fuse=False, seed=1)
        plain.load_state_dict(fused.state_dict())
        (loss, grads), (expected, wanted) = fused.loss_and_grads(x, labels), plain.loss_and_grads(x, labels)
        close({"loss": np.asarray(loss), **grads}, {"loss": np.asarray(expected), **wanted}, f"batch {batch}")
