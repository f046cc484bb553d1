"""What a user would lose: a run that learns, says how it goes, and can be stopped and taken up at will."""

import io
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

import tricnn
from tests.training.fake import OPTIONS, SoftmaxRegression, blobs
from tricnn.system.errors import CheckpointError, TricnnError
from tricnn.training.checkpoint import load_checkpoint, state_sha256
from tricnn.training.console import duration
from tricnn.training.loop import (
    CHECKPOINT,
    PREVIOUS,
    DivergedError,
    TrainingInterrupted,
    TrainOptions,
    train,
)
from tricnn.training.plot import save_curve
from tricnn.training.scores import cross_entropy

STEPS = 3 * math.ceil(203 / 16)


def run(tmp_path=None, resume=False, options=OPTIONS, model=None, console=None, data=None):
    return train(model or SoftmaxRegression(), SoftmaxRegression(), data or blobs(), options, tmp_path, resume, console)


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


class Stop(Exception):
    """A crash: nothing is saved, nothing is said."""


def crashing(after):
    """A model that dies in its ``after``-th step."""
    model = SoftmaxRegression()
    inner = model.loss_and_storage_grads

    def step(x, labels):
        if model.step == after:
            raise Stop
        return inner(x, labels)

    model.loss_and_storage_grads = step
    return model


def test_it_learns_and_reports(uninterrupted):
    assert uninterrupted.test_accuracy > 0.9
    assert uninterrupted.epochs == 3 and uninterrupted.steps == STEPS
    records = uninterrupted.history["epochs"]
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert records[-1]["train_loss"] == uninterrupted.train_loss < records[0]["train_loss"]
    assert [s for s, _ in uninterrupted.history["curve"]] == list(range(1, STEPS + 1))
    assert uninterrupted.images_per_second > 0 and uninterrupted.checkpoint is None


def test_the_training_loss_is_the_mean_over_images(uninterrupted):
    curve = [loss for _, loss in uninterrupted.history["curve"]][-STEPS // 3 :]
    weights = [16] * 12 + [11]
    assert uninterrupted.train_loss == pytest.approx(np.average(curve, weights=weights), rel=1e-12)


def test_the_result_is_a_function_of_the_settings(uninterrupted):
    assert run().state_sha256 == uninterrupted.state_sha256
    for change in ({"seed": 6}, {"batch": 17}, {"lr": 0.11}, {"momentum": 0.8}, {"nesterov": False}, {"shift": 0},
                   {"weight_decay": 0.0}, {"decay_vectors": False}, {"schedule": "constant"}):  # fmt: skip
        assert run(options=replace(OPTIONS, **change)).state_sha256 != uninterrupted.state_sha256


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("after", [0, 1, 7, 12, 13, 14, 30, STEPS - 1])
def test_a_crash_anywhere_and_resuming_give_the_same_bits(tmp_path, uninterrupted, after, every):
    options = replace(OPTIONS, checkpoint_every=every)
    with pytest.raises(Stop):
        run(tmp_path, options=options, model=crashing(after))
    assert 0 <= load_checkpoint(tmp_path / CHECKPOINT).progress.step <= after
    result = run(tmp_path, resume=True, options=options)
    assert result.state_sha256 == uninterrupted.state_sha256
    assert result.history["curve"] == uninterrupted.history["curve"]
    losses = [(r["train_loss"], r["test_loss"], r["test_accuracy"]) for r in result.history["epochs"]]
    assert losses == [(r["train_loss"], r["test_loss"], r["test_accuracy"]) for r in uninterrupted.history["epochs"]]


def test_sigkill_again_and_again_and_resuming_give_the_same_bits(tmp_path, uninterrupted):
    path, step = tmp_path / CHECKPOINT, 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-m", "tests.training.fake", str(tmp_path)])
        deadline = time.monotonic() + 60
        while not path.exists() or load_checkpoint(path).progress.step < step + 5:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        step = load_checkpoint(path).progress.step
    assert 15 <= step < STEPS
    assert run(tmp_path, resume=True).state_sha256 == uninterrupted.state_sha256


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_after_a_whole_step_and_says_how_to_go_on(tmp_path, uninterrupted, signum, status):
    model = SoftmaxRegression()
    inner = model.loss_and_storage_grads

    def step(x, labels):
        if model.step == 20:
            os.kill(os.getpid(), signum)
        return inner(x, labels)

    model.loss_and_storage_grads = step
    handler = signal.getsignal(signum)
    with pytest.raises(TrainingInterrupted, match=r"epoch 2 after step 21; saved in .* with --resume") as stop:
        run(tmp_path, options=replace(OPTIONS, checkpoint_every=10_000), model=model)
    assert stop.value.exit_status == status and signal.getsignal(signum) is handler
    assert load_checkpoint(tmp_path / CHECKPOINT).progress.step == 21
    assert run(tmp_path, resume=True).state_sha256 == uninterrupted.state_sha256


def test_a_signal_while_evaluating_leaves_the_evaluation_to_the_resumed_run(tmp_path, uninterrupted):
    class Slow(SoftmaxRegression):
        def __call__(self, x):
            os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(x)

    with pytest.raises(TrainingInterrupted, match="epoch 1 after step 13"):
        train(SoftmaxRegression(), Slow(), blobs(), OPTIONS, tmp_path)
    result = run(tmp_path, resume=True)
    assert result.state_sha256 == uninterrupted.state_sha256 and len(result.history["epochs"]) == 3


def test_resuming_a_finished_run_gives_its_result(tmp_path, uninterrupted):
    first = run(tmp_path)
    again = run(tmp_path, resume=True)
    assert again == first and again.state_sha256 == uninterrupted.state_sha256


def test_resuming_before_there_is_anything_starts_and_says_so(tmp_path, uninterrupted):
    out = io.StringIO()
    result = run(tmp_path / "new" / "folder", resume=True, console=Console(file=out))
    assert result.state_sha256 == uninterrupted.state_sha256
    assert "no checkpoint yet, starting from the beginning" in out.getvalue()


def test_a_new_run_sets_the_old_checkpoint_aside(tmp_path, uninterrupted):
    run(tmp_path)
    run(tmp_path, options=replace(OPTIONS, seed=9))
    old = load_checkpoint(tmp_path / PREVIOUS)
    assert state_sha256(old.state) == uninterrupted.state_sha256
    assert load_checkpoint(tmp_path / CHECKPOINT).settings["seed"] == 9


def test_under_a_constant_rate_a_finished_run_goes_on(tmp_path):
    options = replace(OPTIONS, schedule="constant")
    run(tmp_path, options=options)
    longer = replace(options, epochs=5)
    assert run(tmp_path, resume=True, options=longer).state_sha256 == run(options=longer).state_sha256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 6}, "seed 5, not 6"),
        ({"batch": 17}, "batch 16, not 17"),
        ({"epochs": 4}, "epochs 3, not 4"),
        ({"lr": 0.2, "momentum": 0.5}, r"lr 0\.1, not 0\.2; momentum 0\.9, not 0\.5"),
        ({"fixed": {"dtype": "bf16"}}, "dtype none, not bf16"),
    ],
)
def test_settings_that_would_change_the_bits_are_refused_by_name(tmp_path, change, says):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=f"made with {says}: resume with the same"):
        run(tmp_path, resume=True, options=replace(OPTIONS, **change))


@pytest.mark.parametrize("executor", ["numpy", "eager"])
def test_another_number_of_threads_adds_up_otherwise_and_is_refused(tmp_path, executor):
    """A BLAS, and ATen, divide a product's sums among their threads."""
    b = tricnn.GraphBuilder("small")
    graph = b.build(b.linear(b.flatten(b.input("x", (1, 6, 6))), 4))

    def go(threads, resume, epochs):
        torch.set_num_threads(threads)
        with threadpool_limits(threads, user_api="blas"):
            models = [tricnn.compile(graph, mode, 16, executor=executor) for mode in ("train", "infer")]
            assert models[0].threads == threads
            options = replace(OPTIONS, epochs=epochs, schedule="constant", warmup_epochs=0)
            return train(*models, blobs(), options, tmp_path, resume)

    before = torch.get_num_threads()
    try:
        go(2, False, 1)
        with pytest.raises(
            CheckpointError, match=r"made with threads \(OMP_NUM_THREADS\) 2, not 1: resume with the same"
        ):
            go(1, True, 2)
        assert go(2, True, 2).epochs == 2
    finally:
        torch.set_num_threads(before)


def test_another_normalisation_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=r"made with mean 0\.3, not 0\.31; std 0\.2, not \[0\.25\]: resume"):
        run(tmp_path, resume=True, data=replace(blobs(), mean=0.31, std=[0.25]))


def test_other_data_and_other_networks_are_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match="images of SHA-256"):
        run(tmp_path, resume=True, data=blobs(seed=1))
    with pytest.raises(CheckpointError, match="a checkpoint of softmax, not of other"):
        run(tmp_path, resume=True, model=SoftmaxRegression("other"))


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(DivergedError, match=r"the loss is nan at step 17 \(epoch 2, batch 5\)"):
        run(tmp_path, model=SoftmaxRegression(poison=17))
    kept = load_checkpoint(tmp_path / CHECKPOINT)
    assert kept.progress.step == 17 and all(np.isfinite(x).all() for x in kept.state.values())


def constant(loss):
    """A model whose loss is always that."""
    model = SoftmaxRegression()
    inner = model.loss_and_storage_grads
    model.loss_and_storage_grads = lambda x, labels: (loss, inner(x, labels)[1])
    return model


def test_a_loss_beyond_all_bounds_stops_the_run_at_the_epochs_end(tmp_path):
    """Finite, and nothing that a network comes back from: 1000 times log 4 is 1386."""
    with pytest.raises(
        DivergedError, match=r"^the mean loss of epoch 1 is 4e\+18, where guessing among 4 classes gives 1.39: training"
    ):
        run(tmp_path, model=constant(4e18))
    assert load_checkpoint(tmp_path / CHECKPOINT).progress.epoch == 0
    with pytest.warns(UserWarning, match="no better than that of guessing"):
        run(model=constant(1380.0))


def test_a_run_that_learned_nothing_says_so(recwarn):
    with pytest.warns(
        UserWarning, match=r"the training loss, 1\.4, is no better than that of guessing, 1\.39; a learning"
    ):
        run(model=constant(1.4))
    run(model=constant(1.3))
    assert not [w for w in recwarn if "guessing" in str(w.message)]


def test_torch_tensors_train_to_the_same_numbers(uninterrupted):
    class InTorch(SoftmaxRegression):
        def __init__(self):
            super().__init__()
            self.tensors = {name: torch.from_numpy(x) for name, x in self.live.items()}  # shared memory

        def parameters(self):
            return self.tensors

        def loss_and_storage_grads(self, x, labels):
            loss, grads = super().loss_and_storage_grads(x, labels)
            return loss, {name: torch.from_numpy(g) for name, g in grads.items()}

    class TorchLogits(SoftmaxRegression):
        def __call__(self, x):
            return torch.from_numpy(super().__call__(x))

    result = train(InTorch(), TorchLogits(), blobs(), OPTIONS)
    assert result.train_loss == pytest.approx(uninterrupted.train_loss, rel=1e-5)
    assert result.test_accuracy == uninterrupted.test_accuracy


def test_cross_entropy_equals_pytorchs():
    rng = np.random.default_rng(0)
    logits, labels = 50 * rng.normal(size=(9, 5)), rng.integers(0, 5, 9)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="sum")
    assert cross_entropy(logits, labels) == pytest.approx(float(theirs), rel=1e-12)


def test_plain_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("tricnn.training.console.SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    run(console=Console(file=out, width=40))
    lines = out.getvalue().splitlines()
    assert len(lines) == STEPS + 3 and "\x1b" not in out.getvalue()
    assert lines[13].startswith("epoch 1/3  loss ") and "test accuracy" in lines[13]
    for part in ("epoch 3/3", "100 %", "loss", "accuracy", "images/s", "0:00 left"):
        assert part in lines[-2]


def test_a_bar_on_a_terminal():
    out = io.StringIO()
    run(console=Console(file=out, force_terminal=True, width=120))
    assert "━" in out.getvalue() and "images/s" in out.getvalue() and "left" in out.getvalue()


def test_no_console_no_output(capfd):
    run()
    assert capfd.readouterr() == ("", "")


def test_durations():
    assert [duration(s) for s in (0, 59.6, 65, 3599, 7384)] == ["0:00", "1:00", "1:05", "59:59", "2:03:04"]


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch": 0}, {"shift": -1}, {"warmup_epochs": -1.0}, {"seed": -1}])
def test_options_that_make_no_sense_are_refused(bad):
    with pytest.raises(TricnnError, match="not accepted"):
        TrainOptions(**bad)


def test_the_curve_is_a_picture(tmp_path, uninterrupted):
    from PIL import Image

    path = save_curve(uninterrupted.history, tmp_path / "curve.png", "softmax on blobs")
    image = np.asarray(Image.open(path).convert("RGB"))
    assert image.shape[1] >= 1000 and len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    with pytest.raises(TricnnError, match="cannot be written"):
        save_curve(uninterrupted.history, tmp_path / "none" / "curve.png", "")
