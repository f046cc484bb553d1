"""Pooling and its gradients against PyTorch in float64: borders, ceil mode and overlapping windows go wrong first."""

import itertools
import random

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import DEVICE, cdiv, integers, load_tile, store_tile, unwritten
from tricnn.kernels.pool import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from tricnn.kernels.window import fold_windows, larger, max_over_window


@triton.jit
def store_value_and_index(value, index, pixel, channel, mask, part, args):
    y, where, channels = args
    tl.store(y + pixel * channels + channel, value, mask=mask)
    tl.store(where + pixel * channels + channel, index.to(tl.uint8), mask=mask)


@triton.jit
def max_kernel(
    x, y, index, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr,
    PL: tl.constexpr,
):  # fmt: skip
    max_pool2d(
        load_tile, (x, C), store_value_and_index, (y, index, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PL, 64,
        8,
    )  # fmt: skip


@triton.jit
def store_and_return(acc, pixel, channel, mask, part, args):
    dx, C = args
    tl.store(dx + pixel * C + channel, acc, mask=mask)
    return (tl.where(mask, acc, 0.0),)


@triton.jit
def leave(sums, count, channel, program, args):
    left, C = args
    tl.store(left + program * C + channel, sums[0], mask=channel < C)


@triton.jit
def max_grad_kernel(
    dy, index, dx, left, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr,
    PL: tl.constexpr,
):  # fmt: skip
    max_pool2d_grad(
        load_tile, (dy, C), index, store_and_return, (dx, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PL, 4, 8, SUMS=1,
        leave_sums=leave, leave_args=(left, C),
    )  # fmt: skip


@triton.jit
def avg_kernel(
    x, y, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr,
    PL: tl.constexpr, INCLUDE_PAD: tl.constexpr, WHOLE: tl.constexpr = False,
):  # fmt: skip
    avg_pool2d(
        load_tile, (x, C), store_tile, (y, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PT, PL, PL, INCLUDE_PAD,
        64, 4 if WHOLE else 8, WHOLE,
    )  # fmt: skip


@triton.jit
def avg_grad_kernel(
    dy, dx, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr,
    PL: tl.constexpr, INCLUDE_PAD: tl.constexpr,
):  # fmt: skip
    avg_pool2d_grad(
        load_tile, (dy, C), store_tile, (dx, C), N, C, H, W, R, S, P, Q, SH, SW, PT, PT, PL, PL,
        INCLUDE_PAD, 64, 8,
    )  # fmt: skip


def random_pool(seed):
    pick = random.Random(seed)
    r, s = pick.randint(1, 4), pick.randint(1, 4)
    return dict(
        kernel_size=(r, s),
        stride=(pick.randint(1, 3), pick.randint(1, 3)),
        padding=(pick.randint(0, r // 2), pick.randint(0, s // 2)),
        ceil_mode=pick.random() < 0.5,
    )


POOLS = [
    dict(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=False),
    dict(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), ceil_mode=True),
    dict(kernel_size=(9, 8), stride=(9, 8), padding=(0, 0), ceil_mode=False),
]
POOLS += [random_pool(seed) for seed in range(5)]


def sizes(pool, shape, y):
    (r, s), (sh, sw), (pt, pl) = pool["kernel_size"], pool["stride"], pool["padding"]
    return dict(C=shape[1], H=shape[2], W=shape[3], R=r, S=s, P=y.shape[2], Q=y.shape[3], SH=sh, SW=sw, PT=pt, PL=pl)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_max_pool_and_its_gradient(pool):
    g = torch.Generator().manual_seed(3)
    shape = (2, 5, 9, 8)
    x = integers(shape, torch.float32, g) - 3.0  # negative, so that padding taken for zeros would win
    leaf = x.double().requires_grad_()
    expected, flat = torch.nn.functional.max_pool2d(leaf, **pool, return_indices=True)
    size = sizes(pool, shape, expected)
    y, index = unwritten(expected.shape), unwritten(expected.shape, torch.uint8)
    max_kernel[cdiv(y.numel() // 5, 64), 1](x, y, index, 2, **size)
    assert torch.equal(y.double(), expected)
    top = torch.arange(size["P"], device=DEVICE)[:, None] * size["SH"] - size["PT"]
    left = torch.arange(size["Q"], device=DEVICE)[None, :] * size["SW"] - size["PL"]
    assert torch.equal(index.long(), (flat // 8 - top) * size["S"] + flat % 8 - left)

    dy, dx, programs = integers(expected.shape, torch.float32, g), unwritten(shape), 2
    left = unwritten((programs, 5))
    max_grad_kernel[programs, 1](dy, index, dx, left, 2, **size)
    gradient = torch.autograd.grad(expected, leaf, dy.double())[0]
    assert torch.equal(dx.double(), gradient)
    assert torch.equal(left.double().sum(0), gradient.sum((0, 2, 3)))


@pytest.mark.parametrize("include", [True, False], ids=["padding counts", "padding does not count"])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_average_pool_and_its_gradient(pool, include):
    g = torch.Generator().manual_seed(4)
    shape = (2, 5, 9, 8)
    x = integers(shape, torch.float32, g)
    leaf = x.double().requires_grad_()
    expected = torch.nn.functional.avg_pool2d(leaf, **pool, count_include_pad=include)
    size = sizes(pool, shape, expected)
    y, dx = unwritten(expected.shape), unwritten(shape)
    avg_kernel[cdiv(y.numel() // 5, 64), 1](x, y, 2, INCLUDE_PAD=include, **size)
    # Sums of integers are exact; the division rounds once.
    torch.testing.assert_close(y.double(), expected, rtol=2**-23, atol=0)

    if pool["kernel_size"] == shape[2:]:
        y = unwritten(expected.shape)
        avg_kernel[2, 2](x, y, 2, INCLUDE_PAD=include, WHOLE=True, **size)
        torch.testing.assert_close(y.double(), expected, rtol=2**-23, atol=0)

    dy = integers(expected.shape, torch.float32, g)
    avg_grad_kernel[cdiv(x.numel() // 5, 64), 1](dy, dx, 2, INCLUDE_PAD=include, **size)
    gradient = torch.autograd.grad(expected, leaf, dy.double())[0]
    terms = size["R"] * size["S"]  # at most as many roundings, each of a value of at most 2
    torch.testing.assert_close(dx.double(), gradient, rtol=0, atol=2 * terms * 2**-23)


def special_windows(size):
    """Every window of so many elements that are NaN, infinite, 0 of either sign or one of two numbers."""
    values = float("nan"), float("-inf"), float("inf"), 0.0, -0.0, 1.5, -2.5
    return torch.tensor(list(itertools.product(values, repeat=size)), device=DEVICE)


def by_pytorch(windows, **how):
    """The maxima and their places in the windows, given one to a row of an image."""
    size = windows.shape[1]
    y, place = torch.nn.functional.max_pool2d(windows[None, None], (1, size), return_indices=True, **how)
    return y.flatten(), (place % size).flatten()


def test_the_maximum_of_what_is_not_finite_is_pytorchs():
    """A network that diverges must not hide it in a pooling layer; and a gradient goes where PyTorch sends it."""
    windows = special_windows(3)
    expected, place = by_pytorch(windows, stride=(1, 3))
    count = len(windows)
    y, index = unwritten((1, 1, count, 1)), unwritten((1, 1, count, 1), torch.uint8)
    max_kernel[cdiv(count, 64), 1](windows, y, index, 1, 1, count, 3, 1, 3, count, 1, 1, 3, 0, 0)
    assert torch.equal(y.flatten().nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    assert torch.equal(index.flatten().long(), place)


def test_where_all_are_minus_infinity_the_first_that_is_not_padding_is_the_maximum():
    """Its gradient would be lost in the padding."""
    x = torch.full((1, 1, 4, 4), float("-inf"), device=DEVICE)
    size = dict(kernel_size=3, stride=2, padding=1)
    flat = torch.nn.functional.max_pool2d(x, **size, return_indices=True)[1].flatten()
    y, index = unwritten((1, 1, 2, 2)), unwritten((1, 1, 2, 2), torch.uint8)
    max_kernel[1, 1](x, y, index, 1, 1, 4, 4, 3, 3, 2, 2, 2, 2, 1, 1)
    first = torch.tensor([(p * 2 - 1, q * 2 - 1) for p in (0, 1) for q in (0, 1)], device=DEVICE)
    assert torch.equal(index.flatten().long(), (flat // 4 - first[:, 0]) * 3 + flat % 4 - first[:, 1])


@triton.jit
def window_kernel(x, y, index, ROWS: tl.constexpr, AREA: tl.constexpr):
    """Windows of AREA rows of one channel each."""
    largest, position = max_over_window(tl.load(x + tl.arange(0, ROWS)[:, None]), AREA)
    window = tl.arange(0, ROWS // AREA)[:, None]
    tl.store(y + window, largest)
    tl.store(index + window, position)


@triton.jit
def combined_kernel(x, y, ROWS: tl.constexpr, AREA: tl.constexpr):
    """The maxima as a GPU finds them: by the combine function."""
    tile = tl.load(x + tl.arange(0, ROWS)[:, None])
    tl.store(y + tl.arange(0, ROWS // AREA)[:, None], tl.reduce(fold_windows(tile, AREA), 1, larger))


@pytest.mark.parametrize("area", [2, 4])
def test_the_maximum_over_a_window_of_what_is_not_finite_is_pytorchs(area):
    """In a convolution's epilogue, where reductions drop a NaN on a GPU unless they are told not to."""
    windows = special_windows(area)
    expected, place = by_pytorch(windows)
    rows = triton.next_power_of_2(windows.numel())
    x = torch.zeros(rows, device=DEVICE)
    x[: windows.numel()] = windows.flatten()
    y, index = torch.empty(rows // area, device=DEVICE), torch.empty(rows // area, dtype=torch.int32, device=DEVICE)
    window_kernel[1,](x, y, index, rows, area)
    assert torch.equal(y[: len(windows)].nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    assert torch.equal(index[: len(windows)].long(), place)
    if area == 2:  # slow in the interpreter
        by_combining = torch.empty_like(y)
        combined_kernel[1,](x, by_combining, rows, area)
        assert torch.equal(by_combining.nan_to_num(nan=7.0), y.nan_to_num(nan=7.0))
