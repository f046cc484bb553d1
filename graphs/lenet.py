"""LeNet in the sizes of the lecture: two convolutions, two poolings, three dense layers.
It has 61,706 parameters for 10 classes. LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document
recognition" (1998), section II.B."""

from collections.abc import Callable, Sequence

from tricnn.ir import Graph, GraphBuilder

from .widths import scaled


def lenet(num_classes: int = 10, input_shape: Sequence[int] = (1, 28, 28), width: float = 1.0) -> Graph:
    """LeNet with ReLU and max pooling, as it is trained today."""
    return _lenet(
        "lenet", GraphBuilder.relu, GraphBuilder.max_pool2d, "he_normal(fan_in)", num_classes, input_shape, width
    )


def lenet_sigmoid(num_classes: int = 10, input_shape: Sequence[int] = (1, 28, 28), width: float = 1.0) -> Graph:
    """LeNet as the lecture first draws it: sigmoid and average pooling."""
    return _lenet(
        "lenet_sigmoid",
        GraphBuilder.sigmoid,
        GraphBuilder.avg_pool2d,
        "xavier_uniform",
        num_classes,
        input_shape,
        width,
    )


def _lenet(
    name: str,
    activation: Callable[..., str],
    pool: Callable[..., str],
    init: str,
    num_classes: int,
    input_shape: Sequence[int],
    width: float,
) -> Graph:
    w = scaled(width)
    b = GraphBuilder(name)
    x = b.input("x", input_shape)
    x = activation(b, b.conv2d(x, w(6), 5, padding=2, name="conv1", weight_init=init), name="act1")
    x = pool(b, x, 2, name="pool1")
    x = activation(b, b.conv2d(x, w(16), 5, name="conv2", weight_init=init), name="act2")
    x = pool(b, x, 2, name="pool2")
    x = b.flatten(x, name="flatten")
    x = activation(b, b.linear(x, w(120), name="fc1", weight_init=init), name="act3")
    x = activation(b, b.linear(x, w(84), name="fc2", weight_init=init), name="act4")
    return b.build(b.linear(x, num_classes, name="fc3", weight_init=init))
