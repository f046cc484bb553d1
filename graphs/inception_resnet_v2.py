"""Inception-ResNet-v2, Inception blocks whose results are added to what they read.

Szegedy, Ioffe, Vanhoucke & Alemi, "Inception-v4, Inception-ResNet and the impact of residual connections on learning"
(AAAI 2017), figure 15 with figures 16 to 19, and section 3.3 for the scaling of residuals.

Each block adds to its input a fraction of what an Inception block, projected back by a linear 1x1 convolution, gives.
Names, the stem (that of Inception-v3) and the numbers of blocks are those of the published weights, which timm has.
"""

from collections.abc import Sequence

from tricnn.ir import Graph

from .units import REDUCE, VALID, UnitBuilder


def inception_resnet_v2(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 299, 299), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """Inception-ResNet-v2 for 299x299 images: Inception blocks as scaled residuals."""
    b = UnitBuilder("inception_resnet_v2", width)
    x = b.input("x", input_shape)
    x = b.unit(x, 32, 3, "conv2d_1a", **REDUCE)
    x = b.unit(x, 32, 3, "conv2d_2a", **VALID)
    x = b.unit(x, 64, 3, "conv2d_2b")
    x = b.max_pool2d(x, 3, 2, name="maxpool_3a")
    x = b.unit(x, 80, 1, "conv2d_3b")
    x = b.unit(x, 192, 3, "conv2d_4a", **VALID)
    x = b.max_pool2d(x, 3, 2, name="maxpool_5a")
    with b.scope("mixed_5b"):
        x = mixed_5b(b, x)
    for i in range(10):
        with b.scope(f"repeat.{i}"):
            x = b.relu(residual(b, x, block_35(b, x), 0.17), name="relu")
    with b.scope("mixed_6a"):
        x = mixed_6a(b, x)
    for i in range(20):
        with b.scope(f"repeat_1.{i}"):
            x = b.relu(residual(b, x, block_17(b, x), 0.10), name="relu")
    with b.scope("mixed_7a"):
        x = mixed_7a(b, x)
    for i in range(9):
        with b.scope(f"repeat_2.{i}"):
            x = b.relu(residual(b, x, block_8(b, x), 0.20), name="relu")
    with b.scope("block8"):
        x = residual(b, x, block_8(b, x), 1.0)
    x = b.unit(x, 1536, 1, "conv2d_7b")
    x = b.flatten(b.global_avg_pool(x, name="global_pool"), name="flatten")
    x = b.dropout(x, dropout, name="head_drop") if dropout else x
    return b.build(b.linear(x, num_classes, name="classif", weight_init="normal(0.01)"))


def residual(b: UnitBuilder, x: str, branches: Sequence[str], factor: float) -> str:
    """``x + factor * conv1x1(concat(branches))``, the convolution back to the channels of x."""
    y = b.conv2d(b.concat(branches, name="concat"), b.type(x).channels, 1, name="conv2d")
    y = b.add("scale", y, name="scale", factor=factor) if factor != 1 else y
    return b.add_(y, x, name="add")


def mixed_5b(b: UnitBuilder, x: str) -> str:
    """Inception-v3's first block with more filters: 192 to 320 channels, on 35x35 images."""
    pooled = b.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False, name="branch3.0")
    branches = [
        b.unit(x, 96, 1, "branch0"),
        b.branch(x, "branch1.{}", (48, 1), (64, 5)),
        b.branch(x, "branch2.{}", (64, 1), (96, 3), (96, 3)),
        b.branch(pooled, "branch3.{}", (64, 1), first=1),
    ]
    return b.concat(branches, name="concat")


def block_35(b: UnitBuilder, x: str) -> list[str]:
    """Figure 16, Inception-ResNet-A, on 35x35 images."""
    return [
        b.unit(x, 32, 1, "branch0"),
        b.branch(x, "branch1.{}", (32, 1), (32, 3)),
        b.branch(x, "branch2.{}", (32, 1), (48, 3), (64, 3)),
    ]


def mixed_6a(b: UnitBuilder, x: str) -> str:
    """Figure 7 with k, l, m, n = 256, 256, 384, 384 (table 1), to 17x17."""
    branches = [
        b.unit(x, 384, 3, "branch0", **REDUCE),
        b.branch(x, "branch1.{}", (256, 1), (256, 3), (384, 3, REDUCE)),
        b.max_pool2d(x, 3, 2, name="branch2"),
    ]
    return b.concat(branches, name="concat")


def block_17(b: UnitBuilder, x: str) -> list[str]:
    """Figure 17, Inception-ResNet-B, on 17x17 images."""
    return [
        b.unit(x, 192, 1, "branch0"),
        b.branch(x, "branch1.{}", (128, 1), (160, (1, 7)), (192, (7, 1))),
    ]


def mixed_7a(b: UnitBuilder, x: str) -> str:
    """Figure 18, to 8x8."""
    branches = [
        b.branch(x, "branch0.{}", (256, 1), (384, 3, REDUCE)),
        b.branch(x, "branch1.{}", (256, 1), (288, 3, REDUCE)),
        b.branch(x, "branch2.{}", (256, 1), (288, 3), (320, 3, REDUCE)),
        b.max_pool2d(x, 3, 2, name="branch3"),
    ]
    return b.concat(branches, name="concat")


def block_8(b: UnitBuilder, x: str) -> list[str]:
    """Figure 19, Inception-ResNet-C, on 8x8 images."""
    return [
        b.unit(x, 192, 1, "branch0"),
        b.branch(x, "branch1.{}", (192, 1), (224, (1, 3)), (256, (3, 1))),
    ]
