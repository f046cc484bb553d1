"""docs/adding-an-operation.md: its code runs, and what it says of its results is so."""

import re
from pathlib import Path

import numpy as np
import pytest

from tricnn.ir import OPS, Graph, GraphBuilder, Node, Output
from tricnn.run.interpreter import interpret

PAGE = (Path(__file__).parents[2] / "docs" / "adding-an-operation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def scope():
    before, found = dict(OPS), {}
    yield found
    for name in [name for name in OPS if name not in before]:
        del OPS[name]


def test_the_page_s_code_runs_and_does_what_it_says(scope, capsys):
    assert len(BLOCKS) == 6
    for block in BLOCKS:
        exec(compile(block, "adding-an-operation.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert "layer size: sum_of_squares has no Triton kernel yet" in printed
    plan = scope["model"].plan
    own = [k.anchor.op for k in plan.kernels]
    computed = [n.op for k in plan.kernels for n in k.nodes]
    assert {"softsign", "softsign_grad"} <= set(computed)
    assert not {"softsign", "softsign_grad"} & set(own)


def test_what_it_adds_computes_what_it_says(scope):
    assert "softsign" in OPS, "the page ran before"
    x = np.linspace(-3, 3, 8).reshape(2, 4)
    b = GraphBuilder("net")
    a = b.input("x", (4,))
    graph = b.build(b.add("blend", b.add("softsign", a), a, share=0.25, name="y"))
    found = interpret(graph, {"x": x})["logits"]
    np.testing.assert_allclose(found, 0.25 * x / (1 + np.abs(x)) + 0.75 * x)
    source = Node("x", "input", (), {"shape": (graph.types["x"].shape[0], 4, 2, 1)})
    squares = Graph("squares", (source, Node("y", "sum_of_squares", ("x",))), (Output("y", "y"),))
    images = np.arange(16.0).reshape(2, 4, 2, 1)
    np.testing.assert_allclose(interpret(squares, {"x": images})["y"], (images**2).sum(axis=(0, 2, 3)))
