"""Inference: batch norm folded into the layer before it.

    batch_norm(conv2d(x, w, b)) = conv2d(x, w * s, (b - mean) * s + beta)    with s = gamma * rsqrt(var + eps)

The folded weights are values of the graph, computed once whenever parameters are loaded, so they never go stale.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..ir.graph import Graph, Node, topological
from ..ir.ops.norm import EPS
from ..ir.table import Kind, register
from ..ir.types import TensorType


def _scale(gamma: Any, var: Any, eps: float) -> Any:
    return gamma / np.sqrt(var + var.dtype.type(eps))


def _rows(s: Any, w: Any) -> Any:
    return s.reshape(-1, *[1] * (w.ndim - 1))


_PREPARED = "folded weights are for inference, which has no gradient"

register(
    "fold_weight", Kind.POINTWISE, "weight gamma var",
    attrs=EPS,
    shape=lambda a, w, gamma, var: w,
    numpy=lambda env, a, w, gamma, var: w * _rows(_scale(gamma, var, a["eps"]), w),
    gradient=_PREPARED,
    aten=lambda env, a, w, gamma, var: w * _rows(gamma * (var + a["eps"]).rsqrt(), w),
    doc="weight * gamma * rsqrt(var + eps), per filter",
)  # fmt: skip
register(
    "fold_bias", Kind.POINTWISE, "gamma beta mean var bias?",
    attrs=EPS,
    shape=lambda a, gamma, *_: TensorType(gamma.shape, "float32"),
    numpy=lambda env, a, gamma, beta, mean, var, b=0: (b - mean) * _scale(gamma, var, a["eps"]) + beta,
    gradient=_PREPARED,
    aten=lambda env, a, gamma, beta, mean, var, b=0: (b - mean) * gamma * (var + a["eps"]).rsqrt() + beta,
    doc="(bias - mean) * gamma * rsqrt(var + eps) + beta",
)  # fmt: skip


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold every batch_norm whose input is a convolution or dense layer that nobody else reads."""
    nodes = {node.name: node for node in graph.nodes}
    for norm in graph.of("batch_norm"):
        x, gamma, beta, mean, var = norm.inputs
        layer = nodes[x]
        alone = len(graph.consumers[x]) == 1 and x not in graph.results
        weights = layer.inputs[1:]
        if layer.op not in ("conv2d", "linear") or not alone or graph.by_name[weights[0]].op != "parameter":
            continue
        eps = {"eps": norm.attrs["eps"]}
        w = Node(f"{norm.name}.folded_weight", "fold_weight", (weights[0], gamma, var), eps)
        b = Node(f"{norm.name}.folded_bias", "fold_bias", (gamma, beta, mean, var, *weights[1:]), eps)
        nodes[w.name], nodes[b.name] = w, b
        nodes[norm.name] = replace(layer, name=norm.name, inputs=(layer.inputs[0], w.name, b.name))
        del nodes[x]
    return replace(graph, nodes=topological(nodes.values())).pruned()


def prepared_nodes(graph: Graph) -> tuple[Node, ...]:
    """The nodes that depend on parameters and buffers only: computed when those change, not at every step."""
    constant = {n.name for n in graph.nodes if n.op in ("parameter", "buffer")}
    found = []
    for node in graph.nodes:
        if node.inputs and all(v in constant for v in node.inputs):
            constant.add(node.name)
            found.append(node)
    return tuple(found)
