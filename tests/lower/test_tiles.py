"""The model that chooses how many rows a program takes, by hand: 264 programs at once; for each step of the depth
2mn/4096 clocks to multiply 16-bit numbers, 2(m + n) * 132/5126 to load them
(2.8 times 3.35 TB/s at 1.83 GHz). For an A100 they are 216, 2mn/2048 and 108/4051 (2.04 TB/s, 1.41 GHz)."""

import pytest

from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.graphs import resnet50
from tricnn.lower.lower import lower
from tricnn.machine.tiles import Tile, boxed, clocks, contraction, step, tall
from tricnn.machine.window_tiles import windows


def rows_chosen(row_tiles, columns, dtype="bf16"):
    """For so many tiles of 128 rows."""
    return contraction(128 * row_tiles, columns, 1024, dtype, "sm_90").m


def test_the_equation():
    """In fp32 there are no matrix units, and multiplying takes longer than loading."""
    load, multiply = 2 * (128 + 64) * 132 / 5126, 2 * 128 * 64 / 4096
    assert load > multiply and clocks(128 * 100, 64, 128, 64, "bf16", "sm_90") == pytest.approx(load)
    assert clocks(128 * 300, 64, 128, 64, "bf16", "sm_90") == pytest.approx(2 * load)  # two waves
    assert clocks(64 * 100, 64, 64, 64, "fp32", "sm_90") == pytest.approx(2 * 64 * 64 / 256)


@pytest.mark.parametrize(
    "row_tiles, columns, rows",
    [
        (264, 128, 128),  # one full wave
        (265, 128, 128),  # a second one, hardly filled; but tiles half as high need three, each 3/4 as long
        (132, 128, 128),  # one for each multiprocessor, not two of 3/4 of its time
        (133, 128, 128),
        (40, 128, 128),  # of 64 columns: 80 tiles, each alone, not 160 of 32 rows, two of which share a multiprocessor
        (300, 16, 64),  # narrow tiles load little but rows: three waves of 80/144 each, against two
        (396, 64, 128),  # three waves of 2/3, against two: equal, so the larger tile
    ],
)
def test_tiles_fill_the_gpu_and_no_more(row_tiles, columns, rows):
    assert rows_chosen(row_tiles, columns) == rows


def test_tiles_of_64_columns_are_as_high_as_four_warps_have_registers_for():
    """256 * 64 sums are 128 registers a thread. 192 filters are 3 tiles of 64 columns or 2 of 128."""
    assert tall(256 * 729, 192, 1600, "bf16", "sm_90", tap=64) == Tile(256, 64, 64, 4, 3)
    assert tall(256 * 729, 192, 1600, "bf16", "sm_90", 1, tap=64) == contraction(256 * 729, 192, 1600, "bf16", "sm_90")
    assert tall(256 * 169, 256, 2304, "bf16", "sm_90", tap=256).n == 128
    assert tall(32 * 169, 192, 3456, "bf16", "sm_90", tap=384).m < 256  # 66 tiles


def test_two_programs_of_a_first_layer_share_a_multiprocessor():
    """AlexNet's 11x11: weights of 11 * 64 * 64 numbers beside one box of 128 windows, twice, are 212,992 of 232,448
    bytes; with a box for each row of taps there is one program. At batch 1 there are not 264 tiles of 128 pixels."""
    found = windows(64, 11, 64, 232448, pixels=256 * 55 * 55, target="sm_90")
    alone = windows(64, 11, 64, 232448, pixels=55 * 55, target="sm_90")
    assert (found.m, found.stages) == (128, 1) and alone.stages == 2
    assert windows(64, 7, 32, 232448, pixels=256 * 112 * 112, target="sm_90").stages == 2  # ResNet's: two have room


@pytest.mark.parametrize(
    "row_tiles, rows",
    [
        (216, 128),  # one full wave on an A100
        (217, 64),  # two waves of 16 clocks, or three of 10.2
        (1568, 128),  # eight waves of 16, fifteen of 10.2
    ],
)
def test_an_a100_is_filled_with_its_own_number_of_programs(row_tiles, rows):
    assert contraction(128 * row_tiles, 128, 1024, "bf16", "sm_80").m == rows


def clocks_of_few(tiles, m, n, k, depth):
    """Of 350 for each step, beside the loads of one program or two on each of 132 multiprocessors."""
    assert tiles <= 264
    together = 1 if tiles <= 132 else 2
    return -(-depth // k) * (350 + together * k * max(2 * m * n / 4096, 2 * (m + n) * 132 / 5126))


def test_a_product_of_few_tiles_takes_few_long_steps():
    """The 3x3 convolutions of ResNet-50's third and fourth stages for one image (14x14, 256 channels; 7x7, 512): a
    step has 256 of the channels of a tap, where it had 64, and no larger tile would take less time."""
    tile = contraction(196, 256, 9 * 256, "bf16", "sm_90", tap=256)
    assert tile.k == 256
    least = clocks_of_few(-(-196 // tile.m) * (256 // tile.n), tile.m, tile.n, tile.k, 9 * 256)
    for m, n, k in [(16, 16, 256), (32, 32, 256), (32, 64, 128), (64, 64, 128), (32, 128, 64), (64, 32, 64)]:
        assert least <= clocks_of_few(-(-196 // m) * (256 // n), m, n, k, 9 * 256)
    assert contraction(49, 512, 9 * 512, "bf16", "sm_90", tap=512).k == 256


def test_a_long_step_stays_within_a_tap_and_two_programs_fit():
    assert contraction(196, 128, 9 * 96, "bf16", "sm_90", tap=96).k == 32  # boxes of channels divide a tap's
    for depth in (64, 512, 4096):
        tile = contraction(49, 512, depth, "bf16", "sm_90")
        assert tile.k <= depth and 2 * (3 * 2 * (tile.m + tile.n) * tile.k + 1024) <= 228 * 1024
    assert contraction(196, 16, 9, "bf16", "sm_90", beside=256).m == 32  # a depthwise convolution has programs enough
    assert contraction(196, 256, 2304, "fp32", "sm_90").k == 16  # and no tensor core waits for it


def test_tiles_of_many_products_are_tall_where_the_cache_is_the_limit():
    """1x1 products of ResNet-50's inference, 256 images: each row takes C*K*(m + n)/(m*n) numbers from the cache, 2.8
    times as fast as C + K from memory, and K more where a shortcut is added. A strided one has 64 rows."""
    choices = lower(planned(resnet50(), "infer", "auto", Cost(256, "bf16", "sm_90")), "bf16", 256, "sm_90").choices
    found = {}
    for choice in choices:
        sizes = choice.problem.sizes
        if sizes["R"] == 1 and sizes["H"] > 1:
            found[choice.kernel[4:]] = choice.tile.m
    assert found["layer3_1_bn1"] == 128 and 1024 * 256 * 192 / 8192 > 2.8 * (1024 + 256)
    assert found["layer3_1_bn3"] == 64 and 256 * 1024 * 192 / 8192 < 2.8 * (256 + 2 * 1024)
    assert found["layer2_1_bn1"] == 64 and 512 * 128 * 192 / 8192 < 2.8 * (512 + 128)
    assert found["layer4_1_bn3"] == 128 and found["layer3_0_downsample_1"] == 64


@pytest.mark.parametrize("depth, channels", [(64, 64), (24, 32), (48, 64), (80, 32), (112, 64), (160, 32), (192, 64)])
def test_boxes_end_with_a_tap_or_not_far_behind_it(depth, channels):
    """A step takes as long as its channels and eight more: 3 of 32 channels have 80 for 120, 2 of 64 for 144."""
    assert step(depth, 64) == channels
    assert all(-(-depth // k) * (k + 8) >= -(-depth // channels) * (channels + 8) for k in (16, 32, 64))


@pytest.mark.parametrize(
    "columns, wide", [(128, 128), (192, 64), (160, 64), (256, 128), (288, 64), (208, 128), (96, 128)]
)
def test_tiles_of_half_the_columns_where_whole_ones_multiply_much_for_nothing(columns, wide):
    """192 columns are three tiles of 64, not two of 128, a third more; 96 are two of 64 or one of 128, all the same."""
    assert boxed(128 * 1000, columns, 9 * 64, "bf16", "sm_90", tap=64).n == wide
