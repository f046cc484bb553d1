"""Pooling by blocks of results against PyTorch in float64: what several windows share is loaded and compared once."""

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import DEVICE, cdiv, integers, load_tile, store_tile, unwritten
from tests.kernels.test_pool import leave, sizes, special_windows, store_and_return, store_value_and_index
from tricnn.kernels.pool import max_pool2d_grad
from tricnn.kernels.pool_blocks import avg_pool2d_blocks, avg_pool2d_grad_blocks, max_pool2d_blocks

SHAPE = (2, 5, 9, 8)
#: blocks that do not divide the results, and of one row or column
BLOCKS = [(2, 3), (4, 1), (1, 2)]
POOLS = [
    dict(kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), ceil_mode=False),
    dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), ceil_mode=True),
    dict(kernel_size=(2, 4), stride=(1, 2), padding=(0, 2), ceil_mode=True),
]


@triton.jit
def max_kernel(
    x, y, index, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    max_pool2d_blocks(
        load_tile, (x, C), store_value_and_index, (y, index, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PL, 64, 8, HIGH,
        WIDE,
    )  # fmt: skip


@triton.jit
def max_grad_kernel(
    dy, index, dx, left, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    max_pool2d_grad(
        load_tile, (dy, C), index, store_and_return, (dx, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PL, 4, 8, HIGH, WIDE,
        SUMS=1, leave_sums=leave, leave_args=(left, C),
    )  # fmt: skip


@triton.jit
def avg_kernel(
    x, y, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, INCLUDE_PAD: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    if GRADIENT:
        avg_pool2d_grad_blocks(
            load_tile, (x, C), store_tile, (y, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PT, PL, PL, INCLUDE_PAD, 16, 8,
            HIGH, WIDE,
        )  # fmt: skip
    else:
        avg_pool2d_blocks(
            load_tile, (x, C), store_tile, (y, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PT, PL, PL, INCLUDE_PAD, 16, 8,
            HIGH, WIDE,
        )  # fmt: skip


def count(size, high, wide):
    """How many blocks of so many results two images have."""
    return 2 * cdiv(size["P"], high) * cdiv(size["Q"], wide)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_max_pool_and_its_gradient(pool, block):
    g = torch.Generator().manual_seed(3)
    x = integers(SHAPE, torch.float32, g) - 3.0  # negative, so that padding taken for zeros would win
    leaf = x.double().requires_grad_()
    expected, flat = torch.nn.functional.max_pool2d(leaf, **pool, return_indices=True)
    size = sizes(pool, SHAPE, expected)
    how = {**size, "HIGH": block[0], "WIDE": block[1]}
    y, index = unwritten(expected.shape), unwritten(expected.shape, torch.uint8)
    max_kernel[cdiv(count(size, *block), 64), 1](x, y, index, 2, **how)
    assert torch.equal(y.double(), expected)
    top = torch.arange(size["P"], device=DEVICE)[:, None] * size["SH"] - size["PT"]
    left = torch.arange(size["Q"], device=DEVICE)[None, :] * size["SW"] - size["PL"]
    assert torch.equal(index.long(), (flat // 8 - top) * size["S"] + flat % 8 - left)

    dy, dx, programs = integers(expected.shape, torch.float32, g), unwritten(SHAPE), 2
    left = unwritten((programs, 5))
    max_grad_kernel[programs, 1](dy, index, dx, left, 2, **how)
    gradient = torch.autograd.grad(expected, leaf, dy.double())[0]
    assert torch.equal(dx.double(), gradient)
    assert torch.equal(left.double().sum(0), gradient.sum((0, 2, 3)))


@pytest.mark.parametrize("include", [True, False], ids=["padding counts", "padding does not count"])
@pytest.mark.parametrize("pool, block", [*zip(POOLS, BLOCKS, strict=True)], ids=str)
def test_average_pool_and_its_gradient(pool, block, include):
    g = torch.Generator().manual_seed(4)
    x = integers(SHAPE, torch.float32, g)
    leaf = x.double().requires_grad_()
    expected = torch.nn.functional.avg_pool2d(leaf, **pool, count_include_pad=include)
    size = sizes(pool, SHAPE, expected)
    how = {**size, "HIGH": block[0], "WIDE": block[1], "INCLUDE_PAD": include}
    y, dx = unwritten(expected.shape), unwritten(SHAPE)
    avg_kernel[cdiv(count(size, *block), 16), 1](x, y, 2, **how, GRADIENT=False)
    # Sums of integers are exact; the division rounds once.
    torch.testing.assert_close(y.double(), expected, rtol=2**-23, atol=0)

    dy = integers(expected.shape, torch.float32, g)
    blocks = 2 * cdiv(9, block[0] * size["SH"]) * cdiv(8, block[1] * size["SW"])
    avg_kernel[cdiv(blocks, 16), 1](dy, dx, 2, **how, GRADIENT=True)
    gradient = torch.autograd.grad(expected, leaf, dy.double())[0]
    terms = size["R"] * size["S"]  # at most as many roundings, each of a value of at most 2
    torch.testing.assert_close(dx.double(), gradient, rtol=0, atol=2 * terms * 2**-23)


def test_the_maximum_of_what_is_not_finite_is_pytorchs():
    """The last NaN of a window, whichever row has it; and of nothing but -inf the first that is no padding."""
    windows = special_windows(4).reshape(1, 1, -1, 2)
    for x, how in ((windows, dict(kernel_size=2)), (torch.full((1, 1, 4, 4), float("-inf"), device=DEVICE),
                                                    dict(kernel_size=3, stride=2, padding=1))):  # fmt: skip
        h, w = x.shape[2:]
        expected, flat = torch.nn.functional.max_pool2d(x, **how, return_indices=True)
        (p, q), stride, padding = expected.shape[2:], 2, how.get("padding", 0)
        y, index = unwritten(expected.shape), unwritten(expected.shape, torch.uint8)
        size = how["kernel_size"]
        max_kernel[cdiv(p * q, 64), 1](
            x, y, index, 1, 1, h, w, size, size, p, q, stride, stride, padding, padding, 2, 2
        )
        assert torch.equal(y.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
        top = torch.arange(p, device=DEVICE)[:, None] * stride - padding
        left = torch.arange(q, device=DEVICE)[None, :] * stride - padding
        assert torch.equal(index.long(), (flat // w - top) * size + flat % w - left)
