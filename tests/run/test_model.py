"""tricnn.compile and the model it returns: the contract, on all three executors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tricnn
from tests.run.networks import KINDS, network
from tricnn.compiler.pipeline import PASSES
from tricnn.ir import CheckpointError, DataError, GraphError, ShapeError, TargetError
from tricnn.machine import tiles
from tricnn.training.few_launches import FewLaunches
from tricnn.training.optim import SGD

EXECUTORS = ("numpy", "eager", "triton")


def images(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 4, 9, 9), dtype=np.float32), rng.integers(0, 3, n)


@pytest.mark.parametrize("kind", KINDS)
def test_executors_agree_on_training(kind: str) -> None:
    """Loss, every gradient, and the running statistics after two steps (so dropout's masks agree as well)."""
    x, labels = images(3)
    results = {}
    for executor in EXECUTORS:
        model = tricnn.compile(network(kind), "train", batch=3, executor=executor, seed=7)
        model.loss_and_grads(x, labels)
        loss, grads = model.loss_and_grads(x, labels)
        results[executor] = (loss, grads, model.state_dict())
    loss, grads, state = results["numpy"]
    for executor in EXECUTORS[1:]:
        other_loss, other_grads, other_state = results[executor]
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_grads.keys() == grads.keys()
        for name in grads:
            np.testing.assert_allclose(other_grads[name], grads[name], atol=2e-5 * abs(grads[name]).max() + 1e-6)
        for name in state:
            np.testing.assert_allclose(other_state[name], state[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_another_batch_size_needs_no_new_compilation(executor: str) -> None:
    model = tricnn.compile(network("residual"), "infer", batch=4, executor=executor)
    x, _ = images(5)
    whole = model(x)
    assert whole.shape == (5, 3)
    np.testing.assert_allclose(np.concatenate([model(x[:1]), model(x[1:])]), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_tensors_in_tensors_out(executor: str) -> None:
    x, labels = images(2)
    model = tricnn.compile(network("residual"), "train", batch=2, executor=executor)
    loss, grads = model.loss_and_grads(
        torch.as_tensor(x).contiguous(memory_format=torch.channels_last), torch.as_tensor(labels)
    )
    assert isinstance(loss, float) and all(isinstance(g, torch.Tensor) for g in grads.values())
    assert grads["c1.weight"].shape == (8, 4, 3, 3)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_state_dict_is_pytorchs_layout_and_comes_back_whole(executor: str) -> None:
    graph = network("heads")
    state = {n.name: np.random.default_rng(1).standard_normal(graph.types[n.name].per_image) for n in graph.parameters}
    model = tricnn.compile(graph, "infer", executor=executor)
    model.load_state_dict({name: torch.as_tensor(x) for name, x in state.items()})
    for name, x in model.state_dict().items():
        np.testing.assert_array_equal(x, state[name].astype(np.float32), err_msg=name)


def test_folded_batch_norm_follows_new_weights() -> None:
    """Weights are folded when they are loaded, so they never go stale (pytorch #108863)."""
    x, labels = images(4)
    train = tricnn.compile(network("residual"), "train", batch=4)
    infer, plain = (tricnn.compile(network("residual"), "infer", batch=4, fuse=fuse) for fuse in (True, False))
    for _ in range(2):
        train.loss_and_grads(x, labels)
        for model in (infer, plain):
            model.load_state_dict(train.state_dict())
        np.testing.assert_allclose(infer(x), plain(x), rtol=1e-4, atol=1e-5)


def test_stored_activations_are_rounded_in_numpy_too() -> None:
    x, _ = images(2)
    exact = tricnn.compile(network("residual"), "infer", executor="numpy")
    rough = tricnn.compile(network("residual"), "infer", executor="numpy", dtype="bf16")
    difference = np.abs(exact(x) - rough(x)).max() / np.abs(exact(x)).max()
    assert 1e-5 < difference < 2**-4


def test_bad_calls_say_what_is_accepted() -> None:
    model = tricnn.compile(network("residual"), "train", batch=2)
    x, labels = images(2)
    with pytest.raises(ShapeError, match=r"input x: expected \[N, 4, 9, 9\], got \[2, 4, 9\]"):
        model.loss_and_grads(x[..., 0], labels)
    with pytest.raises(DataError, match="NaN"):
        model.loss_and_grads(np.full_like(x, np.nan), labels)
    with pytest.raises(DataError, match="3 is out of range; residual has classes 0 to 2"):
        model.loss_and_grads(x, np.array([0, 3]))
    with pytest.raises(DataError, match="-1 is out of range"):
        model.loss_and_grads(x, np.array([0, -1]))
    with pytest.raises(ShapeError, match="one per image"):
        model.loss_and_grads(x, labels[:1])
    with pytest.raises(ShapeError, match=r"array or tensor .* got list"):
        model.loss_and_grads(x, labels.tolist())
    with pytest.raises(DataError, match="real numbers, got complex"):
        model.loss_and_grads(x * 1j, labels)
    with pytest.raises(GraphError, match=r"graphs\.lenet\(\), not str"):
        tricnn.compile("lenet")
    with pytest.raises(TargetError, match="mode='infer'"):
        model(x)
    for change, message in [({"dtype": "fp8"}, "fp32"), ({"executor": "gpu"}, "auto"), ({"mode": "eval"}, "infer"),
                            ({"batch": 0}, "at least 1"), ({"target": "sm_12"}, "sm_90"),
                            ({"executor": "triton", "dtype": "fp64"}, "fp64")]:  # fmt: skip
        with pytest.raises(TargetError, match=message):
            tricnn.compile(network("residual"), **change)  # type: ignore[arg-type]


def test_weights_that_do_not_fit_are_listed_and_nothing_is_loaded() -> None:
    model = tricnn.compile(network("residual"), "infer")
    before = model.state_dict()
    state = dict(before) | {"c9.weight": np.zeros(3), "fc.bias": np.zeros(4)}
    del state["c1.weight"]
    with pytest.raises(CheckpointError) as error:
        model.load_state_dict(state)
    for part in ("missing c1.weight", "unexpected c9.weight", "fc.bias has shape (4,), needs (3,)"):
        assert part in str(error.value)
    for name, x in model.state_dict().items():
        np.testing.assert_array_equal(x, before[name])


def test_the_same_inputs_give_the_same_bits() -> None:
    x, labels = images(3)
    for executor in ("numpy", "triton"):
        runs = []
        for _ in range(2):
            model = tricnn.compile(network("residual"), "train", batch=3, executor=executor, seed=3)
            loss, grads = model.loss_and_grads(x, labels)
            runs.append((loss, {k: g.tobytes() for k, g in grads.items()}))
        assert runs[0] == runs[1]


def test_every_pass_can_be_dumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICNN_DUMP", str(tmp_path))
    tricnn.compile(network("residual"), "train", batch=2)
    (folder,) = tmp_path.iterdir()
    names = sorted(p.name for p in folder.iterdir())
    stages = ["declared", *(step.name for step in PASSES if not step.modes or "train" in step.modes), "plan"]
    assert names == [*(f"{i:02}-{stage}.txt" for i, stage in enumerate(stages)), f"{len(stages)}-kernels.py"]
    for name in names[:-2]:  # each graph is text that reads back
        assert str(tricnn.from_text((folder / name).read_text())) == (folder / name).read_text()


def test_dumps_of_several_compilations_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICNN_DUMP", str(tmp_path))
    for kind, mode in (("small", "train"), ("heads", "infer"), ("small", "train")):
        tricnn.compile(network(kind), mode, batch=2)
    made = {p.name: p for p in tmp_path.iterdir()}
    assert sorted(made) == ["00-small-train", "01-heads-infer", "02-small-train"]
    texts = [{p.name: p.read_text() for p in folder.iterdir()} for _, folder in sorted(made.items())]
    assert texts[0] == texts[2] != texts[1]
    assert {"00-declared.txt", "02-for-inference.txt"} <= set(texts[1])
    assert all(text.splitlines()[0] == "graph heads" for name, text in texts[1].items() if name < "05")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_weight_made_of_parameters_follows_them(executor: str) -> None:
    """weight = w1 + w2, computed at every training step and once for inference: never stale."""
    b = tricnn.GraphBuilder("sum_of_weights")
    x = b.input("x", (4, 9, 9))
    w = b.add("add", b.parameter("w1", (3, 4, 1, 1), "he_normal"), b.parameter("w2", (3, 4, 1, 1), "he_normal"))
    graph = b.build(b.flatten(b.global_avg_pool(b.add("conv2d", x, w, name="c"))))
    images_, labels = images(2)
    train, infer = (tricnn.compile(graph, mode, batch=2, executor=executor) for mode in ("train", "infer"))
    logits = []
    for _ in range(2):
        infer.load_state_dict(train.state_dict())
        logits.append(infer(images_))
        loss, grads = train.loss_and_grads(images_, labels)
        log_p = logits[-1] - np.log(np.exp(logits[-1]).sum(1, keepdims=True))
        assert loss == pytest.approx(-log_p[np.arange(2), labels].mean(), rel=1e-4)
        np.testing.assert_array_equal(grads["w1"], grads["w2"])
        for name, value in train.parameters().items():
            value -= train.to_storage(name, 0.5 * np.asarray(grads[name])).reshape(value.shape)
    assert np.abs(logits[1] - logits[0]).max() > 1e-3


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_weights_in_16_bits_follow_their_parameters(mode: str) -> None:
    """Products read rounded copies. However a parameter changes (loaded, or in place), the next step uses it, and what
    is saved is the fp32 parameter."""
    x, labels = images(2)
    graph = network("heads")  # nothing to fold: parameters are read as they are

    def result(model: tricnn.Model) -> bytes:
        if mode == "infer":
            return b"".join(y.tobytes() for y in model(x).values())
        return b"".join(g.tobytes() for _, g in sorted(model.loss_and_grads(x, labels)[1].items()))

    model, other = (tricnn.compile(graph, mode, 2, "bf16", "triton", seed=s) for s in (1, 2))
    other.seed = model.seed  # the same dropout
    before = result(model)
    state = {name: p + np.float32(0.125) for name, p in model.state_dict().items()}
    other.load_state_dict(state)
    for name, parameter in model.parameters().items():
        parameter += 0.125
        np.testing.assert_array_equal(model.state_dict()[name], state[name])
        np.testing.assert_array_equal(other.state_dict()[name], state[name])
    model.step = other.step
    assert before != result(model) == result(other)


def test_a_change_that_pytorch_does_not_count_is_used_as_well() -> None:
    """Whoever asks for the parameters may change them in any way before the next step, even behind PyTorch's back."""
    x, labels = images(2)
    losses = []
    for change in (0.0, 0.5):
        model = tricnn.compile(network("heads"), "train", 2, "bf16", "triton")
        for parameter in model.parameters().values():
            parameter.data.add_(change)
        losses.append(model.loss_and_grads(x, labels)[0])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("executor", ["numpy", "triton"])
def test_parameters_that_were_folded_are_not_offered_for_changes(executor: str) -> None:
    """Inference reads weights computed from them, when they were loaded."""
    b = tricnn.GraphBuilder("folded")
    y = b.batch_norm(b.conv2d(b.input("x", (4, 9, 9)), 8, 1, bias=False))
    graph = b.build(b.flatten(b.global_avg_pool(y)))
    with pytest.raises(TargetError, match="load_state_dict"):
        tricnn.compile(graph, "infer", 2, executor=executor).parameters()
    assert tricnn.compile(graph, "infer", 2, executor=executor, fuse="none").parameters()


def test_emitted_files_go_when_the_process_does(tmp_path: Path) -> None:
    code = "from tricnn import *; print(compile(graphs.lenet(), executor='triton').executor.module.__file__)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert Path(ran.stdout.strip()).is_relative_to(tmp_path) and not list(tmp_path.iterdir())


def test_an_optimiser_that_rounds_spares_the_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGD in one launch writes the copies with the parameters: nobody else need, and the bits are the same."""
    x, labels = images(2)
    runs = []
    for rounds in (True, False):
        model = tricnn.compile(network("heads"), "train", 2, "bf16", "triton")
        weights, copied = model.rounded_weights(), []
        sgd, write = FewLaunches(SGD(0.9), rounded=weights if rounds else None), weights.write
        monkeypatch.setattr(weights, "write", lambda write=write, copied=copied: (copied.append(True), write()))
        for _ in range(3):
            loss, gradients = model.loss_and_storage_grads(x, labels)
            sgd(model.parameters(), gradients, 0.1)
        assert len(copied) == (0 if rounds else 2)
        runs.append((loss, {name: p.tobytes() for name, p in model.state_dict().items()}))
    assert runs[0] == runs[1]


def small_and_large(kind: str) -> tuple[tricnn.Model, tricnn.Model]:
    with tiles.chosen_for(tiles.INTERPRETER):
        small, large = (tricnn.compile(network(kind), "train", batch, "fp32", "triton") for batch in (2, 2**23))
    return small, large


@pytest.mark.parametrize("kind", ["grouped", "branches"])
def test_tensors_of_2_to_the_31_elements_are_indexed_in_64_bits(kind: str) -> None:
    """Wherever a kernel compiled for such a batch looks at an image. Other steps count in 32 bits, and refuse it."""
    small, large = small_and_large(kind)
    for function in large.program.functions:
        for line in function.text.splitlines():
            if re.search(r"tl\.(load|store)\(\w+ \+ \w*(pixel|window|source|image)", line):
                assert ".to(tl.int64)" in line, (function.name, line)
    assert ".to(tl.int64) * " in large.source and ".to(tl.int64) * " not in small.source.replace("where = ", "")
    assert ("LONG=True" in large.source) == (kind == "grouped"), "the index of a maximum is an image as well"
    with pytest.raises(TargetError, match="compile for it"):
        small.executor._check_size(2**23)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grouped", "branches"])
def test_64_bits_compute_the_same(kind: str) -> None:
    x, labels = images(2)
    (loss, grads), (large_loss, large_grads) = (model.loss_and_grads(x, labels) for model in small_and_large(kind))
    assert large_loss == pytest.approx(loss, rel=1e-5)
    for name in grads:
        np.testing.assert_allclose(large_grads[name], grads[name], atol=2e-5 * abs(grads[name]).max() + 1e-6)
