"""Pooling against PyTorch, and against the definition where PyTorch cannot pad asymmetrically."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tricnn.ir.numpy_ops import (
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_index,
    output_size,
    parallel,
)


def random_attrs(rng, symmetric=True):
    kernel = tuple(rng.integers(1, 5, 2).tolist())
    before = [int(rng.integers(0, k // 2 + 1)) for k in kernel]  # as far as PyTorch allows
    after = before if symmetric else [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    return dict(
        kernel_size=kernel,
        stride=tuple(rng.integers(1, 6, 2).tolist()),
        padding=(before[0], after[0], before[1], after[1]),
        ceil_mode=bool(rng.integers(2)),
    )


def torch_args(attrs):
    top, _, left, _ = attrs["padding"]
    return dict(
        kernel_size=attrs["kernel_size"], stride=attrs["stride"], padding=(top, left), ceil_mode=attrs["ceil_mode"]
    )


def random_input(rng, dtype=np.float64):
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 6)), *rng.integers(5, 14, 2).tolist())
    return rng.standard_normal(shape).astype(dtype)


def windows(x, attrs):
    """(p, q, window slices, window area within the padded input): the definition, one window at a time."""
    (kr, ks), (sh, sw), (top, bottom, left, right) = attrs["kernel_size"], attrs["stride"], attrs["padding"]
    h, w = x.shape[2:]
    for p in range(output_size(h, kr, sh, top, bottom, ceil_mode=attrs["ceil_mode"])):
        for q in range(output_size(w, ks, sw, left, right, ceil_mode=attrs["ceil_mode"])):
            h0, w0 = p * sh - top, q * sw - left
            area = (min(h0 + kr, h + bottom) - h0) * (min(w0 + ks, w + right) - w0)
            inside = (slice(max(h0, 0), min(h0 + kr, h)), slice(max(w0, 0), min(w0 + ks, w)))
            yield p, q, (..., *inside), area


def check_max(x, attrs, rng):
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch, flat = F.max_pool2d(x_torch, return_indices=True, **torch_args(attrs))
    y, index = max_pool2d(x, **attrs), max_pool2d_index(x, **attrs)
    np.testing.assert_array_equal(y, y_torch.detach())
    (_, ks), (sh, sw), (top, _, left, _) = attrs["kernel_size"], attrs["stride"], attrs["padding"]
    h = np.arange(y.shape[2])[:, None] * sh - top + index // ks
    w = np.arange(y.shape[3]) * sw - left + index % ks
    np.testing.assert_array_equal(h * x.shape[3] + w, flat)
    dy = rng.standard_normal(y.shape).astype(x.dtype)
    y_torch.backward(torch.tensor(dy))
    dx = max_pool2d_grad(dy, index, input_size=x.shape[2:], **attrs)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=64 * np.finfo(x.dtype).eps)
    assert y.dtype == dx.dtype == x.dtype
    for result in (y, index, dx):
        assert result.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("seed", range(30))
def test_max_pool_is_pytorchs(seed):
    rng = np.random.default_rng(seed)
    attrs = random_attrs(rng)
    check_max(random_input(rng, np.float32 if seed % 2 else np.float64), attrs, rng)


@pytest.mark.parametrize("seed", range(30))
def test_ties_nans_and_infinities_go_where_pytorch_sends_them(seed):
    """The gradient goes to the first of equal maxima and to the last NaN; -inf is a value like others."""
    rng = np.random.default_rng(100 + seed)
    x = np.round(random_input(rng))
    for value, share in ((np.nan, 0.1 * (seed % 2)), (-np.inf, 0.4), (np.inf, 0.05)):
        x[rng.random(x.shape) < share] = value
    check_max(x, random_attrs(rng), rng)


def test_a_wide_window_needs_a_wide_index():
    rng = np.random.default_rng(0)
    attrs = dict(kernel_size=(17, 17), stride=(2, 3), padding=(8, 8, 4, 4), ceil_mode=False)
    x = np.round(2 * rng.standard_normal((2, 3, 20, 20)))
    assert max_pool2d_index(x, **attrs).dtype == np.uint16
    check_max(x, attrs, rng)


def test_an_infinite_gradient_stays_infinite():
    x = np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4)
    attrs = dict(kernel_size=(2, 2), stride=(2, 2), padding=(0,) * 4)
    dy = np.full((1, 1, 2, 2), np.inf, np.float32)
    dx = max_pool2d_grad(dy, max_pool2d_index(x, **attrs), input_size=(4, 4), **attrs)
    assert np.isposinf(dx).sum() == 4 and not np.isnan(dx).any()


@pytest.mark.parametrize("seed", range(30))
def test_average_pool_is_pytorchs(seed):
    rng = np.random.default_rng(200 + seed)
    x, attrs, include_pad = random_input(rng), random_attrs(rng), bool(seed % 2)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = F.avg_pool2d(x_torch, count_include_pad=include_pad, **torch_args(attrs))
    y = avg_pool2d(x, count_include_pad=include_pad, **attrs)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-14)
    dy = rng.standard_normal(y.shape)
    y_torch.backward(torch.tensor(dy))
    dx = avg_pool2d_grad(dy, input_size=x.shape[2:], count_include_pad=include_pad, **attrs)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=1e-14)
    for result in (y, dx):
        assert result.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("seed", range(30))
def test_asymmetric_padding_follows_the_definition(seed):
    rng = np.random.default_rng(300 + seed)
    x, attrs, include_pad = random_input(rng), random_attrs(rng, symmetric=False), bool(seed % 2)
    largest, mean, index = (f(x, **attrs) for f in (max_pool2d, avg_pool2d, max_pool2d_index))
    mean = avg_pool2d(x, count_include_pad=include_pad, **attrs)
    dy = rng.standard_normal(mean.shape)
    dx_max, dx_avg = np.zeros(x.shape), np.zeros(x.shape)
    for p, q, window, area in windows(x, attrs):
        values = x[window]
        count = area if include_pad else values[0, 0].size
        if not values.size:  # the window lies in the padding
            assert (mean[:, :, p, q] == 0).all() and np.isneginf(largest[:, :, p, q]).all()
            continue
        np.testing.assert_array_equal(largest[:, :, p, q], values.max(axis=(2, 3)))
        np.testing.assert_allclose(mean[:, :, p, q], values.sum(axis=(2, 3)) / count, rtol=0, atol=1e-14)
        dx_max[window] += (values == largest[:, :, p, q, None, None]) * dy[:, :, p, q, None, None]
        dx_avg[window] += dy[:, :, p, q, None, None] / count
    size = x.shape[2:]
    np.testing.assert_allclose(max_pool2d_grad(dy, index, input_size=size, **attrs), dx_max, rtol=0, atol=1e-14)
    dx = avg_pool2d_grad(dy, input_size=size, count_include_pad=include_pad, **attrs)
    np.testing.assert_allclose(dx, dx_avg, rtol=0, atol=1e-14)


def test_same_bits_on_any_number_of_cores(monkeypatch):
    x = np.random.default_rng(1).standard_normal((5, 16, 60, 60)).astype(np.float32)
    attrs = dict(kernel_size=(3, 3), stride=(2, 2), padding=(1,) * 4)
    results = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(parallel, "_cores", lambda cores=cores: cores)
        index = max_pool2d_index(x, **attrs)
        dx = max_pool2d_grad(max_pool2d(x, **attrs), index, input_size=(60, 60), **attrs)
        results.append((index.tobytes(), dx.tobytes(), avg_pool2d(x, **attrs).tobytes()))
    assert results[0] == results[1] == results[2]


def test_output_size_is_pytorchs():
    """Every small case, among them ceil mode's: a last window may not start in the trailing padding."""
    for size, kernel, stride, dilation in itertools.product(range(1, 8), range(1, 5), range(1, 5), (1, 2)):
        x = torch.zeros(1, 1, size, size)
        for pad in range(kernel // 2 + 1):
            if size + 2 * pad < dilation * (kernel - 1) + 1:
                continue
            for ceil_mode in (False, True):
                expected = F.max_pool2d(x, kernel, stride, pad, dilation, ceil_mode).shape[2]
                assert output_size(size, kernel, stride, pad, pad, dilation, ceil_mode) == expected
