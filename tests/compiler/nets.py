"""Small networks that between them hold every layer and every way of joining layers."""

from tricnn.graphs import lenet, lenet_sigmoid
from tricnn.ir import Graph, GraphBuilder


def residual() -> Graph:
    """Two basic blocks (He et al. 2016): one with an identity shortcut, one with stride 2 and a projection."""
    b = GraphBuilder("residual")
    x = b.input("x", (3, 8, 8))
    x = b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding=1, bias=False, name="conv1"), name="bn1"), name="relu1")
    for i, (filters, stride) in enumerate(((4, 1), (6, 2))):
        with b.scope(f"layer{i}"):
            y = b.conv2d(x, filters, 3, stride=stride, padding=1, bias=False, name="conv1")
            y = b.relu(b.batch_norm(y, name="bn1"), name="relu1")
            y = b.batch_norm(b.conv2d(y, filters, 3, padding=1, bias=False, name="conv2"), name="bn2")
            if stride > 1:
                x = b.conv2d(x, filters, 1, stride=stride, bias=False, name="downsample.0")
                x = b.batch_norm(x, name="downsample.1")
            x = b.relu(b.add_(y, x, name="join"), name="relu2")
    return b.build(b.linear(b.global_avg_pool(x), 5, name="fc"))


def branches() -> Graph:
    """An Inception block with an auxiliary head: 1x1, 3x3, pooled, and 1x7-like branches joined on channels."""
    b = GraphBuilder("branches")
    x = b.input("x", (2, 9, 7))
    x = b.relu(b.conv2d(x, 4, 3, padding=(1, 1, 1, 1), name="stem"))
    x = b.max_pool2d(x, 3, 2, padding=1, name="overlap")
    one = b.relu(b.conv2d(x, 2, 1, name="b1"))
    three = b.relu(b.conv2d(b.relu(b.conv2d(x, 3, 1, name="b2a")), 3, (1, 3), padding=(0, 1), name="b2b"))
    pooled = b.relu(b.conv2d(b.avg_pool2d(x, 3, 1, padding=1, name="smooth"), 2, 1, name="b3"))
    x = b.concat([one, three, pooled, x], name="join")
    b.output(
        b.linear(b.avg_pool2d(x, 2, name="aux.pool"), 5, name="aux.fc"), "aux", loss_weight=0.3, training_only=True
    )
    x = b.dropout(b.flatten(x), 0.4)
    return b.build(b.linear(b.dropout(b.tanh(b.linear(x, 6, name="fc1")), 0.2), 5, name="fc2"))


def preactivation() -> Graph:
    """Normalise, activate, convolve (He et al. 2016b), with a grouped, a dilated and an unevenly padded convolution."""
    b = GraphBuilder("preactivation")
    x = b.input("x", (4, 7, 7))
    for i, options in enumerate(({"groups": 2}, {"dilation": 2, "padding": 2}, {"padding": (0, 2, 1, 1)})):
        y = b.relu(b.batch_norm(x, name=f"bn{i}"))
        y = b.conv2d(y, 4, 3, **{"padding": 1, **options}, name=f"conv{i}")
        x = b.add_(x, y)
    x = b.sigmoid(b.batch_norm(x, name="last"))
    x = b.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    return b.build(b.linear(x, 5, name="fc"))


def shared() -> Graph:
    """One value read by two layers, by both sides of an addition, and by two dense heads; one weight used twice."""
    b = GraphBuilder("shared")
    x = b.input("x", (2, 6, 6))
    w = b.parameter("w", (2, 2, 3, 3), "constant(0)")
    y = b.add("conv2d", x, w, padding=1)
    y = b.add("conv2d", b.tanh(y), w, padding=1)
    y = b.add_(y, y)
    y = b.max_pool2d(b.relu(y), 2)
    f = b.flatten(y)
    b.output(b.linear(f, 5, name="one"), "one")
    b.output(b.linear(f, 5, name="two"), "two", loss_weight=0.5)
    return b.build()


NETS = (
    lenet(width=0.5, input_shape=(1, 28, 28)),
    lenet_sigmoid(width=0.5),
    residual(),
    branches(),
    preactivation(),
    shared(),
)
