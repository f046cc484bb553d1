"""Training: what the branches of a concatenation have in common is done once, after it.

    concat(f(a1, b1, ...), f(a2, b2, ...), ...) = f(concat(a1, a2, ...), concat(b1, b2, ...), ...)

for f that treats each channel by itself. So the branches of an Inception block store their convolutions side by side,
batch norm and ReLU happen as the whole is loaded, and the backward pass masks and sums the whole at once. Weights and
statistics are concatenated too; planning lets the parts lie within the whole, so no concatenation costs anything
(fusion/placement.py).
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, derived_name, topological


def join_branches(graph: Graph) -> Graph:
    """Move what all operands of a concatenation end with behind it, as far back as they agree."""
    nodes = {node.name: node for node in graph.nodes}
    readers: dict[str, int] = {}
    for value in (*(v for n in graph.nodes for v in n.inputs), *graph.results):
        readers[value] = readers.get(value, 0) + 1

    def common(concat: Node) -> Node | None:
        """The operation that every operand is a result of, read by nobody else."""
        ends = [nodes[v] for v in concat.inputs]
        first = ends[0]
        alike = all(n.op == first.op and n.attrs == first.attrs and readers[n.name] == 1 for n in ends)
        return first if alike and first.row.per_channel and len(ends) > 1 else None

    waiting = [n for n in graph.nodes if n.row.joins == "channels"]
    while waiting:
        concat = waiting.pop()
        shared = common(concat)
        if shared is None:
            continue
        ends = [nodes.pop(v) for v in concat.inputs]
        inputs = []
        for column, operand in enumerate(shared.inputs):
            name = derived_name(concat.name, operand.rsplit(".", 1)[-1], nodes, graph.by_name)
            part = Node(name, "concat", tuple(end.inputs[column] for end in ends), concat.attrs)
            nodes[name] = part
            readers[name] = 1
            inputs.append(name)
            waiting.append(part)
        nodes[concat.name] = replace(shared, name=concat.name, inputs=tuple(inputs))
    return replace(graph, nodes=topological(nodes.values()))
