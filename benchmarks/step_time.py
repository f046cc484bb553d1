"""Time one training step of the NumPy executor against PyTorch's: python -m benchmarks.step_time [--quick] [--json]

Both use all cores of the CPU in fp32 and take turns within one run, so that a busy machine slows both; the figure is
the ratio of the two medians. PyTorch's network is written with torch.nn and differentiated by autograd, as its users
do; it runs contiguous and channels-last, and the faster of the two counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

MISSING = "{} is not installed; this benchmark needs torch, triton, numpy, networkx, rich and safetensors"

try:
    import numpy as np
    import torch
    from torch import nn

    import tricnn
    from tricnn.ir import Graph
    from tricnn.measure.clock import wall_clock
    from tricnn.measure.in_turns import times_in_turns
except ModuleNotFoundError as missing:
    sys.exit(MISSING.format(missing.name))

ACCEPTED = 4.0  # times as long as PyTorch


class LeNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes (He et al., 2015)."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Sequential):
    def __init__(self) -> None:
        blocks: list[nn.Module] = []
        before = 64
        for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Block(before, after, stride), Block(after, after, 1)]
            before = after
        super().__init__(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
            *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
        )  # fmt: skip


def pytorch_step(network: nn.Module, x: torch.Tensor, labels: torch.Tensor, layout: torch.memory_format) -> Any:
    network = network.to(memory_format=layout).train()
    x = x.contiguous(memory_format=layout)
    loss_of = nn.CrossEntropyLoss()

    def step() -> None:
        network.zero_grad(set_to_none=True)
        loss_of(network(x), labels).backward()

    return step


def measure(name: str, graph: Graph, network: Callable[[], nn.Module], batch: int, rounds: int, seconds: float) -> Any:
    shape = graph.types[graph.inputs[0].name].at(batch)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, batch))
    model = tricnn.compile(graph, mode="train", batch=batch, dtype="fp32", executor="numpy")
    images, classes = x.contiguous(memory_format=torch.channels_last).numpy(), labels.numpy()
    contenders = {
        "tricnn": lambda: model.loss_and_grads(images, classes),
        "PyTorch contiguous": pytorch_step(network(), x, labels, torch.contiguous_format),
        "PyTorch channels-last": pytorch_step(network(), x, labels, torch.channels_last),
    }
    for work in contenders.values():
        work()
    timers = {who: partial(wall_clock, work) for who, work in contenders.items()}
    times = times_in_turns(timers, least=min(3, rounds), most=rounds, seconds=seconds)
    median = {who: statistics.median(t) for who, t in times.items()}
    ours = median.pop("tricnn")
    rival = min(median, key=median.__getitem__)
    return {
        "name": name,
        "batch": batch,
        "rounds": len(times["tricnn"]),
        "tricnn_seconds": ours,
        "pytorch_seconds": median[rival],
        "pytorch_layout": rival.removeprefix("PyTorch "),
        "ratio": ours / median[rival],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--only", choices=("lenet", "resnet18"), help="measure only this one")
    options = parser.parse_args()
    cases: dict[str, tuple[Callable[[], Graph], Callable[[], nn.Module], int]] = {
        "lenet": (tricnn.graphs.lenet, LeNet, 256),
        "resnet18": (tricnn.graphs.resnet18, ResNet18, 8),
    }
    cores = len(os.sched_getaffinity(0))
    if not options.json:
        print(f"one training step, fp32, {cores} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    rows = []
    for name, (declare, network, batch) in cases.items():
        if options.only in (None, name):
            many = 50 if name == "lenet" else 12
            rounds, seconds = (many // 4, 15.0) if options.quick else (many, 60.0)
            row = measure(name, declare(), network, batch, rounds, seconds)
            rows.append(row)
            if not options.json:
                print(
                    f"{name:9} batch {batch:3}   tricnn {row['tricnn_seconds'] * 1e3:8.1f} ms   PyTorch "
                    f"({row['pytorch_layout']}) {row['pytorch_seconds'] * 1e3:8.1f} ms   ratio {row['ratio']:.2f}   "
                    f"({row['rounds']} rounds)",
                    flush=True,
                )
    if options.json:
        versions = {"torch": torch.__version__, "numpy": np.__version__}
        print(json.dumps({"cores": cores, "load": os.getloadavg()[0], "versions": versions, "steps": rows}))
    return 0 if all(row["ratio"] <= ACCEPTED for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
