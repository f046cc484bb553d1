"""The lecture's slides on convolution: every number on them, from every executor."""

from math import ceil, floor

import numpy as np
import pytest

from tests.lecture.executors import layer, results
from tricnn.ir import GraphBuilder, ShapeError
from tricnn.run.interpreter import interpret

X = [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
W = [[[[0, 1], [2, 3]]]]


def conv(filters, kernel, **attrs):
    return lambda b, x: b.conv2d(x, filters, kernel, bias=False, name="conv", **attrs)


# --- 2-D cross-correlation -------------------------------------------------------------------------------------------


def test_cross_correlation():
    """0*0 + 1*1 + 3*2 + 4*3 = 19, and so on: the kernel is not turned around, as it is in a convolution proper."""
    y = results(X, conv(1, 2), conv__weight=W)
    np.testing.assert_array_equal(y, [[[19, 25], [37, 43]]])


def test_a_bias_is_added_to_every_result():
    y = results(X, lambda b, x: b.conv2d(x, 1, 2, name="conv"), conv__weight=W, conv__bias=[10])
    np.testing.assert_array_equal(y, [[[29, 35], [47, 53]]])


EDGE = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]])
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
BLUR = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


@pytest.mark.parametrize(
    ("kernel", "flat", "beside_a_step"),
    [(EDGE, 0, [0, -48, 48, 0]), (SHARPEN, 1, [0, -16, 32, 16]), (BLUR, 1, [0, 4, 12, 16])],
    ids=["edge", "sharpen", "blur"],
)
def test_edge_detection_sharpening_and_blur(kernel, flat, beside_a_step):
    """The weights' sum is what an even surface becomes; beside a step from 0 to 16 the three differ."""
    assert kernel.sum() == flat
    even = results(np.full((1, 4, 4), 16), conv(1, 3), executors=("numpy", "eager"), conv__weight=kernel[None, None])
    np.testing.assert_array_equal(even, np.full((1, 2, 2), 16 * flat))
    step = np.zeros((1, 5, 6))
    step[:, :, 3:] = 16
    y = results(step, conv(1, 3), executors=("numpy", "eager"), conv__weight=kernel[None, None])
    np.testing.assert_array_equal(y, np.broadcast_to(beside_a_step, (1, 3, 4)))


# --- padding and stride ----------------------------------------------------------------------------------------------


def size(n: int, k: int, padding: int = 0, stride: int = 1) -> int:
    """Rows that a convolution of n rows gives, by the IR's own shape rule; ``padding`` is the total."""
    pad = (ceil(padding / 2), floor(padding / 2), ceil(padding / 2), floor(padding / 2))
    graph = layer((1, n, n), conv(1, k, stride=stride, padding=pad))
    (h, w) = graph.types["conv"].spatial
    assert h == w
    return h


def test_convolutions_shrink_the_image():
    """32x32 by 5x5: 28x28 after one layer, 4x4 after seven."""
    assert size(32, 5) == 28
    n, layers = 32, 0
    while n > 4:
        n, layers = size(n, 5), layers + 1
    assert (n, layers) == (4, 7)


def test_a_224_image_takes_55_layers_of_5x5_to_reach_4x4():
    """The slide says 44. Each layer takes 4 rows and columns: (224 - 4) / 4 = 55; 44 layers leave 48x48."""
    b = GraphBuilder("deep")
    x = b.input("x", (1, 224, 224))
    sides = []
    while b.type(x).spatial != (4, 4):
        x = b.conv2d(x, 1, 5)
        sides.append(b.type(x).spatial[0])
    assert len(sides) == (224 - 4) // 4 == 55
    assert sides[44 - 1] == 224 - 44 * 4 == 48
    with pytest.raises(ShapeError, match="larger than its padded input"):
        b.conv2d(x, 1, 5)


@pytest.mark.parametrize("k", range(1, 8))
@pytest.mark.parametrize("n", [7, 8, 12])
def test_padding_and_stride_formulas(n, k):
    """n - k + p + 1; floor((n - k + p + s) / s); with p = k - 1: n, floor((n + s - 1) / s), n / s if s divides n."""
    for p in (0, 1, 2, k - 1):
        for s in (1, 2, 3):
            if n + p >= k:
                assert size(n, k, p, s) == (n - k + p + s) // s
    assert size(n, k, k - 1) == n
    for s in (1, 2, 3, 4):
        assert size(n, k, k - 1, s) == (n + s - 1) // s
        if n % s == 0:
            assert size(n, k, k - 1, s) == n // s


def test_padding_surrounds_the_image_with_zeros():
    y = results(X, conv(1, 2, padding=1), conv__weight=W)
    np.testing.assert_array_equal(y, [[[0, 3, 8, 4], [9, 19, 25, 10], [21, 37, 43, 16], [6, 7, 8, 0]]])


def test_height_stride_3_and_width_stride_2():
    y = results(X, conv(1, 2, padding=1, stride=(3, 2)), conv__weight=W)
    np.testing.assert_array_equal(y, [[[0, 8], [6, 8]]])


def test_an_even_kernel_pads_one_more_above_and_to_the_left():
    """p = k - 1 = 1: ceil(1/2) = 1 row above, floor(1/2) = 0 below. The first row of the result sees the padding."""
    y = results(X, conv(1, 2, padding=(1, 0, 1, 0)), conv__weight=W)
    np.testing.assert_array_equal(y, [[[0, 3, 8], [9, 19, 25], [21, 37, 43]]])
    below = results(X, conv(1, 2, padding=(0, 1, 0, 1)), conv__weight=W)
    np.testing.assert_array_equal(below, [[[19, 25, 10], [37, 43, 16], [7, 8, 0]]])


# --- channels --------------------------------------------------------------------------------------------------------


def test_several_input_channels_are_correlated_one_by_one_and_added():
    """The second channel is the first plus 1, its kernel too: 56 = 19 + 37 (Dive into Deep Learning, 6.4)."""
    x = np.concatenate([X, np.array(X) + 1])
    w = np.concatenate([np.array(W)[0], np.array(W)[0] + 1])[None]
    y = results(x, conv(1, 2), conv__weight=w)
    np.testing.assert_array_equal(y, [[[56, 72], [104, 120]]])
    apart = sum(results(x[i : i + 1], conv(1, 2), ("numpy",), conv__weight=w[:, i : i + 1]) for i in (0, 1))
    np.testing.assert_array_equal(y, apart)


def test_each_output_channel_has_a_kernel_of_its_own():
    x = np.concatenate([X, np.array(X) + 1])
    k = np.concatenate([np.array(W)[0], np.array(W)[0] + 1])
    w = np.stack([k, k + 1, k + 2])
    y = results(x, conv(3, 2), conv__weight=w)
    np.testing.assert_array_equal(y, [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]])


def test_a_1x1_convolution_is_a_dense_layer_over_the_pixels():
    """n_h * n_w inputs of c_i numbers each, weights c_o x c_i."""
    rng = np.random.default_rng(0)
    x, w, bias = rng.integers(-3, 4, (4, 3, 5)), rng.integers(-3, 4, (6, 4)), rng.integers(-3, 4, 6)
    mixed = results(x, lambda b, x: b.conv2d(x, 6, 1, name="conv"), conv__weight=w[:, :, None, None], conv__bias=bias)
    b = GraphBuilder("dense")
    dense = b.build(b.linear(b.input("pixels", (4,)), 6, name="fc"))
    pixels = x.reshape(4, 15).T.astype(float)
    values = {"pixels": pixels, "fc.weight": w.astype(float), "fc.bias": bias.astype(float)}
    np.testing.assert_array_equal(mixed.reshape(6, 15).T, interpret(dense, values)["logits"])
    np.testing.assert_array_equal(mixed.reshape(6, 15).T, pixels @ w.T + bias)
