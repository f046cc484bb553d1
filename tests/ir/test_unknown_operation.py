"""Operations that nobody has heard of, registered here, at run time: they fuse as well as those of the table.

Nothing but their rows says how they may fuse, so no room outside ``ir`` can know them by name. A network with them in
place of ReLU and addition has just as many launches, and moves just as many bytes.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.compiler import nets, reference
from tests.ir.test_pointwise_networks import assert_trains_to_pytorch_s_gradients
from tricnn.check.verify import verify
from tricnn.compiler.differentiate import differentiate
from tricnn.graphs import ARCHITECTURES
from tricnn.ir import OPS, Graph, GraphBuilder, GraphError, Kind, N, TargetError
from tricnn.ir.ops.pointwise import A, B, X, Y, first_shape, pointwise
from tricnn.ir.scalar import absolute, erf, minimum, where
from tricnn.ir.table import register
from tricnn.lower.from_graph import lowered, static_figures


@pytest.fixture(autouse=True, scope="module")
def operations() -> Iterator[None]:
    before = dict(OPS)
    slope = (1.0 - absolute(Y)) * (1.0 - absolute(Y))
    pointwise("softsign", "x", X / (1.0 + absolute(X)), "y = x / (1 + |x|)", slopes={"x": slope}, rises=True)
    pointwise("bent", "x", where(X > 0.0, X, 0.125 * X), "y = x where x > 0, else x / 8",
              slopes={"x": where(Y > 0.0, 1.0, 0.125)}, rises=True)  # fmt: skip
    pointwise("topped", "x", minimum(X, 1.0), "y = min(x, 1)", slopes={"x": where(Y >= 1.0, 0.0, 1.0)})
    pointwise("join", "a b", A + B + 0.5, "y = a + b + 1/2")
    pointwise("blend", "a b", 0.75 * A + 0.25 * B, "y = 3/4 a + 1/4 b")
    pointwise("curled", "x", X * X * erf(X), "y = x^2 erf(x), whose second derivative has erf in it")
    register(
        "unheard", Kind.REDUCTION, "x", shape=first_shape, numpy=lambda env, a, x: x, aten=lambda env, a, x: x,
        gradient=lambda g, node, dy: [dy], doc="what no kernel computes",
    )  # fmt: skip
    reference.POINTWISE |= {
        "softsign": lambda a, x: torch.nn.functional.softsign(x), "bent": lambda a, x: torch.where(x > 0, x, x / 8),
        "join": lambda a, x, y: x + y + 0.5, "blend": lambda a, x, y: torch.lerp(x, y, 0.25),
    }  # fmt: skip
    yield
    for name in [name for name in OPS if name not in before]:
        del OPS[name]
        reference.POINTWISE.pop(name, None)


def swapped(graph: Graph, **names: str) -> Graph:
    """The graph with other operations in place of some."""
    return replace(graph, nodes=tuple(replace(n, op=names.get(n.op, n.op)) for n in graph.nodes))


def figures(graph: Graph, mode: str, policy: str) -> dict[str, int]:
    found = static_figures(lowered(graph, mode, 256, "bf16", "sm_90", fuse=policy))
    return {name: found[name] for name in ("launches", "dram_bytes", "peak_memory_bytes")}


def block(name: str) -> Graph:
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]()
    return {"residual": nets.residual, "branches": nets.branches, "preactivation": nets.preactivation}[name]()


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("name", ["resnet18", "googlenet_bn", "residual", "branches", "preactivation"])
@pytest.mark.parametrize("names", [{"relu": "softsign"}, {"relu": "bent", "add": "join"}], ids=str)
def test_networks_with_them_have_the_launches_and_bytes_of_those_with_relu_and_add(name, mode, names):
    """By ``all``, which does not weigh arithmetic; ``auto`` may store what takes so much that recomputing is slower."""
    graph = block(name)
    assert figures(swapped(graph, **names), mode, "all") == figures(graph, mode, "all")


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("name", ["resnet18", "googlenet_bn"])
def test_by_predicted_time_too_where_the_arithmetic_is_as_cheap(name, mode):
    graph = block(name)
    assert figures(swapped(graph, relu="topped", add="join"), mode, "auto") == figures(graph, mode, "auto")


def network(activation: str, join: str) -> Graph:
    """A residual block, branches that a pooling follows, and a pre-activation."""
    b = GraphBuilder("unknown")
    x = b.add(activation, b.batch_norm(b.conv2d(b.input("x", (3, 6, 5)), 4, 3, padding=1, name="c1"), name="b1"))
    y = b.add(activation, b.batch_norm(b.conv2d(x, 4, 3, padding=1, bias=False, name="c2"), name="b2"))
    y = b.batch_norm(b.conv2d(y, 4, 1, bias=False, name="c3"), name="b3")
    x = b.add(activation, b.add(join, y, x))
    ends = [b.add(activation, b.batch_norm(b.conv2d(x, 4, 1, name=f"e{i}"), name=f"eb{i}")) for i in range(2)]
    x = b.max_pool2d(b.concat(ends), 2)
    x = b.add(join, x, b.conv2d(b.add(activation, b.batch_norm(x, name="b4")), 8, 1, name="c4"))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


@pytest.mark.parametrize("activation, join", [("softsign", "blend"), ("bent", "join")])
@pytest.mark.parametrize("executor, dtype, tolerance",
                         [("numpy", "fp64", 1e-10), ("eager", "fp32", 1e-4), ("triton", "fp32", 1e-4)])  # fmt: skip
def test_they_train_to_pytorch_s_gradients(activation, join, executor, dtype, tolerance):
    assert_trains_to_pytorch_s_gradients(network(activation, join), executor, dtype, tolerance)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_their_kernels_verify(mode):
    checks = verify(network("softsign", "blend"), mode=mode, batch=2, dtype="bf16")
    assert checks and [c for c in checks if not c.ok] == []


def test_an_operation_that_nobody_lowers_is_an_error_that_names_the_layer():
    b = GraphBuilder("net")
    x = b.add("unheard", b.conv2d(b.input("x", (3, 6, 6)), 4, 3, name="conv"), name="odd")
    with pytest.raises(TargetError, match="layer odd: unheard has no Triton kernel"):
        lowered(b.build(b.linear(b.global_avg_pool(x), 3, name="fc")), "infer", 2, "bf16", "sm_90", fuse="auto")


def test_a_second_derivative_that_no_rows_compute_is_refused_by_the_layers_name() -> None:
    b = GraphBuilder("g")
    y = b.linear(b.input("x", (4,)), 3, name="fc")
    labels = b.add("input", name="labels", shape=(N,), dtype="int64")
    graph = b.build(b.add("cross_entropy", b.add("curled_grad", y, y, name="again"), labels, name="loss"))
    with pytest.raises(GraphError, match=r"layer again: curled_grad cannot be differentiated by x: no row .* erf"):
        differentiate(graph)
