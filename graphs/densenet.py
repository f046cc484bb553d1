"""DenseNet: Huang, Liu, van der Maaten & Weinberger, "Densely connected convolutional networks" (CVPR 2017), table 1.

    stage        output   121    169    201    161
    conv0        112x112  7x7, 64, stride 2 (161: 96); 3x3 max pooling, stride 2
    denseblock1  56x56    6      6      6      6       layers: bn, relu, 1x1 to 4k; bn, relu, 3x3 to k
    denseblock2  28x28    12     12     12     12
    denseblock3  14x14    24     32     48     36
    denseblock4  7x7      16     32     32     24
    classifier   1x1      bn, relu, average pooling, dense layer

A layer reads all layers of its block before it, concatenated. The growth rate k is 32, for 161 it is 48. Between blocks
a transition halves the channels (1x1) and the image (2x2 average pooling). Names are torchvision's.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .resnet import conv
from .widths import scaled

ImageShape = Sequence[int]


def densenet121(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """DenseNet-121: 6-12-24-16 layers, each of 32 new channels."""
    return _densenet("densenet121", (6, 12, 24, 16), 32, num_classes, input_shape, width)


def densenet161(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """DenseNet-161: 6-12-36-24 layers, each of 48 new channels."""
    return _densenet("densenet161", (6, 12, 36, 24), 48, num_classes, input_shape, width)


def densenet169(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """DenseNet-169: 6-12-32-32 layers, each of 32 new channels."""
    return _densenet("densenet169", (6, 12, 32, 32), 32, num_classes, input_shape, width)


def densenet201(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """DenseNet-201: 6-12-48-32 layers, each of 32 new channels."""
    return _densenet("densenet201", (6, 12, 48, 32), 32, num_classes, input_shape, width)


def _densenet(
    name: str, depths: Sequence[int], growth: int, num_classes: int, input_shape: ImageShape, width: float
) -> Graph:
    growth = scaled(width)(growth)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    with b.scope("features"):
        x = conv(b, x, 2 * growth, 7, 2, name="conv0")
        x = b.relu(b.batch_norm(x, name="norm0"), name="relu0")
        x = b.max_pool2d(x, 3, 2, padding=1, name="pool0")
        for block, depth in enumerate(depths, 1):
            for layer in range(1, depth + 1):
                with b.scope(f"denseblock{block}.denselayer{layer}"):
                    x = b.concat([x, _layer(b, x, growth)], name="concat")
            if block < len(depths):
                with b.scope(f"transition{block}"):
                    x = b.relu(b.batch_norm(x, name="norm"), name="relu")
                    x = conv(b, x, b.type(x).channels // 2, 1, name="conv")
                    x = b.avg_pool2d(x, 2, name="pool")
        x = b.relu(b.batch_norm(x, name="norm5"), name="relu5")
    return b.build(b.linear(b.global_avg_pool(x, name="avgpool"), num_classes, name="classifier"))


def _layer(b: GraphBuilder, x: str, growth: int) -> str:
    """``conv3x3(relu(bn(conv1x1(relu(bn(x))))))``, section 3: ``growth`` new channels."""
    y = conv(b, b.relu(b.batch_norm(x, name="norm1"), name="relu1"), 4 * growth, 1, name="conv1")
    return conv(b, b.relu(b.batch_norm(y, name="norm2"), name="relu2"), growth, 3, name="conv2")
