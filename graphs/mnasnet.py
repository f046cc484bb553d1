"""MNASNet, the variant without gates (B1), as torchvision has it.

Tan, Chen, Pang, Vasudevan, Sandler, Howard & Le, "MnasNet: platform-aware neural architecture search for mobile" (CVPR
2019).

    operator                   kernel  stride  channels  blocks
    convolution                3       2       32        1
    depthwise separable        3       1       16        1
    inverted residual, 3 times 3       2       24        3
    inverted residual, 3 times 5       2       40        3
    inverted residual, 6 times 5       2       80        3
    inverted residual, 6 times 3       1       96        2
    inverted residual, 6 times 5       2       192       4
    inverted residual, 6 times 3       1       320       1
    convolution                1       1       1280      1

``mnasnet0_5`` has half of those channels, each to a multiple of 8, but for the last. Names are torchvision's.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .widths import scaled, to_multiple

ImageShape = Sequence[int]
#: (channels, kernel size, stride, expansion, blocks)
STAGES = ((24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3), (96, 3, 1, 6, 2), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1))
#: of batch norm; TensorFlow's 0.9997 of the paper
MOMENTUM = 3e-4


def mnasnet0_5(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """MNASNet-B1 with half of the channels: 16 inverted residuals, 3x3 and 5x5."""
    return _mnasnet("mnasnet0_5", 0.5, num_classes, input_shape, width, dropout)


def mnasnet0_75(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """MNASNet-B1 with three quarters of the channels: 16 inverted residuals, 3x3 and 5x5."""
    return _mnasnet("mnasnet0_75", 0.75, num_classes, input_shape, width, dropout)


def mnasnet1_0(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """MNASNet-B1: 16 inverted residuals, 3x3 and 5x5."""
    return _mnasnet("mnasnet1_0", 1.0, num_classes, input_shape, width, dropout)


def mnasnet1_3(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """MNASNet-B1 with 1.3 times the channels: 16 inverted residuals, 3x3 and 5x5."""
    return _mnasnet("mnasnet1_3", 1.3, num_classes, input_shape, width, dropout)


def _mnasnet(name: str, alpha: float, num_classes: int, input_shape: ImageShape, width: float, dropout: float) -> Graph:
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    first, second = (w(to_multiple(channels * alpha)) for channels in (32, 16))
    with b.scope("layers"):
        x = _unit(b, x, 0, first, 3, 2)
        x = _unit(b, x, 3, first, 3, groups=first)
        x = _unit(b, x, 6, second, 1, activation=False)
        for number, (channels, size, stride, expansion, blocks) in enumerate(STAGES, 8):
            for i in range(blocks):
                with b.scope(f"{number}.{i}"):
                    y = _block(b, x, w(to_multiple(channels * alpha)), size, 1 if i else stride, expansion)
                    x = b.add_(y, x, name="add") if i else y
        x = _unit(b, x, 8 + len(STAGES), w(1280), 1)
    x = b.global_avg_pool(x, name="avgpool")
    if dropout:
        x = b.dropout(x, dropout, name="classifier.0")
    return b.build(
        b.linear(x, num_classes, name="classifier.1", weight_init=f"uniform({(3 / num_classes) ** 0.5:.6g})")
    )


def _block(b: GraphBuilder, x: str, channels: int, size: int, stride: int, expansion: int) -> str:
    """``bn(conv1x1(depthwise(expand(x))))``, figure 7; all but the first of a stage are added to their input."""
    within = b.type(x).channels * expansion
    with b.scope("layers"):
        y = _unit(b, x, 0, within, 1)
        y = _unit(b, y, 3, within, size, stride, groups=within)
        return _unit(b, y, 6, channels, 1, activation=False)


def _unit(
    b: GraphBuilder, x: str, number: int, filters: int, size: int, stride: int = 1, groups: int = 1,
    activation: bool = True,
) -> str:  # fmt: skip
    """``relu(bn(conv2d(x)))``, layers ``number``, ``number + 1`` and ``number + 2`` of their scope."""
    x = b.conv2d(x, filters, size, stride=stride, padding=size // 2, groups=groups, bias=False, name=f"{number}")
    x = b.batch_norm(x, name=f"{number + 1}", momentum=MOMENTUM)
    return b.relu(x, name=f"{number + 2}") if activation else x
