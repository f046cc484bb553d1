"""Random networks held to PyTorch; ``python -m tests.fuzz`` runs one of them, or as many as one likes.

TRICNN_FUZZ says how many networks the slow tests try on each executor (1000 unless it is set), TRICNN_FUZZ_SEED the
first one's seed.
"""

import os
from dataclasses import replace

import pytest

from tests.fuzz.__main__ import judged, report
from tests.fuzz.cases import CLASSES, case_of
from tricnn.compiler.fusion import pooling
from tricnn.ir import GraphBuilder

COUNT, FIRST = (int(os.environ.get(name, n)) for name, n in (("TRICNN_FUZZ", 1000), ("TRICNN_FUZZ_SEED", 10_000)))


def failures(executor: str, seeds: range) -> str:
    """The cases that differ, each with its network and the command that repeats it."""
    found = ((case, *judged(case)) for case in (case_of(seed, executor) for seed in seeds))
    return "\n".join(report(case, kind, lines) for case, kind, lines in found if kind == "differs")


@pytest.mark.parametrize(("executor", "count"), [("numpy", 50), ("triton", 12)])
def test_random_networks_equal_pytorch(executor, count):
    assert failures(executor, range(count)) == ""


@pytest.mark.parametrize("executor", ["numpy", "triton"])
def test_pixels_that_no_kernel_stores_are_seen(executor, monkeypatch):
    """If a convolution that pools were to leave out what no window covers, although another layer reads it."""
    b = GraphBuilder("net")
    y = b.conv2d(b.input("x", (2, 5, 5)), 2, 1)
    net = b.build(b.linear(b.concat([b.flatten(b.max_pool2d(y, 2)), b.flatten(y)]), CLASSES, name="fc"))
    case = replace(case_of(0, executor, net), mode="train", policy="pooling,siblings", by_kernel=False)
    assert judged(case) == ("same", [])
    monkeypatch.setattr(pooling, "whole_windows", lambda kernels, pool: True)
    assert judged(case)[0] == "differs"


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["numpy", "triton"])
def test_many_random_networks_equal_pytorch(executor):
    assert failures(executor, range(FIRST, FIRST + COUNT)) == ""
