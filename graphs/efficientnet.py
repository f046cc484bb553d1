"""EfficientNet: Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural networks" (ICML 2019).

Table 1 is B0; B1 to B7 have its stages with more channels and more blocks (section 3.3), for larger images:

    operator       kernel  stride  channels  blocks
    convolution    3       2       32        1
    MBConv1        3       1       16        1
    MBConv6        3       2       24        2
    MBConv6        5       2       40        2
    MBConv6        3       2       80        3
    MBConv6        5       1       112       3
    MBConv6        5       2       192       4
    MBConv6        3       1       320       1
    convolution    1       1       1280      1

MBConv is MobileNetV2's inverted residual with SiLU and a gate of a quarter of its input's channels. In training a
block that is added to its input is left out for some of the images, deeper ones more often (stochastic depth).

EfficientNetV2: Tan & Le, "EfficientNetV2: smaller models and faster training" (ICML 2021), table 4: early stages
expand by a 3x3 convolution in place of 1x1 and depthwise ones. Names are torchvision's, and so are eps and momentum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from tricnn.ir import Graph, GraphBuilder

from .gate import gated
from .widths import scaled, to_multiple

ImageShape = Sequence[int]


@dataclass(frozen=True)
class Stage:
    """A row of the papers' tables; ``dense``: the block expands by the convolution itself (Fused-MBConv)."""

    expansion: int
    size: int
    stride: int
    channels: int
    blocks: int
    dense: bool = False


@dataclass(frozen=True)
class Plan:
    """What is the same for all of a network's blocks."""

    name: str
    stem: int
    stages: tuple[Stage, ...]
    last: int
    eps: float
    momentum: float


V1 = (
    Stage(1, 3, 1, 16, 1), Stage(6, 3, 2, 24, 2), Stage(6, 5, 2, 40, 2), Stage(6, 3, 2, 80, 3), Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4), Stage(6, 3, 1, 320, 1),
)  # fmt: skip
V2_S = (
    Stage(1, 3, 1, 24, 2, True), Stage(4, 3, 2, 48, 4, True), Stage(4, 3, 2, 64, 4, True), Stage(4, 3, 2, 128, 6),
    Stage(6, 3, 1, 160, 9), Stage(6, 3, 2, 256, 15),
)  # fmt: skip


def _scaled(name: str, widths: float, depths: float, eps: float = 1e-5, momentum: float = 0.1) -> Plan:
    """B0 with ``widths`` times the channels and ``depths`` times the blocks."""
    stages = tuple(
        Stage(s.expansion, s.size, s.stride, to_multiple(s.channels * widths), ceil(s.blocks * depths)) for s in V1
    )
    return Plan(name, to_multiple(32 * widths), stages, 4 * stages[-1].channels, eps, momentum)


def efficientnet_b0(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B0: 16 gated inverted residuals with SiLU."""
    plan = _scaled("efficientnet_b0", 1.0, 1.0)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_b1(
    num_classes: int = 1000, input_shape: ImageShape = (3, 240, 240), width: float = 1.0, dropout: float = 0.2,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B1: B0 with 1.1 times the blocks, for images of 240 pixels."""
    plan = _scaled("efficientnet_b1", 1.0, 1.1)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_b2(
    num_classes: int = 1000, input_shape: ImageShape = (3, 288, 288), width: float = 1.0, dropout: float = 0.3,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B2: 1.1 times the channels of B0, 1.2 times the blocks, for images of 288 pixels."""
    plan = _scaled("efficientnet_b2", 1.1, 1.2)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_b3(
    num_classes: int = 1000, input_shape: ImageShape = (3, 300, 300), width: float = 1.0, dropout: float = 0.3,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B3: 1.2 times the channels of B0, 1.4 times the blocks, for images of 300 pixels."""
    plan = _scaled("efficientnet_b3", 1.2, 1.4)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_b4(
    num_classes: int = 1000, input_shape: ImageShape = (3, 380, 380), width: float = 1.0, dropout: float = 0.4,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B4: 1.4 times the channels of B0, 1.8 times the blocks, for images of 380 pixels."""
    plan = _scaled("efficientnet_b4", 1.4, 1.8)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_b5(
    num_classes: int = 1000, input_shape: ImageShape = (3, 456, 456), width: float = 1.0, dropout: float = 0.4,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B5: 1.6 times the channels of B0, 2.2 times the blocks, for images of 456 pixels."""
    plan = _scaled("efficientnet_b5", 1.6, 2.2, eps=1e-3, momentum=0.01)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_b6(
    num_classes: int = 1000, input_shape: ImageShape = (3, 528, 528), width: float = 1.0, dropout: float = 0.5,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B6: 1.8 times the channels of B0, 2.6 times the blocks, for images of 528 pixels."""
    plan = _scaled("efficientnet_b6", 1.8, 2.6, eps=1e-3, momentum=0.01)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_b7(
    num_classes: int = 1000, input_shape: ImageShape = (3, 600, 600), width: float = 1.0, dropout: float = 0.5,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNet-B7: twice the channels of B0, 3.1 times the blocks, for images of 600 pixels."""
    plan = _scaled("efficientnet_b7", 2.0, 3.1, eps=1e-3, momentum=0.01)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def efficientnet_v2_s(
    num_classes: int = 1000, input_shape: ImageShape = (3, 384, 384), width: float = 1.0, dropout: float = 0.2,
    stochastic_depth: float = 0.2,
) -> Graph:  # fmt: skip
    """EfficientNetV2-S: 40 blocks, the early ones of dense 3x3 convolutions, for images of 384 pixels."""
    plan = Plan("efficientnet_v2_s", 24, V2_S, 1280, 1e-3, 0.1)
    return _efficientnet(plan, num_classes, input_shape, width, dropout, stochastic_depth)


def _efficientnet(
    plan: Plan, num_classes: int, input_shape: ImageShape, width: float, dropout: float, stochastic_depth: float
) -> Graph:
    w = scaled(width)
    b = GraphBuilder(plan.name)
    x = b.input("x", input_shape)
    with b.scope("features.0"):
        x = _unit(b, x, plan, w(plan.stem), 3, 2)
    blocks, number, channels = sum(s.blocks for s in plan.stages), 0, plan.stem
    for i, stage in enumerate(plan.stages, 1):
        for j in range(stage.blocks):
            with b.scope(f"features.{i}.{j}"):
                y = _block(b, x, plan, stage, w(stage.channels), 1 if j else stage.stride, w(max(1, channels // 4)))
                if j or (stage.stride == 1 and channels == stage.channels):
                    if p := stochastic_depth * number / blocks:
                        y = b.stochastic_depth(y, p, name="stochastic_depth")
                    y = b.add_(y, x, name="add")
                x = y
            number, channels = number + 1, stage.channels
    with b.scope(f"features.{len(plan.stages) + 1}"):
        x = _unit(b, x, plan, w(plan.last), 1)
    x = b.global_avg_pool(x, name="avgpool")
    if dropout:
        x = b.dropout(x, dropout, name="classifier.0")
    return b.build(b.linear(x, num_classes, name="classifier.1", weight_init=f"uniform({num_classes**-0.5:.6g})"))


def _block(b: GraphBuilder, x: str, plan: Plan, stage: Stage, channels: int, stride: int, squeeze: int) -> str:
    """The layers of a block, MBConv or Fused-MBConv: what is added to the input where the shape stays.
    Of MBConv they are ``bn(conv1x1(gate(depthwise(expand(x)))))``; of Fused-MBConv ``bn(conv1x1(expand(x)))``, whose
    projection is left out where it expands nothing."""
    y, within = x, b.type(x).channels * stage.expansion
    expands = stage.expansion > 1
    if stage.dense:
        layers = [lambda y: _unit(b, y, plan, within if expands else channels, stage.size, stride)]
    else:
        layers = [lambda y: _unit(b, y, plan, within, 1)] if expands else []
        layers.append(lambda y: _unit(b, y, plan, within, stage.size, stride, groups=within))
        layers.append(lambda y: gated(b, y, squeeze, "silu"))
    if expands or not stage.dense:
        layers.append(lambda y: _unit(b, y, plan, channels, 1, activation=None))
    for number, layer in enumerate(layers):
        with b.scope(f"block.{number}"):
            y = layer(y)
    return y


def _unit(
    b: GraphBuilder, x: str, plan: Plan, filters: int, size: int, stride: int = 1, groups: int = 1,
    activation: str | None = "silu",
) -> str:  # fmt: skip
    """``activation(bn(conv2d(x)))``, layers 0, 1 and 2 of their scope."""
    x = b.conv2d(x, filters, size, stride=stride, padding=size // 2, groups=groups, bias=False, name="0")
    x = b.batch_norm(x, name="1", eps=plan.eps, momentum=plan.momentum)
    return b.add(activation, x, name="2") if activation else x
