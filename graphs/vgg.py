"""VGG: five stages of 3x3 convolutions, each ended by 2x2 max pooling, then three dense layers.

Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition" (ICLR 2015), section 2 and
table 1.

    column   layers   convolutions a stage     filters: 64, 128, 256, 512, 512
    A        11       1  1  2  2  2
    B        13       2  2  2  2  2
    D        16       2  2  3  3  3
    E        19       2  2  4  4  4

The ``_bn`` forms put batch norm behind every convolution (Ioffe & Szegedy, 2015). Names are torchvision's. The paper
starts the deep ones from the weights of the shallow; the initialisation here is He et al. (2015), "Delving deep into
rectifiers", made for training them from nothing.
"""

from collections.abc import Sequence
from itertools import count

from tricnn.ir import Graph, GraphBuilder

from .widths import scaled

ImageShape = Sequence[int]
A, B, D, E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)


def vgg11(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-11."""
    return _vgg("vgg11", A, False, num_classes, input_shape, width, dropout)


def vgg11_bn(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-11 with batch norm."""
    return _vgg("vgg11_bn", A, True, num_classes, input_shape, width, dropout)


def vgg13(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-13."""
    return _vgg("vgg13", B, False, num_classes, input_shape, width, dropout)


def vgg13_bn(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-13 with batch norm."""
    return _vgg("vgg13_bn", B, True, num_classes, input_shape, width, dropout)


def vgg16(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-16."""
    return _vgg("vgg16", D, False, num_classes, input_shape, width, dropout)


def vgg16_bn(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-16 with batch norm."""
    return _vgg("vgg16_bn", D, True, num_classes, input_shape, width, dropout)


def vgg19(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-19."""
    return _vgg("vgg19", E, False, num_classes, input_shape, width, dropout)


def vgg19_bn(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """VGG-19 with batch norm."""
    return _vgg("vgg19_bn", E, True, num_classes, input_shape, width, dropout)


def _vgg(
    name: str, stages: Sequence[int], batch_norm: bool, num_classes: int, input_shape: ImageShape, width: float,
    dropout: float,
) -> Graph:  # fmt: skip
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    numbers = count()
    for convolutions, filters in zip(stages, (64, 128, 256, 512, 512)):
        for _ in range(convolutions):
            x = b.conv2d(x, w(filters), 3, padding=1, name=f"features.{next(numbers)}")
            if batch_norm:
                x = b.batch_norm(x, name=f"features.{next(numbers)}")
            x = b.relu(x, name=f"features.{next(numbers)}")
        x = b.max_pool2d(x, 2, name=f"features.{next(numbers)}")
    x = b.flatten(x, name="flatten")
    for first in (0, 3):
        x = b.relu(b.linear(x, w(4096), name=f"classifier.{first}"), name=f"classifier.{first + 1}")
        x = b.dropout(x, dropout, name=f"classifier.{first + 2}") if dropout else x
    return b.build(b.linear(x, num_classes, name="classifier.6", weight_init="normal(0.01)"))
