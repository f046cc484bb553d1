"""Convolutions and their gradients by programs that go down an image row by row, against PyTorch in float64: exact, for
inputs are small integers. A program begins and ends amid an image: a row whose sums it has only a part of, stored all
the same, or added to statistics, would spoil the network it trains."""

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tests.kernels.helpers import images_last, unwritten
from tests.kernels.test_conv2d import Convolution
from tests.kernels.test_conv2d_streams import leave, store_box
from tricnn.kernels.conv2d_rows import conv2d_rows


@triton.jit
def rows_kernel(
    x, w, y, left, N, C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    Q: tl.constexpr, BOX_N: tl.constexpr, BOX_W: tl.constexpr, DW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    GRADIENT: tl.constexpr, GROUPS: tl.constexpr = 1, PACK: tl.constexpr = 1, BLOCK_C: tl.constexpr = 0,
    APART: tl.constexpr = 0,
):  # fmt: skip
    conv2d_rows(
        x, w, store_box, (y, K), N, C, K, R, S, P, Q, BOX_N, BOX_W, BLOCK_N=32, DW=DW, PT=PT, PL=PL,
        GRADIENT=GRADIENT, GROUPS=GROUPS, PACK=PACK, BLOCK_C=BLOCK_C, SUMS=2, APART=APART,
        leave_sums=leave, leave_args=(left, K),
    )  # fmt: skip


CASES = [  # taps, padding (top, bottom, left, right), dilation, box, height and width, programs
    ((3, 3), (1, 1, 1, 1), 1, (2, 8), (5, 7), 1),
    ((3, 3), (1, 1, 1, 1), 1, (4, 4), (5, 6), 7),
    ((3, 3), (0, 0, 0, 0), 1, (2, 8), (6, 9), 3),
    ((3, 2), (2, 0, 0, 1), 2, (2, 8), (5, 7), 4),
    ((2, 3), (1, 0, 1, 1), 1, (1, 16), (4, 5), 12),
]


@pytest.mark.parametrize(("taps", "padding", "dilation", "box", "size", "programs"), CASES)
def test_rows_of_an_image(taps, padding, dilation, box, size, programs):
    """Every pixel is stored once, whoever has its row, and the sums of all programs are those over all pixels."""
    n, c, k = 3, 16, 32
    conv = Convolution(1, n, c, k, *size, taps, padding=padding, dilation=(1, dilation), dtype=torch.bfloat16)
    weight = conv.w.to(torch.bfloat16).permute(0, 2, 3, 1).reshape(k, -1).contiguous()
    (top, _, left, _), (r, s) = padding, taps

    def computed(operand, depth, weight, columns, expected, first, gradient):
        result, sums = unwritten(expected.shape), torch.zeros(programs, 3, columns)
        boxes = images_last(operand.permute(0, 2, 3, 1).contiguous(), (box[0], 1, box[1], depth))
        rows_kernel[programs,](
            boxes, weight, result, sums, n, depth, columns, *taps, *expected.shape[2:], *box, dilation, *first, gradient
        )
        assert torch.equal(result.double(), expected)
        count, total, squares = sums.double().sum(0)
        assert count.tolist() == [n * expected.shape[2] * expected.shape[3]] * columns
        assert torch.equal(total, expected.sum((0, 2, 3))) and torch.equal(squares, (expected**2).sum((0, 2, 3)))

    computed(conv.x, c, TensorDescriptor.from_tensor(weight, [32, c]), k, conv.y, (top, left), False)
    behind = r - 1 - top, (s - 1) * dilation - left
    if behind[0] >= 0:
        computed(conv.dy, k, TensorDescriptor.from_tensor(weight, [k, 32]), c, conv.dx, behind, True)


@pytest.mark.parametrize(
    ("channels", "filters", "groups", "pack"),
    [(48, 48, 6, 4), (48, 48, 2, 1), (32, 64, 8, 4)],
    ids=["a pack that is not full", "groups of 24 in tiles of 32", "more filters than channels"],
)
def test_groups_packed_together(channels, filters, groups, pack):
    """No group has a part in another one's sums, whether they are multiplied together or are neighbours in memory."""
    n, programs, box, size, taps = 3, 2, (2, 8), (4, 7), (3, 2)
    conv = Convolution(
        2, n, channels, filters, *size, taps, padding=(1, 1, 1, 0), groups=groups, dtype=torch.bfloat16
    )  # fmt: skip
    weight = conv.w.to(torch.bfloat16).permute(0, 2, 3, 1).contiguous()
    packs = -(-groups // pack)

    def computed(operand, depth, columns, expected, first, gradient):
        wide = 1 << (pack * depth // groups - 1).bit_length()
        result, sums = unwritten(expected.shape), torch.zeros(programs, 3, columns)
        boxes = images_last(operand.permute(0, 2, 3, 1).contiguous(), (box[0], 1, box[1], wide))
        rows_kernel[programs * packs,](
            boxes, weight, result, sums, n, depth, columns, *taps, *expected.shape[2:], *box, 1, *first, gradient,
            groups, pack, wide, APART=8 if gradient else 0,
        )  # fmt: skip
        assert torch.equal(result.double(), expected)
        count, total, squares = sums.double().sum(0)
        assert count.tolist() == [n * expected.shape[2] * expected.shape[3]] * columns
        assert torch.equal(total, expected.sum((0, 2, 3))) and torch.equal(squares, (expected**2).sum((0, 2, 3)))

    computed(conv.x, channels, filters, conv.y, (1, 1), False)
    computed(conv.dy, filters, channels, conv.dx, (1, 0), True)
