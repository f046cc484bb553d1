"""Random small networks, for properties that must hold of every graph."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tricnn.ir import Graph, GraphBuilder, Kind

LAYERS = (
    "conv", "conv", "conv", "bn", "bn", "relu", "relu", "sigmoid", "tanh", "add", "add", "concat", "max", "avg",
    "dropout", "scale", "lrn", "flat",
)  # fmt: skip


@st.composite
def networks(draw: Any, most_layers: int = 9, heads: bool = True) -> Graph:
    """A DAG of convolutions, norms, activations, joins and pools over a tiny image, with one or two dense heads."""
    b = GraphBuilder("random")
    values = [b.input("x", (draw(st.integers(1, 3)), draw(st.integers(3, 6)), draw(st.integers(3, 6))))]
    for _ in range(draw(st.integers(1, most_layers))):
        x = draw(st.sampled_from([*values[-3:], values[0]]))
        values.append(_layer(draw, b, draw(st.sampled_from(LAYERS)), x, values))
    return finish(draw, b, values, heads)


def _layer(draw: Any, b: GraphBuilder, kind: str, x: str, values: list[str]) -> str:
    h, w = b.type(x).spatial
    if kind == "conv":
        r, s = draw(st.integers(1, min(3, h))), draw(st.integers(1, min(3, w)))
        padding = draw(st.sampled_from([0, (r // 2, (r - 1) // 2, s // 2, (s - 1) // 2), 1]))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        bias = draw(st.booleans())
        return b.conv2d(x, draw(st.integers(1, 3)), (r, s), stride=stride, padding=padding, bias=bias)
    if kind == "bn":
        return b.batch_norm(x)
    if kind in ("relu", "sigmoid", "tanh"):
        return getattr(b, kind)(x)
    if kind == "add":
        return b.add_(x, draw(st.sampled_from([v for v in values if b.type(v) == b.type(x)])))
    if kind == "concat":
        fits = [v for v in values if b.type(v).spatial == (h, w)]
        return b.concat([x, *draw(st.lists(st.sampled_from(fits), min_size=1, max_size=2))])
    if kind in ("max", "avg"):
        r, s = draw(st.integers(1, min(3, h))), draw(st.integers(1, min(3, w)))
        stride = draw(st.sampled_from([(r, s), (1, 1), (2, 1)]))
        padding = draw(st.sampled_from([0, (r // 2, 0, 0, s // 2)]))
        pool = b.max_pool2d if kind == "max" else b.avg_pool2d
        ceil_mode = padding == 0 and draw(st.booleans())  # PyTorch knows no ceil mode with uneven padding
        return pool(x, (r, s), stride, padding=padding, ceil_mode=ceil_mode)
    if kind == "lrn":
        return b.local_response_norm(x, draw(st.integers(1, 4)), alpha=0.5)
    if kind == "flat":  # a dense layer that gives an image of one channel and of any other
        c, p = draw(st.sampled_from([(1, 4), (2, 1), (3, 2)]))
        y = b.linear(x, c * p * p)
        y = getattr(b, draw(st.sampled_from(["relu", "tanh"])))(y)
        return b.add("unflatten", y, shape=(c, p, p))
    if kind == "dropout":
        return b.dropout(x, draw(st.sampled_from([0.2, 0.5])))
    return b.add("scale", x, factor=draw(st.sampled_from([-0.5, 1.0, 2.0])))


def finish(draw: Any, b: GraphBuilder, values: list[str], heads: bool) -> Graph:
    def head(x: str, name: str) -> str:
        if draw(st.booleans()):
            x = b.global_avg_pool(x)
        if draw(st.booleans()):
            x = b.relu(b.flatten(x))
        return b.linear(x, 3, name=name, bias=draw(st.booleans()))

    b.output(head(values[-1], "fc"))
    if heads and draw(st.booleans()):
        b.output(head(draw(st.sampled_from(values)), "aux.fc"), "aux", loss_weight=0.3, training_only=True)
    return b.build().pruned()


def values_for(graph: Graph, batch: int = 2, seed: int = 0, *, ties: bool = False) -> dict[str, np.ndarray]:
    """Random values for every source; with ``ties``, images of few and mostly equal values."""
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.kind is not Kind.SOURCE or node.op == "fill":
            continue
        shape = graph.types[node.name].at(batch)
        if graph.types[node.name].dtype == "int64":
            values[node.name] = rng.integers(0, 3, shape)
        elif node.op == "buffer":
            values[node.name] = rng.uniform(0.5, 2.0, shape)
        elif ties and node.op == "input":
            values[node.name] = rng.integers(-1, 2, shape).astype(float)
        else:
            values[node.name] = rng.normal(size=shape)
    return values
