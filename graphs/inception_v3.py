"""Inception-v3, an Inception of factored convolutions.

Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, "Rethinking the Inception architecture for computer vision" (CVPR 2016),
section 6, table 1 and figures 5 to 8 and 10.

5x5 convolutions become two 3x3, 7x7 become 1x7 and 7x1, and on the smallest images 3x3 become 1x3 beside 3x1. Names and
details are torchvision's (its first blocks keep one 5x5, as the published weights do; those expect images scaled to
-1..1, for which ``transform_input`` is: see published.py).
"""

from collections.abc import Sequence

from tricnn.ir import Graph

from .published import images
from .units import REDUCE, VALID, UnitBuilder


def inception_v3(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 299, 299), width: float = 1.0, aux: bool = True,
    dropout: float = 0.5, transform_input: bool = False,
) -> Graph:  # fmt: skip
    """Inception-v3 for 299x299 images, with an auxiliary head in training."""
    b = UnitBuilder("inception_v3", width)
    x = images(b, input_shape, transform_input)
    x = b.unit(x, 32, 3, "Conv2d_1a_3x3", **REDUCE)
    x = b.unit(x, 32, 3, "Conv2d_2a_3x3", **VALID)
    x = b.unit(x, 64, 3, "Conv2d_2b_3x3")
    x = b.max_pool2d(x, 3, 2, name="maxpool1")
    x = b.unit(x, 80, 1, "Conv2d_3b_1x1")
    x = b.unit(x, 192, 3, "Conv2d_4a_3x3", **VALID)
    x = b.max_pool2d(x, 3, 2, name="maxpool2")
    for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        with b.scope(name):
            x = block_35(b, x, pool)
    with b.scope("Mixed_6a"):
        x = reduction_35(b, x)
    for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        with b.scope(name):
            x = block_17(b, x, inner)
    if aux:
        b.output(auxiliary(b, x, num_classes), "aux", loss_weight=0.4, training_only=True)
    with b.scope("Mixed_7a"):
        x = reduction_17(b, x)
    for name in ("Mixed_7b", "Mixed_7c"):
        with b.scope(name):
            x = block_8(b, x)
    x = b.flatten(b.global_avg_pool(x, name="avgpool"), name="flatten")
    x = b.dropout(x, dropout, name="dropout") if dropout else x
    return b.build(b.linear(x, num_classes, name="fc", weight_init="normal(0.01)"))


def block_35(b: UnitBuilder, x: str, pool: int) -> str:
    """Figure 5, on 35x35 images."""
    branches = [
        b.unit(x, 64, 1, "branch1x1"),
        b.branch(x, "branch5x5_{}", (48, 1), (64, 5), first=1),
        b.branch(x, "branch3x3dbl_{}", (64, 1), (96, 3), (96, 3), first=1),
        b.unit(b.avg_pool2d(x, 3, 1, padding=1, name="avgpool"), pool, 1, "branch_pool"),
    ]
    return b.concat(branches, name="concat")


def reduction_35(b: UnitBuilder, x: str) -> str:
    """Figure 10, from 35x35 to 17x17."""
    branches = [
        b.unit(x, 384, 3, "branch3x3", **REDUCE),
        b.branch(x, "branch3x3dbl_{}", (64, 1), (96, 3), (96, 3, REDUCE), first=1),
        b.max_pool2d(x, 3, 2, name="maxpool"),
    ]
    return b.concat(branches, name="concat")


def block_17(b: UnitBuilder, x: str, n: int) -> str:
    """Figure 6, 7x7 as 1x7 and 7x1, on 17x17 images."""
    branches = [
        b.unit(x, 192, 1, "branch1x1"),
        b.branch(x, "branch7x7_{}", (n, 1), (n, (1, 7)), (192, (7, 1)), first=1),
        b.branch(x, "branch7x7dbl_{}", (n, 1), (n, (7, 1)), (n, (1, 7)), (n, (7, 1)), (192, (1, 7)), first=1),
        b.unit(b.avg_pool2d(x, 3, 1, padding=1, name="avgpool"), 192, 1, "branch_pool"),
    ]
    return b.concat(branches, name="concat")


def reduction_17(b: UnitBuilder, x: str) -> str:
    """From 17x17 to 8x8."""
    branches = [
        b.branch(x, "branch3x3_{}", (192, 1), (320, 3, REDUCE), first=1),
        b.branch(x, "branch7x7x3_{}", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, REDUCE), first=1),
        b.max_pool2d(x, 3, 2, name="maxpool"),
    ]
    return b.concat(branches, name="concat")


def block_8(b: UnitBuilder, x: str) -> str:
    """Figure 7, 3x3 as 1x3 beside 3x1, on 8x8 images."""
    three = b.unit(x, 384, 1, "branch3x3_1")
    double = b.branch(x, "branch3x3dbl_{}", (448, 1), (384, 3), first=1)
    branches = [
        b.unit(x, 320, 1, "branch1x1"),
        b.unit(three, 384, (1, 3), "branch3x3_2a"),
        b.unit(three, 384, (3, 1), "branch3x3_2b"),
        b.unit(double, 384, (1, 3), "branch3x3dbl_3a"),
        b.unit(double, 384, (3, 1), "branch3x3dbl_3b"),
        b.unit(b.avg_pool2d(x, 3, 1, padding=1, name="avgpool"), 192, 1, "branch_pool"),
    ]
    return b.concat(branches, name="concat")


def auxiliary(b: UnitBuilder, x: str, num_classes: int) -> str:
    """Figure 8: 5x5 average pooling with stride 3, 1x1, then 5x5 over all that is left.

    From 299x299 images that is 5x5 pixels; from smaller ones fewer, and the kernel is as large as they are.
    """
    with b.scope("AuxLogits"):
        x = b.unit(b.avg_pool2d(x, 5, 3, name="avgpool"), 128, 1, "conv0")
        h, w = b.type(x).spatial
        x = b.unit(x, 768, (min(5, h), min(5, w)), "conv1", weight_init="normal(0.01)", **VALID)
        x = b.global_avg_pool(x, name="global_avgpool")
        return b.linear(x, num_classes, name="fc", weight_init="normal(0.001)")
