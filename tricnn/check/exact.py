"""Does a kernel with a given tile compute the right numbers?
One problem by itself, on small integers, whose products and sums are exact in every dtype: what it leaves must equal
float64 NumPy, rounded once, in every bit."""

from __future__ import annotations

import numpy as np

from ..ir.graph import Graph, Node, Output
from ..ir.table import OPS, Source
from ..ir.types import N
from ..lower.program import element
from ..machine import tuned_files as tuning
from ..machine.candidates import CONTRACTIONS
from ..machine.dtypes import DTYPES
from ..machine.tiles import Problem, Tile
from ..run.interpreter import interpret
from ..run.model import Model, compile
from ..system.errors import TargetError

BATCH = 3  # images; tiles are those of the problem's own batch, so that few of them are full


def alone(problem: Problem) -> Graph:
    """A graph whose only kernel is this contraction (and the pooling in its epilogue)."""
    size = {"SH": 1, "SW": 1, "DH": 1, "DW": 1, "PT": 0, "PL": 0, "GROUPS": 1, **problem.sizes}
    c, h, w, k, r, s, p, q = (size[name] for name in "CHWKRSPQ")
    stride, dilation = (size["SH"], size["SW"]), (size["DH"], size["DW"])
    bottom = max(0, (p - 1) * stride[0] + (r - 1) * dilation[0] + 1 - h - size["PT"])
    right = max(0, (q - 1) * stride[1] + (s - 1) * dilation[1] + 1 - w - size["PL"])
    padding = (size["PT"], bottom, size["PL"], right)
    attrs: dict[str, object] = dict(stride=stride, dilation=dilation, padding=padding, groups=size["GROUPS"])
    x, dy, weight = (c, h, w), (k, p, q), (k, c // size["GROUPS"], r, s)
    operands = {"x": x, "w": weight}
    product = OPS[problem.kind].product
    if product == "by_input":
        attrs["input_size"], operands = (h, w), {"dy": dy, "w": weight}
    if product == "by_weight":
        attrs["kernel_size"], operands = (r, s), {"dy": dy, "x": x}
    nodes = [
        Node(name, "parameter", (), {"shape": shape, "init": "constant(0)"}) if name == "w"
        else Node(name, "input", (), {"shape": (N, *shape)})
        for name, shape in operands.items()
    ]  # fmt: skip
    nodes.append(Node("y", problem.kind, tuple(operands), attrs))
    if "WINDOW_H" in size:
        window = (size["WINDOW_H"], size["WINDOW_W"])
        nodes.append(Node("pooled", "max_pool2d", ("y",), {"kernel_size": window, "stride": window}))
    return Graph("alone", tuple(nodes), (Output("result", nodes[-1].name),))


def mistakes(problem: Problem, tile: Tile, batch: int = BATCH, seed: int = 0) -> int:
    """How many elements are not what they must be, for a contraction with this tile. 0 is right.

    Raises TargetError where neither a GPU nor Triton's interpreter is there.
    """
    return mistakes_of(with_tile(problem, tile), batch, seed)


def with_tile(problem: Problem, tile: Tile) -> Model:
    """A contraction by itself, compiled with this tile.

    Raises TargetError for one that spills registers, or needs more shared memory than there is, on the GPU at hand.
    """
    assert problem.kind in CONTRACTIONS
    with tuning.only({problem: tile}):
        model = compile(alone(problem), "infer", problem.sizes["N"], problem.dtype, "triton", problem.target)
    chosen = {c.problem: c.tile for c in model.program.choices}
    if problem not in chosen:
        raise AssertionError(f"{problem} is lowered as {', '.join(map(str, chosen))}")
    if chosen[problem] != tile:
        raise TargetError(f"{problem} with {tile} spills, or needs more shared memory than there is")
    return model


def mistakes_of(model: Model, batch: int, seed: int = 0) -> int:
    """How many elements of its result are not what they must be, on small integers."""
    graph = model.graph
    rng = np.random.default_rng(seed)
    shapes = {
        n.name: graph.types[n.name].at(batch) for n in graph.nodes if n.row.source in (Source.INPUT, Source.PARAMETER)
    }
    given = {name: small_integers(shape, rng) for name, shape in shapes.items()}
    model.executor.load({n.name: given[n.name] for n in graph.parameters})
    inputs = {n.name: given[n.name].astype(np.float32) for n in graph.inputs}
    result = graph.outputs[0].value
    tensors = model.executor.bind(batch)
    for tensor in (tensors[name] for name in model.program.buffers if name not in given):
        if tensor.is_floating_point() and not any(tensor is p for p in model.executor.persistent.values()):
            tensor.fill_(float("nan"))  # an element that nobody writes shows
    got = model.executor.run(inputs, batch, 0, 0)[result]
    want = interpret(graph, given, keep=True)[result]
    torch = model.executor.torch
    stored = element(graph.types[result], DTYPES[model.dtype][0])
    rounded = torch.as_tensor(np.ascontiguousarray(want)).to(model.executor.dtypes[stored])
    return int((got.cpu().reshape(rounded.shape) != rounded).sum())


def small_integers(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """From -2 to 2, half of them zero: a sum of 2**22 of their products is exact in fp32. Channels last."""
    if len(shape) != 4:
        return rng.integers(-2, 3, shape).astype(np.float64) * rng.integers(0, 2, shape)
    n, c, h, w = shape
    return small_integers((n * h * w, c), rng).reshape(n, h, w, c).transpose(0, 3, 1, 2)
