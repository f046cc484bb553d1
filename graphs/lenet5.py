"""LeNet-5, the network of 1998.

LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition" (1998), section II.B, figure
2 and table I.

    C1  6 maps, 5x5         156 parameters      (28x28 images are padded to the paper's 32x32)
    S2  2x2 sub-sampling     12                 the sum of four pixels times a coefficient, plus a bias, squashed
    C3  16 maps, 5x5      1,516                 each sees 3, 4 or all 6 of the maps below: table I
    S4  2x2 sub-sampling     32
    C5  120 maps, 5x5    48,120
    F6  84 units         10,164                 60,000 in all

The squashing function is 1.7159 tanh(2x/3) (appendix A), weights start as U(-2.4/fan-in, 2.4/fan-in) there. The
paper ends in radial basis functions whose 84 fixed targets are drawings of the digits; here a dense layer gives logits.
"""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder

from .widths import scaled

#: table I, by column: the maps of S2 that each map of C3 sees
TABLE_I = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip


def lenet5(num_classes: int = 10, input_shape: Sequence[int] = (1, 28, 28), width: float = 1.0) -> Graph:
    """LeNet-5 as published in 1998: scaled tanh, trainable sub-sampling, partial connections.

    ``width`` scales C5 and F6; the maps below are those that table I connects.
    """
    w = scaled(width)
    b = GraphBuilder("lenet5")
    x = b.input("x", input_shape)
    x = squash(b, conv(b, x, 6, 5, "c1", padding=2), "c1")
    x = subsample(b, x, "s2")
    x = squash(b, partially_connected(b, x, "c3"), "c3")
    x = subsample(b, x, "s4")
    x = squash(b, conv(b, x, w(120), b.type(x).spatial, "c5"), "c5")
    x = squash(b, b.linear(x, w(84), name="f6", weight_init=uniform(b.type(x).channels)), "f6")
    return b.build(b.linear(x, num_classes, name="output", weight_init=uniform(b.type(x).channels)))


def partially_connected(b: GraphBuilder, x: str, name: str) -> str:
    """C3: its maps sorted by how many of the six they see, each sort a grouped convolution of the maps it sees."""
    maps = [b.add("slice_channels", x, name=f"{name}.map{i}", start=i, stop=i + 1) for i in range(6)]
    parts = []
    for seen in (3, 4, 6):
        columns = [column for column in TABLE_I if len(column) == seen]
        inputs = b.concat([maps[i] for column in columns for i in column], name=f"{name}.inputs{seen}")
        parts.append(conv(b, inputs, len(columns), 5, f"{name}.see{seen}", groups=len(columns)))
    return b.concat(parts, name=name)


def subsample(b: GraphBuilder, x: str, name: str) -> str:
    """The mean of 2x2 pixels (a quarter of the paper's sum), then a coefficient and a bias for each map, squashed."""
    x = b.avg_pool2d(x, 2, name=f"{name}.mean")
    channels = b.type(x).channels
    return squash(b, b.conv2d(x, channels, 1, groups=channels, name=name, weight_init="constant(1)"), name)


def squash(b: GraphBuilder, x: str, name: str) -> str:
    """``1.7159 tanh(2x/3)``: 1 at 1 and -1 at -1."""
    x = b.tanh(b.add("scale", x, name=f"{name}.in", factor=2 / 3), name=f"{name}.tanh")
    return b.add("scale", x, name=f"{name}.out", factor=1.7159)


def conv(
    b: GraphBuilder, x: str, filters: int, size: int | tuple[int, int], name: str, padding: int = 0, groups: int = 1
) -> str:
    r, s = (size, size) if isinstance(size, int) else size
    init = uniform(b.type(x).channels // groups * r * s)
    return b.conv2d(x, filters, size, name=name, weight_init=init, padding=padding, groups=groups)


def uniform(fan_in: int) -> str:
    return f"uniform({2.4 / fan_in!r})"
