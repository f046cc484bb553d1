"""Inception-BN (v2), the Inception with batch norm.

Ioffe & Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift" (ICML
2015), appendix and figure 5.

GoogLeNet with batch norm before every ReLU, 5x5 convolutions as two 3x3, and average pooling inside the blocks; 3c and
4e halve the image by stride 2 instead of a pooling layer between blocks. No auxiliary heads.
"""

from collections.abc import Sequence
from typing import Any

from tricnn.ir import Graph

from .units import UnitBuilder

#: figure 5: filters of the 1x1, of the 3x3 after its reduction, of the double 3x3 after its reduction, and the kind of
#: pooling with the filters behind it. The blocks without 1x1 filters have stride 2 and pass their maxima through.
INCEPTION: dict[str, tuple[Any, ...]] = {
    "3a": (64, 64, 64, 64, 96, "avg", 32),
    "3b": (64, 64, 96, 64, 96, "avg", 64),
    "3c": (0, 128, 160, 64, 96, "max", 0),
    "4a": (224, 64, 96, 96, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, "avg", 128),
    "4d": (96, 128, 192, 160, 192, "avg", 128),
    "4e": (0, 128, 192, 192, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}


def inception_bn(num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), width: float = 1.0) -> Graph:
    """Inception-BN (v2), the network of the batch-normalisation paper."""
    b = UnitBuilder("inception_bn", width, eps=1e-5)
    x = b.unit(b.input("x", input_shape), 64, 7, "conv1", stride=2)
    x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool1")
    x = b.unit(x, 64, 1, "conv2")
    x = b.unit(x, 192, 3, "conv3")
    x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="maxpool2")
    for block in INCEPTION:
        with b.scope(f"inception{block}"):
            x = inception(b, x, *INCEPTION[block])
    x = b.global_avg_pool(x, name="avgpool")
    return b.build(b.linear(x, num_classes, name="fc", weight_init="normal(0.01)"))


def inception(
    b: UnitBuilder, x: str, one: int, reduce3: int, three: int, reduce33: int, three33: int, kind: str, pool: int
) -> str:
    stride = {"stride": 1 if one else 2}
    branches = [b.branch(x, "branch1", (one, 1))] if one else []
    branches += [
        b.branch(x, "branch2.{}", (reduce3, 1), (three, 3, stride)),
        b.branch(x, "branch3.{}", (reduce33, 1), (three33, 3), (three33, 3, stride)),
    ]
    pooling = b.max_pool2d if kind == "max" else b.avg_pool2d
    if one:
        pooled = pooling(x, 3, 1, padding=1, name="branch4.0")
        branches.append(b.branch(pooled, "branch4.{}", (pool, 1), first=1))
    else:
        branches.append(pooling(x, 3, 2, ceil_mode=True, name="branch4.0"))
    return b.concat(branches, name="concat")
