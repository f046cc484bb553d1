"""The model that chooses how many rows a program takes, by hand: 264 programs at once; for each step of the depth
2mn/4096 clocks to multiply 16-bit numbers, 2(m + n) * 132/5126 to load them
(2.8 times 3.35 TB/s at 1.83 GHz). For an A100 they are 216, 2mn/2048 and 108/4051 (2.04 TB/s, 1.41 GHz)."""

import pytest

from tricnn.machine.tiles import clocks, contraction


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
        (132, 128, 64),  # half a wave: 264 tiles half as high take 3/4 of the time
        (133, 128, 128),
        (1, 128, 32),  # never fewer than 32
        (300, 16, 64),  # narrow tiles load little but rows: three waves of 80/144 each, against two
        (396, 64, 128),  # three waves of 2/3, against two: equal, so the larger tile
    ],
)
def test_tiles_fill_the_gpu_and_no_more(row_tiles, columns, rows):
    assert rows_chosen(row_tiles, columns) == rows


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
