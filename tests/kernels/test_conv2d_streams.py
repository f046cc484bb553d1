"""Convolutions and their gradients by programs that stay, against PyTorch in float64: exact, for inputs are small
integers. An image in boxes reaches over every border; with a stride it is several images of every other row and column,
and a tap read from the wrong one, or a pixel counted twice in a sum, would spoil the network it trains."""

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tests.kernels.helpers import cdiv, images_last, unwritten
from tests.kernels.test_conv2d import Convolution
from tricnn.kernels.conv2d_streams import conv2d_streams


@triton.jit
def store_box(acc, pixel, channel, mask, part, first_p, first_q, first_n, first_channel, args):
    y, K = args
    tl.store(y + pixel * K + channel, acc, mask=mask)
    kept = tl.where(mask, acc, 0.0)
    return kept, kept * kept


@triton.jit
def store_class(acc, pixel, channel, mask, part, args):
    return store_box(acc, pixel, channel, mask, part, 0, 0, 0, 0, args)


@triton.jit
def leave(sums, count, channel, stream, args):
    left, K = args
    target = left + stream * (3 * K) + channel
    tl.store(target, count + channel * 0, mask=channel < K)
    tl.store(target + K, sums[0], mask=channel < K)
    tl.store(target + 2 * K, sums[1], mask=channel < K)


@triton.jit
def streams_kernel(
    x, w, y, left, N, C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    Q: tl.constexpr, BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr, GRADIENT: tl.constexpr,
    PIECES: tl.constexpr, REPEATS: tl.constexpr, store: tl.constexpr,
):  # fmt: skip
    conv2d_streams(
        x, w, store, (y, K), N, C, K, R, S, P, Q, BOX_N, BOX_H, BOX_W, BLOCK_N=32, BLOCK_K=16, SH=SH, SW=SW, DH=DH,
        DW=DW, PT=PT, PL=PL, GRADIENT=GRADIENT, SUMS=2, REPEATS=REPEATS, PIECES=PIECES,
        leave_sums=leave, leave_args=(left, K),
    )  # fmt: skip


# channels and filters, taps, stride, padding (top, bottom, left, right), dilation, box, height and width, streams,
# repeats
CASES = [
    ((16, 48), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (2, 4, 4), (5, 7), 1, 1),
    ((24, 40), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (2, 4, 4), (5, 7), 2, 1),  # boxes end beyond both
    ((32, 48), (3, 2), (1, 1), (2, 0, 0, 1), (1, 2), (1, 2, 8), (5, 7), 3, 0),
    ((16, 48), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (2, 2, 4), (8, 6), 3, 1),
    ((16, 48), (5, 3), (3, 1), (2, 2, 0, 1), (1, 1), (4, 4, 2), (6, 5), 2, 2),
    ((16, 48), (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), (2, 4, 2), (8, 6), 3, 1),
    ((16, 48), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (2, 2, 4), (7, 9), 3, 1),
]


@pytest.mark.parametrize(
    ("channels", "taps", "stride", "padding", "dilation", "box", "size", "streams", "repeats"), CASES
)
def test_streams_of_boxes(channels, taps, stride, padding, dilation, box, size, streams, repeats):
    """Every pixel is stored once, and the sums of all streams are those over all pixels."""
    n, (c, k) = 3, channels
    conv = Convolution(1, n, c, k, *size, taps, stride=stride, padding=padding, dilation=dilation, dtype=torch.bfloat16)
    weight = conv.w.to(torch.bfloat16).permute(0, 2, 3, 1).reshape(k, -1).contiguous()
    (sh, sw), places = stride, (*stride, *dilation, padding[0], padding[2])

    def boxes(tensor, *box):
        return TensorDescriptor.from_tensor(tensor.contiguous(), list(box))

    def filters(first, last):
        """Boxes of the weights that do not reach into the next tap."""
        apart = taps != (1, 1) and c % last
        return boxes(weight.reshape(k, -1, c), first, 1, last) if apart else boxes(weight, first, last)

    def computed(operand, weight, columns, expected, gradient):
        result, left = unwritten(expected.shape), torch.zeros(streams, 3, columns)
        height, width = expected.shape[2:]
        streams_kernel[streams * cdiv(columns, 32),](
            operand, weight, result, left, n, k if gradient else c, columns, *taps, height, width, *box, *places,
            gradient, PIECES=2 if gradient else 1, REPEATS=repeats,
            store=store_class if gradient and sh * sw > 1 else store_box,
        )  # fmt: skip
        assert torch.equal(result.double(), expected)
        count, total, squares = left.double().sum(0)
        assert count.tolist() == [n * height * width] * columns
        assert torch.equal(total, expected.sum((0, 2, 3))) and torch.equal(squares, (expected**2).sum((0, 2, 3)))

    image, (high, wide) = conv.x.permute(0, 2, 3, 1), size
    if stride == (1, 1):
        computed(images_last(image.contiguous(), (*box, 16)), filters(32, 16), k, conv.y, False)
    elif high % sh == 0 and wide % sw == 0:
        images = images_last(image.reshape(n, high // sh, sh, wide // sw, sw * c), (*box[:2], 1, box[2], 16))
        computed(images, filters(32, 16), k, conv.y, False)
    if taps[0] >= sh and taps[1] >= sw:
        dy = images_last(conv.dy.permute(0, 2, 3, 1).contiguous(), (*box, 16))
        computed(dy, filters(16, 32), c, conv.dx, True)
