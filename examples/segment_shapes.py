"""A U-Net that finds striped rectangles and plain discs: each pixel gets a class, learned from pictures drawn here.

    python examples/segment_shapes.py [EPOCHS]

Pixels on a shape's border, which belong to neither side, have the label 255 and count nothing, as in PASCAL VOC.
"""

import sys
from collections.abc import Iterator

import numpy as np
from rich.console import Console

import tricnn
from tricnn.training import TrainOptions

SIZE, IGNORED = 32, 255
CLASSES = ("background", "rectangle", "disc")


def picture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture [3, SIZE, SIZE] with one or two shapes on noise, and the class of each pixel [SIZE, SIZE]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    image = rng.normal(0, 0.2, (3, SIZE, SIZE))
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(rng.integers(1, 3)):
        kind, radius = rng.integers(1, 3), rng.uniform(5, 9)
        dy, dx = (np.abs(v - rng.uniform(6, SIZE - 6)) for v in rng.permutation((y, x)))
        distance = np.maximum(dy, dx + radius / 2) if kind == 1 else np.hypot(dy, dx)
        inside = distance < radius
        stripes = np.where((y + x) // 2 % 2, 1.0, 0.3) if kind == 1 else np.ones((SIZE, SIZE))
        image[:, inside] = rng.normal(0, 0.2, (3, inside.sum())) + rng.uniform(0.8, 1.6, (3, 1)) * stripes[inside]
        labels[inside] = kind
        labels[np.abs(distance - radius) < 0.5] = IGNORED
    return image.astype(np.float32), labels


def batches(count: int, size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """So many batches of (pictures [size, 3, H, W], labels [size, H, W])."""

    def drawn() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            images, labels = zip(*(picture(rng) for _ in range(size)), strict=True)
            yield np.stack(images), np.stack(labels)

    return list(drawn())


def main(epochs: int) -> float:
    """Train, and return the mean intersection over union on pictures never seen."""
    graph = tricnn.graphs.unet(num_classes=len(CLASSES), input_shape=(3, SIZE, SIZE), width=1 / 8)
    model = tricnn.compile(graph, "train", batch=4, loss=tricnn.Loss(ignore_index=IGNORED))
    options = TrainOptions(epochs=epochs, lr=0.1, batch=4)
    data = batches(40, 4, seed=0), batches(4, 16, seed=1)
    result = tricnn.Trainer(model, data, options, console=Console(stderr=True, width=160)).fit()
    assert result.test_mean_iou is not None
    print(f"mean intersection over union of {', '.join(CLASSES)}: {result.test_mean_iou:.1%}")
    return result.test_mean_iou


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
