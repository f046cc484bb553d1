"""A class for each pixel: fully convolutional networks on a dilated ResNet-50. Names are torchvision's.

FCN: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation" (CVPR 2015). DeepLabV3: Chen,
Papandreou, Schroff & Adam, "Rethinking atrous convolution for semantic image segmentation" (2017), section 3.3.

The last two stages keep the image's size and dilate their 3x3 convolutions by 2 and 4 instead, so that features have an
eighth of its size; logits are resized to the image linearly. A second head on the third stage helps in training: its
loss counts half, as in torchvision's reference training.
"""

from collections.abc import Callable, Sequence
from functools import partial

from tricnn.ir import Graph, GraphBuilder

from .resnet import bottleneck, conv
from .widths import scaled

ImageShape = Sequence[int]
Widths = Callable[[int], int]
Head = Callable[[GraphBuilder, str, int, float, Widths], str]


def fcn_resnet50(
    num_classes: int = 21, input_shape: ImageShape = (3, 520, 520), width: float = 1.0, dropout: float = 0.1,
    aux: bool = True,
) -> Graph:  # fmt: skip
    """FCN on ResNet-50: a class for each pixel."""
    return _on_resnet50("fcn_resnet50", _fcn_head, num_classes, input_shape, width, dropout, dropout, aux)


def deeplabv3_resnet50(
    num_classes: int = 21, input_shape: ImageShape = (3, 520, 520), width: float = 1.0, dropout: float = 0.5,
    aux_dropout: float = 0.1, aux: bool = True,
) -> Graph:  # fmt: skip
    """DeepLabV3 on ResNet-50: a class for each pixel, of surroundings at several scales."""
    return _on_resnet50("deeplabv3_resnet50", _deeplab_head, num_classes, input_shape, width, dropout, aux_dropout, aux)


def _on_resnet50(
    name: str, head: Head, num_classes: int, input_shape: ImageShape, width: float, dropout: float, aux_dropout: float,
    aux: bool,
) -> Graph:  # fmt: skip
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    size = b.type(x).spatial
    with b.scope("backbone"):
        x = conv(b, x, w(64), 7, 2, name="conv1")
        x = b.relu(b.batch_norm(x, name="bn1"), name="relu")
        x = b.max_pool2d(x, 3, 2, padding=1, name="maxpool")
        dilation, before_last = 1, x
        for stage, depth in enumerate((3, 4, 6, 3)):
            before_last = x
            for i in range(depth):
                # a stage that would halve the image dilates twice as much, from its second block on
                stride = 2 if stage == 1 and not i else 1
                block = partial(bottleneck, strides=lambda s: (1, s), dilation=dilation)
                with b.scope(f"layer{stage + 1}.{i}"):
                    x = block(b, x, w(64 << stage), stride)
                if stage > 1 and not i:
                    dilation *= 2
    with b.scope("classifier"):
        logits = head(b, x, num_classes, dropout, w)
    b.output(b.interpolate(logits, size, mode="bilinear", name="out"), "logits")
    if aux:
        with b.scope("aux_classifier"):
            logits = _fcn_head(b, before_last, num_classes, aux_dropout, w)
        logits = b.interpolate(logits, size, mode="bilinear", name="aux")
        b.output(logits, "aux", loss_weight=0.5, training_only=True)
    return b.build()


def _fcn_head(b: GraphBuilder, x: str, num_classes: int, dropout: float, w: Widths) -> str:
    """A 3x3 convolution to a quarter of the channels, dropout, and a 1x1 convolution to the classes."""
    x = _unit(b, x, b.type(x).channels // 4, 3, ("0", "1", "2"))
    x = b.dropout(x, dropout, name="3") if dropout else x
    return b.conv2d(x, num_classes, 1, name="4", weight_init="he_normal(fan_in)")


def _deeplab_head(b: GraphBuilder, x: str, num_classes: int, dropout: float, w: Widths) -> str:
    """Section 3.3: 3x3 convolutions of several dilations, a 1x1 one and the image's mean side by side."""
    size, filters = b.type(x).spatial, w(256)
    with b.scope("0"):
        scales = [_unit(b, x, filters, 1, ("convs.0.0", "convs.0.1", "convs.0.2"))]
        for i, rate in enumerate((12, 24, 36), 1):
            scales.append(_unit(b, x, filters, 3, (f"convs.{i}.0", f"convs.{i}.1", f"convs.{i}.2"), dilation=rate))
        mean = b.global_avg_pool(x, name="convs.4.0")
        mean = _unit(b, mean, filters, 1, ("convs.4.1", "convs.4.2", "convs.4.3"))
        scales.append(b.interpolate(mean, size, mode="bilinear", name="convs.4.resize"))
        x = _unit(b, b.concat(scales, name="concat"), filters, 1, ("project.0", "project.1", "project.2"))
        x = b.dropout(x, dropout, name="project.3") if dropout else x
    x = _unit(b, x, filters, 3, ("1", "2", "3"))
    return b.conv2d(x, num_classes, 1, name="4", weight_init="he_normal(fan_in)")


def _unit(b: GraphBuilder, x: str, filters: int, size: int, names: Sequence[str], dilation: int = 1) -> str:
    """Convolution, batch norm, ReLU."""
    x = conv(b, x, filters, size, name=names[0], dilation=dilation)
    return b.relu(b.batch_norm(x, name=names[1]), name=names[2])
