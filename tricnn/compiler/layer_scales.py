"""Training: the gradient of a number that each channel of a layer's result is multiplied by, without that result.

With ``y = s * conv2d(x, w, b)``, of which nothing else reads the convolution,

    wgrad(dy * s, x) = s * wgrad(dy, x)                                                      filter by filter
    sum(dy * s) = s * sum(dy)                                                                over the pixels
    sum(dy * conv2d(x, w, b)) = sum over the filter of w * wgrad(dy, x)  +  b * sum(dy)

So neither the convolution's result nor its product with dy is stored, and dy * s is formed where dgrad loads dy. Both
layers of ConvNeXt (its layer scale) and of any other network are meant: a dense layer is a convolution, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Graph, Node
from .rewrite import Rewriter


@dataclass(frozen=True)
class _Scaled:
    """A layer whose result is multiplied by ``scale``, with its gradients.
    ``dy`` is the product's gradient; ``by_weight`` sums ``dy * scale`` with the layer's operand, ``by_scale`` sums
    ``dy * layer``, and ``by_bias``, if there is one, ``dy * scale``."""

    layer: Node
    scale: str
    dy: str
    by_weight: Node
    by_scale: Node
    by_bias: Node | None


def gather_layer_scales(graph: Graph) -> Graph:
    """The graph with the gradients of every such layer by its weight's own, unscaled."""
    g = Rewriter(graph)
    for node in graph.nodes:
        found = _found(g, node) if node.row.side_sum == "loaded" else None
        if found is not None:
            _rewrite(g, found)
    return g.graph()


def _found(g: Rewriter, by_scale: Node) -> _Scaled | None:
    """The scaled layer of which a node is the gradient by the scale; None if there is none, or its result is kept."""
    product = g.nodes[by_scale.inputs[0]]
    if not product.row.product_of_two or product.name in g.results or len(g.readers(product.name)) > 1:
        return None
    for dy, value in (product.inputs, product.inputs[::-1]):
        layer = g.nodes[value]
        others = [r for r in g.readers(value) if r.name != product.name]
        if layer.row.product != "forward" or value in g.results or len(others) != 1 or not others[0].row.product_of_two:
            continue
        scale = next((v for v in others[0].inputs if v != value), value)
        if len(g.types[scale].shape) == 1 and g.types[value].shape == g.types[dy].shape and not _reordered(g, layer):
            return _gradients(g, layer, scale, dy, by_scale)
    return None


def _reordered(g: Rewriter, layer: Node) -> bool:
    """Is it a dense layer of a flattened image, whose weight may lie in the order of the image's pixels?"""
    flat = g.nodes[layer.inputs[0]]
    return flat.row.dense_view == "flat" and g.types[flat.inputs[0]].pixels > 1


def _gradients(g: Rewriter, layer: Node, scale: str, dy: str, by_scale: Node) -> _Scaled | None:
    """The gradients of a scaled layer, if there is one by its weight."""
    scaled = next((r for r in g.readers(dy) if r.row.product_of_two and set(r.inputs) == {dy, scale}), None)
    readers = g.readers(scaled.name) if scaled is not None else []
    by_weight = [r for r in readers if r.row.weight_gradient and r.inputs[1] == layer.inputs[0]]
    by_bias = [r for r in readers if r.row.side_sum == "loaded"]
    if len(by_weight) != 1 or len(by_bias) > 1:
        return None
    return _Scaled(layer, scale, dy, by_weight[0], by_scale, by_bias[0] if by_bias else None)


def _rewrite(g: Rewriter, found: _Scaled) -> None:
    """Let the gradients be of ``dy``, and what the scale does to them be done filter by filter."""
    by_weight, by_bias, (_, weight, *bias) = found.by_weight, found.by_bias, found.layer.inputs
    x, name = by_weight.inputs[1], by_weight.name
    own = g.add(name, by_weight.op, found.dy, x, attrs=by_weight.attrs, suffix="unscaled", beside=name)
    g.put(Node(name, "scale_filters", (own, found.scale), {}))
    sums: list[str] = []
    if bias or by_bias is not None:
        summed = next((r.name for r in g.readers(found.dy) if r.row.side_sum == "loaded"), "")
        sums = [summed or g.add(name, found.by_scale.op, found.dy, suffix="sums", beside=name)]
    if by_bias is not None:
        g.put(Node(by_bias.name, "scale_filters", (*sums, found.scale), {}))
    with_bias = (*sums, *bias) if bias else ()
    g.put(Node(found.by_scale.name, "filter_scale_grad", (own, weight, *with_bias), {}))
