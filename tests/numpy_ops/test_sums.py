"""Sums over pixels, against float64."""

import numpy as np
import pytest

from tricnn.ir.numpy_ops.sums import BLOCK, pixel_rows, sum_rows


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK * BLOCK, BLOCK * BLOCK + BLOCK + 3])
def test_every_row_is_summed_once_however_many_there_are(count):
    """Integers, whose sums are exact."""
    x = np.random.default_rng(0).integers(-9, 9, (count, 3)).astype(np.float32)
    np.testing.assert_array_equal(sum_rows(x), x.astype(np.float64).sum(0))


def test_a_sum_of_many_rows_is_accurate():
    """NumPy's own is off by 3e-4 here: its error grows with the number of rows."""
    x = 1e6 + np.random.default_rng(1).standard_normal((50_000, 4)).astype(np.float32)
    np.testing.assert_allclose(sum_rows(x), x.astype(np.float64).sum(0), rtol=3 * BLOCK / 2 * 2**-24)


def test_rows_are_pixels_however_the_image_lies_in_memory():
    x = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    wanted = [x[n, :, h, w] for n in range(2) for h in range(4) for w in range(5)]
    np.testing.assert_array_equal(pixel_rows(x), wanted)
    np.testing.assert_array_equal(pixel_rows(x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)), wanted)
    np.testing.assert_array_equal(pixel_rows(x[:, :, 0, 0]), x[:, :, 0, 0])
