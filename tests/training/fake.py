"""A network small enough to check by eye, with everything that can go wrong when a run is resumed: a storage layout
that is not PyTorch's, a running statistic, and random numbers counted by ``step``. Run as a program it trains, slowly,
for a test to kill."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np

from tricnn.ir import Loss
from tricnn.training.data import Dataset
from tricnn.training.loop import TrainOptions, train

CLASSES, PIXELS = 4, 36


@dataclass
class Graph:
    name: str
    inputs: tuple = ()


class SoftmaxRegression:
    """logits = (x · mask - running) @ W.T + b, W stored transposed."""

    def __init__(self, name="softmax", pause=0.0, poison=None):
        self.graph = Graph(name)
        self.step, self.pause, self.poison = 0, pause, poison
        self.device, self.threads, self.loss, self.frozen, self.loss_scale = "cpu", None, Loss(), (), None
        rng = np.random.default_rng(7)
        self.live = {"fc.weight": rng.normal(0, 0.1, (PIXELS, CLASSES)).astype(np.float32),
                     "fc.bias": np.zeros(CLASSES, np.float32)}  # fmt: skip
        self.running = np.zeros(PIXELS, np.float32)

    def parameters(self):
        return self.live

    def to_logical(self, name, x):
        return x.T

    def to_storage(self, name, x):
        return np.ascontiguousarray(x.T)

    def state_dict(self):
        return {name: x.T.copy() for name, x in self.live.items()} | {"running": self.running.copy()}

    def load_state_dict(self, state):
        for name, x in self.live.items():
            x[...] = state[name].T
        self.running = state["running"].copy()

    def __call__(self, x):
        flat = x.reshape(len(x), -1)
        return (flat - self.running) @ self.live["fc.weight"] + self.live["fc.bias"]

    def loss_and_storage_grads(self, x, labels):
        time.sleep(self.pause)
        flat = x.reshape(len(x), -1)
        flat = flat * (np.random.default_rng(self.step).random(flat.shape, dtype=np.float32) > 0.2)
        logits = (flat - self.running) @ self.live["fc.weight"] + self.live["fc.bias"]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = float(-np.log(p[np.arange(len(x)), labels]).mean())
        p[np.arange(len(x)), labels] -= 1
        p /= np.float32(len(x))
        grads = {"fc.weight": (flat - self.running).T @ p, "fc.bias": p.sum(axis=0)}
        self.running = np.float32(0.9) * self.running + np.float32(0.1) * flat.mean(axis=0)
        self.step += 1
        return (float("nan") if self.poison == self.step - 1 else loss), grads


def blobs(n=203, tests=40, seed=0):
    """Images of one bright corner each, with noise; the corner is the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n + tests)
    images = rng.integers(0, 90, (n + tests, 1, 6, 6))
    for image, label in zip(images, labels):
        image[0, 3 * (label // 2) :, 3 * (label % 2) :][:3, :3] += 100
    images = images.astype(np.uint8)
    return Dataset("blobs", images[:n], labels[:n], images[n:], labels[n:], CLASSES, mean=0.3, std=0.2)


OPTIONS = TrainOptions(
    epochs=3, batch=16, seed=5, lr=0.1, nesterov=True, weight_decay=1e-3, shift=1, checkpoint_every=1
)

if __name__ == "__main__":
    train(SoftmaxRegression(pause=0.02), SoftmaxRegression(), blobs(), OPTIONS, out_dir=sys.argv[1], resume=True)
