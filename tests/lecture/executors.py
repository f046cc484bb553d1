"""The lecture's layers, run by every executor: NumPy in float64, PyTorch's ATen, and Triton."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tricnn.ir import Graph, GraphBuilder
from tricnn.run.interpreter import interpret
from tricnn.run.model import compile

EXECUTORS = ("numpy", "eager", "triton")
Declare = Callable[[GraphBuilder, str], str]


def layer(shape: Sequence[int], declare: Declare) -> Graph:
    """A graph of what ``declare(builder, x)`` adds to an image x of ``shape``."""
    b = GraphBuilder("example")
    return b.build(declare(b, b.input("x", shape)))


def results(x: Any, declare: Declare, executors: Sequence[str] = EXECUTORS, **parameters: Any) -> np.ndarray:
    """What the layers make of one image x: [C, H, W]; the same from every executor, or the test fails.

    The numbers in the lecture are small integers and simple fractions: exact in float32.
    """
    x = np.asarray(x, dtype=np.float64)[None]
    graph = layer(x.shape[1:], declare)
    values = {name.replace("__", "."): np.asarray(value, dtype=np.float64) for name, value in parameters.items()}
    assert set(values) == {n.name for n in graph.parameters}
    expected = interpret(graph, {"x": x, **values})["logits"]
    for executor in executors:
        m = compile(graph, executor=executor, target="sm_90")
        m.load_state_dict({name: value.astype(np.float32) for name, value in values.items()})
        result = np.asarray(m(x.astype(np.float32)))
        np.testing.assert_array_equal(result, expected.astype(np.float32), err_msg=executor)
    return expected[0]
