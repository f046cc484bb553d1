"""Sums, batch statistics and their merging: the numbers batch normalisation and every bias gradient stand on."""

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import DEVICE, cdiv, channels_last, integers, load_tile, store_row, unwritten
from tricnn.kernels.pointwise import pointwise
from tricnn.kernels.reduce import channel_sum, channel_sum_pair, sum_partials
from tricnn.kernels.stats import batch_stats, merge_stats


@triton.jit
def load_and_square(pixel, channel, mask, args):
    x, channels = args
    value = tl.load(x + pixel * channels + channel, mask=mask, other=0.0)
    return value, value * value


@triton.jit
def store_two_rows(first, second, channel, mask, split, args):
    y, channels = args
    tl.store(y + (2 * split) * channels + channel, first, mask=mask)
    tl.store(y + (2 * split + 1) * channels + channel, second, mask=mask)


@triton.jit
def store_merged(count, mean, m2, channel, mask, split, args):
    merged, channels = args
    target = merged + split * 3 * channels + channel
    tl.store(target, count, mask=mask)
    tl.store(target + channels, mean, mask=mask)
    tl.store(target + 2 * channels, m2, mask=mask)


@triton.jit
def double_into_slice(pixel, channel, mask, part, args):
    x, y, channels, first, width = args
    value = tl.load(x + pixel * channels + channel, mask=mask, other=0.0)
    tl.store(y + pixel * width + first + channel, value * 2, mask=mask)


@triton.jit
def partials_kernel(partials, y, parts, LENGTH: tl.constexpr, SPLIT: tl.constexpr):
    sum_partials(partials, store_row, (y, LENGTH), parts, LENGTH, SPLIT, BLOCK_P=4, BLOCK=16)


@triton.jit
def channel_sum_kernel(x, y, N, PIXELS: tl.constexpr, C: tl.constexpr, SPLIT: tl.constexpr):
    channel_sum(load_tile, (x, C), store_row, (y, C), N, PIXELS, C, SPLIT, BLOCK_M=8, BLOCK_N=16)


@triton.jit
def channel_sum_pair_kernel(x, y, N, PIXELS: tl.constexpr, C: tl.constexpr, SPLIT: tl.constexpr):
    channel_sum_pair(load_and_square, (x, C), store_two_rows, (y, C), N, PIXELS, C, SPLIT, BLOCK_M=8, BLOCK_N=16)


@triton.jit
def stats_kernel(x, partials, N, PIXELS: tl.constexpr, C: tl.constexpr):
    batch_stats(load_tile, (x, C), partials, N, PIXELS, C, BLOCK_M=16, BLOCK_N=16)


@triton.jit
def merge_kernel(partials, merged, parts, C: tl.constexpr, SPLIT: tl.constexpr):
    merge_stats(partials, store_merged, (merged, C), parts, C, SPLIT, BLOCK_P=2, BLOCK=16)


@triton.jit
def slice_kernel(x, y, N, PIXELS: tl.constexpr, C: tl.constexpr):
    pointwise(double_into_slice, (x, y, C, 3, 30), N, PIXELS, C, BLOCK_M=8, BLOCK_N=16)


@pytest.mark.parametrize("split", [1, 3])
def test_sum_partials(split):
    partials = integers((13, 37), torch.float32, torch.Generator().manual_seed(0))
    y = unwritten((split, 37))
    partials_kernel[cdiv(37, 16), split](partials, y, 13, 37, split)
    assert torch.equal(y.sum(0), partials.sum(0))


@pytest.mark.parametrize("split", [1, 3, 9])
def test_channel_sums(split):
    x = integers((3, 20, 5, 7), torch.float32, torch.Generator().manual_seed(1))
    y, pair = unwritten((split, 20)), unwritten((split, 2, 20))
    channel_sum_kernel[cdiv(20, 16), split](x, y, 3, 35, 20, split)
    channel_sum_pair_kernel[cdiv(20, 16), split](x, pair, 3, 35, 20, split)
    assert torch.equal(y.sum(0), x.sum((0, 2, 3)))
    assert torch.equal(pair.sum(0), torch.stack([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))]))


def test_statistics_far_from_zero():
    """A mean of 4096 and a deviation of 1: E[x^2] - E[x]^2 in fp32 would keep no correct digit of the variance."""
    n, c, pixels = 3, 20, 35
    x = 4096 + torch.randn(n, c, 5, 7, generator=torch.Generator().manual_seed(2))
    x = channels_last(x.to(DEVICE))
    parts = cdiv(n * pixels, 16)
    partials = unwritten((parts, 3, c))
    stats_kernel[parts, cdiv(c, 16)](x, partials, n, pixels, c)
    some, merged = unwritten((3, 3, c)), unwritten((1, 3, c))
    merge_kernel[cdiv(c, 16), 3](partials, some, parts, c, 3)
    merge_kernel[cdiv(c, 16), 1](some, merged, 3, c, 1)
    count, mean, m2 = merged[0].double()
    assert (count == n * pixels).all()
    # eps is 2^-23; means are of magnitude 4096, and a sum of n*pixels terms rounds as often.
    expected = x.double().mean((0, 2, 3))
    torch.testing.assert_close(mean, expected, rtol=(n * pixels) ** 0.5 * 2**-23, atol=0)
    variance = x.double().var((0, 2, 3), unbiased=False)
    # A tile's mean, rounded to eps*4096, enters the variance times twice its distance (< 1) from the mean of all.
    torch.testing.assert_close(m2 / count, variance, rtol=0, atol=2 * 4096 * 2**-23)


@pytest.mark.parametrize(("dtype", "center"), [(torch.float16, 512.0), (torch.bfloat16, 64.0)])
def test_statistics_of_16_bit_numbers_are_as_good_as_the_numbers(dtype, center):
    """One pass over a tile is off by eps*mean^2, no more than rounding the numbers to 16 bits has moved the variance
    by: the square of their last bit's worth, mean * 2^-10 or 2^-7, over 12."""
    n, c, pixels = 3, 20, 35
    x = center + torch.randn(n, c, 5, 7, generator=torch.Generator().manual_seed(4))
    x = channels_last(x.to(DEVICE, dtype))
    parts = cdiv(n * pixels, 16)
    partials, merged = unwritten((parts, 3, c)), unwritten((1, 3, c))
    stats_kernel[parts, cdiv(c, 16)](x, partials, n, pixels, c)
    merge_kernel[cdiv(c, 16), 1](partials, merged, parts, c, 1)
    count, mean, m2 = merged[0].double()
    variance = x.double().var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)), rtol=2**-20, atol=0)
    step = center * (2**-10 if dtype == torch.float16 else 2**-7)
    torch.testing.assert_close(m2 / count, variance, rtol=2**-18, atol=step**2 / 12)


def test_pointwise_writes_a_slice_of_channels():
    x = integers((2, 20, 3, 3), torch.float32, torch.Generator().manual_seed(3))
    y = unwritten((2, 30, 3, 3))
    slice_kernel[cdiv(18, 8), cdiv(20, 16)](x, y, 2, 9, 20)
    assert torch.equal(y[:, 3:23], 2 * x)
    assert torch.isnan(y[:, :3]).all() and torch.isnan(y[:, 23:]).all()
