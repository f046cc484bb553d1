"""Convolutions that read the same image become one, in both directions.

    conv2d(x, w1), conv2d(x, w2)        = the slices of m = conv2d(x, concat_filters(w1, w2))
    batch_stats(slice(m))               = slice(batch_stats(m))
    concat(slice(m), y)                 = slice(concat(m, y))                               the slice ends m

So x is loaded once, its gradient stored once, and one sum over the pixels gives all weights' gradients. The last rule
lets m and the concatenation that one of its slices begins overlap in memory (placement): in an Inception block the
filters whose result is part of the block's come last, and everything of the block lies in one buffer. In the backward
pass the gradient of m is put together the same way:

    concat(f(a1, b1), slice(f(a2, b2))) = f(concat(a1, slice(a2)), concat(b1, slice(b2)))   f on each channel by itself
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from ..ir.graph import Graph, Node
from ..ir.table import Source
from .rewrite import Rewriter


def merge_siblings(graph: Graph, mode: str, learning: frozenset[str] = frozenset(), timed: bool = False) -> Graph:
    """The graph in which convolutions of one input, kernel size, stride, padding and dilation are one.
    It is made before differentiation. Those whose weights are ``learning`` are merged by themselves, for one gradient
    serves all that are merged; where time decides (``timed``), so are those whose activation would be stored by a pass
    of its own otherwise."""
    work = Rewriter(graph)
    groups: dict[object, list[Node]] = {}
    for node in [n for n in graph.nodes if n.row.convolution]:
        if _free(graph, node, mode):
            key = (node.inputs[0], tuple(v in learning for v in node.inputs[1:]),
                   tuple(sorted(node.attrs.items())), graph.types[node.inputs[1]].per_image[2:])  # fmt: skip
            groups.setdefault(key, []).append(node)
    for siblings in groups.values():
        for alike in _alike(graph, siblings) if timed and mode == "infer" else [siblings]:
            if len(alike) > 1:
                _merge(work, alike, mode)
    return work.graph()


def _alike(graph: Graph, siblings: list[Node]) -> list[list[Node]]:
    """The groups of siblings to merge: all of them, or apart those that an activation follows and those without one.

    In inference an activation ends its convolution's kernel; of some channels only it would be a pass of its own, where
    a convolution of several taps reads it, which does not form what it loads. The pass reads and stores these channels;
    to merge saves reading the image twice."""
    active = {
        conv.name: readers[0] for conv in siblings
        if len(readers := graph.consumers[conv.name]) == 1 and readers[0].row.activation
    }  # fmt: skip
    if len(active) in (0, len(siblings)):
        return [siblings]
    passes = [node for node in active.values() if any(_several_taps(graph, r) for r in graph.consumers[node.name])]
    passed = sum(2 * graph.types[node.name].elements(1) for node in passes)
    if passed <= graph.types[siblings[0].inputs[0]].elements(1):
        return [siblings]
    return [[c for c in siblings if c.name in active], [c for c in siblings if c.name not in active]]


def _several_taps(graph: Graph, node: Node) -> bool:
    """Is it a convolution whose filters have more than one tap?"""
    return node.row.convolution and graph.types[node.inputs[1]].per_image[2:] != (1, 1)


def _free(graph: Graph, conv: Node, mode: str) -> bool:
    """May a convolution's filters be put beside others'? Nobody else may read its weights."""
    weights = [graph.by_name[v] for v in conv.inputs[1:]]
    own = all(
        (w.row.source is Source.PARAMETER or (mode == "infer" and w.row.prepared)) and len(graph.consumers[w.name]) == 1
        for w in weights
    )
    return own and conv.attrs["groups"] == 1 and conv.name not in graph.results


def _merge(work: Rewriter, siblings: list[Node], mode: str) -> None:
    chains = {conv.name: [conv] for conv in siblings}
    if mode == "infer":
        while following := _common_reader(work, [chain[-1] for chain in chains.values()]):
            for chain, reader in zip(chains.values(), following, strict=True):
                chain.append(reader)
    order = _side_by_side(work, [chain[-1] for chain in chains.values()])
    by_end = {chain[-1].name: chain for chain in chains.values()}
    kept = [by_end[end.name] for end in order]
    if len(kept) < 2:
        return
    convs = [chain[0] for chain in kept]
    base = _scope([c.name for c in convs]) or convs[0].name
    early = siblings[0].name
    operands = [convs[0].inputs[0], work.add(base, "concat_filters", *(c.inputs[1] for c in convs), beside=early)]
    if len(convs[0].inputs) > 2:
        operands.append(work.add(base, "concat", *(c.inputs[2] for c in convs), beside=early))
    merged = work.add(base, "conv2d", *operands, attrs=convs[0].attrs, suffix="siblings", beside=early)
    for step in kept[0][1:]:
        merged = work.add(base, step.op, merged, attrs=step.attrs, beside=early)
    statistics = [[r for r in work.readers(chain[-1].name) if r.row.moments] for chain in kept]
    whole_stats = work.add(base, "batch_stats", merged, beside=early) if all(len(s) == 1 for s in statistics) else None
    start = 0
    for chain, stats in zip(kept, statistics, strict=True):
        end, stop = chain[-1].name, start + work.channels(chain[-1].name)
        for reader in work.readers(end):
            if reader.row.unread:  # which only asks how many pixels there are
                inputs = [merged if v == end and i in reader.row.unread else v for i, v in enumerate(reader.inputs)]
                work.put(replace(reader, inputs=tuple(inputs)))
        for link in chain[:-1]:
            work.drop(link.name)
        work.put(Node(end, "slice_channels", (merged,), {"start": start, "stop": stop}), beside=merged)
        if whole_stats is not None:
            work.put(Node(stats[0].name, "slice_channels", (whole_stats,), {"start": start, "stop": stop}))
        start = stop


def _scope(names: Sequence[str]) -> str:
    """The scope that all the layers are declared in."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(same[0] for same in takewhile(lambda level: len(set(level)) == 1, parts))


def _common_reader(work: Rewriter, ends: Sequence[Node]) -> list[Node]:
    """The activations behind some values, if each has one reader and all readers are alike; else none."""
    readers = [work.readers(end.name) for end in ends]
    if any(len(r) != 1 or end.name in work.results for r, end in zip(readers, ends, strict=True)):
        return []
    found = [r[0] for r in readers]
    alike = all(n.op == found[0].op and n.attrs == found[0].attrs for n in found)
    return found if alike and found[0].row.activation else []


def _side_by_side(work: Rewriter, ends: Sequence[Node]) -> list[Node]:
    """The order of merged filters: those that end a concatenation first, those that begin one last.
    A value in the middle of one, or in several, stays out: it cannot lie beside its siblings too."""
    by_name = {end.name: end for end in ends}
    first: list[Node] = []
    last: list[Node] = []
    others: list[Node] = []
    seen: set[str] = set()
    for end in ends:
        concats = [r for r in work.readers(end.name) if r.row.joins == "channels"]
        if not concats:
            others.append(end)
            continue
        concat = concats[0]
        nested = any(r.row.joins == "channels" for r in work.readers(concat.name))
        if concat.name in seen or nested or concat.name in work.results or len(set(concat.inputs)) < len(concat.inputs):
            continue
        seen.add(concat.name)
        mine = [
            v in by_name and len([r for r in work.readers(v) if r.row.joins == "channels"]) == 1 for v in concat.inputs
        ]
        if not last:
            last = [by_name[v] for v, _ in takewhile(lambda pair: pair[1], zip(concat.inputs, mine, strict=True))]
            if last:
                continue
        if not first:
            run = list(takewhile(lambda pair: pair[1], zip(concat.inputs[::-1], mine[::-1], strict=True)))
            first = [by_name[v] for v, _ in reversed(run)]
    return [*first, *others, *last]


def join_slices(graph: Graph) -> Graph:
    """The differentiated graph in which merged convolutions and their gradients are put together without copies.
    Concatenations overlap with the merged values that they begin or end with, and the gradient of a merged convolution
    is put together from what its parts are computed of."""
    work = Rewriter(graph)
    gradients = []
    for node in [n for n in graph.nodes if n.row.joins == "channels"]:
        readers = [r for r in graph.consumers[node.name] if r.inputs[0] == node.name]
        of_product = any(r.row.product in ("by_input", "by_weight") for r in readers)
        if of_product and node.name not in work.results:  # a result keeps its name
            gradients.append(node)
        else:
            work.absorb(node)
    for node in gradients:
        columns = _columns(work, node)
        if columns is None:
            work.drop(node.name)  # so that its operands are free
            joined = work.joined(node.inputs, node.name)
            if joined is None:
                work.put(node)
            else:
                work.rename(node.name, joined)
            continue
        parts = [work.joined(column, node.name) for column in columns]
        if all(p is not None for p in parts):
            first = work.nodes[work.uncut(node.inputs[0])]
            work.put(replace(first, name=node.name, inputs=tuple(p for p in parts if p is not None)))
    return work.graph()


def _columns(work: Rewriter, concat: Node) -> list[list[str]] | None:
    """The operands of all that is concatenated, if that is one operation, channel by channel, on each; else None.
    The operation must treat each channel by itself, as a batch norm's gradient does. The first operands come first,
    then the second ones, and so on."""
    ends = [work.nodes[work.uncut(v)] for v in concat.inputs]
    if not ends[0].row.per_channel or any(n.op != ends[0].op or n.attrs != ends[0].attrs for n in ends):
        return None
    return [
        [work.cut_like(end.inputs[i], value) for end, value in zip(ends, concat.inputs, strict=True)]
        for i in range(len(ends[0].inputs))
    ]
