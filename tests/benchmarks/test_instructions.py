"""The count of instructions that shows which kernels are bound by neither bytes nor operations."""

import pytest

from benchmarks.instructions import Instruction, instructions, issue, loops
from tricnn.build.build import build
from tricnn.compiler.pipeline import planned
from tricnn.ir import GraphBuilder


def test_products_of_an_instruction():
    """A warpgroup's product is 64 rows, a warp's 16 by 8."""
    assert Instruction(0, "HGMMA.64x128x16.F32.BF16", "").products(8) == 2 * 64 * 128 * 16
    assert Instruction(0, "HMMA.16816.F32.BF16", "").products(4) == 4 * 16 * 8 * 16
    assert Instruction(0, "FFMA", "").products(4) == 0


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_loop_does_the_products_of_a_tile(target):
    """A dense layer of 16,384 rows, 2048 -> 64: each turn of its loop multiplies a tile of BLOCK_K."""
    b = GraphBuilder("dense")
    graph = b.build(b.relu(b.linear(b.input("x", (2048,)), 64, name="fc")))
    built = build(planned(graph, "infer", "all"), "bf16", 16384, target)
    (launch,), (function,) = built.program.launches, built.program.functions
    tile = built.program.choices[0].tile
    code = instructions(built.compiled[function.name].binary)
    turn = next(loops(code), code)  # ptxas may have unrolled all of it
    assert sum(i.products(tile.warps) for i in turn) in (tile.m * tile.n * tile.k, tile.m * tile.n * 2048)
    found = issue(built, function, launch, code)
    assert 0 < found.loop <= found.length == len(code)
    programs = -(-16384 // tile.m) * -(-64 // tile.n)
    whole = programs * tile.warps * (len(code) + (2048 / tile.k - 1) * len(turn) * (turn is not code))
    clocks = {"sm_80": 108 * 1.41e9, "sm_90": 132 * 1.83e9}[target]  # data sheets
    assert found.issue_us == pytest.approx(1e6 * whole / (4 * clocks))
