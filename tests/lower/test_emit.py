"""The emitted file: what a person reads, and what must stay true of it whatever the network is called."""

import ast
import os
from pathlib import Path

import pytest

from tricnn.check.verify import verify
from tricnn.compiler.pipeline import planned
from tricnn.emit.emit import emit
from tricnn.graphs import lenet, resnet50
from tricnn.ir import Graph, GraphBuilder
from tricnn.lower.lower import lower

GOLDEN = Path(__file__).parent / "golden"


def emitted(graph: Graph, mode: str = "train", dtype: str = "bf16", batch: int = 256) -> str:
    return emit(lower(planned(graph, mode, "all"), dtype, batch))


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_golden(mode: str) -> None:
    """The text people read. UPDATE_GOLDEN=1 rewrites it; read the difference before you commit it."""
    path = GOLDEN / f"lenet_{mode}_bf16.py.txt"
    text = emitted(lenet(), mode)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_imports_only_triton_and_torch_beside_python_and_fits_the_page() -> None:
    """LeNet; and ResNet-50, which has the longest lines: convolutions that are one, residual joins."""
    text = emitted(lenet())
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        assert not isinstance(node, ast.ImportFrom)
    assert names == {"sys", "torch", "triton"}
    code = [line for line in emitted(resnet50()).splitlines() if not line.startswith('        "')]  # not lists of names
    assert max(map(len, [*text.splitlines(), *code])) <= 120


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
