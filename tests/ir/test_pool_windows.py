"""Which windows there are, whatever the padding: PyTorch's cells against NumPy's on every small image, row by row.

PyTorch pads both sides alike. Other padding is what Keras's "same" makes of an even image, so the eager executor must
have as many windows as the rest, each over the same pixels.
"""

import itertools

import numpy as np
import pytest
import torch

from tests.ir.samples import ENV
from tricnn.ir import OPS
from tricnn.ir.graph import Node
from tricnn.ir.table import check_attrs, infer_type
from tricnn.ir.types import N, TensorType


def pools():
    """Attributes of one axis: kernel, stride, padding before and after, ceil mode; the other axis has stride 1."""
    for size, kernel, stride, before, after, ceil in itertools.product(
        (3, 6), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (0, 1, 2), (False, True)
    ):
        if 2 * max(before, after) <= kernel <= size + before + after:
            yield size, dict(kernel_size=(kernel, 2), stride=(stride, 1), padding=(before, after, 1, 0), ceil_mode=ceil)


def cell(op, a, *operands):
    """The same by NumPy and by PyTorch."""
    by_numpy = OPS[op].numpy(ENV, a, *operands)
    by_aten = OPS[op].aten(ENV, a, *(torch.tensor(np.ascontiguousarray(x)) for x in operands))
    return np.asarray(by_numpy), by_aten.numpy()


@pytest.mark.parametrize("special", [None, np.nan, -np.inf], ids=str)
def test_maxima_their_places_and_their_gradients_over_every_padding(special):
    rng = np.random.default_rng(0)
    for size, a in pools():
        x = rng.integers(-3, 3, (2, 1, size, 4)).astype(np.float64)  # with ties
        if special is not None:
            x[0] = np.where(rng.random(x[0].shape) < 0.5, special, x[0])
            x[1] = special
        node = Node("y", "max_pool2d", ("x",), a)
        a = dict(check_attrs(node))
        shape = infer_type(node, [TensorType((N, 1, size, 4))]).at(2)
        y, by_aten = cell("max_pool2d", a, x)
        assert y.shape == by_aten.shape == shape, (size, a)
        np.testing.assert_array_equal(by_aten, y, err_msg=f"{size} {a}")
        index, by_aten = cell("max_pool2d_index", a, x)
        np.testing.assert_array_equal(by_aten, index, err_msg=f"{size} {a}")
        a["input_size"] = size, 4
        dx, by_aten = cell("max_pool2d_grad", a, rng.integers(-3, 3, shape).astype(np.float64), index)
        np.testing.assert_array_equal(by_aten, dx, err_msg=f"{size} {a}")


@pytest.mark.parametrize("include", [True, False], ids=["padding counts", "padding does not count"])
def test_means_and_their_gradients_over_every_padding(include):
    rng = np.random.default_rng(1)
    for size, a in pools():
        a = {**a, "count_include_pad": include}
        x = rng.standard_normal((2, 1, size, 4))
        node = Node("y", "avg_pool2d", ("x",), a)
        a = dict(check_attrs(node))
        shape = infer_type(node, [TensorType((N, 1, size, 4))]).at(2)
        y, by_aten = cell("avg_pool2d", a, x)
        assert y.shape == by_aten.shape == shape, (size, a)
        np.testing.assert_allclose(by_aten, y, rtol=1e-12, atol=1e-12, err_msg=f"{size} {a}")
        a["input_size"] = size, 4
        dx, by_aten = cell("avg_pool2d_grad", a, rng.standard_normal(shape))
        np.testing.assert_allclose(by_aten, dx, rtol=1e-12, atol=1e-12, err_msg=f"{size} {a}")
