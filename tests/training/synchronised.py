"""What each of several processes does in test_sync_batch_norm.py."""

from pathlib import Path

import numpy as np

import tricnn
from tricnn.training.data import Dataset
from tricnn.training.loop import TrainOptions, train
from tricnn.training.processes import ALONE, Processes
from tricnn.training.shared_step import SharedStep

BATCH = 11  # which no number of processes divides
#: what several processes train with: optimisers that look at whole tensors, clipping, a running average
SETTINGS = (
    {"optimiser": "lamb", "clip": 0.5, "ema": 0.9, "weight_decay": 0.01, "lr": 0.01},
    {"optimiser": "lars", "weight_decay": 0.01, "nesterov": False, "lr": 0.5, "accumulate": 2},
)


def network():
    """Batch norm before and after a concatenation, of convolutions that become one, and one behind a stride."""
    b = tricnn.GraphBuilder("normalised")

    def unit(x, channels, kernel, name, **options):
        x = b.conv2d(x, channels, kernel, padding=kernel // 2, bias=False, name=f"{name}.conv", **options)
        return b.relu(b.batch_norm(x, name=f"{name}.bn"))

    x = unit(b.input("x", (3, 8, 8)), 4, 3, "stem")
    x = b.concat([unit(x, 4, 3, "wide"), unit(x, 4, 1, "left"), unit(x, 4, 1, "right")])
    x = unit(x, 6, 3, "last", stride=2)
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def model(executor, dtype):
    return tricnn.compile(network(), "train", BATCH, dtype, executor, seed=4, bucket_bytes=256)


def batch():
    random = np.random.default_rng(8)
    return random.standard_normal((BATCH, 3, 8, 8)) + 3, random.integers(0, 3, BATCH)


def logical(trained, gradients):
    return {name: np.array(trained.to_logical(name, g)) for name, g in gradients.items()}


def steps(executor, dtype, processes=ALONE):
    """(loss, gradients, state) of each of two steps."""
    trained, (x, labels), found = model(executor, dtype), batch(), []
    step = trained.loss_and_storage_grads
    if processes.world > 1:
        step = SharedStep(trained, processes, sync_batch_norm=True)
        part = processes.shared(BATCH)
        x, labels = x[part], labels[part]
    for _ in range(2):
        loss, gradients, *_ = step(x, labels)
        found.append((loss, logical(trained, gradients), trained.state_dict()))
        for parameter, p in trained.parameters().items():
            p -= 0.5 * gradients[parameter].reshape(p.shape)
    return found


def runs(processes=ALONE):
    """(state, running average) after an epoch with each of SETTINGS."""
    random = np.random.default_rng(6)
    images, labels = random.integers(0, 256, (37, 3, 8, 8), np.uint8), random.integers(0, 3, 37)
    data = Dataset("noise", images[:29], labels[:29], images[29:], labels[29:], 3)
    found = []
    for settings in SETTINGS:
        trained, evaluator = model("numpy", "fp64"), tricnn.compile(network(), "infer", 8, "fp64", "numpy")
        options = TrainOptions(epochs=1, batch=BATCH, processes=processes, sync_batch_norm=True, **settings)
        result = train(trained, evaluator, data, options)
        found.append((trained.state_dict(), evaluator.state_dict(), result.train_loss))
    return found


def main(executor, dtype, rank, world, folder):
    """What process ``rank`` of ``world`` finds."""
    import torch
    import torch.distributed as distributed

    torch.set_num_threads(1)
    meeting = f"file://{Path(folder)}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    processes = Processes(rank, world, distributed)
    found = steps(executor, dtype, processes), runs(processes) if dtype == "fp64" and world == 2 else []
    distributed.destroy_process_group()
    return found
