"""How long sums are dealt out, by hand: 132 multiprocessors, 3.35 TB/s at 1.83 GHz, 1831 bytes a clock."""

from fractions import Fraction

import pytest

from tricnn.machine import tiles
from tricnn.machine.long_sums import (
    LongSum,
    beside_one_another,
    boxed_tile,
    together,
    weight_gradient,
    weight_gradient_tile,
)
from tricnn.machine.tiles import Tile


def test_the_equation():
    """36 tiles, 784 blocks of 512 clocks of products and 2340 of forming, by programs of eight warps, each alone."""
    sums = LongSum("sm_90", 36, 784, Fraction(512), Fraction(2340), 65536, together=1, warps=8)
    assert sums.clocks(1) == 784 * 2852 + Fraction(36 * 65536, 1831)
    assert sums.clocks(7) == 2 * 112 * 2852 + Fraction(2 * 252 * 65536, 1831)  # 252 programs: two waves of 132
    assert sums.split == 7 and sums.clocks(7) < sums.clocks(3) < sums.clocks(2)


def test_a_program_alone_with_few_warps_waits():
    """Two programs of four warps do in the time of one."""
    sums = LongSum("sm_90", 1, 1024, Fraction(0), Fraction(100), 0, together=2, warps=4)
    assert sums.clocks(132) == 8 * 200 and sums.clocks(264) == 2 * 4 * 100


def test_a_program_alone_with_few_boxes_waits():
    """With two stages it takes half as long again as with three; two programs do not."""
    sums = LongSum("sm_90", 1, 1024, Fraction(100), Fraction(0), 0, together=2, warps=8, stages=2)
    assert sums.clocks(128) == 8 * 150 and sums.clocks(256) == 2 * 4 * 100


def test_tiles_of_a_filter_s_row_have_one_program():
    """AlexNet's 5x5 of 64 channels at batch 256: five tiles of 64x64 leave 96 of 255 registers, and two programs fit
    with (64 + 5 * 64) * 64 * 2 bytes for each of two stages."""
    tile = boxed_tile(192, 64, 25, 186624, "bf16", "sm_90")
    assert (tile.m, tile.n, tile.stages, beside_one_another(tile, 25, "sm_90")) == (64, 64, 2, 5)
    assert beside_one_another(Tile(128, 64, 64, 8, 3), 25, "sm_90") == 1  # 160 sums on eight warps: one program only


@pytest.mark.parametrize("tiles_", [1, 2, 9, 36, 72, 100, 131])
def test_no_multiprocessor_is_left_without_work(tiles_):
    """72 tiles are not left to 72 programs: of the programs that fill whole waves, at most a quarter is missing."""
    sums = LongSum("sm_90", tiles_, 4096, Fraction(512), Fraction(2340), 65536, together=1, warps=8)
    programs = tiles_ * sums.split
    waves = -(-programs // 132)
    assert programs >= 0.75 * 132 * waves


def test_registers_and_shared_memory_say_how_many_programs_there_are():
    """65536 registers and 228 KB. 128x128 on eight warps: 256 * (64 + 112) registers where operands are formed, with
    (128 + 128) * 64 * 2 bytes for each of three stages; in boxes 256 * (64 + 32)."""
    assert together(Tile(128, 128, 64, 8, 3), "bf16", "sm_90", formed=True) == 1
    assert together(Tile(128, 128, 64, 8, 3), "bf16", "sm_90", formed=False) == 2
    assert together(Tile(64, 64, 64, 4, 3), "bf16", "sm_90", formed=True) == 3  # 128 * 144 registers
    assert together(Tile(128, 128, 64, 8, 4), "bf16", "sm_90", formed=False) == 1  # 4 * 32 KB


def test_the_worst_kernel_of_resnet50_is_dealt_out():
    """3x3 of layer 3 at batch 256: 256 filters by 2304, over 50,176 pixels. It was 72 programs of 128x64."""
    shape = 256, 2304, 50176
    tile = weight_gradient_tile(*shape, "bf16", "sm_90", formed=(True, True), tap=256)
    assert (tile.m, tile.n) == (128, 128)
    assert weight_gradient(*shape, tile, "bf16", "sm_90", formed=(True, True)).split == 7


def test_the_interpreter_has_two_of_everything():
    with tiles.chosen_for(tiles.INTERPRETER):
        tile = weight_gradient_tile(64, 576, 4096, "fp32", "sm_90", formed=(True, True), tap=64)
        assert (tile.m, tile.n) == (64, 64)
        assert weight_gradient(64, 64, 4096, tile, "fp32", "sm_90", formed=(True, True)).split >= 2
