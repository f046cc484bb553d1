"""AlexNet, the network of 2012, and its two descendants.

Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks" (NIPS 2012), section
3.5 and figure 2.

                alexnet_2012                 alexnet                  alexnet_lecture
    conv1       96, 11x11, stride 4          64                       96, unpadded
                LRN, 3x3 max pooling, /2     pooling                  pooling
    conv2       256, 5x5, 2 groups           192                      256
                LRN, pooling                 pooling                  pooling
    conv3       384, 3x3                     384                      384
    conv4       384, 3x3, 2 groups           256                      384
    conv5       256, 3x3, 2 groups           256                      256
                pooling                      pooling                  pooling
    dense       9216-4096-4096-1000          9216-4096-4096-1000      6400-4096-4096-1000

``alexnet`` is the single tower of Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014),
section 4.1, under torchvision's names. ``alexnet_lecture`` is the lecture's: the first paper's filters in one tower.
"""

from collections.abc import Sequence
from typing import Any

from tricnn.ir import Graph, GraphBuilder

from .widths import scaled

ImageShape = Sequence[int]


def alexnet(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """AlexNet in one tower (2014)."""
    w = scaled(width)
    b = GraphBuilder("alexnet")
    x = b.input("x", input_shape)
    x = b.relu(b.conv2d(x, w(64), 11, stride=4, padding=2, name="features.0"), name="features.1")
    x = b.max_pool2d(x, 3, 2, name="features.2")
    x = b.relu(b.conv2d(x, w(192), 5, padding=2, name="features.3"), name="features.4")
    x = b.max_pool2d(x, 3, 2, name="features.5")
    x = b.relu(b.conv2d(x, w(384), 3, padding=1, name="features.6"), name="features.7")
    x = b.relu(b.conv2d(x, w(256), 3, padding=1, name="features.8"), name="features.9")
    x = b.relu(b.conv2d(x, w(256), 3, padding=1, name="features.10"), name="features.11")
    x = b.max_pool2d(x, 3, 2, name="features.12")
    x = b.flatten(x, name="flatten")
    x = b.dropout(x, dropout, name="classifier.0") if dropout else x
    x = b.relu(b.linear(x, w(4096), name="classifier.1"), name="classifier.2")
    x = b.dropout(x, dropout, name="classifier.3") if dropout else x
    x = b.relu(b.linear(x, w(4096), name="classifier.4"), name="classifier.5")
    return b.build(b.linear(x, num_classes, name="classifier.6", weight_init="normal(0.01)"))


def alexnet_lecture(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """AlexNet as the lecture draws it: one tower of 96-256-384-384-256 filters."""
    w = scaled(width)
    init = "xavier_uniform"
    b = GraphBuilder("alexnet_lecture")
    x = b.input("x", input_shape)
    x = b.relu(b.conv2d(x, w(96), 11, stride=4, name="conv1", weight_init=init), name="relu1")
    x = b.max_pool2d(x, 3, 2, name="pool1")
    x = b.relu(b.conv2d(x, w(256), 5, padding=2, name="conv2", weight_init=init), name="relu2")
    x = b.max_pool2d(x, 3, 2, name="pool2")
    x = b.relu(b.conv2d(x, w(384), 3, padding=1, name="conv3", weight_init=init), name="relu3")
    x = b.relu(b.conv2d(x, w(384), 3, padding=1, name="conv4", weight_init=init), name="relu4")
    x = b.relu(b.conv2d(x, w(256), 3, padding=1, name="conv5", weight_init=init), name="relu5")
    x = b.max_pool2d(x, 3, 2, name="pool5")
    x = b.flatten(x, name="flatten")
    for dense in ("dense1", "dense2"):
        x = b.relu(b.linear(x, w(4096), name=dense, weight_init=init), name=f"{dense}.relu")
        x = b.dropout(x, dropout, name=f"{dense}.dropout") if dropout else x
    return b.build(b.linear(x, num_classes, name="dense3", weight_init=init))


def alexnet_2012(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """AlexNet as published: two towers (grouped convolutions), local response normalisation, overlapping pooling.

    Weights start as N(0, 0.01^2), the biases of conv2, conv4, conv5 and the hidden dense layers at 1 (section 5); with
    fewer channels the weights start larger, so that their sums are as large. The paper's 224x224 images give 55x55
    pixels only if they are padded, by 2 here.
    """
    half = scaled(width)

    def w(channels: int) -> int:
        """As many for each of the two towers."""
        return 2 * half(channels // 2)

    init: dict[str, Any] = {"weight_init": f"normal({0.01 / width**0.5!r})"}
    one = {**init, "bias_init": "constant(1)"}
    b = GraphBuilder("alexnet_2012")
    x = b.input("x", input_shape)
    x = b.relu(b.conv2d(x, w(96), 11, stride=4, padding=2, name="conv1", **init), name="relu1")
    x = b.max_pool2d(response_norm(b, x, "norm1"), 3, 2, name="pool1")
    x = b.relu(b.conv2d(x, w(256), 5, padding=2, groups=2, name="conv2", **one), name="relu2")
    x = b.max_pool2d(response_norm(b, x, "norm2"), 3, 2, name="pool2")
    x = b.relu(b.conv2d(x, w(384), 3, padding=1, name="conv3", **init), name="relu3")
    x = b.relu(b.conv2d(x, w(384), 3, padding=1, groups=2, name="conv4", **one), name="relu4")
    x = b.relu(b.conv2d(x, w(256), 3, padding=1, groups=2, name="conv5", **one), name="relu5")
    x = b.max_pool2d(x, 3, 2, name="pool5")
    x = b.flatten(x, name="flatten")
    for dense in ("fc6", "fc7"):
        x = b.relu(b.linear(x, w(4096), name=dense, **one), name=f"{dense}.relu")
        x = b.dropout(x, dropout, name=f"{dense}.dropout") if dropout else x
    return b.build(b.linear(x, num_classes, name="fc8", **init))


def response_norm(b: GraphBuilder, x: str, name: str) -> str:
    """Section 3.3: k = 2, n = 5, alpha = 1e-4 per channel, beta = 0.75."""
    return b.local_response_norm(x, 5, alpha=5 * 1e-4, beta=0.75, k=2.0, name=name)
