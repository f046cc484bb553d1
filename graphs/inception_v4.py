"""Inception-v4, the pure Inception beside Inception-ResNet.
Szegedy, Ioffe, Vanhoucke & Alemi, "Inception-v4, Inception-ResNet and the impact of residual connections on learning"
(AAAI 2017), figure 9 and figures 3 to 8 for its parts. Names are timm's."""

from collections.abc import Callable, Sequence

from tricnn.ir import Graph

from .units import REDUCE, VALID, UnitBuilder


def inception_v4(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 299, 299), width: float = 1.0, dropout: float = 0.2
) -> Graph:
    """Inception-v4 for 299x299 images."""
    b = UnitBuilder("inception_v4", width)
    x = b.input("x", input_shape)
    x = b.unit(x, 32, 3, "features.0", **REDUCE)
    x = b.unit(x, 32, 3, "features.1", **VALID)
    x = b.unit(x, 64, 3, "features.2")
    blocks: list[Callable[[UnitBuilder, str], list[str]]] = [stem_3a, stem_4a, stem_5a]
    blocks += [inception_a] * 4 + [reduction_a] + [inception_b] * 7 + [reduction_b] + [inception_c] * 3
    for number, block in enumerate(blocks, 3):
        with b.scope(f"features.{number}"):
            x = b.concat(block(b, x), name="concat")
    x = b.flatten(b.global_avg_pool(x, name="global_pool"), name="flatten")
    x = b.dropout(x, dropout, name="head_drop") if dropout else x
    return b.build(b.linear(x, num_classes, name="last_linear", weight_init="normal(0.01)"))


def stem_3a(b: UnitBuilder, x: str) -> list[str]:
    """Figure 3, first concatenation: 73x73 pixels."""
    return [b.max_pool2d(x, 3, 2, name="maxpool"), b.unit(x, 96, 3, "conv", **REDUCE)]


def stem_4a(b: UnitBuilder, x: str) -> list[str]:
    """Figure 3, second: 71x71."""
    return [
        b.branch(x, "branch0.{}", (64, 1), (96, 3, VALID)),
        b.branch(x, "branch1.{}", (64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, VALID)),
    ]


def stem_5a(b: UnitBuilder, x: str) -> list[str]:
    """Figure 3, third: 35x35."""
    return [b.unit(x, 192, 3, "conv", **REDUCE), b.max_pool2d(x, 3, 2, name="maxpool")]


def inception_a(b: UnitBuilder, x: str) -> list[str]:
    """Figure 4, on 35x35 images."""
    return [
        b.unit(x, 96, 1, "branch0"),
        b.branch(x, "branch1.{}", (64, 1), (96, 3)),
        b.branch(x, "branch2.{}", (64, 1), (96, 3), (96, 3)),
        b.branch(average(b, x), "branch3.{}", (96, 1), first=1),
    ]


def reduction_a(b: UnitBuilder, x: str) -> list[str]:
    """Figure 7 with k, l, m, n = 192, 224, 256, 384 (table 1), to 17x17."""
    return [
        b.unit(x, 384, 3, "branch0", **REDUCE),
        b.branch(x, "branch1.{}", (192, 1), (224, 3), (256, 3, REDUCE)),
        b.max_pool2d(x, 3, 2, name="branch2"),
    ]


def inception_b(b: UnitBuilder, x: str) -> list[str]:
    """Figure 5, on 17x17 images."""
    return [
        b.unit(x, 384, 1, "branch0"),
        b.branch(x, "branch1.{}", (192, 1), (224, (1, 7)), (256, (7, 1))),
        b.branch(x, "branch2.{}", (192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
        b.branch(average(b, x), "branch3.{}", (128, 1), first=1),
    ]


def reduction_b(b: UnitBuilder, x: str) -> list[str]:
    """Figure 8, to 8x8."""
    return [
        b.branch(x, "branch0.{}", (192, 1), (192, 3, REDUCE)),
        b.branch(x, "branch1.{}", (256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, REDUCE)),
        b.max_pool2d(x, 3, 2, name="branch2"),
    ]


def inception_c(b: UnitBuilder, x: str) -> list[str]:
    """Figure 6, on 8x8 images: 1x3 beside 3x1."""
    one = b.unit(x, 384, 1, "branch1_0")
    two = b.unit(x, 384, 1, "branch2_0")
    two = b.unit(b.unit(two, 448, (3, 1), "branch2_1"), 512, (1, 3), "branch2_2")
    return [
        b.unit(x, 256, 1, "branch0"),
        b.unit(one, 256, (1, 3), "branch1_1a"),
        b.unit(one, 256, (3, 1), "branch1_1b"),
        b.unit(two, 256, (1, 3), "branch2_3a"),
        b.unit(two, 256, (3, 1), "branch2_3b"),
        b.branch(average(b, x), "branch3.{}", (256, 1), first=1),
    ]


def average(b: UnitBuilder, x: str) -> str:
    """3x3 average pooling that does not count the padding."""
    return b.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False, name="branch3.0")
