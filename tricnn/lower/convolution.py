"""The numbers of a convolution, which its three kernels have in common; a dense layer is one of a single pixel.

They are called as in docs/architecture.md: image ``[N, H, W, C]``, filters ``[K, R, S, C/groups]``, result
``[N, P, Q, K]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..compiler.plan import Plan
from ..ir.graph import Node

Counts = tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of an image of ``size`` positions, and ``outputs`` windows along it.
    Tap r of window p is at position p*stride + r*dilation - before."""

    size: int
    outputs: int
    kernel: int
    stride: int = 1
    before: int = 0
    dilation: int = 1

    def taps(self) -> Counts:
        """For each position, how many (window, tap) lie there."""
        change = [0] * self.size  # against the position a dilation before
        for p in range(self.outputs):
            first, end = self._inside(p)
            start = p * self.stride - self.before
            if first < end:
                change[start + first * self.dilation] += 1
                if (beyond := start + end * self.dilation) < self.size:
                    change[beyond] -= 1
        for at in range(self.dilation, self.size):
            change[at] += change[at - self.dilation]
        return tuple(change)

    def covers(self) -> Counts:
        """For each window, how many of its taps lie within the axis."""
        taken = (self._inside(p) for p in range(self.outputs))
        return tuple(max(end - first, 0) for first, end in taken)

    def reached(self, strides: int = 1) -> tuple[Counts, int]:
        """For each window, from how many blocks it is loaded, so many strides long, of which the axis is made.
        And how many windows a block loads from, those beyond the last and before the first counted too."""
        first = (self.before - self.kernel + self.stride) // self.stride
        count = (strides * self.stride - 1 + self.before) // self.stride - first + 1
        begins = range(first, first + -(-self.size // self.stride), strides)
        return _counted(self.outputs, begins, count), count

    def shared(self, windows: int) -> tuple[Counts, int]:
        """For each position, by how many blocks it is loaded, of so many windows each.
        And how many positions a block loads, those outside the axis counted too."""
        count = (windows - 1) * self.stride + self.kernel
        begins = range(-self.before, self.outputs * self.stride - self.before, windows * self.stride)
        return _counted(self.size, begins, count), count

    def _inside(self, p: int) -> tuple[int, int]:
        """The taps (first, end) of window p that lie in ``range(size)``."""
        start = p * self.stride - self.before
        return max(0, -(start // self.dilation)), min(self.kernel, -((start - self.size) // self.dilation))


def _counted(size: int, begins: Iterable[int], count: int) -> Counts:
    """How often each of ``size`` positions is among ``count`` in a row, from each of those that are given on."""
    times = [0] * size
    for at in (begin + i for begin in begins for i in range(count)):
        if 0 <= at < size:
            times[at] += 1
    return tuple(times)


@dataclass(frozen=True)
class Convolution:
    """Sizes, stride, dilation, padding at the top and left, groups, and the window of a pooling in the epilogue."""

    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    p: int
    q: int
    sh: int = 1
    sw: int = 1
    dh: int = 1
    dw: int = 1
    pt: int = 0
    pl: int = 0
    groups: int = 1
    window: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, plan: Plan, node: Node, window: tuple[int, int] = (1, 1)) -> Convolution:
        """The numbers of a convolution, of a dense layer, or of what a gradient of either is the gradient of."""
        t = plan.type
        if not node.row.over_images:
            weight = node.name if node.row.weight_gradient else node.inputs[1]
            k, c = t(weight).per_image
            return cls(c, 1, 1, k, 1, 1, 1, 1, window=window)
        x, w, y = {
            "forward": lambda: (node.inputs[0], node.inputs[1], node.name),
            "by_input": lambda: (node.name, node.inputs[1], node.inputs[0]),
            "by_weight": lambda: (node.inputs[1], node.name, node.inputs[0]),
        }[node.row.product]()
        image, result, a = t(x), t(y), node.attrs
        (sh, sw), (dh, dw), (top, _, left, _) = a["stride"], a["dilation"], a["padding"]
        (h, wide), (r, s), (p, q) = image.spatial, t(w).per_image[2:], result.spatial
        c, k = image.channels, result.channels
        return cls(c, h, wide, k, r, s, p, q, sh, sw, dh, dw, top, left, a["groups"], window)

    @property
    def sizes(self) -> dict[str, int]:
        """The constants of every template: C H W K R S P Q."""
        return {name.upper(): getattr(self, name) for name in ("c", "h", "w", "k", "r", "s", "p", "q")}

    @property
    def options(self) -> dict[str, int]:
        """The constants that differ from what templates take them to be."""
        options = {"SH": self.sh, "SW": self.sw, "DH": self.dh, "DW": self.dw, "PT": self.pt, "PL": self.pl}
        defaults = {"PT": 0, "PL": 0}
        options["GROUPS"] = self.groups
        chosen = {name: value for name, value in options.items() if value != defaults.get(name, 1)}
        return {**chosen, "WINDOW_H": self.window[0], "WINDOW_W": self.window[1]} if self.pooled else chosen

    @property
    def constants(self) -> dict[str, int]:
        """All constants by which a template, or the problem of choosing a tile, knows the convolution."""
        return {**self.sizes, **self.options}

    @property
    def pooled(self) -> bool:
        """Whether rows are listed window by window, for a pooling in the epilogue."""
        return self.window != (1, 1)

    @property
    def taps(self) -> int:
        """How many positions a filter has."""
        return self.r * self.s

    @property
    def group_channels(self) -> int:
        """How many channels a group of filters reads."""
        return self.c // self.groups

    @property
    def group_filters(self) -> int:
        """How many filters a group has."""
        return self.k // self.groups

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.h, self.w

    @property
    def result(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.p, self.q

    @property
    def strided(self) -> bool:
        """Whether windows are more than one position apart."""
        return (self.sh, self.sw) != (1, 1)

    @property
    def pixel_by_pixel(self) -> bool:
        """Whether it is a matrix product of pixels by channels: a dense layer, or a 1x1 convolution with no options."""
        return self.taps == 1 and not self.options and self.image == self.result

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns of the image, with the windows along them."""
        return (
            Axis(self.h, self.p, self.r, self.sh, self.pt, self.dh),
            Axis(self.w, self.q, self.s, self.sw, self.pl, self.dw),
        )
