"""What a user would lose: fp16 that learns from gradients smaller than fp16 has numbers, by PyTorch's rule."""

import math

import numpy as np
import pytest
import torch

import tricnn
from tests.training.stopping import Failing, StopAfter
from tricnn import Loss, Trainer
from tricnn.measure.contest import Ours, random_batch
from tricnn.system.errors import TargetError, TricnnError
from tricnn.training import LossScaling, TrainOptions, loop
from tricnn.training.checkpoint import load_checkpoint
from tricnn.training.loop import CHECKPOINT, DivergedError

pytestmark = pytest.mark.filterwarnings("ignore:the training loss")
EXECUTORS = ("numpy", "eager", "triton")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 2, 5, 5)).astype(np.float32)
LABELS = RNG.integers(0, 3, 4)


def network(weight=1.0):
    b = tricnn.GraphBuilder("net")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (2, 5, 5)), 4, 3, bias=False, name="conv"), name="bn"))
    b.output(b.linear(b.flatten(x), 3, name="fc"), "out", loss_weight=weight)
    return b.build()


def twin():
    """The same network by PyTorch."""
    net = torch.nn.Sequential()
    net.conv, net.bn = torch.nn.Conv2d(2, 4, 3, bias=False), torch.nn.BatchNorm2d(4)
    net.relu, net.flat, net.fc = torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36, 3)
    return net


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_too_small_for_fp16_are_those_of_float64(executor):
    """The gradient of the logits is about 1e-9 and fp16's smallest number 6e-8: without a scale nothing is left."""
    wide = tricnn.compile(network(1e-8), "train", 4, "fp64", "numpy")
    model = tricnn.compile(network(1e-8), "train", 4, "fp16", executor)
    state = wide.state_dict()
    _, right = wide.loss_and_grads(X, LABELS)
    model.load_state_dict(state)
    _, lost = model.loss_and_grads(X, LABELS)  # also advances running statistics, which are loaded anew
    model.loss_scale = 2.0**30
    model.load_state_dict(state)
    loss, found = model.loss_and_grads(X, LABELS)
    for name, g in right.items():
        assert not np.any(lost[name])
        # fp16's 2^-11 in each of some roundings of what is summed
        np.testing.assert_allclose(found[name], g, rtol=0, atol=16 * 2**-11 * abs(g).max())
    assert loss == pytest.approx(1e-8 * 1.1, rel=1)


def test_only_a_step_that_was_compiled_for_it_has_a_scale():
    model = tricnn.compile(network(), "train", executor="numpy")
    assert model.loss_scale is None
    plans = [tricnn.compile(network(), "train", dtype=d, executor="numpy").plan for d in ("fp16", "bf16")]
    assert len(plans[0].kernels) == len(plans[1].kernels), "a scale costs no kernel"
    with pytest.raises(TargetError, match=r"loss=Loss\(scaled=True\)"):
        model.loss_scale = 2.0
    with pytest.raises(TricnnError, match="a positive number"):
        tricnn.compile(network(), "train", executor="numpy", loss=Loss(scaled=True)).loss_scale = math.nan


def test_what_is_timed_in_fp16_is_a_step_with_a_scale_of_one():
    timed = Ours(network(), "train", 4, "fp16")
    timed.step()
    state, (images, labels) = timed.model.state_dict(), random_batch(network(), 4)
    fresh = tricnn.compile(network(), "train", 4, "fp16", "triton")
    fresh.load_state_dict(state)
    _, expected = fresh.loss_and_grads(images, labels)
    for name, g in timed.gradients().items():
        assert np.array_equal(g.numpy(), expected[name])


class Recorder:
    def __init__(self, model):
        self.model, self.found = model, []

    def on_step(self, step, loss):
        self.found.append((self.model.loss_scale, self.model.state_dict()))


SCALING = LossScaling(2.0**16, growth_interval=3)
#: images and targets; those of 1e36 have gradients that overflow fp32 when they are scaled, and a finite loss
OVERFLOWING = (0, 1, 7, 8)
BATCHES = [
    (
        RNG.standard_normal((6, 2, 5, 5)).astype(np.float32),
        (RNG.integers(0, 2, (6, 3)) * (1e36 if i in OVERFLOWING else 1)).astype(np.float32),
    )
    for i in range(12)
]
TESTED = [(X, LABELS)]
LOSS = Loss("binary_cross_entropy", scaled=True)


@pytest.fixture
def no_limit(monkeypatch):
    """An epoch's mean loss may be as large as it likes."""
    monkeypatch.setattr(loop, "DIVERGED", math.inf)


@pytest.mark.usefixtures("no_limit")
@pytest.mark.parametrize(
    ("executor", "optimiser", "clip"), [("numpy", "adamw", None), ("eager", "sgd", 0.5), ("triton", "adamw", 0.5)]
)
def test_scales_skipped_steps_and_weights_are_those_of_grad_scaler(executor, optimiser, clip):
    """Step by step, running statistics among them: those of a skipped step count."""
    model = tricnn.compile(network(), "train", 6, executor=executor, loss=LOSS)
    net = twin()
    net.load_state_dict({n: torch.tensor(x) for n, x in model.state_dict().items()}, strict=False)
    options = TrainOptions(
        epochs=1,
        batch=6,
        lr=0.01,
        optimiser=optimiser,
        clip=clip,
        schedule="constant",
        warmup_epochs=0,
        weight_decay=0.01,
        loss_scaling=SCALING,
    )
    recorder = Recorder(model)
    Trainer(model, (BATCHES, TESTED), options, [recorder]).fit()
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimiser]
    theirs = kind(net.parameters(), lr=0.01, weight_decay=0.01, **({"momentum": 0.9} if optimiser == "sgd" else {}))
    scaler = torch.amp.GradScaler("cpu", growth_interval=3)  # and its defaults
    moves = []
    for (x, targets), (scale, state) in zip(BATCHES, recorder.found, strict=True):
        theirs.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(torch.tensor(x)), torch.tensor(targets))
        scaler.scale(loss).backward()
        scaler.unscale_(theirs)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        scaler.step(theirs)
        before = scaler.get_scale()
        scaler.update()
        assert scale == scaler.get_scale()
        moves.append(math.log2(scale / before))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                # both in fp32; AdamW divides by the root of what it has seen, which enlarges what little differs
                np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-3, atol=2e-5, err_msg=name)
    assert moves == [-1, -1, 0, 0, 1, 0, 0, -1, -1, 0, 0, 1]


def test_the_rule_by_itself_is_torchs():
    """Any sequence of finite and other steps, from scales near the ends of fp32's range, by odd factors."""
    rng = np.random.default_rng(1)
    for start, growth, backoff, interval in [(2.0**16, 2.0, 0.5, 3), (3e38, 1.7, 0.3, 1), (1e-3, 4.0, 0.9, 2)]:
        rule = LossScaling(start, growth, backoff, interval)
        scale, tracker = torch.tensor([start]), torch.zeros(1, dtype=torch.int32)
        ours = (float(scale), 0)
        for _ in range(40):
            good = bool(rng.random() < 0.8)
            torch._amp_update_scale_(scale, tracker, torch.tensor([float(not good)]), growth, backoff, interval)
            ours = rule.after(*ours, good)
            assert ours == (float(scale), int(tracker))


@pytest.mark.usefixtures("no_limit")
def test_a_run_resumed_in_the_middle_has_its_scale_and_adams_count_of_steps(tmp_path):
    """Skipped steps are no updates: AdamW's correction of bias counts those that were made."""
    options = TrainOptions(
        epochs=1, batch=6, optimiser="adamw", accumulate=2, ema=0.9, checkpoint_every=1, loss_scaling=SCALING
    )

    def trained(out, callbacks=(), resume=False, options=options):
        model = tricnn.compile(network(), "train", 6, executor="numpy", loss=LOSS)
        return Trainer(model, (BATCHES, TESTED), options, callbacks, out=out, resume=resume).fit()

    whole = trained(tmp_path / "whole")
    with pytest.raises(Failing):
        trained(tmp_path / "run", [StopAfter(4)])
    done = load_checkpoint(tmp_path / "run" / CHECKPOINT).progress
    assert done.skipped == 1 and done.loss_scale == 2.0**15
    assert trained(tmp_path / "run", resume=True).state_sha256 == whole.state_sha256
    record = whole.history["epochs"][0]
    assert (record["skipped_steps"], record["loss_scale"]) == (3, 2.0**13)
    with pytest.raises(TricnnError, match="loss scaling"):
        trained(tmp_path / "run", resume=True, options=TrainOptions(epochs=1, batch=6))


def test_gradients_that_no_scale_makes_finite_end_the_run():
    model = tricnn.compile(network(), "train", 6, executor="numpy", loss=LOSS)
    inner = model.loss_and_storage_grads

    def poisoned(x, labels, watch=None):
        loss, gradients = inner(x, labels, watch)
        return loss, {name: g * np.float32("nan") for name, g in gradients.items()}

    model.loss_and_storage_grads = poisoned
    with pytest.raises(DivergedError, match="whatever the loss scale"):
        Trainer(model, ([BATCHES[2]] * 50, TESTED), TrainOptions(epochs=1, batch=6)).fit()


@pytest.mark.parametrize(
    "settings", [{"init_scale": 0}, {"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"growth_interval": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(TricnnError, match=next(iter(settings))):
        LossScaling(**settings)
