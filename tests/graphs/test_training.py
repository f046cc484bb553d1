"""Every network, scaled down: what a training step and an inference compute, against PyTorch.

A block wired wrongly still trains, to a worse network that bears a good one's name, and published weights that load
into it give nonsense. So each member's logits, loss, every gradient and every running statistic must be those of an
independent module (``tests/graphs/reference``) with the same weights under the same names.
"""

import numpy as np
import pytest

from tricnn.compiler.specialise import for_inference
from tricnn.graphs import ARCHITECTURES, SMALL
from tricnn.ir import Graph

from .comparison import DEEP, Case, small, without_dropout
from .reference import REFERENCE

CASES = {
    **dict.fromkeys(ARCHITECTURES, Case),
    "googlenet_bn with heads": lambda name: Case("googlenet_bn", {"aux": True, "input_shape": (3, 80, 80)}),
    "googlenet without heads": lambda name: Case("googlenet", {"aux": False, "width": 1 / 8}),
    "inception_v3 without its head": lambda name: Case("inception_v3", {"aux": False}),
    "inception_v3, 2x2 pixels in its head": lambda name: Case(
        "inception_v3", {"input_shape": (3, 155, 155)}, {"left": 2}
    ),
    "resnet50 as published (v1)": lambda name: Case("resnet50", {"stride_on": "1x1"}),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEEP else []) for n in CASES])
def test_a_step_and_an_inference_equal_pytorch(name):
    case = CASES[name](name)
    logits, expected_logits = case.inferred()
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-9 * np.abs(expected_logits).max())
    computed, expected = case.computed(), case.expected()
    assert set(computed) == set(expected)
    largest = max(np.abs(value).max() for name, value in expected.items() if name.startswith("grad:"))
    for value, there in expected.items():
        size, difference = np.abs(there).max(), np.abs(computed[value] - there).max()
        if cancels(case, value):
            assert size + difference < 1e-13 * largest, value
        else:
            assert size > 1e-7 * largest, f"{value} has hardly a gradient; the comparison would say nothing"
            assert difference < 1e-9 * size, value


def cancels(case: Case, value: str) -> bool:
    """A bias that a later batch norm takes away again: its gradient is zero but for rounding."""
    layer = value.removeprefix("grad:").removesuffix(".bias")
    if (
        layer == value
        or layer not in case.graph.by_name
        or case.graph.by_name[layer].op not in ("conv2d", "batch_norm")
    ):
        return False
    return taken_away(case.graph, layer)


def taken_away(graph: Graph, value: str) -> bool:
    """Does every way from a value lead to a batch norm through layers that make of a shift of its channels a shift of
    theirs: sums, multiples, convolutions without padding?"""
    readers = graph.consumers[value]
    linear = [n for n in readers if n.op in ("add", "scale") or (n.op == "conv2d" and not any(n.attrs["padding"]))]
    others = [n.op for n in readers if n not in linear]
    return bool(readers) and set(others) <= {"batch_norm"} and all(taken_away(graph, n.name) for n in linear)


DROPPING = [name for name in ARCHITECTURES if without_dropout(name)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEEP else []) for n in DROPPING])
def test_dropout_is_all_that_the_comparison_leaves_out(name):
    """The declared network, dropout in, is at inference the one compared above."""
    declared = ARCHITECTURES[name](**SMALL[name])
    assert for_inference(declared) == for_inference(small(name))
    assert any(n.row.random for n in declared.nodes)


def test_networks_without_arguments_for_dropout_draw_no_random_numbers():
    """So what is compared above is what is declared."""
    others = [name for name in ARCHITECTURES if not without_dropout(name)]
    assert [name for name in others if any(n.row.random for n in small(name).nodes)] == []


def test_every_network_has_a_reference():
    assert set(REFERENCE) == set(ARCHITECTURES) == set(SMALL)
