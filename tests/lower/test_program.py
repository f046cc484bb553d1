"""Launches and bytes are exact, so they are tested: against counting by hand."""

import pytest

from tricnn.compiler.pipeline import planned
from tricnn.graphs import lenet
from tricnn.ir import OPS, Graph, GraphBuilder, Kind
from tricnn.lower.lower import lower
from tricnn.lower.program import Program


def program(graph: Graph, mode: str = "infer", dtype: str = "bf16", batch: int = 8, fused: bool = True) -> Program:
    return lower(planned(graph, mode, "all" if fused else "none"), dtype, batch)


def test_bytes_of_a_convolution_by_hand() -> None:
    """conv + bias + ReLU: image and weights in, result out; nothing in between. bf16 images and weights, fp32 bias."""
    b = GraphBuilder("one")
    x = b.input("x", (16, 10, 12))
    p = program(b.build(b.relu(b.conv2d(x, 32, 3, padding=1))))
    image, weights, bias, result = 16 * 10 * 12 * 2, 32 * 16 * 9 * 2, 32 * 4, 32 * 10 * 12 * 2
    assert len(p.launches) == 1
    assert p.dram_bytes(8) == 8 * (image + result) + weights + bias
    assert p.flops(8) == 8 * 2 * 32 * 16 * 9 * 120


def test_a_strided_1x1_convolution_reads_a_fraction() -> None:
    b = GraphBuilder("strided")
    x = b.input("x", (16, 8, 8))
    p = program(b.build(b.conv2d(x, 16, 1, stride=2, bias=False)))
    assert p.dram_bytes(4) == 4 * (16 * 64 * 2 // 4 + 16 * 16 * 2) + 16 * 16 * 2


SUMS = ("split_sum", "sum_partials_of_many", "mean_rows")


def test_lenet_training_fuses_to_few_launches() -> None:
    fused, unfused = (program(lenet(), "train", batch=256, fused=f) for f in (True, False))

    def sums(p: Program) -> int:  # launches that only add what programs of a launch before left behind
        return sum(launch.kind in SUMS for launch in p.launches)

    # Fused: 5 layers forward, the loss with its gradient, 4 dgrads (the image needs none) and 5 wgrads.
    # Unfused: 5 layers, 4 activations and 2 poolings; loss; its gradient; 4 dgrads, 5 wgrads, 5 bias sums, 4 gradients
    # of activations, and for each pooling an index and a gradient.
    assert len(fused.launches) - sums(fused) == 5 + 1 + 4 + 5
    assert sums(fused) == 2, "the mean loss, and all weight gradients at once"
    assert len(unfused.launches) - sums(unfused) == 11 + 1 + 1 + 14 + 4 + 4
    assert fused.dram_bytes() < unfused.dram_bytes() / 3
    assert fused.peak_memory_bytes() < unfused.peak_memory_bytes() * 0.7


def test_layers_of_one_shape_share_a_kernel() -> None:
    b = GraphBuilder("twins")
    x = b.input("x", (16, 8, 8))
    for _ in range(3):
        x = b.relu(b.conv2d(x, 16, 3, padding=1))
    p = program(b.build(x))
    assert len(p.launches) == 3 and len(p.functions) == 1


def test_the_arena_holds_no_two_live_buffers_in_one_place() -> None:
    p = program(lenet(), "train", batch=4)
    (starts, _), spans = p.arena(), {}
    for step, launch in enumerate(p.launches):
        for name in (*launch.reads, *launch.writes):
            spans[name] = (spans.get(name, (step, 0))[0], step)
    names = list(starts)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            first, second = sorted((a, b), key=starts.__getitem__)
            apart = starts[first] + p.buffers[first].bytes(4) <= starts[second]
            disjoint = spans[a][1] < spans[b][0] or spans[b][1] < spans[a][0]
            assert apart or disjoint, (a, b)


def test_every_operation_can_be_lowered() -> None:
    """A row of the table without a kernel or an expression is a missing cell."""
    from tricnn.lower.expressions import EXPRESSIONS
    from tricnn.lower.lower import LOWERINGS, PRODUCTS

    missing = [
        op
        for op, row in OPS.items()
        if row.kind is not Kind.SOURCE
        and not row.means
        and not row.prepared  # computed by NumPy or ATen when weights are loaded
        and not (row.row_of or row.cuts == "filters" or row.dense_view == "weight")  # views wherever they are read
        and op not in LOWERINGS
        and row.product not in PRODUCTS
        and op not in EXPRESSIONS
        and row.scalar is None
    ]
    assert missing == []
    assert [op for op, row in OPS.items() if row.copies and op not in LOWERINGS] == []


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16", "bf16"])
def test_any_batch_size_has_a_plan(dtype: str) -> None:
    p = program(lenet(), "train", dtype, batch=64)
    assert 0 < p.arena(1)[1] < p.arena(64)[1] < p.arena(256)[1]


def test_resnet50_training_moves_half_the_bytes() -> None:
    """Statistics leave in epilogues, normalisation happens on load, gradient sums leave with dgrad. The published byte
    model (480 MB an image for one pass a layer, 241 for this scheme) is the yardstick."""
    from tricnn.graphs import resnet50

    fused, unfused = (program(resnet50(), "train", batch=256, fused=f) for f in (True, False))
    assert fused.dram_bytes() / 256 < 1.1 * 241e6
    assert fused.dram_bytes() < unfused.dram_bytes() / 2
    assert len(fused.launches) < len(unfused.launches) / 2


def test_batch_norm_training_costs_no_pass_of_its_own() -> None:
    """conv + bn + relu + conv: the first stores z and leaves statistics, the second normalises as it loads."""
    b = GraphBuilder("pair")
    x = b.input("x", (16, 8, 8))
    x = b.relu(b.batch_norm(b.conv2d(x, 16, 3, padding=1, bias=False, name="c1"), name="b1"), name="r1")
    x = b.conv2d(x, 16, 3, padding=1, bias=False, name="c2")
    plan = planned(b.build(b.linear(b.global_avg_pool(x), 3, name="fc")), "train", "all")
    homes = {k.anchor.name: set(k.layers) for k in plan.kernels}
    assert {"c1", "b1.stats", "b1.new_mean", "b1.new_var"} <= homes["c1"]
    assert {"b1", "r1", "c2"} <= homes["c2"]
    assert {"c2.grad_input", "r1.relu_grad", "b1.grad_sums"} <= homes["c2.grad_input"]
    assert {"b1.grad_input", "c1.grad_weight"} <= homes["c1.grad_weight"]
