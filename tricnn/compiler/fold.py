"""Inference: batch norm folded into the layer before it, and convolutions of one image that are added into one.

    batch_norm(conv2d(x, w, b)) = conv2d(x, w * s, (b - mean) * s + beta)    with s = gamma * rsqrt(var + eps)
    conv2d(x, w, b) + conv2d(x, v, c) = conv2d(x, w + zeros around v, b + c)
    conv2d(x, w, b) + batch_norm(x) = conv2d(x, w + diagonal of s amid zeros, b + beta - mean * s)

The folded weights are values of the graph, computed once whenever parameters are loaded, so they never go stale.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from ..ir.builder import GraphBuilder
from ..ir.graph import Graph, Node, derived_name, topological
from ..ir.table import Source


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold every batch_norm whose input is a convolution or dense layer that nobody else reads."""
    nodes = {node.name: node for node in graph.nodes}
    for norm in [n for n in graph.nodes if n.row.running]:
        x, gamma, beta, mean, var = norm.inputs
        layer = nodes[x]
        alone = len(graph.consumers[x]) == 1 and x not in graph.results
        weights = layer.inputs[1:]
        if layer.row.product != "forward" or not alone or nodes[weights[0]].row.source is not Source.PARAMETER:
            continue
        eps = {"eps": norm.attrs["eps"]}
        w = Node(derived_name(norm.name, "folded_weight", nodes), "fold_weight", (weights[0], gamma, var), eps)
        bias = (gamma, beta, mean, var, *weights[1:])
        b = Node(derived_name(norm.name, "folded_bias", nodes), "fold_bias", bias, eps)
        nodes[w.name], nodes[b.name] = w, b
        nodes[norm.name] = replace(layer, name=norm.name, inputs=(layer.inputs[0], w.name, b.name))
        del nodes[x]
    return replace(graph, nodes=topological(nodes.values())).pruned()


def fold_sums(graph: Graph) -> Graph:
    """The graph in which two convolutions of one image that are added, and read by nobody else, are one convolution.
    A batch norm of that image counts as a convolution (Ding et al., "RepVGG", CVPR 2021, section 3.3)."""
    if not any(node.row.sum_of_two for node in graph.nodes):
        return graph
    sums = _Sums(graph)
    for node in graph.nodes:
        if not sums.merged(node):
            sums.builder.add(node.op, *node.inputs, name=node.name, **node.attrs)
            sums.made[node.name] = sums.builder.nodes[-1]
    return replace(graph, nodes=tuple(sums.builder.nodes)).pruned()


class _Sums:
    """A graph that is built anew: where ``graph`` has the sum of two convolutions, it has one."""

    def __init__(self, graph: Graph):
        self.graph, self.builder = graph, GraphBuilder(graph.name)
        self.made: dict[str, Node] = {}

    def merged(self, node: Node) -> bool:
        """Add the one convolution that ``node`` is the sum of, if it is that of two."""
        terms = [self.made[v] for v in node.inputs] if node.row.sum_of_two and len(set(node.inputs)) == 2 else []
        alone = all(len(self.graph.consumers[t.name]) == 1 and t.name not in self.graph.results for t in terms)
        one_image = len({t.inputs[:1] for t in terms}) == 1 and all(t.row.convolution or t.row.running for t in terms)
        convolutions = [t for t in terms if t.row.convolution]
        if not (alone and one_image and convolutions):
            return False
        large = max(convolutions, key=lambda t: prod(self.window(t)))
        small = next(t for t in terms if t is not large)
        around = self.around(large, small)
        if around is None:
            return False
        weight, *bias = self.weights(small, node.name, large.attrs["groups"])
        if any(around):
            weight = self.add(node.name, "window", "pad_window", weight, padding=around)
        weight = self.add(node.name, "weight", "add", large.inputs[1], weight)
        bias = [*large.inputs[2:], *bias]
        bias = [self.add(node.name, "bias", "add", *bias)] if len(bias) == 2 else bias
        self.builder.add(large.op, large.inputs[0], weight, *bias, name=node.name, **large.attrs)
        self.made[node.name] = self.builder.nodes[-1]
        return True

    def add(self, layer: str, suffix: str, op: str, *inputs: str, **attrs: Any) -> str:
        """A value that a layer's weights are made of."""
        return self.builder.add(
            op, *inputs, name=derived_name(layer, suffix, self.graph.by_name, self.builder.types), **attrs
        )

    def window(self, term: Node) -> tuple[int, int]:
        """The size of a term's window; a batch norm looks at one pixel."""
        r, s = self.builder.type(term.inputs[1]).per_image[2:] if term.row.convolution else (1, 1)
        return r, s

    def around(self, large: Node, small: Node) -> tuple[int, int, int, int] | None:
        """The zeros that a smaller window needs around it to look where the larger one does; None if it never does."""
        a, b = large.attrs, small.attrs if small.row.convolution else {}
        windows = self.window(large), self.window(small)
        dilated = windows[1] == (1, 1) or a["dilation"] == b.get("dilation", (1, 1))
        if a["stride"] != b.get("stride", (1, 1)) or a["groups"] != b.get("groups", a["groups"]) or not dilated:
            return None
        found = []
        for axis in (0, 1):
            before, apart = divmod(a["padding"][2 * axis] - b.get("padding", (0,) * 4)[2 * axis], a["dilation"][axis])
            after = windows[0][axis] - windows[1][axis] - before
            if apart or before < 0 or after < 0:
                return None
            found += [before, after]
        return found[0], found[1], found[2], found[3]

    def weights(self, term: Node, layer: str, groups: int) -> tuple[str, ...]:
        """The weight and, if it has one, the bias of a term."""
        if term.row.convolution:
            return term.inputs[1:]
        _, gamma, beta, mean, var = term.inputs
        eps = {"eps": term.attrs["eps"]}
        diagonal = self.add(layer, "diagonal", "diagonal_weight", gamma, var, groups=groups, **eps)
        return diagonal, self.add(layer, "folded_bias", "fold_bias", gamma, beta, mean, var, **eps)


def prepared_nodes(graph: Graph) -> tuple[Node, ...]:
    """The nodes that depend on parameters and buffers only: computed when those change, not at every step."""
    constant = {n.name for n in graph.nodes if n.row.source in (Source.PARAMETER, Source.BUFFER)}
    found = []
    for node in graph.nodes:
        if node.inputs and all(v in constant for v in node.inputs):
            constant.add(node.name)
            found.append(node)
    return tuple(found)
