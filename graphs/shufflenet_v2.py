"""ShuffleNet V2: Ma, Zhang, Zheng & Sun, "ShuffleNet V2: Practical guidelines for efficient CNN design" (ECCV 2018).

Table 5:

    layer          output   repeats  0.5x  1x    1.5x  2x
    conv1          112x112  1        24    24    24    24     3x3, stride 2
    maxpool        56x56
    stage2         28x28    4        48    116   176   244
    stage3         14x14    8        96    232   352   488
    stage4         7x7      4        192   464   704   976
    conv5          7x7      1        1024  1024  1024  2048   1x1
    fc             1x1      average pooling, dense layer

A unit works on half of its channels and leaves the others as they are; the first one of a stage works on all of them
twice, with stride 2. Then the halves' channels are shuffled (figure 3). Names are torchvision's.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .resnet import conv
from .widths import scaled

ImageShape = Sequence[int]


def shufflenet_v2_x0_5(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ShuffleNet V2 with half the channels: 48, 96 and 192."""
    return _shufflenet("shufflenet_v2_x0_5", (48, 96, 192, 1024), num_classes, input_shape, width)


def shufflenet_v2_x1_0(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ShuffleNet V2: units that shuffle the channels of their halves, 116, 232 and 464 of them."""
    return _shufflenet("shufflenet_v2_x1_0", (116, 232, 464, 1024), num_classes, input_shape, width)


def shufflenet_v2_x1_5(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ShuffleNet V2 with one and a half times the channels: 176, 352 and 704."""
    return _shufflenet("shufflenet_v2_x1_5", (176, 352, 704, 1024), num_classes, input_shape, width)


def shufflenet_v2_x2_0(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ShuffleNet V2 with twice the channels: 244, 488 and 976."""
    return _shufflenet("shufflenet_v2_x2_0", (244, 488, 976, 2048), num_classes, input_shape, width)


def _shufflenet(
    name: str, channels: Sequence[int], num_classes: int, input_shape: ImageShape, width: float
) -> Graph:  # fmt: skip
    w = scaled(width)
    b = GraphBuilder(name)
    x = _unit(b, b.input("x", input_shape), "conv1", 0, w(24), 3, 2)
    x = b.max_pool2d(x, 3, 2, padding=1, name="maxpool")
    for stage, (filters, repeats) in enumerate(zip(channels, (4, 8, 4)), 2):
        for i in range(repeats):
            with b.scope(f"stage{stage}.{i}"):
                half = w(filters // 2)
                x = _shuffled(b, x, half) if i else _halved(b, x, half)
    x = _unit(b, x, "conv5", 0, w(channels[-1]), 1)
    return b.build(b.linear(b.global_avg_pool(x, name="avgpool"), num_classes, name="fc"))


def _shuffled(b: GraphBuilder, x: str, half: int) -> str:
    """``shuffle(concat(x1, f(x2)))`` with x1, x2 the halves of x, figure 3(c)."""
    first, second = b.split(x, half)
    y = b.concat([first, _branch(b, second, half, 1)], name="concat")
    return b.channel_shuffle(y, 2, name="shuffle")


def _halved(b: GraphBuilder, x: str, half: int) -> str:
    """``shuffle(concat(g(x), f(x)))``, both with stride 2, figure 3(d)."""
    y = _depthwise(b, x, "branch1", 0, 2)
    first = _unit(b, y, "branch1", 2, half, 1)
    y = b.concat([first, _branch(b, x, half, 2)], name="concat")
    return b.channel_shuffle(y, 2, name="shuffle")


def _branch(b: GraphBuilder, x: str, half: int, stride: int) -> str:
    """``relu(bn(conv1x1(bn(depthwise3x3(relu(bn(conv1x1(x))))))))``."""
    y = _unit(b, x, "branch2", 0, half, 1)
    return _unit(b, _depthwise(b, y, "branch2", 3, stride), "branch2", 5, half, 1)


def _unit(
    b: GraphBuilder, x: str, scope: str, number: int, filters: int, size: int, stride: int = 1
) -> str:  # fmt: skip
    """``relu(bn(conv2d(x)))``, the layers from ``number`` on of their scope."""
    with b.scope(scope):
        x = conv(b, x, filters, size, stride, name=f"{number}")
        return b.relu(b.batch_norm(x, name=f"{number + 1}"), name=f"{number + 2}")


def _depthwise(b: GraphBuilder, x: str, scope: str, number: int, stride: int) -> str:
    """``bn(depthwise3x3(x))``."""
    channels = b.type(x).channels
    with b.scope(scope):
        x = conv(b, x, channels, 3, stride, name=f"{number}", groups=channels)
        return b.batch_norm(x, name=f"{number + 1}")
