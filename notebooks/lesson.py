"""What several notebooks use: pictures, data, gradient descent, and the compiler's work as text.

All of it is NumPy and Matplotlib on what every user of tricnn has: ``tricnn.compile``, a model's weights and
gradients, and the command line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import tricnn

plt.rcParams.update({"figure.dpi": 72, "image.cmap": "gray", "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"image.interpolation": "nearest", "figure.constrained_layout.use": True})


# --- pictures and tables ---------------------------------------------------------------------------------------------


def show(images: Iterable[Any], titles: Iterable[str], columns: int = 4, size: float = 2.6, **style: Any) -> None:
    """A picture of images side by side, each ``[H, W]`` or ``[H, W, 3]`` under its title; ``style`` goes to imshow."""
    images, titles = list(images), list(titles)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = np.shape(images[0])[:2]
    _, axes = plt.subplots(rows, columns, figsize=(size * columns, (size * height / width + 0.3) * rows))
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, image, title in zip(np.ravel(axes), images, titles):
        axis.imshow(image, **style)
        axis.set_title(title, fontsize=10)
    plt.show()


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their heads: the first column to the left, numbers to the right with thousands apart."""
    cells = [list(head)] + [[f"{v:,}" if type(v) is int else str(v) for v in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first, *others = [cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        print("  ".join([first, *others]).rstrip())


# --- data ------------------------------------------------------------------------------------------------------------


def photograph(name: str = "china", step: int = 2) -> np.ndarray:
    """A photograph of scikit-learn's (``china`` or ``flower``), each pixel the mean of step x step of its pixels:
    [1, 3, H, W], from 0 to 1."""
    from sklearn.datasets import load_sample_image

    image = load_sample_image(f"{name}.jpg") / 255
    height, width = image.shape[0] // step, image.shape[1] // step
    image = image[: height * step, : width * step].reshape(height, step, width, step, 3).mean((1, 3))
    return image.transpose(2, 0, 1)[None].astype(np.float32)


def digits(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Handwritten digits of scikit-learn as size x size images of 0 to 1: 1,500 to train on and 297 to test on, as
    (train images [N, 1, H, W], train labels [N], test images, test labels).

    Each of the 8x8 pixels becomes a square; what is left of ``size`` is a margin of paper. Pixels have mean 0 and
    variance 1, as networks like them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    times = size // 8
    x = np.kron(data.images / 16, np.ones((1, times, times)))
    left = size - 8 * times
    x = np.pad(x, ((0, 0), (left // 2, left - left // 2), (left // 2, left - left // 2)))
    x, y = ((x - x.mean()) / x.std())[:, None].astype(np.float32), data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1500], order[1500:]
    return x[train], y[train], x[test], y[test]


# --- training --------------------------------------------------------------------------------------------------------


def fit(
    model: Any, x: np.ndarray, y: np.ndarray, *, epochs: float = 1, rate: float = 0.05, momentum: float = 0.9,
    batch: int = 64, seed: int = 0,
) -> list[float]:  # fmt: skip
    """The loss of every step of stochastic gradient descent, w <- w - rate * v with v <- momentum * v + dloss/dw.

    ``model`` was compiled with ``mode="train"``; its weights are changed. (07-lenet writes this loop out.)"""
    order = np.random.default_rng(seed)
    velocity: dict[str, np.ndarray] = {}
    losses: list[float] = []
    per_epoch = len(x) // batch
    while len(losses) < round(epochs * per_epoch):
        shuffled = order.permutation(len(x))
        for start in range(0, per_epoch * batch, batch):
            picked = shuffled[start : start + batch]
            loss, gradients = model.loss_and_grads(x[picked], y[picked])
            weights = model.state_dict()
            for name, gradient in gradients.items():
                velocity[name] = momentum * velocity.get(name, 0) + gradient
                weights[name] -= rate * velocity[name]
            model.load_state_dict(weights)
            losses.append(loss)
            if len(losses) == round(epochs * per_epoch):
                break
    return losses


def accuracy(graph: Any, weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """The share of images whose largest logit is that of their label."""
    model = tricnn.compile(graph)
    model.load_state_dict(weights)
    right = [np.argmax(model(x[i : i + 100]), axis=1) == y[i : i + 100] for i in range(0, len(x), 100)]
    return float(np.concatenate(right).mean())


def smooth(losses: Sequence[float], window: int = 5) -> np.ndarray:
    """The mean of every ``window`` values that follow one another."""
    return np.convolve(losses, np.ones(window) / window, mode="valid")


# --- the compiler's work ---------------------------------------------------------------------------------------------


def command(name: str, network: Any, *options: str) -> Any:
    """What ``tricnn NAME NETWORK OPTIONS --json`` prints on a command line, read; ``network`` is a name of the zoo, or
    a graph, which the command gets as a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        if not isinstance(network, str):
            file.write(str(network))
            file.flush()
            network = file.name
        words = [sys.executable, "-m", "tricnn", name, network, *options, "--json"]
        return json.loads(subprocess.check_output(words, text=True))


def kernel(model: Any, name: str) -> str:
    """The text of the kernel ``name`` in the file that the compiler emitted, from its heading to the next one's."""
    _, heading, rest = model.source.partition(f"\n# {name}: ")
    if not heading:
        raise KeyError(f"there is no kernel {name}; the plan names them: {model.plan}")
    return (heading + rest.partition("\n\n\n# ")[0]).strip()
