"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov & Chen, "Inverted residuals and linear bottlenecks" (CVPR 2018).

Table 2:

    input      operator      t   c     n   s
    224x224x3  conv2d 3x3    -   32    1   2
    112x112    bottleneck    1   16    1   1
    112x112    bottleneck    6   24    2   2
    56x56      bottleneck    6   32    3   2
    28x28      bottleneck    6   64    4   2
    14x14      bottleneck    6   96    3   1
    14x14      bottleneck    6   160   3   2
    7x7        bottleneck    6   320   1   1
    7x7        conv2d 1x1    -   1280  1   1
    7x7        average pooling, dense layer

A bottleneck expands its input t times (1x1), filters each channel by itself (3x3, stride s at the first of n), and
projects to c channels without an activation; the input is added where the shape stays. Activations are min(max(x, 0),
6). Names are torchvision's.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .resnet import conv
from .widths import scaled

ImageShape = Sequence[int]
#: (expansion t, channels c, repeats n, stride s)
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """MobileNetV2: 17 inverted residuals with depthwise convolutions."""
    w = scaled(width)
    b = GraphBuilder("mobilenet_v2")
    x = b.input("x", input_shape)
    with b.scope("features.0"):
        x = _unit(b, x, w(32), 3, 2)
    number = 1
    for expansion, channels, repeats, stride in STAGES:
        for repeat in range(repeats):
            with b.scope(f"features.{number}"):
                x = _inverted_residual(b, x, expansion, w(channels), 1 if repeat else stride)
            number += 1
    with b.scope(f"features.{number}"):
        x = b.global_avg_pool(_unit(b, x, w(1280), 1), name="avgpool")
    if dropout:
        x = b.dropout(x, dropout, name="classifier.0")
    return b.build(b.linear(x, num_classes, name="classifier.1", weight_init="normal(0.01)"))


def _unit(b: GraphBuilder, x: str, filters: int, size: int, stride: int = 1, groups: int = 1) -> str:
    """``relu6(bn(conv2d(x)))``, layers 0, 1 and 2 of their scope."""
    x = conv(b, x, filters, size, stride, name="0", groups=groups)
    return b.add("relu6", b.batch_norm(x, name="1"), name="2")


def _inverted_residual(b: GraphBuilder, x: str, expansion: int, channels: int, stride: int) -> str:
    """``x + bn(conv1x1(depthwise3x3(expand1x1(x))))``, figure 4(d)."""
    before = b.type(x).channels
    within, y = before * expansion, x
    with b.scope("conv"):
        number = 0
        if expansion != 1:
            with b.scope("0"):
                y = _unit(b, y, within, 1)
            number = 1
        with b.scope(f"{number}"):
            y = _unit(b, y, within, 3, stride, groups=within)
        y = b.batch_norm(conv(b, y, channels, 1, name=f"{number + 1}"), name=f"{number + 2}")
    return b.add_(x, y, name="add") if stride == 1 and before == channels else y
