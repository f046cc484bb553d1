"""Grouped convolutions of groups that are multiplied together, and their gradients, against PyTorch in float64: exact,
for inputs are small integers. A product of a neighbour's channels that was kept would train another network."""

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import cdiv, images_last, unwritten
from tests.kernels.test_conv2d import Convolution, store_partial
from tests.kernels.test_conv2d_streams import leave, store_box, store_class
from tricnn.kernels.conv2d_packs import conv2d_packs
from tricnn.kernels.conv2d_wgrad_packs import conv2d_wgrad_packs


@triton.jit
def packs_kernel(
    x, w, y, left, N, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    GROUPS: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr, GRADIENT: tl.constexpr,
    store: tl.constexpr,
):  # fmt: skip
    conv2d_packs(
        x, w, store, (y, C), N, C, R, S, P, Q, GROUPS, BOX_N, BOX_H, BOX_W, WIDE=64, BLOCK=16,
        SH=SH, SW=SW, PT=PT, PL=PL, GRADIENT=GRADIENT, SUMS=2, leave_sums=leave, leave_args=(left, C),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "width", "taps", "stride", "size"),
    [
        (96, 8, (3, 3), (2, 2), (6, 8)),  # the last box ends beyond the channels
        (64, 2, (3, 2), (2, 1), (4, 5)),
        (64, 4, (3, 4), (3, 2), (7, 9)),  # no multiple of the stride: the gradient only
        (64, 16, (2, 3), (1, 1), (3, 5)),
    ],
)
def test_groups_packed_together(channels, width, taps, stride, size):
    """Every pixel is stored once, and the sums of all streams are those over all pixels."""
    n, box, streams, groups, (sh, sw) = 3, (2, 2, 4), 2, channels // width, stride
    conv = Convolution(
        4, n, channels, channels, *size, taps, stride=stride, padding=(1, 1, 1, 0), groups=groups, dtype=torch.bfloat16
    )  # fmt: skip
    weight = conv.w.to(torch.bfloat16).permute(0, 2, 3, 1).contiguous()

    def computed(operand, expected, gradient):
        result, left = unwritten(expected.shape), torch.zeros(streams, 3, channels)
        packs_kernel[streams * cdiv(channels, 64),](
            operand, weight, result, left, n, channels, *taps, *expected.shape[2:], groups, *box,
            *stride, 1, 1, gradient, store=store_class if gradient and sh * sw > 1 else store_box,
        )  # fmt: skip
        assert torch.equal(result.double(), expected)
        count, total, squares = left.double().sum(0)
        assert count.tolist() == [n * expected.shape[2] * expected.shape[3]] * channels
        assert torch.equal(total, expected.sum((0, 2, 3))) and torch.equal(squares, (expected**2).sum((0, 2, 3)))

    image = conv.x.permute(0, 2, 3, 1).contiguous()
    if sh * sw == 1:
        computed(images_last(image, (*box, 64)), conv.y, False)
    elif size[0] % sh == size[1] % sw == 0:
        images = image.reshape(n, size[0] // sh, sh, size[1] // sw, sw * channels)
        computed(images_last(images, (*box[:2], 1, box[2], 64)), conv.y, False)
    computed(images_last(conv.dy.permute(0, 2, 3, 1).contiguous(), (*box, 64)), conv.dx, True)


@triton.jit
def wgrad_packs_kernel(
    dy, x, dw, N, C: tl.constexpr, H: tl.constexpr, R: tl.constexpr, S: tl.constexpr, Q: tl.constexpr,
    GROUPS: tl.constexpr, SPLIT: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    BLOCK_N: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, PT: tl.constexpr,
    PL: tl.constexpr,
):  # fmt: skip
    conv2d_wgrad_packs(
        dy, x, store_partial, (dw, C, R * S * (C // GROUPS)), N, C, H, C, R, S, Q, GROUPS, SPLIT, BOX_N, BOX_H, BOX_W,
        WIDE=64, BLOCK_M=16, BLOCK_N=BLOCK_N, SH=SH, SW=SW, DH=DH, DW=DW, PT=PT, PL=PL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "width", "taps", "stride", "dilation"),
    [
        (96, 8, (3, 2), (1, 1), (1, 2)),  # the last box ends beyond the channels
        (64, 32, (2, 3), (1, 1), (2, 1)),
        (96, 16, (3, 3), (2, 2), (1, 1)),
        (64, 4, (3, 4), (3, 1), (1, 1)),
    ],
)
def test_weights_of_groups_packed_together(channels, width, taps, stride, dilation):
    """Each filter has what its own group's channels give it, whatever else is multiplied beside them."""
    n, size, box, split, groups = 3, (6, 10), (2, 2, 4), 2, channels // width
    conv = Convolution(
        3, n, channels, channels, *size, taps, stride=stride, padding=(1, 1, 1, 0), dilation=dilation, groups=groups,
        dtype=torch.bfloat16,
    )  # fmt: skip
    shape, wide = [n, *size, channels], [*box, 64]
    if stride != (1, 1):
        shape = [n, size[0] // stride[0], stride[0], size[1] // stride[1], stride[1] * channels]
        wide = [*box[:2], 1, box[2], 64]
    dy = images_last(conv.dy.permute(0, 2, 3, 1).contiguous(), (*box, 64))
    x = images_last(conv.x.permute(0, 2, 3, 1).reshape(shape), wide)
    dw = unwritten((split, channels, *taps, width))
    wgrad_packs_kernel[cdiv(channels, 64), 1, split](
        dy, x, dw, n, channels, size[0], *taps, conv.y.shape[3], groups, split, *box, max(width, 16), *stride,
        *dilation, 1, 1,
    )  # fmt: skip
    assert torch.equal(dw.double().sum(0).permute(0, 3, 1, 2), conv.dw)
