"""The CIFAR ResNets and the orders of a residual block.

He, Zhang, Ren & Sun, "Deep residual learning for image recognition" (CVPR 2016), section 4.2: a 3x3 convolution, then
three stages of n blocks of two 3x3 convolutions with 16, 32 and 64 filters on 32x32, 16x16 and 8x8 images, average
pooling and a dense layer, 6n + 2 layers in all. Shortcuts have no parameters (option A): where the shape changes they
take every second pixel and fill up with zero channels.

The orders are those of figure 4 in He et al., "Identity mappings in deep residual networks" (ECCV 2016), which tries
them on these networks (table 2). With c a convolution, n a batch norm and r a ReLU, a block is

    original                 r(x + n c r n c x)
    bn_after_addition        r n (x + c r n c x)
    relu_before_addition     x + r n c r n c x
    relu_preactivation       x + n c r n c r x
    preactivation            x + c r n c r n x

In the last two the first block takes over the ReLU of the stem, "before splitting into two paths", and an extra
activation follows the last addition (appendix of that paper).
"""

from collections.abc import Callable

from tricnn.ir import Graph, GraphBuilder
from tricnn.system.errors import GraphError

from .resnet import ImageShape, conv
from .widths import scaled


def cifar_resnet20(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0, order: str = "original"
) -> Graph:
    """ResNet-20 for CIFAR-10: 3 blocks a stage."""
    return _cifar_resnet("cifar_resnet20", 3, order, num_classes, input_shape, width)


def cifar_resnet32(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0, order: str = "original"
) -> Graph:
    """ResNet-32 for CIFAR-10: 5 blocks a stage."""
    return _cifar_resnet("cifar_resnet32", 5, order, num_classes, input_shape, width)


def cifar_resnet44(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0, order: str = "original"
) -> Graph:
    """ResNet-44 for CIFAR-10: 7 blocks a stage."""
    return _cifar_resnet("cifar_resnet44", 7, order, num_classes, input_shape, width)


def cifar_resnet56(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0, order: str = "original"
) -> Graph:
    """ResNet-56 for CIFAR-10: 9 blocks a stage."""
    return _cifar_resnet("cifar_resnet56", 9, order, num_classes, input_shape, width)


def cifar_resnet110(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0, order: str = "original"
) -> Graph:
    """ResNet-110 for CIFAR-10: 18 blocks a stage."""
    return _cifar_resnet("cifar_resnet110", 18, order, num_classes, input_shape, width)


def cifar_resnet20_bn_after_addition(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0
) -> Graph:
    """ResNet-20 for CIFAR-10, the second batch norm after the addition (He et al. 2016, figure 4b)."""
    return _cifar_resnet("cifar_resnet20_bn_after_addition", 3, "bn_after_addition", num_classes, input_shape, width)


def cifar_resnet20_relu_before_addition(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0
) -> Graph:
    """ResNet-20 for CIFAR-10, the second ReLU before the addition (He et al. 2016, figure 4c)."""
    return _cifar_resnet(
        "cifar_resnet20_relu_before_addition", 3, "relu_before_addition", num_classes, input_shape, width
    )


def cifar_resnet20_relu_preactivation(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0
) -> Graph:
    """ResNet-20 for CIFAR-10, ReLU but not batch norm before the convolutions (He et al. 2016, figure 4d)."""
    return _cifar_resnet("cifar_resnet20_relu_preactivation", 3, "relu_preactivation", num_classes, input_shape, width)


def cifar_resnet20_preactivation(
    num_classes: int = 10, input_shape: ImageShape = (3, 32, 32), width: float = 1.0
) -> Graph:
    """ResNet-20 for CIFAR-10, batch norm and ReLU before the convolutions (He et al. 2016, figure 4e)."""
    return _cifar_resnet("cifar_resnet20_preactivation", 3, "preactivation", num_classes, input_shape, width)


def _cifar_resnet(name: str, blocks: int, order: str, num_classes: int, input_shape: ImageShape, width: float) -> Graph:
    if order not in ORDERS:
        raise GraphError(f"order={order!r} is not accepted; one of {', '.join(ORDERS)}")
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    x = conv(b, x, w(16), 3, name="conv1")
    x = b.relu(b.batch_norm(x, name="bn1"), name="relu")
    for stage in range(3):
        for i in range(blocks):
            with b.scope(f"layer{stage + 1}.{i}"):
                x = ORDERS[order](b, x, w(16 << stage), 2 if stage and not i else 1, stage == i == 0)
    if order == "preactivation":
        x = b.batch_norm(x, name="bn")
    if order in ("preactivation", "relu_preactivation"):
        x = b.relu(x, name="last_relu")
    x = b.global_avg_pool(x, name="avgpool")
    return b.build(b.linear(x, num_classes, name="fc"))


def original(b: GraphBuilder, x: str, filters: int, stride: int, first: bool) -> str:
    y = conv(b, x, filters, 3, stride, name="conv1")
    y = b.relu(b.batch_norm(y, name="bn1"), name="relu1")
    y = conv(b, y, filters, 3, name="conv2")
    y = b.batch_norm(y, name="bn2")
    return b.relu(b.add_(y, padded(b, x, filters, stride), name="add"), name="relu2")


def bn_after_addition(b: GraphBuilder, x: str, filters: int, stride: int, first: bool) -> str:
    y = conv(b, x, filters, 3, stride, name="conv1")
    y = b.relu(b.batch_norm(y, name="bn1"), name="relu1")
    y = conv(b, y, filters, 3, name="conv2")
    y = b.add_(y, padded(b, x, filters, stride), name="add")
    return b.relu(b.batch_norm(y, name="bn2"), name="relu2")


def relu_before_addition(b: GraphBuilder, x: str, filters: int, stride: int, first: bool) -> str:
    y = conv(b, x, filters, 3, stride, name="conv1")
    y = b.relu(b.batch_norm(y, name="bn1"), name="relu1")
    y = conv(b, y, filters, 3, name="conv2")
    y = b.relu(b.batch_norm(y, name="bn2"), name="relu2")
    return b.add_(y, padded(b, x, filters, stride), name="add")


def relu_preactivation(b: GraphBuilder, x: str, filters: int, stride: int, first: bool) -> str:
    y = x if first else b.relu(x, name="relu1")
    y = conv(b, y, filters, 3, stride, name="conv1")
    y = b.relu(b.batch_norm(y, name="bn1"), name="relu2")
    y = conv(b, y, filters, 3, name="conv2")
    y = b.batch_norm(y, name="bn2")
    return b.add_(y, padded(b, x, filters, stride), name="add")


def preactivation(b: GraphBuilder, x: str, filters: int, stride: int, first: bool) -> str:
    y = x if first else b.relu(b.batch_norm(x, name="bn1"), name="relu1")
    y = conv(b, y, filters, 3, stride, name="conv1")
    y = b.relu(b.batch_norm(y, name="bn2"), name="relu2")
    y = conv(b, y, filters, 3, name="conv2")
    return b.add_(y, padded(b, x, filters, stride), name="add")


def padded(b: GraphBuilder, x: str, filters: int, stride: int) -> str:
    """Every ``stride``-th pixel of x, with zero channels after its own up to ``filters`` (option A)."""
    if stride > 1:
        x = b.avg_pool2d(x, 1, stride, name="shortcut.pixels")
    missing = filters - b.type(x).channels
    return b.add("pad_channels", x, after=missing, name="shortcut.channels") if missing else x


ORDERS: dict[str, Callable[[GraphBuilder, str, int, int, bool], str]] = {
    f.__name__: f for f in (original, bn_after_addition, relu_before_addition, relu_preactivation, preactivation)
}
