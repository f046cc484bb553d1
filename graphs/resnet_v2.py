"""ResNet-v2, the pre-activation form of ResNet.

He, Zhang, Ren & Sun, "Identity mappings in deep residual networks" (ECCV 2016), figure 1b and section 4.

Batch norm and ReLU come before each convolution, so that from the first block to the last x is only ever added to.
Depths and filters are ResNet's. Where the shape changes the shortcut is a 1x1 convolution of the activated input, and
the stride is on the 3x3 convolution. Names are timm's (``resnetv2_50``), whose classifier is a 1x1 convolution.
"""

from collections.abc import Callable, Sequence

from tricnn.ir import Graph, GraphBuilder

from .resnet import ImageShape, conv
from .widths import scaled

Block = Callable[[GraphBuilder, str, int, int, bool], str]


def resnet18_v2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNet-18 with pre-activation."""
    return _resnet_v2("resnet18_v2", (2, 2, 2, 2), basic, num_classes, input_shape, width)


def resnet34_v2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNet-34 with pre-activation."""
    return _resnet_v2("resnet34_v2", (3, 4, 6, 3), basic, num_classes, input_shape, width)


def resnet50_v2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNet-50 with pre-activation."""
    return _resnet_v2("resnet50_v2", (3, 4, 6, 3), bottleneck, num_classes, input_shape, width)


def resnet101_v2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNet-101 with pre-activation."""
    return _resnet_v2("resnet101_v2", (3, 4, 23, 3), bottleneck, num_classes, input_shape, width)


def resnet152_v2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNet-152 with pre-activation."""
    return _resnet_v2("resnet152_v2", (3, 8, 36, 3), bottleneck, num_classes, input_shape, width)


def _resnet_v2(
    name: str, depths: Sequence[int], block: Block, num_classes: int, input_shape: ImageShape, width: float
) -> Graph:
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    x = conv(b, x, w(64), 7, 2, name="stem.conv")
    x = b.max_pool2d(x, 3, 2, padding=1, name="stem.pool")
    for stage, depth in enumerate(depths):
        for i in range(depth):
            with b.scope(f"stages.{stage}.blocks.{i}"):
                x = block(b, x, w(64 << stage), 2 if stage and not i else 1, i == 0)
    x = activated(b, x, "norm")
    x = b.global_avg_pool(x, name="head.global_pool")
    x = b.conv2d(x, num_classes, 1, name="head.fc", weight_init="normal(0.01)")
    return b.build(b.flatten(x, name="head.flatten"))


def basic(b: GraphBuilder, x: str, filters: int, stride: int, first: bool) -> str:
    """``x + conv3x3(relu(bn(conv3x3(relu(bn(x))))))``."""
    a = activated(b, x, "norm1")
    changes = stride > 1 or b.type(x).channels != filters
    shortcut = conv(b, a, filters, 1, stride, name="downsample.conv") if changes else x
    y = conv(b, a, filters, 3, stride, name="conv1")
    y = conv(b, activated(b, y, "norm2"), filters, 3, name="conv2")
    return b.add_(y, shortcut, name="add")


def bottleneck(b: GraphBuilder, x: str, filters: int, stride: int, first: bool) -> str:
    """``x + conv1x1(relu(bn(conv3x3(relu(bn(conv1x1(relu(bn(x)))))))))``; the first of a stage projects x."""
    a = activated(b, x, "norm1")
    shortcut = conv(b, a, 4 * filters, 1, stride, name="downsample.conv") if first else x
    y = conv(b, a, filters, 1, name="conv1")
    y = conv(b, activated(b, y, "norm2"), filters, 3, stride, name="conv2")
    y = conv(b, activated(b, y, "norm3"), 4 * filters, 1, name="conv3")
    return b.add_(y, shortcut, name="add")


def activated(b: GraphBuilder, x: str, name: str) -> str:
    """``relu(bn(x))``."""
    return b.relu(b.batch_norm(x, name=name), name=f"{name}.relu")
