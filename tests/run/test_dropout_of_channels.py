"""Whole channels are dropped alike by every executor, wherever in a kernel the mask is drawn."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest

import tricnn
from tricnn.ir import Graph, GraphBuilder


def network() -> Graph:
    """Channels dropped behind a convolution, in the parts of a concatenation, and of features."""
    b = GraphBuilder("channels")
    h = b.conv2d(b.input("x", (3, 6, 5)), 4, 3, padding=1, name="c")
    y = b.concat([b.dropout2d(b.relu(h), 0.4), b.dropout2d(h, 0.3)])
    y = b.dropout2d(b.relu(b.conv2d(y, 6, 3, name="c2")), 0.5)
    return b.build(b.linear(b.dropout2d(b.flatten(y), 0.2), 5, name="fc"))


@pytest.mark.parametrize("executor, dtype, near", [("eager", "fp64", 1e-14), ("triton", "fp32", 1e-5)])
def test_gradients_are_those_of_the_same_masks(executor: str, dtype: str, near: float) -> None:
    x, labels = np.random.default_rng(0).normal(size=(3, 3, 6, 5)), np.array([0, 1, 2])
    steps = [
        tricnn.compile(network(), "train", 3, kind, by, seed=5).loss_and_grads(x, labels)
        for by, kind in (("numpy", "fp64"), (executor, dtype))
    ]
    (right, expected), (loss, found) = steps
    np.testing.assert_allclose(loss, right, rtol=near)
    for name, g in expected.items():
        assert np.abs(g).max() > 0
        np.testing.assert_allclose(found[name], g, rtol=0, atol=near * np.abs(g).max(), err_msg=name)
