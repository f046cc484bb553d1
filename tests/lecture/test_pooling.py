"""The lecture's slides on pooling."""

import numpy as np

from tests.lecture.executors import layer, results
from tricnn.ir import GraphBuilder

X = [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
#: two white columns, then black: a vertical edge between columns 1 and 2
STRIPE = np.tile([1.0, 1, 0, 0, 0], (4, 1))[None]
EDGE = [[[[1, -1]]]]


def test_the_largest_of_a_window():
    """max(0, 1, 3, 4) = 4."""
    y = results(X, lambda b, x: b.max_pool2d(x, 2, 1))
    np.testing.assert_array_equal(y, [[[4, 5], [7, 8]]])


def test_the_mean_of_a_window():
    y = results(X, lambda b, x: b.avg_pool2d(x, 2, 1))
    np.testing.assert_array_equal(y, [[[2, 3], [5, 6]]])


def test_a_convolution_finds_an_edge_at_one_pixel_only():
    y = results(STRIPE, edges, conv__weight=EDGE)
    np.testing.assert_array_equal(y, np.tile([0.0, 1, 0, 0], (4, 1))[None])


def edges(b: GraphBuilder, x: str) -> str:
    return b.conv2d(x, 1, (1, 2), bias=False, name="conv")


def test_max_pooling_tolerates_a_shift_of_one_pixel():
    """The edge moves from column 1 to column 2; pooled, column 1 still sees it. Unpooled it is lost."""

    def pooled(b: GraphBuilder, x: str) -> str:
        return b.max_pool2d(edges(b, x), 2, 1, padding=(0, 1, 0, 1))

    shifted = np.tile([1.0, 1, 1, 0, 0], (4, 1))[None]
    for declare, here, there in (
        (edges, [0, 1, 0, 0], [0, 0, 1, 0]),
        (pooled, [1, 1, 0, 0], [0, 1, 1, 0]),
    ):
        np.testing.assert_array_equal(results(STRIPE, declare, conv__weight=EDGE), np.tile(here, (4, 1))[None])
        np.testing.assert_array_equal(results(shifted, declare, conv__weight=EDGE), np.tile(there, (4, 1))[None])


def test_the_slides_pooled_edge_is_that_of_a_window_three_wide():
    """The slide says 2x2 and shows [1, 1, 1, 0]; two columns can show an edge twice only. Three, padded, show it so."""

    def pooled(b: GraphBuilder, x: str) -> str:
        return b.max_pool2d(edges(b, x), (1, 3), 1, padding=(0, 1))

    y = results(STRIPE, pooled, conv__weight=EDGE)
    np.testing.assert_array_equal(y, np.tile([1.0, 1, 1, 0], (4, 1))[None])


def test_padding_and_stride_are_as_for_convolution():
    """4x4 by 3x3 (Dive into Deep Learning, 6.5): stride 3 gives 10; stride 2 with padding 1 gives 5, 7, 13, 15."""
    x = np.arange(16).reshape(1, 4, 4)
    np.testing.assert_array_equal(results(x, lambda b, v: b.max_pool2d(v, 3)), [[[10]]])
    y = results(x, lambda b, v: b.max_pool2d(v, 3, 2, padding=1))
    np.testing.assert_array_equal(y, [[[5, 7], [13, 15]]])
    y = results(x, lambda b, v: b.max_pool2d(v, (2, 3), (2, 3), padding=(0, 0, 1, 1)))
    np.testing.assert_array_equal(y, [[[5, 7], [13, 15]]])


def test_every_channel_is_pooled_by_itself():
    """As many output channels as input channels, and no parameters."""
    x = np.concatenate([np.arange(16).reshape(1, 4, 4), np.arange(16).reshape(1, 4, 4) + 1])
    y = results(x, lambda b, v: b.max_pool2d(v, 3, 2, padding=1))
    np.testing.assert_array_equal(y, [[[5, 7], [13, 15]], [[6, 8], [14, 16]]])
    assert layer((2, 4, 4), lambda b, v: b.max_pool2d(v, 2)).num_parameters == 0
