"""What a user would lose: hours of training, to a crash, a full disk or a file that is not what it seems."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch

from tricnn.system.errors import CheckpointError
from tricnn.training import checkpoint as module
from tricnn.training.checkpoint import (
    Checkpoint,
    Progress,
    check_same_run,
    load_checkpoint,
    save_checkpoint,
    sole_writer,
    state_sha256,
)


def example(step=3):
    rng = np.random.default_rng(step)
    state = {"conv.weight": rng.normal(size=(4, 2, 3, 3)).astype(np.float32), "conv.bias": np.full(4, step, np.float32),
             "bn.running_mean": rng.normal(size=4)}  # fmt: skip
    slots = {"momentum": {"conv.weight": rng.normal(size=(4, 2, 3, 3)).astype(np.float32)}, "average": dict(state)}
    progress = Progress(step=step, epoch=1, position=2, curve=[[1, 0.1 + 0.2]], epochs=[{"epoch": 1, "lr": 1 / 3}])
    return Checkpoint("lenet", state, slots, {"seed": 1, "batch": 64, "network": "ab"}, progress)


def test_everything_comes_back_bit_for_bit(tmp_path):
    before = example()
    save_checkpoint(tmp_path / "c.safetensors", before)
    after = load_checkpoint(tmp_path / "c.safetensors")
    assert after.progress == before.progress and after.settings == before.settings and after.graph == "lenet"
    assert before.slots.keys() == after.slots.keys()
    slots = [(before.slots[kind], after.slots[kind]) for kind in before.slots]
    for mine, theirs in ((before.state, after.state), *slots):
        assert mine.keys() == theirs.keys()
        assert all(mine[n].dtype == theirs[n].dtype and np.array_equal(mine[n], theirs[n]) for n in mine)
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_any_safetensors_reader_finds_the_weights_under_pytorchs_names(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", example())
    tensors = safetensors.numpy.load_file(tmp_path / "c.safetensors")
    assert tensors["conv.weight"].shape == (4, 2, 3, 3)


def test_strided_and_torch_arrays_are_saved_by_value(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
    views = {"a": base.transpose(0, 3, 1, 2), "b": torch.tensor(base).permute(3, 2, 1, 0), "c": np.float32(3)}
    save_checkpoint(tmp_path / "c", replace(example(), state=views, slots={}))
    state = load_checkpoint(tmp_path / "c").state
    assert all(np.array_equal(state[name], np.asarray(x)) for name, x in views.items())


def test_the_hash_depends_on_values_names_shapes_and_types_not_on_layout_or_order():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)
    base = state_sha256({"a": a, "b": b})
    assert base == state_sha256({"b": torch.tensor(b), "a": np.asfortranarray(a)})
    assert base == state_sha256({"a": a.astype(">f4"), "b": b})
    others = [{"a": a.reshape(3, 2), "b": b}, {"a": a, "c": b}, {"a": a.astype(np.float64), "b": b}, {"a": -a, "b": b}]
    assert len({base, *map(state_sha256, others)}) == 5
    # The definition, once more: name, dtype, shape, bytes.
    expected = hashlib.sha256(b"a\0<f4[2, 3]\0" + a.tobytes() + b"b\0<f4[2]\0" + b.tobytes()).hexdigest()
    assert base == expected


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -30])
def test_truncated_files_are_refused_in_one_line(tmp_path, keep):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or truncated") as error:
        load_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_changed_byte_goes_unnoticed(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example())
    whole = path.read_bytes()
    for position in range(0, len(whole), 13):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: None, "there is no such checkpoint"),
        (lambda p: p.mkdir(), "there is no such checkpoint"),
        (lambda p: p.write_text("hello"), "damaged or truncated"),
        (lambda p: safetensors.numpy.save_file({"a": np.ones(2)}, p), "a safetensors file of something else"),
        (lambda p: safetensors.numpy.save_file({"a": np.ones(2)}, p, {"format": "tricnn checkpoint 9"}), "point 9"),
        (lambda p: safetensors.numpy.save_file({}, p, {"format": module.FORMAT, "content": "{}"}), "checksum"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(tmp_path, write, says):
    write(tmp_path / "c")
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(tmp_path / "c")


def test_another_run_is_refused_and_every_difference_named(tmp_path):
    kept = example()
    check_same_run("c", kept, "lenet", dict(kept.settings))
    with pytest.raises(CheckpointError, match="checkpoint of lenet, not of alexnet"):
        check_same_run("c", kept, "alexnet", kept.settings)
    with pytest.raises(CheckpointError, match="another lenet"):
        check_same_run("c", kept, "lenet", kept.settings | {"network": "cd"})
    with pytest.raises(CheckpointError, match="made with seed 1, not 2; batch 64, not 32; dtype none, not fp16"):
        check_same_run("c", kept, "lenet", kept.settings | {"seed": 2, "batch": 32, "dtype": "fp16"})


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "c"
    save_checkpoint(path, example(1))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space left"):
        save_checkpoint(path, example(2))
    monkeypatch.undo()
    assert load_checkpoint(path).progress.step == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/c: cannot be written"):
        save_checkpoint(tmp_path / "file" / "c", example())
    with pytest.raises(CheckpointError, match="cannot be written"), sole_writer(tmp_path / "file" / "out"):
        pass


def test_one_folder_has_one_writer(tmp_path):
    refused = pytest.raises(CheckpointError, match="another run is writing there")
    with sole_writer(tmp_path / "out"), refused, sole_writer(tmp_path / "out"):
        pass
    with sole_writer(tmp_path / "out"):
        pass


WRITER = """
import sys
from itertools import count
import numpy as np
from tricnn.training.checkpoint import Checkpoint, Progress, save_checkpoint
for step in count(int(sys.argv[2])):
    state = {f"layer{i}": np.full(100_000, step, np.float32) for i in range(4)}
    save_checkpoint(sys.argv[1], Checkpoint("lenet", state, {}, {}, Progress(step=step)))
"""


def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    path, step, rng = tmp_path / "c.safetensors", 0, np.random.default_rng(0)
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(step)])
        before = path.stat().st_mtime_ns if path.exists() else None
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert writer.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        found = load_checkpoint(path)
        assert found.progress.step >= step
        assert all((x == found.progress.step).all() for x in found.state.values())
        step = found.progress.step + 1
    assert json.loads(json.dumps(found.settings)) == {}


@pytest.mark.parametrize(
    "what", ["bfloat16", "float8_e4m3fn", "momentum of no shape", "momentum of nothing", "integers"]
)
def test_a_checkpoint_of_tensors_that_training_does_not_write_is_refused(tmp_path, what):
    """Its checksum is right: somebody wrote it so."""
    from safetensors.torch import save_file

    made = example()
    if what == "momentum of no shape":
        made.slots = {"momentum": {"conv.weight": np.float32(0.5).reshape(())}}
    elif what == "momentum of nothing":
        made.slots = {"momentum": {"nothing": np.zeros(3, np.float32)}}
    elif what == "integers":
        made.state = {name: x.astype(np.int32) for name, x in made.state.items()}
    path = tmp_path / "c"
    save_checkpoint(path, made)
    if what in ("bfloat16", "float8_e4m3fn"):
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).to(getattr(torch, what)) for name in file.keys()}  # noqa: SIM118
            save_file(tensors, path, file.metadata())
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: ") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["[]", '{"settings": 3}', '{"settings": {}, "progress": {"step": "x"}}', "[" * 10**5]
)
def test_a_checkpoint_whose_progress_is_none_is_refused(tmp_path, content):
    made = example()
    path = tmp_path / "c"
    digest = module._digest(made.graph, content, made.state)
    metadata = {"format": module.FORMAT, "graph": made.graph, "content": content, "sha256": digest}
    path.write_bytes(safetensors.numpy.save(dict(made.state), metadata))
    with pytest.raises(CheckpointError, match="its settings and its progress are not what a run writes"):
        load_checkpoint(path)


def test_what_a_killed_run_left_half_written_is_cleared_away_by_the_next(tmp_path):
    (tmp_path / ".checkpoint.safetensors.0123abcd.tmp").write_bytes(bytes(100))
    (tmp_path / ".mine.tmp").write_bytes(b"")
    with sole_writer(tmp_path):
        assert os.listdir(tmp_path) == [".mine.tmp"]
