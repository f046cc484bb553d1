"""Depthwise convolutions and their gradients against PyTorch in float64: exact, for inputs are small integers.

A strip that forgets a row at its segment's begin, or takes a column of the neighbouring image, spoils a MobileNet as
quietly as a wrong tap does. Outputs start as NaN, so that a pixel nobody wrote shows, and sums must be those of all."""

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from tests.kernels.helpers import DEVICE, cdiv, integers, load_tile, unwritten
from tricnn.kernels.depthwise import depthwise, depthwise_wgrad
from tricnn.kernels.numerics import round_to


@triton.jit
def load_given(pixel, channel, mask, inside, given, args):
    return tl.where(inside, load_tile(pixel, channel, mask, args), 0.0)


@triton.jit
def store_kept(acc, pixel, channel, mask, given, beside, part, args):
    y, C = args
    tl.store(y + pixel * C + channel, round_to(acc, y.dtype.element_ty), mask=mask)
    kept = tl.where(mask, acc, 0.0)
    return kept, kept * kept


@triton.jit
def leave(sums, count, channel, stream, args):
    left, C = args
    target = left + stream * (3 * C) + channel
    tl.store(target, count + channel * 0, mask=channel < C)
    tl.store(target + C, sums[0], mask=channel < C)
    tl.store(target + 2 * C, sums[1], mask=channel < C)


@triton.jit
def store_dw(acc, channel, tap, mask, split, args):
    dw, C, TAPS = args
    tl.store(dw + (split * C + channel) * TAPS + tap, acc, mask=mask)


@triton.jit
def store_bias(acc, channel, mask, split, args):
    db, C = args
    tl.store(db + split * C + channel, acc, mask=mask)


@triton.jit
def depthwise_kernel(
    x, w, y, left, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PL: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    depthwise(
        load_given, (x, C), w, store_kept, (y, C), N, C, H, W, R, S, P, Q, WIDE, ROWS, BLOCK_M=4, BLOCK_N=8, SH=SH,
        SW=SW, PT=PT, PL=PL, GRADIENT=GRADIENT, SUMS=2, leave_sums=leave, leave_args=(left, C),
    )  # fmt: skip


@triton.jit
def wgrad_kernel(
    dy, x, dw, db, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PL: tl.constexpr,
):  # fmt: skip
    depthwise_wgrad(
        load_given, (dy, C), load_given, (x, C), store_dw, (dw, C, R * S), store_bias, (db, C), N, C, H, W, R, S, P, Q,
        WIDE, ROWS, BLOCK_M=4, BLOCK_N=8, SH=SH, SW=SW, PT=PT, PL=PL, BIAS=True,
    )  # fmt: skip


#: taps, stride, padding (top, bottom, left, right), channels, height and width, columns and rows, programs, dtype;
#: 9 channels are two blocks, the last one almost empty
CASES = [
    ((3, 3), (1, 1), (1, 1, 1, 1), 9, (6, 7), (4, 6), 3, torch.bfloat16),  # a segment is the image
    ((5, 5), (1, 1), (2, 2, 2, 2), 6, (6, 3), (4, 4), 1, torch.float16),  # two segments, the last one partly empty
    ((3, 3), (2, 2), (1, 1, 1, 1), 6, (8, 9), (4, 8), 2, torch.float32),
    ((5, 3), (2, 1), (2, 0, 0, 2), 6, (7, 4), (2, 2), 1, torch.float32),
    ((2, 4), (1, 3), (0, 1, 3, 0), 6, (5, 8), (3, 5), 2, torch.float32),
    ((3, 3), (3, 3), (0, 0, 0, 0), 6, (8, 8), (3, 3), 1, torch.float32),  # rows and columns that no window covers
]


@pytest.mark.parametrize(("taps", "stride", "padding", "c", "size", "strip", "programs", "dtype"), CASES)
def test_a_depthwise_convolution_and_its_gradients(taps, stride, padding, c, size, strip, programs, dtype):
    """Every pixel is stored once, whatever strips and segments it lies in; sums are those over all pixels."""
    n, (r, s), (sh, sw), (wide, rows) = 3, taps, stride, strip
    g = torch.Generator().manual_seed(r * 10 + s)
    top, bottom, left, right = padding
    x, w = integers((n, c, *size), dtype, g), integers((c, 1, r, s), dtype, g)
    image = F.pad(x.double(), (left, right, top, bottom)).requires_grad_()
    filters = w.double().requires_grad_()
    y = F.conv2d(image, filters, stride=stride, groups=c)
    dy = integers(y.shape, dtype, g)
    dx, dw = torch.autograd.grad(y, (image, filters), dy.double())
    dx = dx[:, :, top : top + size[0], left : left + size[1]]
    p, q = y.shape[2:]
    sizes = (n, c, *size, r, s, p, q)

    def computed(source, expected, wide, rows, gradient):
        result, sums = unwritten(expected.shape), torch.zeros(programs, 3, c, device=DEVICE)
        tail = (wide, rows, sh, sw, top, left, gradient)
        depthwise_kernel[programs, cdiv(c, 8)](source, w.contiguous(), result, sums, *sizes, *tail)
        assert torch.equal(result.double(), expected)
        count, total, squares = sums.double().sum(0)
        assert count.tolist() == [expected[:, 0].numel()] * c
        assert torch.equal(total, expected.sum((0, 2, 3))) and torch.equal(squares, (expected**2).sum((0, 2, 3)))

    computed(x, y.detach(), wide, rows, False)
    computed(dy, dx, cdiv(wide, sw) * sw, cdiv(rows, sh) * sh, True)
    found, bias = unwritten((programs, c, r, s)).contiguous(), unwritten((programs, c))
    wgrad_kernel[programs, cdiv(c, 8)](dy, x, found, bias, *sizes, wide, rows, sh, sw, top, left)
    assert torch.equal(found.double().sum(0), dw[:, 0])
    assert torch.equal(bias.double().sum(0), dy.double().sum((0, 2, 3)))
