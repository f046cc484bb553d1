"""Networks for mutations.py, each as small as its kernels allow."""

from tricnn.ir import Graph, GraphBuilder


def products() -> Graph:
    """Convolutions: strided, with a bias, grouped, depthwise; a dense layer."""
    b = GraphBuilder("products")
    h = b.relu(b.conv2d(b.input("x", (4, 7, 7)), 8, 3, padding=1, name="c1"))
    h = b.tanh(b.conv2d(h, 8, 3, stride=2, padding=1, name="c2"))
    h = b.tanh(b.conv2d(h, 8, 3, padding=1, groups=2, name="c3"))
    h = b.tanh(b.conv2d(h, 8, 3, padding=1, groups=8, name="c4"))
    return b.build(b.linear(b.global_avg_pool(h), 5, name="fc"))


def deep(size: int = 5) -> Graph:
    """Channels enough that products go tap by tap; of images whose size boxes fit, or, by default, do not."""
    b = GraphBuilder("deep")
    h = b.relu(b.conv2d(b.input("x", (16, size, size)), 16, 3, padding=1, name="c1"))
    h = b.tanh(b.conv2d(h, 16, 3, padding=1, name="c2"))
    h = b.tanh(b.conv2d(h, 32, 1, name="c3"))
    return b.build(b.linear(b.flatten(h), 5, name="fc"))


def norms() -> Graph:
    """Batch norm: statistics in an epilogue, normalised on load, and its gradients; dropout; a residual."""
    b = GraphBuilder("norms")
    h = b.conv2d(b.input("x", (4, 9, 9)), 8, 3, padding=1, bias=False, name="c1")
    first = h = b.relu(b.batch_norm(h, name="b1"))
    h = b.batch_norm(b.conv2d(h, 8, 3, padding=1, bias=False, name="c2"), name="b2")
    h = b.dropout(b.relu(b.add_(h, first)), 0.3)
    return b.build(b.linear(b.global_avg_pool(h), 5, name="fc"))


def pools() -> Graph:
    """Pooling whose windows overlap, over numbers that are often equal; local response norm."""
    b = GraphBuilder("pools")
    h = b.dropout(b.relu(b.conv2d(b.input("x", (4, 9, 9)), 8, 3, padding=1, name="c1")), 0.5)
    h = b.max_pool2d(h, 3, 2, padding=1)
    h = b.sigmoid(b.add("local_response_norm", h, size=5, alpha=1.0, beta=0.75, k=1.0))
    h = b.tanh(b.avg_pool2d(h, 3, 1, padding=1, count_include_pad=False))
    return b.build(b.linear(b.flatten(h), 5, name="fc"))


def pools_apart() -> Graph:
    """Pooling whose windows do not overlap, in part amid padding, over numbers that are often equal."""
    b = GraphBuilder("pools_apart")
    h = b.dropout(b.relu(b.conv2d(b.input("x", (4, 12, 12)), 8, 3, padding=1, name="c1")), 0.5)
    h = b.sigmoid(b.max_pool2d(h, 3, 3, padding=1))
    h = b.tanh(b.avg_pool2d(h, 2, 2, padding=1, count_include_pad=False))
    return b.build(b.linear(b.flatten(h), 5, name="fc"))


def heads() -> Graph:
    """Flattening that moves data, concatenation, softmax amid the network, two losses."""
    b = GraphBuilder("heads")
    h = b.conv2d(b.input("x", (4, 5, 5)), 5, 3, name="c1")
    h = b.concat([h, b.tanh(h)])
    flat = b.flatten(h)
    soft = b.softmax(b.linear(flat, 4, name="q"))
    b.output(b.linear(soft, 3, name="r"), name="soft", loss_weight=0.3)
    return b.build(b.linear(b.relu(flat), 5, name="fc"))


def long() -> Graph:
    """Images so large that the sum over their pixels is dealt out."""
    b = GraphBuilder("long")
    h = b.tanh(b.conv2d(b.input("x", (4, 32, 32)), 4, 3, padding=1, name="c1"))
    return b.build(b.linear(b.global_avg_pool(b.tanh(b.conv2d(h, 4, 1, name="c2"))), 5, name="fc"))


def resized() -> Graph:
    """Images of another size, forward and back; statistics and sums along the channels of a pixel."""
    b = GraphBuilder("resized")
    h = b.tanh(b.conv2d(b.input("x", (4, 5, 4)), 8, 3, padding=1, name="c1"))
    h = b.layer_norm(b.tanh(b.interpolate(h, (7, 9), mode="bilinear")), name="n")
    h = b.add("mul", h, b.sigmoid(b.conv2d(h, 1, 1, name="gate")))
    return b.build(b.linear(b.flatten(b.adaptive_avg_pool2d(b.tanh(h), (3, 4))), 5, name="fc"))


def masked() -> Graph:
    """Pixels weighed by the mean and the maximum of their channels; maxima whose gradient equal channels share."""
    b = GraphBuilder("masked")
    h = b.tanh(b.conv2d(b.input("x", (4, 5, 4)), 8, 3, padding=1, name="c1"))
    mask = b.conv2d(b.concat([b.max_channels(h), b.mean_channels(h)]), 1, 3, padding=1, name="mask")
    h = b.add("mul", b.add("mul", h, b.sigmoid(mask)), b.max_channels(h, ties="shared"))
    return b.build(b.linear(b.flatten(h), 5, name="fc"))


def scaled() -> Graph:
    """Channels times numbers of their own behind a convolution and a dense layer."""
    b = GraphBuilder("scaled")
    h = b.tanh(b.conv2d(b.input("x", (4, 7, 7)), 32, 3, padding=1, name="c1"))
    h = b.tanh(b.layer_scale(b.conv2d(h, 8, 3, padding=1, name="c2"), name="s", init="constant(0.5)"))
    return b.build(b.linear(b.global_avg_pool(h), 5, name="fc"))


def standardised() -> Graph:
    """A convolution of a weight whose filters have mean 0 and variance 1."""
    b = GraphBuilder("standardised")
    w = b.add("standardize_filters", b.parameter("w", (8, 32, 3, 3), "he_normal"), eps=1e-3, factor=0.5)
    h = b.tanh(b.conv2d(b.input("x", (4, 5, 4)), 32, 3, padding=1, name="c1"))
    return b.build(b.linear(b.global_avg_pool(b.tanh(b.add("conv2d", h, w, padding=1))), 5, name="fc"))


def pixels() -> Graph:
    """Classes of each pixel."""
    b = GraphBuilder("pixels")
    h = b.tanh(b.conv2d(b.input("x", (4, 5, 4)), 8, 3, padding=1, name="c1"))
    return b.build(b.conv2d(h, 5, 1, name="c2"))


def strips() -> Graph:
    """Depthwise convolutions of images that are two segments high and three strips wide, behind a batch norm; one of
    them with a stride."""
    b = GraphBuilder("strips")
    h = b.conv2d(b.input("x", (4, 17, 9)), 8, 1, bias=False, name="c1")
    h = b.relu(b.batch_norm(h, name="b1"))
    h = b.tanh(b.conv2d(h, 8, 3, padding=1, groups=8, name="c2"))
    h = b.relu(b.conv2d(h, 8, 3, stride=2, padding=1, groups=8, name="c3"))
    return b.build(b.linear(b.global_avg_pool(h), 5, name="fc"))


def runs() -> Graph:
    """Convolutions whose programs go down images row by row, some from one strip to the next. The first has padding
    above only: so what is left of a strip is not 0."""
    b = GraphBuilder("runs")
    h = b.relu(b.conv2d(b.input("x", (4, 4, 32)), 32, 1, name="c1"))
    h = b.conv2d(h, 32, 3, padding=(1, 0, 1, 1), bias=False, name="c2")
    h = b.relu(b.batch_norm(h, name="b2"))
    h = b.conv2d(b.relu(b.conv2d(h, 32, 3, padding=1, name="c3")), 8, 1, name="c4")
    return b.build(b.linear(b.global_avg_pool(h), 3, name="fc"))


def packs() -> Graph:
    """Grouped convolutions whose groups are multiplied together, and such as do not fill a tile of their own."""
    b = GraphBuilder("packs")
    h = b.relu(b.conv2d(b.input("x", (4, 4, 32)), 48, 1, name="c1"))
    h = b.conv2d(h, 48, 3, padding=1, groups=6, bias=False, name="c2")
    h = b.relu(b.batch_norm(h, name="b2"))
    h = b.conv2d(b.relu(b.conv2d(h, 48, 3, padding=1, groups=2, name="c3")), 8, 1, name="c4")
    return b.build(b.linear(b.global_avg_pool(h), 3, name="fc"))
