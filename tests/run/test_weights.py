"""Weights files: what others publish is read, what is saved others read, and a bad file is one clear line."""

import argparse
import os
import pickle
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import tricnn
from tests.graphs.comparison import Case
from tests.run.networks import network
from tricnn.ir import CheckpointError, Kind
from tricnn.run.weights import load_weights

SUFFIXES = (".safetensors", ".pth")


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)


def tensors(case: Case) -> dict[str, torch.Tensor]:
    return {name: x.contiguous() for name, x in case.module.state_dict().items()}


def logits(case: Case) -> np.ndarray:
    case.module.eval()
    with torch.no_grad():
        return case.module(torch.from_numpy(case.x)).numpy()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "resnet18", "googlenet_bn"])
def test_a_pytorch_modules_file_gives_its_logits_here(name: str, suffix: str, tmp_path: Path) -> None:
    case = Case(name)
    save(tensors(case), tmp_path / f"theirs{suffix}")
    model = tricnn.compile(case.graph, executor="numpy", dtype="fp64")
    model.load_state_dict(tmp_path / f"theirs{suffix}")
    np.testing.assert_allclose(model(case.x), logits(case), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "resnet18", "googlenet_bn"])
def test_a_saved_file_loads_strictly_into_a_pytorch_module_and_back(name: str, suffix: str, tmp_path: Path) -> None:
    case, path = Case(name), tmp_path / f"ours{suffix}"
    model = tricnn.compile(case.graph, executor="numpy", seed=3)
    model.save_state_dict(path)
    state = safetensors.torch.load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    case.module.load_state_dict(state, strict=True)
    np.testing.assert_allclose(model(case.x), logits(case), rtol=1e-3, atol=1e-5)
    other = tricnn.compile(case.graph, executor="numpy", seed=4)
    other.load_state_dict(str(path))
    assert all(np.array_equal(x, other.state_dict()[n]) for n, x in model.state_dict().items())
    assert os.listdir(tmp_path) == [path.name]


def test_heads_that_a_network_has_not_are_passed_over(tmp_path: Path) -> None:
    """torchvision's GoogLeNet file has its auxiliary heads; the network that it is published for has none."""
    case = Case("googlenet_bn", {"aux": True, "input_shape": (3, 80, 80)})
    torch.save(tensors(case), tmp_path / "googlenet.pth")
    assert any(name.startswith("aux1.") for name in tensors(case))
    headless = tricnn.compile(Case("googlenet_bn", {"input_shape": (3, 80, 80)}).graph, dtype="fp64", executor="numpy")
    headless.load_state_dict(tmp_path / "googlenet.pth")
    np.testing.assert_allclose(headless(case.x), logits(case), rtol=1e-9, atol=1e-12)
    with pytest.raises(CheckpointError, match=r"unexpected aux3\.fc1\.weight"):
        headless.load_state_dict({**tensors(case), "aux3.fc1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}, "args": {"lr": 0.1}},
        lambda state: {f"module.{name}": x for name, x in state.items()},
        lambda state: {"model_state_dict": {f"module._orig_mod.{name}": x for name, x in state.items()}},
    ],
)
def test_what_training_scripts_wrap_around_weights_is_taken_off(wrap, tmp_path: Path) -> None:
    model = tricnn.compile(network("residual"), "infer", seed=1)
    state = {name: torch.from_numpy(x) for name, x in model.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    assert {n: x.tolist() for n, x in load_weights(tmp_path / "w.pt").items()} == {
        n: x.tolist() for n, x in state.items()
    }


def test_half_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    model = tricnn.compile(network("residual"), "infer", seed=1)
    state = {name: torch.from_numpy(x).bfloat16() for name, x in model.state_dict().items()}
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        save(state, path)
        model.load_state_dict(path)
        for name, x in model.state_dict().items():
            np.testing.assert_array_equal(x, state[name].float().numpy())


def test_a_checkpoint_of_a_training_run_is_a_weights_file(tmp_path: Path) -> None:
    from tricnn.training.checkpoint import Checkpoint, Progress, save_checkpoint

    trained = tricnn.compile(network("residual"), "train", seed=1)
    velocity = {name: np.ones_like(x) for name, x in trained.parameters().items()}
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint("residual", trained.state_dict(), {"momentum": velocity}, {}, Progress()))
    model = tricnn.compile(network("residual"), "infer", seed=2)
    model.load_state_dict(path)
    assert all(np.array_equal(x, trained.state_dict()[n]) for n, x in model.state_dict().items())


def test_what_does_not_fit_is_listed_by_name_with_the_file(tmp_path: Path) -> None:
    model = tricnn.compile(network("residual"), "infer")
    state = {name: torch.from_numpy(x) for name, x in model.state_dict().items()}
    del state["c1.weight"]
    state |= {"c9.weight": torch.zeros(3), "fc.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        model.load_state_dict(tmp_path / "w.pth")
    for part in ("w.pth: ", "missing c1.weight", "unexpected c9.weight", "fc.bias has shape (4,), needs (3,)"):
        assert part in str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.module.", "net._orig_mod.model.model."])
@pytest.mark.parametrize("averaged", [False, True])
def test_prefixes_in_any_order_are_taken_off_in_a_mapping_too(prefix: str, averaged: bool) -> None:
    model, other = (tricnn.compile(network("residual"), "infer", seed=s) for s in (1, 2))
    state: dict[str, object] = {prefix + name: x for name, x in model.state_dict().items()}
    counter = {"n_averaged": torch.tensor(3)} if averaged else {}  # of torch.optim.swa_utils.AveragedModel
    assert other.load_state_dict(counter | state) == ([], [], [])
    assert all(np.array_equal(x, other.state_dict()[n]) for n, x in model.state_dict().items())


def test_an_average_is_chosen_by_its_name(tmp_path: Path) -> None:
    model, averaged = (tricnn.compile(network("residual"), "infer", seed=s).state_dict() for s in (1, 2))
    states = ({n: torch.from_numpy(x) for n, x in state.items()} for state in (model, averaged))
    torch.save(dict(zip(("model", "model_ema"), states), epoch=3), tmp_path / "w.pth")
    found = tricnn.compile(network("residual"), "infer")
    for key, expected in ((None, model), ("model_ema", averaged)):
        found.load_state_dict(tmp_path / "w.pth", key=key)
        assert all(np.array_equal(x, expected[n]) for n, x in found.state_dict().items())
    says = r"no weights under 'model_emma'; did you mean model_ema\? there are: model, model_ema"
    with pytest.raises(CheckpointError, match=says):
        found.load_state_dict(tmp_path / "w.pth", key="model_emma")


def test_another_number_of_classes_leaves_the_last_layer_as_it_was() -> None:
    published, mine = (tricnn.compile(tricnn.graphs.lenet(num_classes=c), "infer", seed=c) for c in (10, 7))
    before, state = mine.state_dict(), published.state_dict()
    del state["conv1.bias"]
    with pytest.warns(UserWarning, match="needs .7,.: conv1.bias, fc3.weight, fc3.bias stay as they were$") as said:
        left = mine.load_state_dict({**state, "fc9.bias": np.zeros(3)}, strict=False)
    assert len(said) == 1
    assert left == (["conv1.bias"], ["fc9.bias"], ["fc3.weight", "fc3.bias"])
    for name, x in mine.state_dict().items():
        kept = name in left.missing + left.other_shapes
        np.testing.assert_array_equal(x, (before if kept else state)[name])
    with pytest.raises(CheckpointError, match=r"do not fit lenet: missing conv1\.weight"):
        mine.load_state_dict({"nothing": np.zeros(3)}, strict=False)


def test_timms_vgg_has_torchvisions_names_here() -> None:
    """timm computes the dense layers as convolutions, ``pre_logits`` and ``head``."""
    model, other = (tricnn.compile(tricnn.graphs.vgg11(width=1 / 16), "infer", seed=s) for s in (1, 2))
    state = model.state_dict()
    theirs = {n: x for n, x in state.items() if not n.startswith("classifier.")}
    for name, layer, size in (("pre_logits.fc1", 0, 7), ("pre_logits.fc2", 3, 1)):
        weight = state[f"classifier.{layer}.weight"]
        theirs[f"{name}.weight"] = weight.reshape(len(weight), -1, size, size)
        theirs[f"{name}.bias"] = state[f"classifier.{layer}.bias"]
    theirs |= {f"head.fc.{what}": state[f"classifier.6.{what}"] for what in ("weight", "bias")}
    other.load_state_dict(theirs)
    assert all(np.array_equal(x, other.state_dict()[n]) for n, x in state.items())


def test_harmless_objects_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    model, other = (tricnn.compile(network("residual"), "infer", seed=s) for s in (1, 2))
    beside = {
        "args": argparse.Namespace(lr=0.1), "when": datetime.now(), "folder": tmp_path, "groups": defaultdict(list),
        "best": np.float64(3), "criterion": torch.nn.CrossEntropyLoss(), "names": {"a", "b"}, "of": torch.float16,
        "seen": {Kind.WINDOW: {Kind.VIEW, Kind.SOURCE}},  # of classes that are not looked for: keys, and in a set
    }  # fmt: skip
    state = {name: torch.from_numpy(x) for name, x in model.state_dict().items()}
    for legacy in (False, True):
        torch.save({**beside, "model": state}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        other.load_state_dict(tmp_path / "w.pth")
        assert all(np.array_equal(x, other.state_dict()[n]) for n, x in model.state_dict().items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def written(path: Path, what: str) -> Path:
    """A file that is not weights."""
    good = {"w": torch.arange(5000.0)}
    if what == "code":
        path.write_bytes(pickle.dumps({"w": Evil()}, protocol=2))
    elif what == "code in an archive":
        torch.save({"w": torch.zeros(2), "x": Evil()}, path)
    elif what == "a module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif what == "cut short":
        save(good, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif what == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(3000))
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "a number":
        torch.save(3, path)
    elif what == "numbers by name":
        torch.save({"epoch": 3}, path)
    elif what == "sparse":
        torch.save({"w": torch.eye(3).to_sparse()}, path)
    elif what == "a folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "suffix, what",
    [(".pth", w) for w in ("code", "code in an archive", "a module", "a number", "numbers by name", "sparse")]
    + [(s, w) for s in SUFFIXES for w in ("cut short", "noise", "empty", "a folder", "nothing")]
    + [(".onnx", "noise"), ("", "noise")],
)
def test_a_file_that_is_not_weights_is_refused_in_one_line(
    suffix: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / f"w{suffix}", what)
    model = tricnn.compile(network("residual"), "infer")
    before = model.state_dict()
    with pytest.raises(CheckpointError) as error:
        model.load_state_dict(path)
    text = str(error.value)
    assert str(path) in text and ".safetensors" in text and "\n" not in text and len(text) < 400 + len(str(path))
    assert not (tmp_path / "ran").exists()
    assert all(np.array_equal(x, before[n]) for n, x in model.state_dict().items())
    if "code" in what:
        assert "mkdir" in text


class Calls:
    """An object whose pickle calls a function, by any name."""

    def __init__(self, function: object, *arguments: object):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_no_code_in_a_file_of_weights_runs(tmp_path: Path) -> None:
    """Neither what acts on a machine, which is refused, nor what is anybody's own, which is not called."""
    model = tricnn.compile(network("residual"), "infer")
    state = {name: torch.from_numpy(x) for name, x in model.state_dict().items()}
    torch.save({"model": state, "x": Calls(note, 1)}, tmp_path / "own.pth")
    model.load_state_dict(tmp_path / "own.pth")
    assert CALLED == []
    for function, arguments in ((os.mkdir, ("ran",)), (eval, ("1",)), (getattr, (1, "real")), (exec, ("",))):
        torch.save({"model": state, "a": argparse.Namespace(), "x": Calls(function, *arguments)}, tmp_path / "w.pth")
        with pytest.raises(
            CheckpointError, match=f"{function.__name__}, which is code and not weights, and is not run"
        ):
            model.load_state_dict(tmp_path / "w.pth")


CALLED: list[int] = []


def note(number: int) -> None:
    CALLED.append(number)


def test_saving_where_it_cannot_be_done_says_so_and_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    model = tricnn.compile(network("residual"), "infer")
    with pytest.raises(CheckpointError, match=r"w\.npz: weights are saved as \.safetensors, \.pth or \.pt"):
        model.save_state_dict(tmp_path / "w.npz")
    with pytest.raises(CheckpointError, match="cannot be written"):
        model.save_state_dict(tmp_path / "no" / "w.pth")
    model.save_state_dict(tmp_path / "w.pth")
    before = (tmp_path / "w.pth").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        model.save_state_dict(tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == before and os.listdir(tmp_path) == ["w.pth"]


def test_every_executor_gives_its_weights_to_a_file(tmp_path: Path) -> None:
    states = []
    for executor in ("numpy", "eager", "triton"):
        path = tmp_path / f"{executor}.safetensors"
        tricnn.compile(network("heads"), "train", batch=2, executor=executor, seed=5).save_state_dict(path)
        states.append(path.read_bytes())
    assert states[0] == states[1] == states[2]
