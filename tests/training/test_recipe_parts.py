"""What a user would lose: a modern recipe (workers, mixup, accumulation, a running average) that resumes to the bit,
its logs, and the same as an object."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tricnn
from tests.training.fake import CLASSES, blobs
from tests.training.stopping import Failing, StopAfter
from tests.training.test_pictures import ALL, folder, source
from tricnn import Loss, Trainer
from tricnn.system.errors import TargetError, TricnnError
from tricnn.training import Mixing, TrainOptions
from tricnn.training.chance import generator
from tricnn.training.logs import TensorBoard
from tricnn.training.loop import AVERAGED, DivergedError
from tricnn.training.mixing import box

__all__ = ["folder"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:the training loss")
MODERN = TrainOptions(
    epochs=2, batch=4, seed=3, lr=0.05, optimiser="lamb", clip=1.0, accumulate=3, ema=0.9, mixup=0.4, cutmix=1.0,
    decay_vectors=False, weight_decay=1e-3, checkpoint_every=1,
)  # fmt: skip


def network():
    b = tricnn.GraphBuilder("net")
    x = b.input("x", (1, 6, 6))
    x = b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding=1, bias=False, name="conv"), name="bn"))
    return b.build(b.linear(b.flatten(b.dropout(x, 0.2)), CLASSES, name="fc"))


def model(executor="numpy", **options):
    return tricnn.compile(network(), "train", 4, executor=executor, loss=Loss(mixed=True), **options)


def trained(data, out=None, resume=False, options=MODERN, made=None, callbacks=()):
    return Trainer(made or model(), data, options, callbacks, out=out, resume=resume).fit()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_workers_mixup_accumulation_and_the_average_resume_to_the_bit(folder, tmp_path, after):
    """14 pictures are 4 batches: two updates an epoch, the second of one batch."""
    whole = trained(source(folder, augmentation=ALL), tmp_path / "whole")
    assert whole.steps == 4
    with pytest.raises(Failing):
        trained(source(folder, augmentation=ALL), tmp_path / "run", callbacks=[StopAfter(after)])
    workers = 2 if after == 3 else 0
    resumed = trained(source(folder, augmentation=ALL, workers=workers), tmp_path / "run", resume=True)
    assert resumed.state_sha256 == whole.state_sha256
    for name in (AVERAGED,):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [r["test_loss"] for r in resumed.history["epochs"]] == [r["test_loss"] for r in whole.history["epochs"]]


@pytest.mark.parametrize(
    "change",
    [{"optimiser": "adamw"}, {"clip": None}, {"accumulate": 1}, {"mixup": 0.0}, {"cutmix": 0.0}, {"ema": 0.5}],
)
def test_each_part_makes_a_difference_and_a_resumed_run_must_have_it(folder, tmp_path, change):
    data = source(folder)
    options = replace(MODERN, epochs=1)
    before = trained(data, tmp_path, options=options)
    after = trained(data, options=replace(options, **change))
    assert (before.state_sha256, before.history["epochs"][0]["test_loss"]) != (
        after.state_sha256,
        after.history["epochs"][0]["test_loss"],
    )
    with pytest.raises(TricnnError, match=next(iter(change))):
        trained(data, tmp_path, resume=True, options=replace(options, **change))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (Loss(class_weights=(1, 2, 3, 4)), r"class weights none, not \[1\.0, 2\.0, 3\.0, 4\.0\]"),
        (Loss(ignore_index=1), "ignored class none, not 1"),
        (Loss(label_smoothing=0.1), "label smoothing none, not 0.1"),
        (Loss("binary_cross_entropy"), "loss none, not binary_cross_entropy"),
    ],
)
def test_a_resumed_run_must_have_the_same_loss(tmp_path, loss, says):
    options = TrainOptions(epochs=1, batch=4, lr=0.01)
    made = [tricnn.compile(network(), "train", 4, executor="numpy", loss=minimised) for minimised in (Loss(), loss)]
    data = blobs(n=4, tests=4)
    trained(data, tmp_path, options=options, made=made[0])
    with pytest.raises(TricnnError, match=f"made with {says}: resume with the same"):
        trained(data, tmp_path, resume=True, options=options, made=made[1])
    trained(data, tmp_path, resume=True, options=options, made=made[0])


def test_accumulating_batches_is_one_batch_of_all():
    """Without batch norm and dropout the mean of three batches' gradients is that of the 12 images."""
    b = tricnn.GraphBuilder("linear")
    graph = b.build(b.linear(b.flatten(b.input("x", (1, 6, 6))), CLASSES, name="fc"))
    options = TrainOptions(epochs=1, batch=12, lr=0.1, schedule="constant", warmup_epochs=0)
    data = blobs(n=24, tests=4)
    states = []
    for batch, accumulate in ((12, 1), (4, 3)):
        made = tricnn.compile(graph, "train", batch, executor="numpy", dtype="fp64")
        Trainer(made, data, replace(options, batch=batch, accumulate=accumulate)).fit()
        states.append(made.state_dict()["fc.weight"])
    np.testing.assert_allclose(*states, rtol=1e-6, atol=1e-9)


def test_logs_have_each_epoch_once_and_callbacks_are_told(folder, tmp_path):
    told = []

    class Listener:
        def on_epoch(self, record):
            told.append(("epoch", record["epoch"]))

        def on_checkpoint(self, path):
            told.append(("checkpoint", path.name))

    trained(source(folder), tmp_path, options=replace(MODERN, epochs=1, schedule="constant"), callbacks=[Listener()])
    trained(source(folder), tmp_path, resume=True, options=replace(MODERN, schedule="constant"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "epochs.csv").read_text())))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"train_loss", "test_loss", "test_accuracy", "lr", "waiting_for_data"} <= set(rows[0])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2]
    assert [line["step"] for line in lines if "epoch" not in line] == [1, 2, 3, 4]
    assert ("epoch", 1) in told and ("checkpoint", "checkpoint.safetensors") in told


def test_tensorboard_has_each_step_and_epoch_once_where_it_is_installed(folder, tmp_path):
    """Of a run that was killed after its third step, and taken up after its first."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(where, name):
        seen = EventAccumulator(str(where))
        seen.Reload()
        return [(event.step, pytest.approx(event.value)) for event in seen.Scalars(name)]

    killed, resumed = (TensorBoard(tmp_path / "board") for _ in range(2))
    for step in (1, 2, 3):
        killed.on_step(step, 10.0 + step)
        killed.on_checkpoint(tmp_path)
    for step in (2, 3, 4):
        resumed.on_step(step, 20.0 + step)
    resumed.on_epoch({"epoch": 1, "step": 4, "test_accuracy": 0.5})
    assert scalars(tmp_path / "board", "loss") == [(1, 11.0), (2, 22.0), (3, 23.0), (4, 24.0)]
    assert scalars(tmp_path / "board", "test_accuracy") == [(4, 0.5)]

    done = trained(source(folder), tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert scalars(tmp_path / "tensorboard", "loss") == [(x["step"], x["loss"]) for x in logged if "epoch" not in x]
    expected = [(record["step"], record["test_accuracy"]) for record in done.history["epochs"]]
    assert scalars(tmp_path / "tensorboard", "test_accuracy") == expected


def test_a_trainer_takes_a_pair_of_loaders_of_tensors():
    data = torch.utils.data.TensorDataset(torch.rand(12, 1, 6, 6), torch.arange(12) % CLASSES)
    loaders = tuple(torch.utils.data.DataLoader(data, 4) for _ in range(2))
    assert trained(loaders, options=replace(MODERN, epochs=1)).steps == 1
    with pytest.raises(TargetError, match="mode='train'"):
        Trainer(tricnn.compile(network(), executor="numpy"), loaders)
    with pytest.raises(TricnnError, match=r"loss=Loss\(mixed=True\)"):
        trained(loaders, made=tricnn.compile(network(), "train", 4, executor="numpy"))


def test_binary_cross_entropy_trains_and_knows_what_guessing_costs():
    made = tricnn.compile(network(), "train", 4, executor="numpy", loss="binary_cross_entropy")
    options = TrainOptions(epochs=2, batch=16, lr=0.3)
    result = Trainer(made, blobs(n=64, tests=8), options).fit()
    assert result.train_loss < np.log(2)
    with pytest.raises((DivergedError, TricnnError)):
        Trainer(made, blobs(n=64, tests=8), replace(options, lr=1e9, optimiser="sgd", momentum=0.99)).fit()


# --- mixing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor])
def test_mixup_is_a_weighted_sum_with_the_following_image(wrap):
    x, labels = np.random.default_rng(0).random((5, 2, 3, 4)).astype(np.float32), np.arange(5)
    mixed, (one, other, share) = Mixing(mixup=0.8)(wrap(x), wrap(labels), generator("m"))
    assert 0 < share < 1 and list(one) == [0, 1, 2, 3, 4] and list(other) == [1, 2, 3, 4, 0]
    np.testing.assert_allclose(mixed, share * x + (1 - share) * np.roll(x, -1, 0), rtol=1e-6)


def test_cutmix_puts_in_a_box_and_the_share_is_what_is_left():
    x = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 10), np.float32)
    for i in range(50):
        mixed, (_, other, share) = Mixing(cutmix=1.0)(x, np.arange(4), generator("c", i))
        foreign = mixed != x
        assert (foreign.mean(axis=(1, 2, 3)) == pytest.approx(1 - share)) and np.array_equal(x[:, 0, 0, 0], range(4))
        assert all((mixed[n][foreign[n]] == other[n]).all() for n in range(4))
    top, bottom, left, right = box(100, 60, 0.25, generator("inside"))
    assert 0 <= top <= bottom <= 100 and 0 <= left <= right <= 60 and bottom - top <= 51 and right - left <= 31


def test_shares_of_mixup_are_of_a_beta_distribution():
    """Beta(α, α) has mean 1/2 and variance 1/(4·(2α + 1))."""
    x, labels = np.zeros((2, 1, 1, 1), np.float32), np.arange(2)
    shares = [Mixing(mixup=0.2)(x, labels, generator("b", i))[1].share for i in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=5 * np.sqrt(1 / (4 * 1.4) / 2000))
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), rel=0.1)
