"""SqueezeNet: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters" (arXiv 1602.07360).

Table 1: a fire module squeezes to few channels (1x1), then expands by 1x1 and 3x3 convolutions side by side. Version
1.1 is the authors' own, with a smaller first convolution and earlier pooling: 2.4 times less arithmetic. There is no
dense layer: a 1x1 convolution makes the classes, whose mean over the image are the logits. Names are torchvision's.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .widths import scaled

ImageShape = Sequence[int]
#: squeezed and expanded channels (of each kind) of the fire modules; None: 3x3 max pooling with stride 2
FIRST = (None, (16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256), None, (64, 256))
SECOND = (None, (16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256))


def squeezenet1_0(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """SqueezeNet 1.0: a 7x7 convolution and eight fire modules."""
    return _squeezenet("squeezenet1_0", (96, 7), FIRST, num_classes, input_shape, width, dropout)


def squeezenet1_1(
    num_classes: int = 1000, input_shape: ImageShape = (3, 224, 224), width: float = 1.0, dropout: float = 0.5
) -> Graph:
    """SqueezeNet 1.1: a 3x3 convolution and eight fire modules, pooled earlier."""
    return _squeezenet("squeezenet1_1", (64, 3), SECOND, num_classes, input_shape, width, dropout)


def _squeezenet(
    name: str, first: tuple[int, int], modules: Sequence[tuple[int, int] | None], num_classes: int,
    input_shape: ImageShape, width: float, dropout: float,
) -> Graph:  # fmt: skip
    w = scaled(width)
    b = GraphBuilder(name)
    filters, size = first
    x = b.conv2d(b.input("x", input_shape), w(filters), size, stride=2, name="features.0")
    x = b.relu(x, name="features.1")
    for number, module in enumerate(modules, 2):
        with b.scope(f"features.{number}"):
            if module is None:
                x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="pool")
            else:
                x = _fire(b, x, w(module[0]), w(module[1]))
    if dropout:
        x = b.dropout(x, dropout, name="classifier.0")
    x = b.relu(b.conv2d(x, num_classes, 1, name="classifier.1", weight_init="normal(0.01)"), name="classifier.2")
    return b.build(b.flatten(b.global_avg_pool(x, name="classifier.3"), name="flatten"))


def _fire(b: GraphBuilder, x: str, squeezed: int, expanded: int) -> str:
    """``concat(relu(conv1x1(s)), relu(conv3x3(s)))`` with ``s = relu(conv1x1(x))``, figure 1."""
    s = b.relu(b.conv2d(x, squeezed, 1, name="squeeze"), name="squeeze_activation")
    one = b.relu(b.conv2d(s, expanded, 1, name="expand1x1"), name="expand1x1_activation")
    three = b.relu(b.conv2d(s, expanded, 3, padding=1, name="expand3x3"), name="expand3x3_activation")
    return b.concat([one, three], name="concat")
