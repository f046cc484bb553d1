"""RegNet: Radosavovic, Kosaraju, Girshick, He & Dollar, "Designing network design spaces" (CVPR 2020), section 3.3.

A few numbers give all widths: block j is ``u_j = w_0 + w_a * j`` channels wide (equation 2), brought to the nearest
power ``w_0 * w_m^s`` (equations 3 and 4), and to a multiple of 8; blocks of one width are a stage, whose first has
stride 2. A block is ResNeXt's bottleneck with as many channels within as it has outside, in groups of equal size (X); a
gate of a quarter of the input's channels follows the 3x3 convolution in Y. Numbers and names are torchvision's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log

from tricnn.ir import Graph, GraphBuilder

from .gate import gated
from .resnet import conv
from .widths import scaled, to_multiple

ImageShape = Sequence[int]


@dataclass(frozen=True)
class Space:
    """A network of the design space: blocks, w_0, w_a, w_m, channels of a group, and whether blocks have gates."""

    depth: int
    first: int
    slope: float
    step: float
    group: int
    gates: bool

    def stages(self) -> list[tuple[int, int, int]]:
        """(groups, channels of a group, blocks) of each stage."""
        powers = (round(log((self.first + self.slope * j) / self.first) / log(self.step)) for j in range(self.depth))
        widths = [round(self.first * self.step**power / 8) * 8 for power in powers]
        found = []
        for width, blocks in groupby(widths):
            group = min(self.group, width)
            found.append((to_multiple(width, group) // group, group, len(list(blocks))))
        return found


def regnet_x_400mf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetX-400MF: 22 bottlenecks in groups of 16 channels."""
    return _regnet("regnet_x_400mf", Space(22, 24, 24.48, 2.54, 16, False), num_classes, input_shape, width)


def regnet_x_800mf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetX-800MF: 16 bottlenecks in groups of 16 channels."""
    return _regnet("regnet_x_800mf", Space(16, 56, 35.73, 2.28, 16, False), num_classes, input_shape, width)


def regnet_x_1_6gf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetX-1.6GF: 18 bottlenecks in groups of 24 channels."""
    return _regnet("regnet_x_1_6gf", Space(18, 80, 34.01, 2.25, 24, False), num_classes, input_shape, width)


def regnet_x_3_2gf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetX-3.2GF: 25 bottlenecks in groups of 48 channels."""
    return _regnet("regnet_x_3_2gf", Space(25, 88, 26.31, 2.25, 48, False), num_classes, input_shape, width)


def regnet_x_8gf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetX-8GF: 23 bottlenecks in groups of 120 channels."""
    return _regnet("regnet_x_8gf", Space(23, 80, 49.56, 2.88, 120, False), num_classes, input_shape, width)


def regnet_y_400mf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetY-400MF: 16 bottlenecks in groups of 8 channels, with gates."""
    return _regnet("regnet_y_400mf", Space(16, 48, 27.89, 2.09, 8, True), num_classes, input_shape, width)


def regnet_y_800mf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetY-800MF: 14 bottlenecks in groups of 16 channels, with gates."""
    return _regnet("regnet_y_800mf", Space(14, 56, 38.84, 2.4, 16, True), num_classes, input_shape, width)


def regnet_y_1_6gf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetY-1.6GF: 27 bottlenecks in groups of 24 channels, with gates."""
    return _regnet("regnet_y_1_6gf", Space(27, 48, 20.71, 2.65, 24, True), num_classes, input_shape, width)


def regnet_y_3_2gf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetY-3.2GF: 21 bottlenecks in groups of 24 channels, with gates."""
    return _regnet("regnet_y_3_2gf", Space(21, 80, 42.63, 2.66, 24, True), num_classes, input_shape, width)


def regnet_y_8gf(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """RegNetY-8GF: 17 bottlenecks in groups of 56 channels, with gates."""
    return _regnet("regnet_y_8gf", Space(17, 192, 76.82, 2.19, 56, True), num_classes, input_shape, width)


def _regnet(name: str, space: Space, num_classes: int, input_shape: ImageShape, width: float) -> Graph:
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    with b.scope("stem"):
        x = _unit(b, x, w(32), 3, 2)
    before = 32
    for number, (groups, group, blocks) in enumerate(space.stages(), 1):
        for i in range(blocks):
            with b.scope(f"trunk_output.block{number}.block{number}-{i}"):
                squeeze = w(round(before / 4)) if space.gates else 0
                x = _block(b, x, groups, w(group), 1 if i else 2, squeeze)
            before = groups * group
    x = b.global_avg_pool(x, name="avgpool")
    return b.build(b.linear(x, num_classes, name="fc", weight_init="normal(0.01)"))


def _block(b: GraphBuilder, x: str, groups: int, channels_of_group: int, stride: int, squeeze: int) -> str:
    """``relu(proj(x) + c(gate(b(a(x)))))``, figure 4; a, c and proj are 1x1, b is 3x3 in groups."""
    filters, y = groups * channels_of_group, x
    with b.scope("f.a"):
        y = _unit(b, y, filters, 1)
    with b.scope("f.b"):
        y = _unit(b, y, filters, 3, stride, groups)
    if squeeze:
        with b.scope("f.se"):
            y = gated(b, y, squeeze)
    with b.scope("f.c"):
        y = _unit(b, y, filters, 1, activation=False)
    if stride > 1 or b.type(x).channels != filters:
        with b.scope("proj"):
            x = _unit(b, x, filters, 1, stride, activation=False)
    return b.relu(b.add_(x, y, name="add"), name="activation")


def _unit(
    b: GraphBuilder, x: str, filters: int, size: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> str:
    """``relu(bn(conv2d(x)))``, layers 0, 1 and 2 of their scope."""
    x = b.batch_norm(conv(b, x, filters, size, stride, name="0", groups=groups), name="1")
    return b.relu(x, name="2") if activation else x
