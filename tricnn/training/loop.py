"""The training loop: batches, updates, evaluation, checkpoints.

A run is a function of its settings. However often it is interrupted, by Ctrl-C, SIGTERM or SIGKILL, and resumed, it
ends with the same bits as one that was left alone.
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..ir.wording import plural
from ..run.weights import save_weights
from ..system.errors import DataError, TricnnError
from .batch_sources import Batch, Skipped, Source, batches_per_epoch, suited
from .chance import generator
from .checkpoint import (
    Checkpoint,
    Progress,
    check_same_run,
    load_checkpoint,
    save_checkpoint,
    sole_writer,
    state_sha256,
)
from .console import Reporter
from .image_sizes import SizedImages, SizedSteps
from .interrupts import INTERRUPTS, TrainingInterrupted, signals_noted
from .logs import TENSORBOARD, TensorBoard, tell, write_logs
from .loss_scaling import LEAST
from .mixing import Mixing
from .optim import Average
from .options import TrainOptions, optimiser_for
from .scores import Scores
from .shared_step import SharedStep
from .trainable import Evaluable, Trainable
from .updates import gather, updates_of
from .workers import arriving, deaths_found_when_asked

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
AVERAGED = "averaged.safetensors"  # the running average, by PyTorch's names
POINTS_PER_EPOCH = 20  # of the training curve
#: a mean loss so many times that of guessing is no loss of a network that may yet learn
DIVERGED = 1000.0


class DivergedError(TricnnError):
    """The loss, or the network's output, is no longer a number."""


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.
    ``test_accuracy`` is of images, or of the pixels of a network that gives each a class, which has a mean intersection
    over union as well. ``history`` has ``curve`` (pairs of step and mean training loss), ``epochs`` (a record for each)
    and ``steps_per_epoch``; :func:`tricnn.training.plot.save_curve` draws it. ``skipped_pictures`` says by each
    one's place below the folder why it could not be read."""

    train_loss: float
    test_accuracy: float
    images_per_second: float
    state_sha256: str
    epochs: int
    steps: int
    history: dict[str, Any]
    checkpoint: Path | None
    test_mean_iou: float | None = None
    skipped_pictures: dict[str, str] = field(default_factory=dict)


def train(
    model: Trainable,
    evaluator: Evaluable,
    dataset: Source,
    options: TrainOptions | None = None,
    out_dir: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    about: str | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainResult:
    """Train ``model`` on ``dataset`` and evaluate it after each epoch with ``evaluator``, given its state.

    Several processes (``options.processes``) call this together, each with the same model: each batch is shared among
    them, gradients and running statistics are averaged at every step, and the first one alone speaks and writes.

    With ``out_dir`` a checkpoint is kept there: at each epoch's end, every ``checkpoint_every`` steps or
    ``checkpoint_seconds``, and when a signal ends the run. ``resume`` goes on from it (from the start where there is
    none yet); otherwise one that is there is set aside as ``checkpoint.previous.safetensors``. ``about`` is said
    first, once the run can begin. There are ``epochs.csv`` and ``log.jsonl`` beside it, and TensorBoard's files where
    that is installed; ``callbacks`` are told of each step, epoch and checkpoint (logs.py).

    Raises CheckpointError for a checkpoint that is damaged, of another network or of other settings, or cannot be
    written; DivergedError, naming the step or the epoch, if the loss is not finite, or an epoch's mean is more than
    :data:`DIVERGED` times what guessing gives; TrainingInterrupted after SIGINT or SIGTERM; ProcessLost if another
    process died or hangs. A run that ends with a training loss no better than guessing's warns.
    """
    options = options or TrainOptions()
    first = options.processes.first
    with ExitStack() as stack:
        out = Path(out_dir) if out_dir is not None and first else None
        if out is not None:
            stack.enter_context(sole_writer(out))
        dataset = suited(dataset, model.graph, options.mixup, model.device)
        run = _Run(model, evaluator, dataset, options, out, callbacks)
        note = run.begin(resume)
        report = Reporter(
            (console if first else None) or Console(quiet=True), options.epochs, run.steps_per_epoch, run.progress.step
        )
        stack.enter_context(report)
        run.interrupt = stack.enter_context(signals_noted())
        run.arrived = stack.enter_context(deaths_found_when_asked())
        for line in filter(None, (about, note)):
            report.say(line)
        while run.progress.epoch < options.epochs:
            run.train_epoch(report)
            report.evaluated(run.finish_epoch(report))
        if lesson := run.lesson():
            warnings.warn(lesson, stacklevel=2)
        return run.result()


class _Run:
    """One run's state and the steps it is made of."""

    def __init__(
        self,
        model: Trainable,
        evaluator: Evaluable,
        dataset: Source,
        options: TrainOptions,
        out: Path | None,
        callbacks: Sequence[Any] = (),
    ):
        self.model, self.evaluator, self.options, self.graph = model, evaluator, options, model.graph
        self.dataset = SizedImages(dataset, options.sizes) if options.sizes else dataset
        self.skips = getattr(dataset, "corrupt", "fail") == "skip"
        self.step_of = SizedSteps(model, options.sizes) if options.sizes else lambda epoch: model
        self.path = out / CHECKPOINT if out else None
        board = (TensorBoard(out / TENSORBOARD),) if out is not None and TensorBoard.installed() else ()
        self.callbacks = (*callbacks, *board)
        self.processes = options.processes
        shared = self.processes.world > 1
        self.shared_step = SharedStep(model, self.processes, options.sync_batch_norm) if shared else None
        self.batches_per_epoch = batches_per_epoch(dataset, options.batch, self.processes.world)
        self.steps_per_epoch = -(-self.batches_per_epoch // options.accumulate)
        self.mixing = Mixing(options.mixup, options.cutmix)
        if self.mixing and model.loss.takes_labels:
            raise TricnnError(
                "mixup and cutmix need a network compiled with loss=Loss(mixed=True): it takes two labels"
            )
        self.rates = options.rates(self.steps_per_epoch)
        vectors = frozenset(name for name, x in model.state_dict().items() if len(x.shape) < 2)
        no_decay = frozenset() if options.decay_vectors else vectors
        self.optimiser = optimiser_for(model, options, no_decay)
        self.average = Average(options.ema) if options.ema is not None else None
        self.updates = updates_of(model, self.optimiser, self.average)
        self.scaling = options.loss_scaling if model.loss_scale is not None else None
        self.progress = Progress(loss_scale=self.scaling.init_scale if self.scaling else 0.0)
        self.gathered: dict[str, Any] = {}  # gradients of the batches of an update, so far
        self.interrupt: list[int] = []
        self.arrived: Callable[[], None] = lambda: None
        self.saved_at = time.monotonic()

    def settings(self) -> dict[str, Any]:
        """Everything that decides the bits of a run, as JSON has it."""
        options, rates = self.options, self.rates
        return {
            "network": hashlib.sha256(str(self.graph).encode()).hexdigest()[:16],
            **self.dataset.settings(),
            "seed": options.seed,
            "batch": options.batch,
            "lr": rates.lr,
            "schedule": rates.kind,
            "warm-up steps": rates.warmup,
            "epochs": options.epochs if rates.total else None,  # without a cosine a finished run may go on
            "milestones": list(rates.milestones),
            "gamma": rates.gamma if rates.kind == "step" else None,
            "momentum": options.momentum,
            "nesterov": options.nesterov,
            "weight decay": options.weight_decay,
            "decay of vectors": options.decay_vectors,
            "shift": options.shift,
            **options.later(),
            **self.model.loss.settings,
            **({"loss scaling": asdict(options.loss_scaling)} if self.scaling else {}),
            **({"frozen": list(self.model.frozen)} if self.model.frozen else {}),
            "threads (OMP_NUM_THREADS)": self.model.threads,
            **({"processes": self.processes.world} if self.processes.world > 1 else {}),
            **options.fixed,
        }

    def begin(self, resume: bool) -> str | None:
        """Restore or make the first checkpoint; a line to say, if there is one."""
        self.model.step = 0
        found = self.processes.from_first(lambda: self.find(resume))
        if found is not None:
            self.restore(found)
        if self.scaling:
            self.model.loss_scale = self.progress.loss_scale
        note = self.set_aside(resume) if found is None else self.resumed()
        if self.average is not None and not self.average.values:
            self.average.update(self.model.live_state())
        return note

    def resumed(self) -> str:
        """Where the run goes on, in words."""
        done = self.progress
        return f"resumed after epoch {done.epoch}, batch {done.position} (step {done.step}) from {self.path}"

    def find(self, resume: bool) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one."""
        if not resume or self.path is None or not self.path.exists():
            return None
        checkpoint = load_checkpoint(self.path)
        check_same_run(self.path, checkpoint, self.model.graph.name, self.settings())
        return checkpoint

    def set_aside(self, resume: bool) -> str | None:
        """Make the first checkpoint, where another run's may be; a line to say, if there is one."""
        if self.path is None:
            return None
        note = f"{self.path}: there is no checkpoint yet, starting from the beginning" if resume else None
        if self.path.exists():
            self.path.replace(self.path.with_name(PREVIOUS))
            note = f"an earlier run's checkpoint is now {self.path.with_name(PREVIOUS)}"
        self.save()
        return note

    def restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.state)
        self.progress = done = checkpoint.progress
        self.model.step = done.epoch * self.batches_per_epoch + done.position
        self.optimiser.steps = done.step - done.skipped
        self.take(checkpoint.slots)

    def save(self) -> None:
        if self.path is None:
            return
        state = self.model.state_dict()
        save_checkpoint(self.path, Checkpoint(self.graph.name, state, self.kept(), self.settings(), self.progress))
        self.saved_at = time.monotonic()
        tell(self.callbacks, "checkpoint", self.path)

    def kept(self) -> dict[str, dict[str, Any]]:
        """What the optimiser remembers, and the running average, in PyTorch's layout."""
        stored = {**self.optimiser.slots, **({"average": self.average.values} if self.average is not None else {})}
        return {
            slot: {name: self.model.to_logical(name, x) for name, x in values.items()}
            for slot, values in stored.items()
        }

    def take(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        """Put what :meth:`kept` gave, of this step or another one, in its place."""
        stored = {
            slot: {name: self.model.to_storage(name, x) for name, x in values.items()} for slot, values in kept.items()
        }
        average = stored.pop("average", {})
        if self.average is not None:
            self.average.values = average
        self.optimiser.slots = stored

    def change_size(self) -> None:
        """Go on with the step for the images of the epoch under way, where it is another one."""
        after = self.step_of(self.progress.epoch)
        if after is self.model:
            return
        kept, before, self.model = self.kept(), self.model, after
        after.load_state_dict(before.state_dict())
        after.step = before.step
        if self.scaling:
            after.loss_scale = self.progress.loss_scale
        self.take(kept)
        self.gathered = {}
        self.updates = updates_of(after, self.optimiser, self.average)
        if self.shared_step is not None:
            self.shared_step = SharedStep(after, self.processes, self.options.sync_batch_norm)

    def train_epoch(self, report: Reporter) -> None:
        """Train on the batches that are left of the epoch under way."""
        self.change_size()
        done = self.progress
        with self.arriving(self.dataset.training(self.options, done.epoch, done.position)) as drawn:
            self.train_on(islice(drawn, self.batches_per_epoch - done.position), report)

    def train_on(self, drawn: Iterable[Batch], report: Reporter) -> None:
        options, done = self.options, self.progress
        parameters = self.model.parameters()
        began, waited, batches, images, total = time.perf_counter(), 0.0, 0, 0, 0.0
        waiting = began
        for x, labels in drawn:
            waited += time.perf_counter() - waiting
            if self.mixing:
                place = done.position + batches
                x, labels = self.mixing(x, labels, generator(options.seed, done.epoch, "mixed", place))
            loss, gradients, count = self.loss_and_gradients(x, labels)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss is {loss} at step {done.step} (epoch {done.epoch + 1}, batch {done.position + 1}):"
                    f" training diverged; a learning rate below {options.lr:g} may help"
                )
            batches, images, total = batches + 1, images + count, total + loss * count
            if options.accumulate > 1:
                gather(self.gathered, gradients, anew=batches == 1)
                waiting = time.perf_counter()
                if batches < options.accumulate and done.position + batches < self.batches_per_epoch:
                    continue
                gradients = self.gathered
            self.update(parameters, gradients, batches if options.accumulate > 1 else 1)
            seconds = time.perf_counter() - began
            self.count(total / images, images, batches, seconds, waited)
            report.stepped(done.step, total / images, images, seconds, waited)
            tell(self.callbacks, "step", done.step, total / images)
            self.say_notes(report)
            self.stop_if_asked()
            if self.is_time_to_save():
                self.save()
            began, waited, batches, images, total = time.perf_counter(), 0.0, 0, 0, 0.0
            waiting = began

    def loss_and_gradients(self, x: Any, labels: Any) -> tuple[float, dict[str, Any], int]:
        """The mean loss of a batch, its gradients by parameter as the optimiser wants them, and how many images it has.
        These are those of all processes, each with its share of the batch."""
        overflowing = np.errstate(over="ignore", invalid="ignore")  # such a step is skipped
        with overflowing if self.scaling else nullcontext():
            if self.shared_step is not None:
                return self.shared_step(x, labels)
            return *self.model.loss_and_storage_grads(x, labels), len(x)

    def update(self, parameters: Mapping[str, Any], gradients: Mapping[str, Any], batches: int) -> None:
        """Update parameters and the running average by the sum of the gradients of some batches.
        Nothing is updated if a scaled gradient is not finite. The loss scale for the next step is set."""
        done = self.progress
        scale = (done.loss_scale or 1.0) * batches
        good = self.updates(parameters, gradients, self.rates(done.step), scale, check=self.scaling is not None)
        if self.scaling is not None:
            done.skipped += not good
            done.loss_scale, done.good_steps = self.scaling.after(done.loss_scale, done.good_steps, good)
            if done.loss_scale < LEAST:
                raise DivergedError(
                    f"gradients are not finite at step {done.step}, whatever the loss scale ({done.loss_scale:.1g}): "
                    f"training diverged; a learning rate below {self.options.lr:g} may help"
                )
            self.model.loss_scale = done.loss_scale

    def say_notes(self, report: Reporter, together: bool = False) -> None:
        """Say what the data set has to say, and note the pictures that it skipped."""
        for whose, note in self.processes.notes(self.dataset.notes, together):
            report.say(f"{whose}{note}")
            if isinstance(note, Skipped):
                self.progress.skip(note.path, note.reason)

    def count(self, loss: float, images: int, batches: int, seconds: float, waited: float) -> None:
        done = self.progress
        done.step += 1
        done.position += batches
        done.images += images
        done.seconds += seconds
        done.waited += waited
        done.epoch_loss += loss * images
        done.epoch_images += images
        done.recent_loss += loss
        done.recent_steps += 1
        if done.recent_steps >= max(1, self.steps_per_epoch // POINTS_PER_EPOCH):
            done.curve.append([done.step, done.recent_loss / done.recent_steps])
            done.recent_loss, done.recent_steps = 0.0, 0

    def is_time_to_save(self) -> bool:
        if self.options.checkpoint_every:
            return self.progress.step % self.options.checkpoint_every == 0
        return time.monotonic() - self.saved_at >= self.options.checkpoint_seconds

    def finish_epoch(self, report: Reporter) -> dict[str, float]:
        """Evaluate, record and save; the epoch's record is returned."""
        done = self.progress
        mean, guess = done.epoch_loss / done.epoch_images, self.loss_of_guessing()
        if mean > DIVERGED * guess:
            raise DivergedError(
                f"the mean loss of epoch {done.epoch + 1} is {mean:.3g}, where guessing among "
                f"{plural(self.dataset.num_classes, 'class')} gives {guess:.3g}: training diverged; a learning rate "
                f"below {self.options.lr:g} may help"
            )
        figures = self.evaluate()
        self.say_notes(report, together=True)
        record = {
            "epoch": done.epoch + 1,
            "step": done.step,
            "lr": self.rates(done.step - 1),
            "train_loss": mean,
            **figures,
            **({"loss_scale": done.loss_scale, "skipped_steps": done.skipped} if self.scaling else {}),
            **({"skipped_pictures": len(done.skipped_pictures)} if self.skips else {}),
            "images_per_second": done.images / done.seconds,
            "waiting_for_data": done.waited / done.seconds,
        }
        done.epochs.append(record)
        done.epoch, done.position = done.epoch + 1, 0
        done.epoch_loss, done.epoch_images = 0.0, 0
        self.save()
        if self.path is not None:
            write_logs(self.path.parent, done)
            if self.average is not None:
                save_weights(self.path.with_name(AVERAGED), self.result_state())
        tell(self.callbacks, "epoch", record)
        return record

    def loss_of_guessing(self) -> float:
        """The loss of equal probabilities for each output, times its weight."""
        weights = [output.loss_weight for output in getattr(self.model.graph, "outputs", ())] or [1.0]
        return self.model.loss.of_guessing(self.dataset.num_classes) * sum(weights)

    def lesson(self) -> str | None:
        """What to say of a run that learned nothing."""
        last = self.progress.epochs[-1]["train_loss"] if self.progress.epochs else 0.0
        if last < self.loss_of_guessing():
            return None
        return (
            f"the training loss, {last:.3g}, is no better than that of guessing, {self.loss_of_guessing():.3g}; a "
            f"learning rate below {self.options.lr:g}, or more epochs, may help"
        )

    def evaluate(self) -> dict[str, float]:
        """The figures of the test set, by name."""
        self.evaluator.load_state_dict(self.result_state())
        graph = self.model.graph
        scores = Scores(graph.classes if getattr(graph, "rows", ()) else None, self.model.loss.ignore_index)
        with self.arriving(self.dataset.evaluation(self.options.evaluation_batch, self.processes)) as drawn:
            for x, labels in drawn:
                logits = _numpy(self.evaluator(x))
                if not np.isfinite(logits).all():
                    raise DivergedError(f"the network's output is not finite after step {self.progress.step}")
                scores.add(logits, np.asarray(labels))
                self.stop_alone()
        scores.set(self.processes.total(scores.sums))
        if not scores.count:
            raise DataError(f"{self.dataset.name}: none of its test images can be read")
        return scores.figures

    def result_state(self) -> dict[str, Any]:
        """What is evaluated: the running average where there is one, else the network as it is."""
        if self.average is None:
            return self.model.state_dict()
        return {name: self.model.to_logical(name, x) for name, x in self.average.values.items()}

    def arriving(self, batches: Iterable[Batch]) -> closing[Generator[Batch, None, None]]:
        """``batches``, whose workers end with the context; where a signal keeps one from coming, it ends the run."""
        return closing(arriving(batches, self.arrived, self.stop_alone))

    def stop_alone(self) -> None:
        """Stop if asked, where no other process goes on: in the middle of an epoch's test, or for want of a batch."""
        if self.processes.world == 1:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        asked = self.processes.total([signum in self.interrupt[:1] for signum in INTERRUPTS])
        if not any(asked):
            return  # as soon as one process was asked, all stop after the same step
        signum = INTERRUPTS[asked.index(max(asked))]
        done = self.progress
        if self.model.step == done.epoch * self.batches_per_epoch + done.position:  # no batch is waiting for others
            self.save()
        where = f"interrupted ({signal.Signals(signum).name}) in epoch {done.epoch + 1} after step {done.step}"
        how = f"saved in {self.path}; the same command with --resume goes on" if self.path else "nothing was saved"
        raise TrainingInterrupted(f"{where}; {how}", signum, said=not self.processes.first)

    def result(self) -> TrainResult:
        done = self.progress
        last = done.epochs[-1]
        return TrainResult(
            train_loss=last["train_loss"],
            test_accuracy=last["test_accuracy"],
            test_mean_iou=last.get("test_mean_iou"),
            images_per_second=done.images / done.seconds,
            state_sha256=state_sha256(self.model.state_dict()),
            epochs=done.epoch,
            steps=done.step,
            history={"curve": done.curve, "epochs": done.epochs, "steps_per_epoch": self.steps_per_epoch},
            checkpoint=self.path,
            skipped_pictures={each["skipped_picture"]: each["reason"] for each in done.skipped_pictures},
        )


def _numpy(x: Any) -> NDArray[np.float64]:
    return np.asarray(x.detach().cpu().double() if hasattr(x, "detach") else x, dtype=np.float64)
