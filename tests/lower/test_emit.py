"""The emitted file: what a person reads, and what must stay true of it whatever the network is called."""

import ast
import os
from pathlib import Path

import pytest

from tricnn.check.verify import verify
from tricnn.compiler.pipeline import planned
from tricnn.emit.emit import emit
from tricnn.graphs import inception_v3, lenet, resnet50
from tricnn.ir import Graph, GraphBuilder
from tricnn.lower.from_graph import lowered
from tricnn.lower.lower import lower
from tricnn.machine import tuned_files

GOLDEN = Path(__file__).parent / "golden"


def emitted(graph: Graph, mode: str = "train", dtype: str = "bf16", batch: int = 256) -> str:
    return emit(lower(planned(graph, mode, "all"), dtype, batch))


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_golden(mode: str) -> None:
    """The text people read, with the rules' tiles. UPDATE_GOLDEN=1 rewrites it; read the difference before you commit
    it."""
    path = GOLDEN / f"lenet_{mode}_bf16.py.txt"
    with tuned_files.only({}):
        text = emitted(lenet(), mode)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_imports_only_triton_and_torch_beside_python_and_fits_the_page() -> None:
    """LeNet; and ResNet-50, which has the longest lines of kernels: convolutions that are one, residual joins."""
    text = emitted(lenet())
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        assert not isinstance(node, ast.ImportFrom)
    assert names == {"sys", "torch", "triton"}
    assert max(map(len, [*text.splitlines(), *emitted(resnet50()).splitlines()])) <= 120


@pytest.mark.slow
def test_names_of_inception_v3_fit_the_page_and_tables_keep_their_rows() -> None:
    """Its rows of sums and of boxes are too long for a line; broken, they say what they said."""
    program = lowered(inception_v3(), "train", 64, "bf16", "sm_90", fuse=True)
    text = emit(program)
    assert max(map(len, text.splitlines())) <= 120 and "\n    (\n" in text
    assigned = [n for n in ast.parse(text).body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
    tables = {n.targets[0].id: n.value for n in assigned if isinstance(n.targets[0], ast.Name)}
    sums = [(s.source, s.start, s.parts, s.stride, s.target, s.length) for s in program.sums]
    assert ast.literal_eval(tables["SUMS"]) == sums
    assert dict(ast.literal_eval(tables["WEIGHTS"])) == program.rounded
    boxes = [(d.name, d.buffer, list(d.shape), list(d.box)) for d in program.descriptors.values() if not d.window]
    assert ast.literal_eval(tables["DESCRIPTORS"]) == boxes


def test_names_that_mean_something_to_python_or_triton_are_only_names() -> None:
    b = GraphBuilder("class")
    x = b.input("tl", (3, 6, 6))
    x = b.relu(b.conv2d(x, 4, 3, name="N"), name="import")
    x = b.relu(b.conv2d(x, 4, 3, name="args.acc-mask"), name="triton")
    graph = b.build(b.linear(x, 2, name="lambda"))
    assert all(c.ok for c in verify(graph, mode="train", batch=1))


def residual(classes: int = 5) -> Graph:
    """Two batch norms, running statistics, a join: many tensors that live for a while."""
    b = GraphBuilder("residual")
    x = y = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 8, 8)), 8, 3, padding=1, bias=False)))
    for _ in range(2):
        y = b.relu(b.batch_norm(b.conv2d(y, 8, 3, padding=1, bias=False)))
    return b.build(b.linear(b.global_avg_pool(b.relu(b.add("add", x, y))), classes))
