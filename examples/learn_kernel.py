"""The kernel that makes one picture of another, learned from the two.

    python examples/learn_kernel.py                          # the lecture's three, from what they make of a photograph
    python examples/learn_kernel.py before.png after.png     # 3x3
    python examples/learn_kernel.py before.png after.png 5   # 5x5

One convolution and the mean square of what it is wrong by; notebooks/03-convolution.py explains it. That loss is a
quadratic of the kernel's few numbers, so conjugate gradients (Hestenes and Stiefel, 1952) find its least in about as
many steps. What a picture file has cut off, below black or above white, misleads it.
"""

import sys

import numpy as np
from filter_photograph import FILTERS, read

import tricnn


def learned(before: np.ndarray, after: np.ndarray, size: int = 3) -> tuple[np.ndarray, float]:
    """The kernel [size, size] that makes of the picture ``before`` [H, W, 3] the nearest to ``after``, as large, whose
    margin plays no part; and the mean square of what is left."""
    height, width, colours = before.shape
    b = tricnn.GraphBuilder("learn")
    graph = b.build(b.conv2d(b.input("x", (1, height, width)), 1, size, name="conv"))
    model = tricnn.compile(graph, mode="train", batch=colours, loss="mean_squared_error")
    mean, deviation = before.mean(), before.std()
    x = ((before - mean) / deviation).transpose(2, 0, 1)[:, None].astype(np.float32)
    first, last = size // 2, (size - 1) // 2  # a kernel's middle lies on the pixel that it makes
    y = after[first : height - last, first : width - last].transpose(2, 0, 1)[:, None].astype(np.float32)

    def slope(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient by the kernel's numbers and the bias."""
        kernel = numbers[:-1].reshape(1, 1, size, size).astype(np.float32)
        model.load_state_dict({"conv.weight": kernel, "conv.bias": numbers[-1:].astype(np.float32)})
        loss, gradients = model.loss_and_grads(np.ascontiguousarray(x), np.ascontiguousarray(y))
        return float(loss), np.concatenate([np.ravel(gradients[f"conv.{part}"]) for part in ("weight", "bias")])

    found = np.zeros(size * size + 1)
    start = slope(found)[1]
    left = direction = -start
    for _ in range(3 * len(found)):
        bend = slope(direction)[1] - start  # the quadratic's matrix times the direction
        step = left @ left / (direction @ bend)
        found, rest = found + step * direction, left - step * bend
        direction, left = rest + (rest @ rest) / (left @ left) * direction, rest
        if np.abs(left).max() < 1e-7:
            break
    return found[:-1].reshape(size, size) / deviation, slope(found)[0]


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The image [H, W, 3] correlated with a 3x3 kernel; as large, with black around it, and nothing cut off."""
    height, width, _ = image.shape
    around = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    return sum(kernel[i, j] * around[i : i + height, j : j + width] for i, j in np.ndindex(3, 3))


def main(before: str | None = None, after: str | None = None, size: str = "3") -> None:
    image = read(before)
    pairs = {name: filtered(image, kernel) for name, kernel in FILTERS.items()}
    if after is not None:
        pairs = {f"{before} to {after}": read(after)}
    for name, target in pairs.items():
        kernel, loss = learned(image, target, int(size))
        print(f"{name} (mean square of what is left {loss:.1e}):")
        print(np.array2string(kernel, precision=3, suppress_small=True))


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
