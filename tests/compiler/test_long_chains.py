"""Networks as deep as one likes: no pass calls itself once more for each layer of a chain."""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tricnn
from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.ir import Graph, GraphBuilder, from_text, to_text

LAYERS = 110
#: fewer calls within each other than there are layers, and enough for NumPy, for reading text and for emitting it
CALLS = 100

Link = Callable[[GraphBuilder, str, str], str]
LINKS: dict[str, Link] = {
    "pointwise": lambda b, x, first: b.relu(b.tanh(x)),
    "sum, the chain first": lambda b, x, first: b.add_(x, first),
    "sum, the chain last": lambda b, x, first: b.add_(first, b.sigmoid(x)),
    "forks that join": lambda b, x, first: b.add_(b.relu(x), b.tanh(x)),
    "dropout": lambda b, x, first: b.dropout(x, 0.01),
    "scale": lambda b, x, first: b.add("scale", x, factor=0.99),
    "batch norm": lambda b, x, first: b.batch_norm(x),
    "convolution": lambda b, x, first: b.conv2d(x, 2, 1),
    "pooling": lambda b, x, first: b.max_pool2d(x, 2, 1, padding=(0, 1, 0, 1)),
    "slice": lambda b, x, first: b.add("slice_channels", x, start=0, stop=2),
    "view": lambda b, x, first: b.flatten(x),
    "concat, norm and slice": lambda b, x, first: b.add(
        "slice_channels", b.batch_norm(b.concat([x, first])), start=1, stop=3
    ),
}


def chain(link: Link, layers: int) -> Graph:
    b = GraphBuilder("chain")
    x = first = b.conv2d(b.input("x", (2, 3, 3)), 2, 3, padding=1)
    for _ in range(layers):
        x = link(b, x, first)
    return b.build(b.linear(x, 3))


def every_pass(graph: Graph, mode: str, fuse: str) -> None:
    assert from_text(to_text(graph)) == graph
    model = tricnn.compile(graph, mode, batch=2, executor="numpy", fuse=fuse)
    x = np.ones((2, 2, 3, 3), np.float32)
    assert np.isfinite(model(x) if mode == "infer" else model.loss_and_grads(x, np.array([0, 1]))[0]).all()
    assert model.program.peak_memory_bytes() and str(model.plan) and model.source


@pytest.fixture(scope="module")
def everything_imported() -> None:
    """Whatever is imported at first use is imported now."""
    every_pass(chain(LINKS["pointwise"], 1), "train", "all")


@pytest.fixture
def few_calls(everything_imported: None) -> Iterator[None]:
    frame, depth = sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + CALLS)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("few_calls")
@pytest.mark.parametrize("mode", ("infer", "train"))
@pytest.mark.parametrize("kind", LINKS)
def test_a_long_chain_goes_through_every_pass(kind: str, mode: str) -> None:
    every_pass(chain(LINKS[kind], LAYERS), mode, "all")


def test_a_fork_at_every_layer_is_not_followed_both_ways() -> None:
    """Forty forks have 2^40 ways through them; each value is looked at once."""
    for fuse in ("all", "auto", "none"):
        every_pass(chain(LINKS["forks that join"], 40), "train", fuse)


def calls(run: Callable[[], object]) -> int:
    """How many functions are called, and generators resumed, while something runs."""
    count = 0

    def counts(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counts)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("slice", "infer"),
        ("batch norm", "train"),
        ("forks that join", "train"),
        ("concat, norm and slice", "train"),
    ],
)
def test_a_plan_takes_work_in_proportion_to_the_layers(kind: str, mode: str) -> None:
    """The third thirty layers take at most a fifth more calls than the second; they took nearly a third more where
    every slice of a slice was followed to its end again. What is found once for layers alike is known before."""
    cost = Cost(8, "bf16", "sm_90")
    one, two, three = [calls(lambda n=n: planned(chain(LINKS[kind], n), mode, "auto", cost)) for n in (30, 30, 60, 90)][
        1:
    ]
    assert three - two < 1.2 * (two - one)
