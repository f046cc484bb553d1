"""The emitted kernels on a real GPU: TRITON_INTERPRET=0 python -m pytest -m gpu tests/gpu

They run compiled, so Triton's interpreter, which the other tests turn on, must be off.
"""

import os

import numpy as np
import pytest
import torch
from triton.runtime.errors import OutOfResources

import tricnn
from tricnn.check.exact import mistakes
from tricnn.check.verify import verify
from tricnn.cli import main
from tricnn.graphs import SMALL
from tricnn.ir import TargetError
from tricnn.machine import tuned_files as tuning
from tricnn.machine.candidates import candidates
from tricnn.machine.tiles import Problem
from tricnn.run.model import device_target

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET", "0") == "1", reason="runs compiled kernels: set TRITON_INTERPRET=0"
    ),
]
DTYPES = ("fp32", "tf32", "fp16", "bf16")


def small(name):
    return getattr(tricnn.graphs, name)(**SMALL[name])


def random_batch(graph, batch, seed=0):
    rng = np.random.default_rng(seed)
    shape = graph.types[graph.inputs[0].name].at(batch)
    return rng.standard_normal(shape, dtype=np.float32), rng.integers(0, 10, batch)


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["lenet", "lenet_sigmoid", "resnet18", "googlenet_bn"])
def test_every_kernel_is_within_its_tolerance(name, dtype, mode):
    checks = verify(small(name), mode=mode, batch=3, dtype=dtype)
    assert checks
    assert [c for c in checks if not c.ok] == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_the_same_step_leaves_the_same_bits(name, dtype):
    graph = small(name)
    images, labels = random_batch(graph, 7)
    results = []
    for _ in range(2):
        model = tricnn.compile(graph, mode="train", batch=7, dtype=dtype, executor="triton", seed=3)
        results.append(model.loss_and_grads(images, labels))
    (loss, grads), (again, grads_again) = results
    assert loss == again
    for name_, g in grads.items():
        assert g.tobytes() == grads_again[name_].tobytes(), name_


@pytest.mark.parametrize("name", ["lenet", "lenet_sigmoid"])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_triton_agrees_with_numpy(name, batch):
    graph = small(name)
    images, labels = random_batch(graph, batch, seed=batch)
    models = [tricnn.compile(graph, "train", batch, "fp32", e, seed=1) for e in ("triton", "numpy")]
    models[1].load_state_dict(models[0].state_dict())
    (loss, grads), (want, want_grads) = [m.loss_and_grads(images, labels) for m in models]
    assert loss == pytest.approx(want, rel=1e-5)
    for name_, g in want_grads.items():
        np.testing.assert_allclose(grads[name_], g, rtol=1e-3, atol=1e-4 * float(np.abs(g).max()), err_msg=name_)


def test_another_batch_size_needs_no_new_compilation():
    graph = small("lenet")
    model = tricnn.compile(graph, "infer", 64, "fp32", "triton", seed=1)
    reference = tricnn.compile(graph, "infer", 64, "fp32", "numpy", seed=1)
    for batch in (1, 17, 64):
        images, _ = random_batch(graph, batch)
        np.testing.assert_allclose(model(images), reference(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["conv2d", "conv2d_grad_input", "conv2d_grad_weight"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_candidate_of_a_problem_is_exact(kind, dtype):
    problem = Problem.of(
        device_target(), kind, dtype, dict(N=32, C=72, H=14, W=14, K=136, R=3, S=3, P=14, Q=14, PT=1, PL=1)
    )
    for tile in candidates(problem):
        try:
            assert mistakes(problem, tile) == 0, tile
        except (OutOfResources, TargetError):
            continue  # such a tile takes no part in tuning


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_a_captured_step_is_the_step_and_capturing_leaves_no_trace(name, monkeypatch):
    graph = small(name)
    states = []
    for capture in ("0", "1"):
        monkeypatch.setenv("TRICNN_CAPTURE", capture)
        model = tricnn.compile(graph, "train", 7, "fp32", "triton", seed=3)
        losses = [model.loss_and_grads(*random_batch(graph, 7, seed))[0] for seed in range(3)]
        assert (model.executor._captured[7] is not None) == (capture == "1")
        states.append((losses, {k: x.tobytes() for k, x in model.state_dict().items()}))
    assert states[0] == states[1]


def test_tuning_writes_a_file_of_winners(tmp_path):
    out = tmp_path / "tuned.toml"
    assert main(["tune", "lenet", "--batch", "64", "--dtype", "bf16", "--budget", "30", "--out", str(out)]) == 0
    for problem, entry in (tuning.read(out) if out.exists() else {}).items():
        assert entry.tile in candidates(problem) and entry.us < entry.rule_us
