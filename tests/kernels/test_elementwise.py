"""Dropout's generator, memory orders and rounding."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import DEVICE, cdiv, integers, load_tile, store_tile, unwritten
from tricnn.kernels.dropout import keep_mask, nchw_element
from tricnn.kernels.layout import from_nchw, to_nchw
from tricnn.kernels.numerics import round_to, round_to_tf32


@triton.jit
def mask_kernel(
    y, seed_lo, seed_hi, step, threshold, layer: tl.constexpr, PIXELS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    pixel, channel = tl.arange(0, 16)[:, None], tl.arange(0, 4)[None, :]
    keep = keep_mask(nchw_element(pixel, channel, C, PIXELS), seed_lo, seed_hi, layer, step, threshold)
    tl.store(y + pixel * C + channel, keep.to(tl.uint8), mask=channel < C)


@triton.jit
def to_kernel(x, y, N, C: tl.constexpr, PIXELS: tl.constexpr):
    to_nchw(load_tile, (x, C), store_tile, (y, C * PIXELS), N, C, PIXELS, BLOCK_M=8, BLOCK_N=16)


@triton.jit
def from_kernel(x, y, N, C: tl.constexpr, PIXELS: tl.constexpr):
    from_nchw(load_tile, (x, C * PIXELS), store_tile, (y, C), N, C, PIXELS, BLOCK_M=8, BLOCK_N=16)


@triton.jit
def round_kernel(x, y, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(y + lane, round_to(tl.load(x + lane), y.dtype.element_ty))


@triton.jit
def round_tf32_kernel(x, y, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(y + lane, round_to_tf32(tl.load(x + lane)))


def philox(counter, key):
    """Philox-4x32-10, after Salmon et al. (2011), section 3.3."""
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(high >> 32) ^ c[1] ^ k[0], high & 0xFFFFFFFF, (low >> 32) ^ c[3] ^ k[1], low & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_the_reference_philox_gives_the_published_numbers():
    """The known answers shipped with Random123."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("seed_lo, seed_hi, layer, step", [(0, 0, 0, 0), (0xA4093822, 0x299F31D0, 3, 70000)])
@pytest.mark.parametrize("threshold", [0x40000000, 0xC0000000])
def test_keep_mask_is_philox(seed_lo, seed_hi, layer, step, threshold):
    y = unwritten((2, 3, 8), torch.uint8)  # 2 images of 8 pixels and 3 channels, channels last
    mask_kernel[1,](y, seed_lo, seed_hi, step, threshold, layer, 8, 3)
    expected = [philox([e, layer, step, 0], [seed_lo, seed_hi])[0] >= threshold for e in range(48)]
    assert y.reshape(2, 8, 3).permute(0, 2, 1).flatten().tolist() == expected


def test_memory_orders():
    x = integers((3, 20, 2, 5), torch.float32, torch.Generator().manual_seed(6))
    y, back = unwritten((3, 200)), unwritten((3, 20, 2, 5))
    to_kernel[cdiv(30, 8), cdiv(20, 16)](x, y, 3, 20, 10)
    assert torch.equal(y, x.flatten(1))
    from_kernel[cdiv(30, 8), cdiv(20, 16)](y, back, 3, 20, 10)
    assert torch.equal(back, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_round_to_is_to_nearest_even(dtype):
    special = [
        0.0,
        -0.0,
        float("inf"),
        float("-inf"),
        float("nan"),
        1 + 2**-8,
        1 + 3 * 2**-8,
        1 + 2**-8 + 2**-20,
        -3e38,
    ]
    values = np.random.default_rng(7).standard_normal(64 - len(special)).astype(np.float32)
    x = torch.tensor(special + values.tolist(), device=DEVICE)
    y = unwritten((64,), dtype)
    round_kernel[1,](x, y, 64)
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y.nan_to_num(7.0), x.to(dtype).nan_to_num(7.0))


def test_tf32_keeps_11_significant_bits_and_rounds_to_nearest():
    special = [0.0, float("inf"), float("nan"), 1 + 2**-11, 1 + 2**-11 - 2**-23, 1 + 3 * 2**-11, 2 - 2**-23, 3e38]
    values = np.random.default_rng(8).standard_normal(64 - len(special)).astype(np.float32)
    x = np.array([*special, *values], dtype=np.float32)
    for signed in (x, -x):
        y = unwritten((64,))
        round_tf32_kernel[1,](torch.tensor(signed, device=DEVICE), y, 64)
        fraction, exponent = np.frexp(np.abs(signed).astype(np.float64))
        nearest = np.copysign(np.ldexp(np.floor(fraction * 2**11 + 0.5), exponent - 11), signed)
        np.testing.assert_array_equal(y.cpu().numpy(), np.where(np.isfinite(signed), nearest, signed))
