"""Small networks that between them have every pointwise operation, as CNNs use them."""

from tests.ir.samples import ACTIVATIONS
from tricnn.ir import Graph, GraphBuilder


def activations(*ops: str) -> Graph:
    """Convolution, batch norm and activation, again and again."""
    b = GraphBuilder("activations")
    x = b.conv2d(b.input("x", (3, 6, 5)), 4, 3, padding=1, name="stem")
    for i, op in enumerate(ops):
        attrs = ACTIVATIONS[op][0] if op in ACTIVATIONS else {}
        x = b.add(op, b.batch_norm(x, name=f"bn{i}"), name=f"act{i}", **attrs)
        size = 1 if i % 2 else 3
        x = b.conv2d(x, 4, size, padding=size // 2, name=f"conv{i}")
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def gated() -> Graph:
    """Squeeze and excitation (Hu et al. 2018) before a residual join, spatial attention (Woo et al. 2018), a scale for
    each channel (Touvron et al. 2021), PReLU, a gate without a gradient, and arithmetic on what a network has."""
    b = GraphBuilder("gated")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 6, 5)), 8, 3, padding=1, name="stem"), name="bn"))
    gate = b.relu(b.conv2d(b.global_avg_pool(x), 4, 1, name="squeeze"))
    gate = b.sigmoid(b.conv2d(gate, 8, 1, name="excite"))
    h = b.batch_norm(b.conv2d(x, 8, 3, padding=1, name="c1"), name="b1")
    h = b.relu(b.add_(b.add("mul", h, gate), x))
    mask = b.sigmoid(b.conv2d(h, 1, 3, padding=1, name="attend"))
    h = b.add("mul", mask, b.conv2d(h, 8, 1, name="c2"))
    h = b.add("mul", h, b.parameter("layer_scale", (8,), "constant(0.5)"))
    h = b.add("prelu", h, b.parameter("slopes", (8,), "constant(0.25)"))
    h = b.add("maximum", h, b.conv2d(x, 8, 1, name="c3"))
    h = b.add("mul", h, b.sigmoid(b.add("detach", h)))
    h = b.add("div", h, b.add("shift", b.add("square", b.conv2d(h, 8, 1, name="c4")), amount=1.0))
    h = b.add("sub", h, b.add("minimum", x, b.parameter("cap", (8,), "constant(0.5)")))
    return b.build(b.linear(b.global_avg_pool(h), 3, name="fc"))


NETWORKS = {
    "smooth": activations("silu", "gelu", "mish", "softplus"),
    "mobile": activations("elu", "gelu_tanh", "hardswish", "relu6"),
    "pieces": activations("leaky_relu", "hardsigmoid", "clamp", "abs", "square", "exp", "neg"),
    "gated": gated(),
}
