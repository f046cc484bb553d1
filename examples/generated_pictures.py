"""A folder of pictures to train on, drawn here: discs, squares and crosses in any colour, place and size, on noise.

    python examples/generated_pictures.py out/shapes

writes out/shapes/train/CLASS/*.png and out/shapes/val/CLASS/*.png, as `tricnn train --data out/shapes` reads them.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 40


def shape(name: str, rng: np.random.Generator) -> Image.Image:
    """A picture of one shape."""
    y, x = np.mgrid[:SIZE, :SIZE]
    radius = rng.uniform(6, 12)
    dy, dx = (np.abs(v - rng.uniform(14, SIZE - 14)) for v in (y, x))
    inside = {
        "cross": (np.minimum(dy, dx) < radius / 3) & (np.maximum(dy, dx) < radius),
        "disc": dy**2 + dx**2 < radius**2,
        "square": np.maximum(dy, dx) < 0.85 * radius,
    }[name]
    pixels = rng.integers(0, 80, (SIZE, SIZE, 3))
    pixels[inside] += rng.integers(90, 175, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def main(folder: Path, train: int = 200, val: int = 50) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for name in ("cross", "disc", "square"):
            where = folder / part / name
            where.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                shape(name, rng).save(where / f"{i:03}.png")
    print(f"{3 * train} pictures in {folder}/train, {3 * val} in {folder}/val")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 4):
        sys.exit("usage: generated_pictures.py FOLDER [TRAIN VAL], the numbers of pictures of each class")
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
