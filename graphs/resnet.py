"""ResNet: He, Zhang, Ren & Sun, "Deep residual learning for image recognition" (CVPR 2016), section 3.3 and table 1.

    stage    output   18        34        50         101        152
    conv1    112x112  7x7, 64, stride 2; 3x3 max pooling, stride 2
    layer1   56x56    2 basic   3 basic   3 bottle   3 bottle   3 bottle      64 filters (256 out of a bottleneck)
    layer2   28x28    2         4         4          4          8             128 (512)
    layer3   14x14    2         6         6          23         36            256 (1024)
    layer4   7x7      2         3         3          3          3             512 (2048)
    fc       1x1      average pooling, dense layer

Shortcuts are the paper's option B: the identity, and a 1x1 convolution where the shape changes. Names are
torchvision's. The dense layer starts as N(0, 0.01^2), after Goyal et al., "Accurate, large minibatch SGD" (2017),
section 5.1.

ResNeXt: Xie, Girshick, Dollar, Tu & He, "Aggregated residual transformations for deep neural networks" (CVPR 2017),
table 1: the 3x3 convolution of a bottleneck in groups, of so many channels each in the first stage (32x4d: 32 of 4).
Wide ResNet: Zagoruyko & Komodakis, "Wide residual networks" (BMVC 2016), table 8: twice as many channels within each
bottleneck, as torchvision declares it for ResNet-50 and -101.
SE-ResNet: Hu, Shen & Sun, "Squeeze-and-excitation networks" (CVPR 2018), table 1: a gate of a sixteenth of the channels
at the end of each block's branch; names are timm's.
"""

from collections.abc import Callable, Sequence
from functools import partial

from tricnn.ir import Graph, GraphBuilder
from tricnn.system.errors import GraphError

from .gate import gated
from .widths import scaled, to_multiple

ImageShape = Sequence[int]
Block = Callable[[GraphBuilder, str, int, int], str]


def resnet18(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNet-18: 2-2-2-2 basic blocks."""
    return _resnet("resnet18", (2, 2, 2, 2), basic, num_classes, input_shape, width)


def resnet34(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNet-34: 3-4-6-3 basic blocks."""
    return _resnet("resnet34", (3, 4, 6, 3), basic, num_classes, input_shape, width)


def resnet50(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, stride_on: str = "3x3"
) -> Graph:
    """ResNet-50: 3-4-6-3 bottleneck blocks, stride on the 3x3 convolution (v1.5)."""
    return _resnet("resnet50", (3, 4, 6, 3), _bottleneck(stride_on), num_classes, input_shape, width)


def resnet101(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, stride_on: str = "3x3"
) -> Graph:
    """ResNet-101: 3-4-23-3 bottleneck blocks, stride on the 3x3 convolution (v1.5)."""
    return _resnet("resnet101", (3, 4, 23, 3), _bottleneck(stride_on), num_classes, input_shape, width)


def resnet152(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, stride_on: str = "3x3"
) -> Graph:
    """ResNet-152: 3-8-36-3 bottleneck blocks, stride on the 3x3 convolution (v1.5)."""
    return _resnet("resnet152", (3, 8, 36, 3), _bottleneck(stride_on), num_classes, input_shape, width)


def resnext50_32x4d(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNeXt-50 (32x4d): 3-4-6-3 bottlenecks, 3x3 convolutions in 32 groups of 4 channels."""
    return _resnet("resnext50_32x4d", (3, 4, 6, 3), _grouped(32, 4), num_classes, input_shape, width)


def resnext101_32x8d(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNeXt-101 (32x8d): 3-4-23-3 bottlenecks, 3x3 convolutions in 32 groups of 8 channels."""
    return _resnet("resnext101_32x8d", (3, 4, 23, 3), _grouped(32, 8), num_classes, input_shape, width)


def resnext101_64x4d(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """ResNeXt-101 (64x4d): 3-4-23-3 bottlenecks, 3x3 convolutions in 64 groups of 4 channels."""
    return _resnet("resnext101_64x4d", (3, 4, 23, 3), _grouped(64, 4), num_classes, input_shape, width)


def wide_resnet50_2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """Wide ResNet-50-2: ResNet-50 with twice the channels within each bottleneck."""
    return _resnet("wide_resnet50_2", (3, 4, 6, 3), _grouped(1, 128), num_classes, input_shape, width)


def wide_resnet101_2(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """Wide ResNet-101-2: ResNet-101 with twice the channels within each bottleneck."""
    return _resnet("wide_resnet101_2", (3, 4, 23, 3), _grouped(1, 128), num_classes, input_shape, width)


def seresnet18(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """SE-ResNet-18: 2-2-2-2 basic blocks, with gates."""
    return _resnet("seresnet18", (2, 2, 2, 2), partial(basic, gates=True), num_classes, input_shape, width)


def seresnet34(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """SE-ResNet-34: 3-4-6-3 basic blocks, with gates."""
    return _resnet("seresnet34", (3, 4, 6, 3), partial(basic, gates=True), num_classes, input_shape, width)


def seresnet50(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """SE-ResNet-50: 3-4-6-3 bottleneck blocks, with gates."""
    return _resnet("seresnet50", (3, 4, 6, 3), _grouped(1, 64, gates=True), num_classes, input_shape, width)


def seresnet101(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """SE-ResNet-101: 3-4-23-3 bottleneck blocks, with gates."""
    return _resnet("seresnet101", (3, 4, 23, 3), _grouped(1, 64, gates=True), num_classes, input_shape, width)


def seresnet152(num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0) -> Graph:
    """SE-ResNet-152: 3-8-36-3 bottleneck blocks, with gates."""
    return _resnet("seresnet152", (3, 8, 36, 3), _grouped(1, 64, gates=True), num_classes, input_shape, width)


def _resnet(
    name: str, depths: Sequence[int], block: Block, num_classes: int, input_shape: ImageShape, width: float
) -> Graph:
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    x = conv(b, x, w(64), 7, 2, name="conv1")
    x = b.relu(b.batch_norm(x, name="bn1"), name="relu")
    x = b.max_pool2d(x, 3, 2, padding=1, name="maxpool")
    for stage, depth in enumerate(depths):
        for i in range(depth):
            with b.scope(f"layer{stage + 1}.{i}"):
                x = block(b, x, w(64 << stage), 2 if stage and not i else 1)
    x = b.global_avg_pool(x, name="avgpool")
    return b.build(b.linear(x, num_classes, name="fc", weight_init="normal(0.01)"))


def basic(b: GraphBuilder, x: str, filters: int, stride: int, *, gates: bool = False) -> str:
    """``relu(shortcut(x) + bn(conv3x3(relu(bn(conv3x3(x))))))``, figure 5 left."""
    y = conv(b, x, filters, 3, stride, name="conv1")
    y = b.relu(b.batch_norm(y, name="bn1"), name="relu1")
    y = conv(b, y, filters, 3, name="conv2")
    y = b.batch_norm(y, name="bn2")
    y = _gated(b, y) if gates else y
    return b.relu(b.add_(y, projection(b, x, filters, stride), name="add"), name="relu2")


def bottleneck(
    b: GraphBuilder, x: str, filters: int, stride: int, *, strides: Callable[[int], tuple[int, int]], groups: int = 1,
    channels_of_64: int = 64, gates: bool = False, dilation: int = 1,
) -> str:  # fmt: skip
    """The bottleneck block: 1x1 down to ``filters``, 3x3, 1x1 up to four times as many (figure 5 right).
    With ``groups``, each of them has ``channels_of_64`` channels for every 64 filters. The 3x3 convolution may be
    dilated."""
    first, second = strides(stride)
    within = groups * max(1, filters * channels_of_64 // 64)
    y = conv(b, x, within, 1, first, name="conv1")
    y = b.relu(b.batch_norm(y, name="bn1"), name="relu1")
    y = conv(b, y, within, 3, second, name="conv2", groups=groups, dilation=dilation)
    y = b.relu(b.batch_norm(y, name="bn2"), name="relu2")
    y = conv(b, y, 4 * filters, 1, name="conv3")
    y = b.batch_norm(y, name="bn3")
    y = _gated(b, y) if gates else y
    return b.relu(b.add_(y, projection(b, x, 4 * filters, stride), name="add"), name="relu3")


def _bottleneck(stride_on: str) -> Block:
    """``1x1`` is the paper (v1); ``3x3`` what everyone trains since (v1.5): the stride skips no input pixel."""
    if stride_on not in ("1x1", "3x3"):
        raise GraphError(f"stride_on={stride_on!r} is not accepted; one of 1x1 (the paper, v1), 3x3 (v1.5)")
    return partial(bottleneck, strides=lambda s: (s, 1) if stride_on == "1x1" else (1, s))


def _grouped(groups: int, channels_of_64: int, gates: bool = False) -> Block:
    return partial(bottleneck, strides=lambda s: (1, s), groups=groups, channels_of_64=channels_of_64, gates=gates)


def _gated(b: GraphBuilder, x: str) -> str:
    """The gate of a sixteenth of the channels, to a multiple of 8."""
    with b.scope("se"):
        return gated(b, x, to_multiple(b.type(x).channels // 16))


def projection(b: GraphBuilder, x: str, filters: int, stride: int) -> str:
    """The identity where the shape stays, else a 1x1 convolution with batch norm (option B)."""
    if stride == 1 and b.type(x).channels == filters:
        return x
    return b.batch_norm(conv(b, x, filters, 1, stride, name="downsample.0"), name="downsample.1")


def conv(
    b: GraphBuilder, x: str, filters: int, size: int, stride: int = 1, *, name: str, groups: int = 1, dilation: int = 1
) -> str:
    """A convolution without bias (a batch norm follows or precedes), padded to keep the image's size at stride 1."""
    padding = dilation * (size // 2)
    return b.conv2d(
        x, filters, size, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False, name=name
    )
