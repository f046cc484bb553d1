"""What each of several processes does in test_many_processes.py."""

import pickle
import sys
from pathlib import Path

import numpy as np

import tricnn
from tricnn.run.launches import Watcher
from tricnn.training.data import Dataset
from tricnn.training.gradient_exchange import GradientExchange
from tricnn.training.loop import TrainOptions, train
from tricnn.training.processes import ALONE, Processes

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
    """The state after two epochs, of which the last batch is smaller."""
    random = np.random.default_rng(6)
    images, labels = random.integers(0, 256, (20, 2, 6, 6), np.uint8), random.integers(0, 3, 20)
    data = Dataset("noise", images[:17], labels[:17], images[17:], labels[17:], 3)
    trained = model(executor, chosen_for=BATCH)
    evaluator = tricnn.compile(network(), executor=executor)
    result = train(trained, evaluator, data, TrainOptions(epochs=2, batch=BATCH, processes=processes))
    return trained.state_dict(), result


class Watched:
    """torch.distributed, noting when sums begin."""

    def __init__(self, distributed, begun):
        self.distributed, self.begun = distributed, begun

    def all_reduce(self, *arguments, **options):
        self.begun.append("sum")
        return self.distributed.all_reduce(*arguments, **options)


def main():
    import torch.distributed as distributed

    executor, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
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
        "trained": trained(executor, processes),
    }
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()
