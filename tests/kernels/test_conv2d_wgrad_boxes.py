"""Gradients by the weights of operands in boxes, in small integers, so that they equal PyTorch's."""

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import cdiv, images_last, store_row, unwritten
from tests.kernels.test_conv2d import IN_BOXES, Convolution, store_partial
from tricnn.kernels.conv2d_wgrad_boxes import conv2d_wgrad_boxes


@triton.jit
def wgrad_boxes_kernel(
    dy, x, dw, bias, N, C: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SPLIT: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr, DH: tl.constexpr,
    DW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr, BESIDE: tl.constexpr,
):  # fmt: skip
    conv2d_wgrad_boxes(
        dy, x, store_partial, (dw, K, R * S * C), store_row, (bias, K), N, C, K, R, S, P, Q, SPLIT,
        BOX_N, BOX_H, BOX_W, BLOCK_M=32, BLOCK_N=16, DH=DH, DW=DW, PT=PT, PL=PL, BESIDE=BESIDE, BIAS=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "taps", "padding", "dilation", "box"),
    [*IN_BOXES, ((16, 48), (3, 2), (1, 1, 0, 1), (1, 1), (2, 1, 1))],  # and of a pixel of each image
)
def test_sums_over_boxes(channels, taps, padding, dilation, box):
    """Boxes reach over the border on every side, over the last image and the last filter; a tile for each program, or
    those of a filter's row; and other programs add up dy."""
    n, (c, k), h, w = 3, channels, 5, 7
    conv = Convolution(1, n, c, k, h, w, taps, padding=padding, dilation=dilation, dtype=torch.bfloat16)
    p, q = conv.y.shape[2:]
    split, corner = 3, (padding[0], padding[2])
    dw, db = unwritten((split, k, *taps, c)), unwritten((split, k))
    dy_boxes, x_boxes = (
        images_last(tensor.permute(0, 2, 3, 1).contiguous(), (*box, channels))
        for tensor, channels in ((conv.dy, 32), (conv.x, 16))
    )
    for beside in (1, taps[1]):
        wgrad_boxes_kernel[cdiv(k, 32) * (taps[0] * taps[1] * cdiv(c, 16) // beside + 1), 1, split](
            dy_boxes, x_boxes, dw, db, n, c, k, *taps, p, q, split, *box, *dilation, *corner, beside
        )
        assert torch.equal(dw.double().sum(0).permute(0, 3, 1, 2), conv.dw)
        assert torch.equal(db.double().sum(0), conv.dy.double().sum((0, 2, 3)))
        dw.fill_(float("nan"))
        db.fill_(float("nan"))
