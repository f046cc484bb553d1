"""ConvNeXt: Liu, Mao, Wu, Feichtenhofer, Darrell & Xie, "A ConvNet for the 2020s" (CVPR 2022), section 2 and table 9.

    stage    output  tiny         small         base
    stem     56x56   4x4, stride 4, layer norm
    stage 1  56x56   3 x 96       3 x 96        3 x 128      blocks x channels
    stage 2  28x28   3 x 192      3 x 192       3 x 256
    stage 3  14x14   9 x 384      27 x 384      27 x 512
    stage 4  7x7     3 x 768      3 x 768       3 x 1024

A block filters each channel by itself (7x7), normalises the channels of each pixel, and passes them through two dense
layers with a GELU between, four times as wide there. What it adds to its input is scaled by a number for each channel,
1e-6 at first, and in training left out for some of the images, in deeper blocks more often. Before stages 2 to 4 a
layer norm and a 2x2 convolution with stride 2 halve the image. Names are torchvision's.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .widths import scaled

ImageShape = Sequence[int]
EPS, INIT = 1e-6, "normal(0.02)"


def convnext_tiny(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, stochastic_depth: float = 0.1
) -> Graph:
    """ConvNeXt-T: 3-3-9-3 blocks of depthwise 7x7 convolutions and layer norm."""
    depths, channels = (3, 3, 9, 3), (96, 192, 384, 768)
    return _convnext("convnext_tiny", depths, channels, num_classes, input_shape, width, stochastic_depth)


def convnext_small(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, stochastic_depth: float = 0.4
) -> Graph:
    """ConvNeXt-S: 3-3-27-3 blocks of depthwise 7x7 convolutions and layer norm."""
    depths, channels = (3, 3, 27, 3), (96, 192, 384, 768)
    return _convnext("convnext_small", depths, channels, num_classes, input_shape, width, stochastic_depth)


def convnext_base(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, stochastic_depth: float = 0.5
) -> Graph:
    """ConvNeXt-B: 3-3-27-3 blocks of depthwise 7x7 convolutions and layer norm, wider."""
    depths, channels = (3, 3, 27, 3), (128, 256, 512, 1024)
    return _convnext("convnext_base", depths, channels, num_classes, input_shape, width, stochastic_depth)


def _convnext(
    name: str, depths: Sequence[int], channels: Sequence[int], num_classes: int, input_shape: ImageShape, width: float,
    stochastic_depth: float,
) -> Graph:  # fmt: skip
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    x = b.conv2d(x, w(channels[0]), 4, stride=4, name="features.0.0", weight_init=INIT)
    x = b.layer_norm(x, name="features.0.1", eps=EPS)
    number = 0
    for stage, (depth, filters) in enumerate(zip(depths, channels, strict=True)):
        if stage:
            with b.scope(f"features.{2 * stage}"):
                x = b.layer_norm(x, name="0", eps=EPS)
                x = b.conv2d(x, w(filters), 2, stride=2, name="1", weight_init=INIT)
        for i in range(depth):
            with b.scope(f"features.{2 * stage + 1}.{i}"):
                x = _block(b, x, stochastic_depth * number / (sum(depths) - 1))
            number += 1
    x = b.layer_norm(b.global_avg_pool(x, name="avgpool"), name="classifier.0", eps=EPS)
    return b.build(b.linear(x, num_classes, name="classifier.2", weight_init=INIT))


def _block(b: GraphBuilder, x: str, p: float) -> str:
    """``x + drop(layer_scale * linear(gelu(linear(layer_norm(depthwise7x7(x))))))``, figure 4."""
    channels = b.type(x).channels
    y = b.conv2d(x, channels, 7, padding=3, groups=channels, name="block.0", weight_init=INIT)
    y = b.layer_norm(y, name="block.2", eps=EPS)
    y = b.add("gelu", b.pixel_linear(y, 4 * channels, name="block.3", weight_init=INIT), name="block.4")
    y = b.pixel_linear(y, channels, name="block.5", weight_init=INIT)
    y = b.layer_scale(y, name="layer_scale", init="constant(1e-06)")
    if p:
        y = b.stochastic_depth(y, p, name="stochastic_depth")
    return b.add_(y, x, name="add")
