"""What each of several processes does in test_many_processes.py."""

from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import tricnn
from tricnn.run.launches import Watcher
from tricnn.training.batch_sources import Batches, Skipped
from tricnn.training.data import Dataset
from tricnn.training.gradient_exchange import GradientExchange
from tricnn.training.loop import TrainOptions, train
from tricnn.training.loss_scaling import LossScaling
from tricnn.training.processes import ALONE, Processes
from tricnn.training.shared_step import SharedStep

WORLD, BATCH = 2, 7


def network():
    """Convolutions and a dense layer, without batch norm, whose statistics would be those of a part of the batch."""
    b = tricnn.GraphBuilder("tiny")
    x = b.input("x", (2, 6, 6))
    x = b.relu(b.conv2d(x, 4, 3, padding=1, name="first"))
    x = b.max_pool2d(b.relu(b.conv2d(x, 6, 3, padding=1, name="second")), 2)
    return b.build(logits=b.linear(x, 3, name="fc"))


def model(executor, bucket_bytes=64, chosen_for=512):  # a batch whose sums are split
    return tricnn.compile(network(), "train", chosen_for, executor=executor, seed=3, bucket_bytes=bucket_bytes)


def batch():
    random = np.random.default_rng(5)
    return random.standard_normal((BATCH, 2, 6, 6), np.float32), random.integers(0, 3, BATCH)


def images_of(rank):
    x, labels = batch()
    part = Processes(rank, WORLD).shared(BATCH)
    return x[part], labels[part]


def one_process(executor):
    trained = model(executor)
    loss, gradients = trained.loss_and_storage_grads(*batch())
    return loss, logical(trained, gradients)


def logical(trained, gradients):
    return {name: np.array(trained.to_logical(name, g)) for name, g in gradients.items()}


def trained(executor, processes=ALONE):
    """The state after two epochs, of which the last batch is smaller, the result, and what was said."""
    random = np.random.default_rng(6)
    images, labels = random.integers(0, 256, (20, 2, 6, 6), np.uint8), random.integers(0, 3, 20)
    data = Dataset("noise", images[:17], labels[:17], images[17:], labels[17:], 3)
    notes = [Skipped(f"{processes.rank}.jpg", "damaged", 1)]
    object.__setattr__(data, "notes", lambda: [notes.pop() for _ in tuple(notes)])
    said = Console(file=StringIO())
    trained = model(executor, chosen_for=BATCH)
    evaluator = tricnn.compile(network(), executor=executor)
    options = TrainOptions(epochs=2, batch=BATCH, processes=processes)
    result = train(trained, evaluator, data, options, console=said)
    return trained.state_dict(), result, said.file.getvalue()


#: a loss, and whether it takes the labels mixed with others
WEIGHING = (
    (tricnn.Loss(class_weights=(1.0, 4.0, 0.25), ignore_index=2), False),
    (tricnn.Loss(class_weights=(1.0, 4.0, 0.25), label_smoothing=0.1, mixed=True), False),
    (tricnn.Loss(class_weights=(1.0, 4.0, 0.25), ignore_index=2, mixed=True), True),
)


def weighed(executor, processes=ALONE):
    """(loss, gradients) for each of the losses of :data:`WEIGHING`, of labels that the processes have other ones of."""
    found, part = [], processes.shared(BATCH)
    x, labels = batch()
    labels = np.sort(labels)
    for loss, mixed in WEIGHING:
        own = tricnn.Mixed(labels[part], np.roll(labels, 3)[part], 0.3) if mixed else labels[part]
        trained = tricnn.compile(network(), "train", BATCH, executor=executor, loss=loss, seed=3)
        step = SharedStep(trained, processes) if processes.world > 1 else trained.loss_and_storage_grads
        mean, gradients, *_ = step(x[part], own)
        found.append((mean, logical(trained, gradients)))
    return found


#: of these batches the second process's images alone have gradients beyond fp16's range, at any scale that is reached
OVERFLOWING = (0, 1, 5)
SCALING = LossScaling(2.0**16, growth_interval=2)


def scaled(executor, processes=ALONE):
    """(the loss scale and the steps skipped so far after each of ten steps in fp16, the state before and after)."""
    random, part = np.random.default_rng(7), processes.shared(BATCH)
    batches = []
    for number in range(10):
        x, targets = random.standard_normal((BATCH, 2, 6, 6), np.float32), random.integers(0, 2, (BATCH, 3))
        targets = targets.astype(np.float32)
        targets[Processes(1, WORLD).shared(BATCH)] *= 1e3 if number in OVERFLOWING else 1
        batches.append((x[part], targets[part]))
    loss = tricnn.Loss("binary_cross_entropy", scaled=True)
    trained = tricnn.compile(network(), "train", BATCH, "fp16", executor, loss=loss, seed=3)
    seen, before = [], trained.state_dict()

    class Seen:
        def on_step(self, step, loss):
            seen.append((trained.loss_scale, [x.tobytes() for x in trained.state_dict().values()]))

    options = TrainOptions(epochs=1, batch=BATCH, lr=0.01, loss_scaling=SCALING, warmup_epochs=0, processes=processes)
    tested = [(batches[2][0], np.zeros(len(batches[2][0]), np.int64))]
    source = Batches(batches, tested, num_classes=3)
    result = train(trained, tricnn.compile(network(), executor=executor), source, options, callbacks=[Seen()])
    states = [[x.tobytes() for x in before.values()], *(state for _, state in seen)]
    skipped = [one == other for one, other in pairwise(states)]
    assert sum(skipped) == result.history["epochs"][0]["skipped_steps"]
    return [scale for scale, _ in seen], skipped, before, trained.state_dict()


class Watched:
    """torch.distributed, noting when sums begin."""

    def __init__(self, distributed, begun):
        self.distributed, self.begun = distributed, begun

    def all_reduce(self, *arguments, **options):
        self.begun.append("sum")
        return self.distributed.all_reduce(*arguments, **options)


def main(executor: str, rank: int, folder: Path) -> dict[str, Any]:
    """What the process of a rank finds, together with the other one."""
    import torch.distributed as distributed

    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    processes = Processes(rank, WORLD, distributed)
    begun, steps = [], []
    exchange = GradientExchange(Watched(distributed, begun), bucket_bytes=64)
    step = model(executor)
    x, labels = images_of(rank)
    exchange.share = len(labels) / processes.total([len(labels)])[0]

    def watch(name, gradient):
        begun.append(name)
        exchange.watch(name, gradient)

    for _ in range(2):
        begun.clear()
        loss, gradients = step.loss_and_storage_grads(x, labels, Watcher(watch))
        exchange.finish()
        steps.append(logical(step, gradients))
    found = {
        "loss": processes.total([loss * exchange.share])[0],
        "gradients": steps,
        "buckets": exchange.bytes_by_bucket,
        "begun": begun,
        "weighed": weighed(executor, processes),
        "trained": trained(executor, processes),
        "scaled": scaled(executor, processes),
    }
    distributed.destroy_process_group()
    return found
