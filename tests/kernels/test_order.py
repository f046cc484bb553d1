"""The order in which programs take tiles: a tile nobody takes is a part of the result nobody computes."""

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import DEVICE
from tricnn.kernels.order import tile_of_program


@triton.jit
def order_kernel(y, ROWS, COLUMNS: tl.constexpr):
    row, column = tile_of_program(tl.program_id(0), ROWS, COLUMNS)
    tl.store(y + tl.program_id(0), row * COLUMNS + column)


@pytest.mark.parametrize(("rows", "columns"), [(5, 1), (1, 5), (19, 3), (16, 32), (64, 4)])
def test_every_tile_is_taken_once_and_neighbours_share_operands(rows, columns):
    y = torch.full((rows * columns,), -1, dtype=torch.int32, device=DEVICE)
    order_kernel[rows * columns,](y, rows, columns)
    assert sorted(y.tolist()) == list(range(rows * columns))
    for first in range(0, rows * columns, 128):  # those that run together: one after another would read up to 129 tiles
        tiles = [divmod(tile, columns) for tile in y[first : first + 128].tolist()]
        assert len({row for row, _ in tiles}) + len({column for _, column in tiles}) <= 36
