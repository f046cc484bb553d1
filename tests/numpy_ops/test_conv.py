"""Convolution and its gradients against PyTorch. On small integers every order of summation gives the same bits."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tricnn.ir.numpy_ops import conv2d, conv2d_grad_input, conv2d_grad_weight, im2col, parallel
from tricnn.ir.numpy_ops.im2col import residues


def integers(rng, shape, dtype=np.float32):
    """Small integers, so that sums of products are exact in float32."""
    return rng.integers(-4, 5, shape).astype(dtype)


def channels_last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def is_channels_last(x):
    return x.transpose(0, 2, 3, 1).flags.c_contiguous


def with_torch(x, w, bias, dy, stride, padding, dilation, groups):
    """PyTorch's y, dx, dw in float64."""
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    bias = None if bias is None else torch.tensor(bias, dtype=torch.float64)
    top, bottom, left, right = padding
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), w, bias, stride, 0, dilation, groups)
    y.backward(torch.tensor(dy(y.shape), dtype=torch.float64))
    return y.detach().numpy(), x.grad.numpy(), w.grad.numpy()


def random_case(rng, groups, cg, kg, max_kernel=5):
    kernel = tuple(rng.integers(1, max_kernel + 1, 2).tolist())
    stride, dilation = (tuple(rng.integers(1, high, 2).tolist()) for high in (4, 3))
    padding = tuple(rng.integers(0, 4, 4).tolist())
    extent = [dilation[i] * (kernel[i] - 1) + 1 - padding[2 * i] - padding[2 * i + 1] for i in (0, 1)]
    size = tuple(max(1, e) + int(rng.integers(0, 9)) for e in extent)
    x = integers(rng, (int(rng.integers(1, 4)), groups * cg, *size))
    w = integers(rng, (groups * kg, cg, *kernel))
    return x, w, dict(stride=stride, padding=padding, dilation=dilation, groups=groups)


def check_all_three(x, w, bias, rng, **attrs):
    dys = []

    def dy(shape):
        dys.append(integers(rng, tuple(shape), x.dtype))
        return dys[0]

    y, dx, dw = with_torch(x, w, bias, dy, **attrs)
    for given, grad in ((x, dys[0]), (channels_last(x), channels_last(dys[0]))):
        results = (
            conv2d(given, w, bias, **attrs),
            conv2d_grad_input(grad, w, input_size=x.shape[2:], **attrs),
            conv2d_grad_weight(grad, given, kernel_size=w.shape[2:], **attrs),
        )
        for result, expected in zip(results, (y, dx, dw)):
            assert result.dtype == x.dtype
            np.testing.assert_array_equal(result, expected)
        assert is_channels_last(results[0]) and is_channels_last(results[1])


@pytest.mark.parametrize("seed", range(40))
def test_any_convolution_is_pytorchs(seed):
    """Asymmetric padding, stride and dilation per axis, groups, one channel, kernels larger than the image."""
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    x, w, attrs = random_case(rng, groups, *rng.integers(1, 6, 2).tolist())
    bias = integers(rng, w.shape[0]) if seed % 2 else None
    check_all_three(x, w, bias, rng, **attrs)


@pytest.mark.parametrize("seed", range(24))
def test_depthwise_and_many_small_groups(seed):
    rng = np.random.default_rng(1000 + seed)
    per_group = (1, 1) if seed % 2 else tuple(rng.integers(1, 4, 2).tolist())
    x, w, attrs = random_case(rng, int(rng.choice([4, 8, 12, 32])), *per_group, max_kernel=4)
    check_all_three(x, w, None, rng, **attrs)


@pytest.mark.parametrize(
    ("n", "c", "size", "k", "kernel", "stride", "padding", "groups"),
    [
        (4, 1, 28, 6, 5, 1, 2, 1),  # LeNet-5's first layer: few channels, neighbours computed together
        (4, 6, 14, 16, 5, 1, 0, 1),
        (2, 3, 48, 64, 7, 2, 3, 1),  # ResNet's stem
        (1, 64, 28, 64, 3, 1, 1, 1),
        (2, 64, 14, 128, 1, 2, 0, 1),  # ResNet's shortcut: three of four pixels of dx get nothing
        (2, 96, 13, 64, 5, 1, 2, 2),  # AlexNet's two towers
        (2, 128, 7, 128, 3, 1, 1, 32),  # ResNeXt
        (3, 512, 7, 32, 7, 1, 0, 1),  # VGG's first linear layer, as a convolution
    ],
)
def test_layers_of_known_networks(n, c, size, k, kernel, stride, padding, groups):
    rng = np.random.default_rng(0)
    x, w = integers(rng, (n, c, size, size)), integers(rng, (k, c // groups, kernel, kernel))
    attrs = dict(stride=(stride,) * 2, padding=(padding,) * 4, dilation=(1, 1), groups=groups)
    check_all_three(x, w, None, rng, **attrs)


def test_tiles_of_any_size_agree(monkeypatch):
    """A large image is done in bands of rows; a band must see its neighbours' rows."""
    rng = np.random.default_rng(3)
    attrs = dict(stride=(2, 1), padding=(1, 2, 0, 3), dilation=(1, 2), groups=1)
    for tile_bytes in (1, 5_000, 40_000):
        monkeypatch.setattr(im2col, "_TILE_BYTES", tile_bytes)
        check_all_three(integers(rng, (3, 5, 17, 13)), integers(rng, (7, 5, 3, 3)), None, rng, **attrs)


@pytest.mark.parametrize("groups", [1, 8])
def test_an_infinity_stays_in_its_windows(groups):
    """What diverges must be seen where it diverged: no shortcut may multiply an infinity by zeros of its own making."""
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((2, groups, 12, 12)), rng.standard_normal((2 * groups, 1, 3, 3))
    x[0, 0, 5, 5] = np.inf
    y = conv2d(x, w, stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=groups)
    expected = np.zeros(y.shape, dtype=bool)
    expected[0, :2, 4:7, 4:7] = True
    np.testing.assert_array_equal(~np.isfinite(y), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_errors_grow_with_the_root_of_the_sum(dtype):
    """Real numbers: the error is within 10 eps sqrt(terms) of the size of a sum of that many random terms."""
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((2, 16, 20, 20)).astype(dtype), rng.standard_normal((24, 16, 3, 3)).astype(dtype)
    attrs = dict(stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=1)
    dy = rng.standard_normal((2, 24, 20, 20)).astype(dtype)
    y, dx, dw = with_torch(x, w, None, lambda _: dy, **attrs)
    for result, expected, terms in (
        (conv2d(x, w, **attrs), y, 16 * 9),
        (conv2d_grad_input(dy, w, input_size=(20, 20), **attrs), dx, 24 * 9),
        (conv2d_grad_weight(dy, x, kernel_size=(3, 3), **attrs), dw, 2 * 20 * 20),
    ):
        assert np.abs(result - expected).max() <= 10 * np.finfo(dtype).eps * np.sqrt(terms) * np.sqrt(terms)


def test_same_bits_on_any_number_of_cores(monkeypatch):
    rng = np.random.default_rng(9)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((6, 32, 40, 40), (32, 1, 3, 3)))
    dy = rng.standard_normal(x.shape).astype(np.float32)
    attrs = dict(stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=32)
    results = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(parallel, "_cores", lambda cores=cores: cores)
        results.append((conv2d(x, w, **attrs), conv2d_grad_weight(dy, x, kernel_size=(3, 3), **attrs)))
    for y, dw in results[1:]:
        assert y.tobytes() == results[0][0].tobytes() and dw.tobytes() == results[0][1].tobytes()


def test_no_images():
    x, w = np.zeros((0, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    attrs = dict(stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
    dy = conv2d(x, w, **attrs)
    assert dy.shape == (0, 4, 6, 6)
    assert conv2d_grad_input(dy, w, input_size=(8, 8), **attrs).shape == x.shape
    assert not conv2d_grad_weight(dy, x, kernel_size=(3, 3), **attrs).any()


@pytest.mark.parametrize("stride", range(1, 5))
@pytest.mark.parametrize("dilation", range(1, 5))
def test_residues_cover_every_tap_once(stride, dilation):
    """dgrad of a strided axis: each (input, output, tap) that meet are met exactly once among the dense parts."""
    size, count = 12, 6
    for kernel, pad in itertools.product(range(1, 6), range(4)):
        expected = {
            (p * stride + r * dilation - pad, p, r)
            for p in range(count)
            for r in range(kernel)
            if 0 <= p * stride + r * dilation - pad < size
        }
        found = []
        for part in residues(kernel, stride, dilation, pad):
            taps = range(kernel)[part.taps]
            for i, h in enumerate(range(part.offset, size, stride)):
                for t, r in enumerate(taps):
                    p = i * part.axis.stride + t * part.axis.step + part.axis.start
                    if 0 <= p < count:
                        found.append((h, p, r))
        assert len(found) == len(set(found)) and set(found) == expected
