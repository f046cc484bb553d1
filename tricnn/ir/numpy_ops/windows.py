"""Where pooling windows lie: which outputs each position in the window (tap) serves, and what they read through it."""

from dataclasses import dataclass

import numpy as np

from tricnn.ir.numpy_ops.sizes import output_size

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class Reach:
    """Along one axis, the tap at `position` serves the outputs `out` (a slice), which read the inputs `inp` there."""

    position: int
    out: slice
    inp: slice


@dataclass(frozen=True)
class Axis:
    """Output i reads inputs i*stride - before .. i*stride - before + kernel - 1, those of 0..size-1 there are."""

    size: int
    count: int
    kernel: int
    stride: int
    before: int
    after: int

    def reaches(self) -> list[Reach]:
        """One for each tap that reaches any input, in order."""
        found = []
        for position in range(self.kernel):
            offset = position - self.before
            first = max(0, -(offset // self.stride))
            last = min(self.count - 1, (self.size - 1 - offset) // self.stride)
            if first <= last:
                start = first * self.stride + offset
                stop = last * self.stride + offset + 1
                found.append(Reach(position, slice(first, last + 1), slice(start, stop, self.stride)))
        return found

    def counts(self, include_pad: bool) -> np.ndarray:
        """[count]: how many positions of each window lie in the input, or in the padded input."""
        start = np.arange(self.count) * self.stride - self.before
        stop = np.minimum(start + self.kernel, self.size + self.after)
        if not include_pad:
            start, stop = np.maximum(start, 0), np.minimum(stop, self.size)
        return np.maximum(stop - start, 0)


def axes(size: Pair, kernel: Pair, stride: Pair, padding: Padding, ceil_mode: bool) -> tuple[Axis, Axis]:
    """The two axes of a pooling layer. size: (H, W)."""

    def axis(i: int) -> Axis:
        before, after = padding[2 * i], padding[2 * i + 1]
        count = output_size(size[i], kernel[i], stride[i], before, after, ceil_mode=ceil_mode)
        return Axis(size[i], count, kernel[i], stride[i], before, after)

    return axis(0), axis(1)
