"""The three convolution templates against PyTorch in float64.

A user whose gradients are wrong by one tap or one row of padding trains a worse network and never learns why. Inputs
are small integers, so every product and sum is exact and equality is asked for, not closeness; outputs start as NaN,
so an element nobody wrote shows.
"""

import os
import random

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tests.kernels.helpers import cdiv, images_last, integers, load_tile, store_row, store_tile, unwritten
from tricnn.kernels.conv2d_boxes import conv2d_boxes
from tricnn.kernels.conv2d_dgrad import conv2d_dgrad
from tricnn.kernels.conv2d_fprop import conv2d_fprop
from tricnn.kernels.conv2d_wgrad import conv2d_wgrad
from tricnn.kernels.matmul_boxes import matmul_boxes
from tricnn.kernels.window import mask_over_window, max_over_window

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@triton.jit
def load_affine(pixel, channel, mask, args):
    x, scale, shift, channels = args
    value = tl.load(x + pixel * channels + channel, mask=mask, other=0.0).to(tl.float32)
    known = channel < channels
    value = value * tl.load(scale + channel, mask=known, other=0.0) + tl.load(shift + channel, mask=known, other=0.0)
    return tl.where(mask, tl.maximum(value, 0.0), 0.0)


@triton.jit
def store_pooled(acc, pixel, channel, mask, window_pixel, part, args):
    y, index, channels = args
    AREA: tl.constexpr = acc.shape[0] // window_pixel.shape[0]
    value, position = max_over_window(acc, AREA)
    mask = mask_over_window(mask, AREA)
    tl.store(y + window_pixel * channels + channel, value, mask=mask)
    tl.store(index + window_pixel * channels + channel, position.to(tl.uint8), mask=mask)


@triton.jit
def store_partial(acc, row, column, mask, split, args):
    dw, rows, columns = args
    tl.store(dw + (split * rows + row) * columns + column, acc, mask=mask)


@triton.jit
def fprop_kernel(
    x, w, y, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, R: tl.constexpr,
    S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr,
    DW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    conv2d_fprop(
        load_tile, (x, C), w, store_tile, (y, K), N, C, H, W, K, R, S, P, Q, BLOCK_M=64, BLOCK_N=16,
        BLOCK_K=32, SH=SH, SW=SW, DH=DH, DW=DW, PT=PT, PL=PL, GROUPS=GROUPS,
    )  # fmt: skip


@triton.jit
def dgrad_kernel(
    dy, w, dx, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, R: tl.constexpr,
    S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr,
    DW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    conv2d_dgrad(
        load_tile, (dy, K), w, store_tile, (dx, C), N, C, H, W, K, R, S, P, Q, BLOCK_M=64, BLOCK_N=16,
        BLOCK_K=32, SH=SH, SW=SW, DH=DH, DW=DW, PT=PT, PL=PL, GROUPS=GROUPS,
    )  # fmt: skip


@triton.jit
def wgrad_kernel(
    dy, x, dw, db, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, R: tl.constexpr,
    S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr,
    DW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr, GROUPS: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    conv2d_wgrad(
        load_tile, (dy, K), load_tile, (x, C), store_partial, (dw, K, R * S * (C // GROUPS)), store_row,
        (db, K), N, C, H, W, K, R, S, P, Q, SPLIT, BLOCK_M=16, BLOCK_N=16, BLOCK_K=32, SH=SH, SW=SW, DH=DH,
        DW=DW, PT=PT, PL=PL, GROUPS=GROUPS, BIAS=True,
    )  # fmt: skip


@triton.jit
def affine_kernel(
    x, scale, shift, w, y, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    conv2d_fprop(
        load_affine, (x, scale, shift, C), w, store_tile, (y, K), N, C, H, W, K, 3, 3, H, W, BLOCK_M=64,
        BLOCK_N=16, BLOCK_K=16, PT=1, PL=1,
    )  # fmt: skip


@triton.jit
def pooled_kernel(
    x, w, y, index, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr,
):  # fmt: skip
    conv2d_fprop(
        load_tile, (x, C), w, store_pooled, (y, index, K), N, C, H, W, K, 3, 3, H, W,
        BLOCK_M=32, BLOCK_N=16, BLOCK_K=16, PT=1, PL=1, WINDOW_H=WINDOW_H, WINDOW_W=WINDOW_W,
    )  # fmt: skip


def random_case(seed):
    """One convolution from one seed: sizes, strides, dilation, four paddings, groups, element type."""
    pick = random.Random(seed)
    groups = pick.choice([1, 1, 1, 2, 3])
    cg, kg = pick.choice([1, 3, 6, 16, 20]), pick.choice([1, 5, 6, 16, 20])
    return dict(
        seed=seed, dtype=pick.choice(DTYPES), n=pick.randint(1, 2), c=cg * groups, k=kg * groups,
        groups=groups, h=pick.randint(5, 9), w=pick.randint(5, 9),
        kernel=(pick.randint(1, 3), pick.randint(1, 3)), stride=(pick.randint(1, 3), pick.randint(1, 3)),
        dilation=(pick.randint(1, 2), pick.randint(1, 2)),
        padding=tuple(pick.randint(0, 2) for _ in range(4)),
    )  # fmt: skip


FIXED = {
    "linear": dict(n=5, c=20, k=6, h=1, w=1),
    "linear, few features": dict(n=70, c=3, k=2, h=1, w=1),
    "1x1": dict(n=2, c=32, k=20, h=6, w=5),
    "1x1, stride 2": dict(n=2, c=16, k=6, h=7, w=6, stride=(2, 2)),
    "stem": dict(n=2, c=3, k=16, h=11, w=10, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    "one channel": dict(n=2, c=1, k=6, h=10, w=10, kernel=(5, 5)),
    "stride 3": dict(n=2, c=16, k=6, h=10, w=11, kernel=(2, 2), stride=(3, 3)),
    "whole image": dict(n=3, c=16, k=6, h=5, w=5, kernel=(5, 5)),
    "dilated, strided": dict(
        n=1, c=16, k=16, h=12, w=9, kernel=(3, 3), stride=(2, 3), dilation=(2, 1), padding=(2, 1, 0, 2)
    ),
}
CASES = [dict(seed=index, label=label, **case) for index, (label, case) in enumerate(FIXED.items())]
CASES += [random_case(seed) for seed in range(100, 114)]


@triton.jit
def boxed_fprop_kernel(x, w, y, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, R: tl.constexpr):
    if R == 1:
        conv2d_fprop(None, x, w, store_tile, (y, K), N, C, H, W, K, R, R, H, W, 16, 32, 16, W_BOXES=True)
    else:
        conv2d_fprop(
            load_tile, (x, C), w, store_tile, (y, K), N, C, H, W, K, R, R, H, W, 16, 32, 16, PT=1, PL=1, W_BOXES=True
        )


@triton.jit
def boxed_dgrad_kernel(
    dy, w, dx, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, R: tl.constexpr
):
    if R == 1:
        conv2d_dgrad(None, dy, w, store_tile, (dx, C), N, C, H, W, K, R, R, H, W, 16, 32, 16, W_BOXES=True)
    else:
        conv2d_dgrad(
            load_tile, (dy, K), w, store_tile, (dx, C), N, C, H, W, K, R, R, H, W, 16, 32, 16, PT=1, PL=1, W_BOXES=True
        )


@triton.jit
def boxed_wgrad_kernel(
    dy, x, dw, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, R: tl.constexpr
):
    store: tl.constexpr = store_partial
    if R == 1:
        conv2d_wgrad(
            None, dy, None, x, store, (dw, K, C), None, (), N, C, H, W, K, R, R, H, W, SPLIT=1, BLOCK_M=32, BLOCK_N=64,
            BLOCK_K=16,
        )  # fmt: skip
    else:
        conv2d_wgrad(
            None, dy, load_tile, (x, C), store, (dw, K, R * R * C), None, (), N, C, H, W, K, R, R, H, W, SPLIT=1,
            BLOCK_M=32, BLOCK_N=64, BLOCK_K=16, PT=1, PL=1,
        )  # fmt: skip


class Convolution:
    """A case with its operands, and PyTorch's answers in float64."""

    def __init__(
        self, seed, n, c, k, h, w, kernel=(1, 1), stride=(1, 1), dilation=(1, 1), padding=(0, 0, 0, 0),
        groups=1, dtype=torch.float32, label="",
    ):  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        top, bottom, left, right = padding
        r, s = kernel
        self.n = n
        self.x = integers((n, c, h, w), dtype, g)
        self.w = integers((k, c // groups, r, s), torch.float32, g)
        x, weight = self.x.double().requires_grad_(), self.w.double().requires_grad_()
        padded = torch.nn.functional.pad(x, (left, right, top, bottom))
        self.y = torch.nn.functional.conv2d(padded, weight, None, stride, 0, dilation, groups)
        self.p, self.q = self.y.shape[2:]
        self.dy = integers(self.y.shape, dtype, g)
        self.dx, self.dw = torch.autograd.grad(self.y, (x, weight), self.dy.double())
        self.sizes = dict(
            C=c, H=h, W=w, K=k, R=r, S=s, P=self.p, Q=self.q, SH=stride[0], SW=stride[1],
            DH=dilation[0], DW=dilation[1], PT=top, PL=left, GROUPS=groups,
        )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.get("label") or f"seed {case['seed']}")
def test_three_kernels_equal_pytorch(case):
    print(f"reproduce: Convolution(**{case})")
    conv = Convolution(**case)
    n, s = conv.n, conv.sizes
    cg, kg = s["C"] // s["GROUPS"], s["K"] // s["GROUPS"]

    y = unwritten(conv.y.shape)
    fprop_kernel[cdiv(n * s["P"] * s["Q"], 64) * cdiv(kg, 16), s["GROUPS"]](conv.x, conv.w, y, n, **s)
    assert torch.equal(y.double(), conv.y)

    dx = unwritten(conv.dx.shape)
    rows = n * cdiv(s["H"], s["SH"]) * cdiv(s["W"], s["SW"])
    dgrad_kernel[cdiv(rows, 64) * cdiv(cg, 16), s["GROUPS"], s["SH"] * s["SW"]](conv.dy, conv.w, dx, n, **s)
    assert torch.equal(dx.double(), conv.dx)

    split = 3
    dw = unwritten((split, s["K"] * s["R"] * s["S"] * cg))
    db = unwritten((split, s["K"]))
    grid = cdiv(kg, 16) * cdiv(s["R"] * s["S"] * cg, 16), s["GROUPS"], split
    wgrad_kernel[grid](conv.dy, conv.x, dw, db, n, SPLIT=split, **s)
    dw = dw.double().sum(0).reshape(s["K"], s["R"], s["S"], cg)
    assert torch.equal(dw.permute(0, 3, 1, 2), conv.dw)
    assert torch.equal(db.double().sum(0), conv.dy.double().sum((0, 2, 3)))


@pytest.mark.slow
def test_three_kernels_equal_pytorch_for_many_convolutions():
    """As many as TRICNN_FUZZ says, 1000 unless it is set."""
    for seed in range(1000, 1000 + int(os.environ.get("TRICNN_FUZZ", 1000))):
        test_three_kernels_equal_pytorch(random_case(seed))


@pytest.mark.parametrize("channels", [3, 16])
def test_padding_is_zero_after_the_prologue(channels):
    """relu(x*scale + shift) of a padded element is 0, not relu(shift)."""
    g = torch.Generator().manual_seed(0)
    n, h, w, k = 2, 5, 6, 8
    x = integers((n, channels, h, w), torch.float32, g)
    weight = integers((k, channels, 3, 3), torch.float32, g)
    scale = integers((1, channels, 1, 1), torch.float32, g)
    shift = torch.ones_like(scale)
    y = unwritten((n, k, h, w))
    affine_kernel[cdiv(n * h * w, 64) * cdiv(k, 16), 1](x, scale, shift, weight, y, n, channels, h, w, k)
    expected = torch.nn.functional.conv2d(torch.relu(x * scale + shift).double(), weight.double(), padding=1)
    assert torch.equal(y.double(), expected)


@pytest.mark.parametrize("window", [(2, 2), (1, 2), (4, 1)])
def test_maximum_pooling_in_the_epilogue(window):
    """Windows cut off by the border are left out, and of equal values the first is reported, as PyTorch does."""
    g = torch.Generator().manual_seed(1)
    n, c, h, w, k = 2, 3, 9, 7, 20
    x, weight = integers((n, c, h, w), torch.float32, g), integers((k, c, 3, 3), torch.float32, g)
    conv = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1)
    expected, flat = torch.nn.functional.max_pool2d(conv, window, return_indices=True)
    y, index = unwritten(expected.shape), unwritten(expected.shape, torch.uint8)
    rows = n * (h // window[0]) * (w // window[1]) * window[0] * window[1]
    pooled_kernel[cdiv(rows, 32) * cdiv(k, 16), 1](x, weight, y, index, n, c, h, w, k, *window)
    assert torch.equal(y.double(), expected)
    assert torch.equal(index.long(), flat // w % window[0] * window[1] + flat % w % window[1])


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize(("kernel", "c", "k"), [(1, 24, 40), (3, 24, 40)])
def test_operands_by_tensor_descriptors(kernel, c, k, dtype):
    """Boxes reach over the last row, the last channel and, in the weights, into the next tap."""
    conv = Convolution(3, 1, c, k, 4, 5, (kernel, kernel), padding=(kernel // 2,) * 4, dtype=dtype)
    sizes = 1, c, 4, 5, k, kernel

    def boxes(tensor, *box):
        """Of an image, its pixels by channels; of weights, filters by everything else."""
        rows = tensor.permute(0, 2, 3, 1)
        width = tensor.shape[1] if tensor.shape[0] == 1 else tensor[0].numel()
        return TensorDescriptor.from_tensor(rows.reshape(-1, width).contiguous(), list(box))

    def image(tensor, *box):
        return boxes(tensor, *box) if kernel == 1 else tensor

    w = conv.w.to(dtype)
    y, dx, dw = unwritten(conv.y.shape), unwritten(conv.dx.shape), unwritten((1, w.numel()))
    boxed_fprop_kernel[2 * 2, 1](image(conv.x, 16, 16), boxes(w, 32, 16), y, *sizes)
    boxed_dgrad_kernel[2, 1, 1](image(conv.dy, 16, 16), boxes(w, 16, 32), dx, *sizes)
    boxed_wgrad_kernel[2 * cdiv(kernel**2 * c, 64), 1, 1](boxes(conv.dy, 16, 32), image(conv.x, 16, 64), dw, *sizes)
    assert torch.equal(y.double(), conv.y)
    assert torch.equal(dx.double(), conv.dx)
    assert torch.equal(dw.double().reshape(k, kernel, kernel, c).permute(0, 3, 1, 2), conv.dw)


@triton.jit
def store_box(acc, pixel, channel, mask, part, first_pixel, first_channel, args):
    y, parts = args
    y.store([first_pixel, first_channel], acc.to(tl.float16))
    tl.store(parts + part, tl.sum(tl.where(mask, 1, 0)), mask=first_channel == 0)


@triton.jit
def matmul_kernel(x, w, y, parts, ROWS, C: tl.constexpr, K: tl.constexpr, GRADIENT: tl.constexpr):
    matmul_boxes(None, x, w, store_box, (y, parts), ROWS, C, K, BLOCK_M=32, BLOCK_N=16, BLOCK_K=32, GRADIENT=GRADIENT)


@triton.jit
def load_one_more(pixel, channel, mask, first_pixel, first_channel, args):
    (x,) = args
    return (x.load([first_pixel, first_channel]).to(tl.float32) + 1.0).to(tl.float16)


@triton.jit
def keep_box(tile, pixel, channel, mask, first_pixel, first_channel, args):
    (kept,) = args
    old = tl.load(kept + pixel * 40 + channel, mask=mask, other=0.0)
    tl.store(kept + pixel * 40 + channel, old + tile.to(tl.float32), mask=mask)


@triton.jit
def return_sums(acc, pixel, channel, mask, part, first_pixel, first_channel, args):
    y = tl.where(mask, acc, 0.0)
    return y, y * y


@triton.jit
def leave(sums, count, channel, stream, args):
    left, K = args
    own, mask = left + stream * (3 * K) + channel, channel < K
    tl.store(own, count + channel * 0, mask=mask)
    tl.store(own + K, sums[0], mask=mask)
    tl.store(own + 2 * K, sums[1], mask=mask)


@triton.jit
def summed_matmul_kernel(x, w, kept, left, ROWS, K: tl.constexpr):
    matmul_boxes(
        load_one_more, (x,), w, return_sums, (), ROWS, C=40, K=K, BLOCK_M=32, BLOCK_N=16, BLOCK_K=16, SUMS=2,
        keep_x=keep_box, keep_args=(kept,), leave_sums=leave, leave_args=(left, K),
    )  # fmt: skip


@pytest.mark.parametrize(("streams", "k"), [(1, 24), (2, 24), (3, 24), (2, 72)])
def test_streams_of_tiles_leave_the_sums_of_their_rows(streams, k):
    """Each of its own rows, the last tile with fewer; and every tile of the operand is kept once, whoever loads it:
    within the loop over channels, or behind it where there are many tiles of columns."""
    rows, c = 75, 40
    g = torch.Generator().manual_seed(2)
    x, w = integers((rows, c), torch.float16, g), integers((k, c), torch.float16, g)
    kept, left = torch.zeros(rows, c), torch.zeros(streams, 3, k)
    boxed = TensorDescriptor.from_tensor(x, [32, 16]), TensorDescriptor.from_tensor(w, [16, 16])
    summed_matmul_kernel[-(-k // 16) * streams,](*boxed, kept, left, rows, k)
    assert torch.equal(kept, x.float() + 1)
    y = (x.double() + 1) @ w.double().T
    for stream in range(streams):
        own = y[[row for row in range(rows) if row // 32 % streams == stream]]
        expected = torch.stack([torch.full((k,), float(len(own)), dtype=torch.float64), own.sum(0), (own**2).sum(0)])
        assert torch.equal(left[stream].double(), expected)


@pytest.mark.parametrize("streams", [1, 3])
def test_few_programs_compute_every_tile_of_a_product(streams):
    """However many there are; tiles reach over the last row, the last column and the last term of the sum."""
    rows, c, k = 75, 40, 24
    g = torch.Generator().manual_seed(2)
    x, dy = integers((rows, c), torch.float16, g), integers((rows, k), torch.float16, g)
    w = integers((k, c), torch.float16, g)
    y, dx = unwritten((rows, k), torch.float16), unwritten((rows, c), torch.float16)
    parts = torch.zeros(3, dtype=torch.int32)

    def boxes(tensor, *box):
        return TensorDescriptor.from_tensor(tensor, list(box))

    matmul_kernel[2 * streams,](boxes(x, 32, 32), boxes(w, 16, 32), boxes(y, 32, 16), parts, rows, c, k, False)
    assert torch.equal(y.double(), x.double() @ w.double().T)
    assert parts.tolist() == [32 * 16, 32 * 16, 11 * 16]
    matmul_kernel[3 * streams,](boxes(dy, 32, 32), boxes(w, 32, 16), boxes(dx, 32, 16), parts, rows, k, c, True)
    assert torch.equal(dx.double(), dy.double() @ w.double())


@triton.jit
def boxes_kernel(
    x, w, y, N, C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    FIRST_H: tl.constexpr, FIRST_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr, BOX_N: tl.constexpr,
    BOX_H: tl.constexpr, BOX_W: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    conv2d_boxes(
        x, w, store_tile, (y, K), N, C, K, R, S, P, Q, FIRST_H, FIRST_W, STEP_H, STEP_W, BOX_N, BOX_H, BOX_W,
        BLOCK_N=32, BLOCK_K=16, GRADIENT=GRADIENT,
    )  # fmt: skip


#: channels and filters, taps, padding, dilation, and a box of images, rows and columns
IN_BOXES = [
    ((16, 48), (3, 3), (1, 1, 1, 1), (1, 1), (2, 4, 4)),
    ((32, 48), (3, 2), (2, 0, 0, 1), (1, 2), (1, 2, 8)),
    ((16, 48), (1, 7), (0, 0, 3, 3), (1, 1), (4, 4, 2)),
    ((24, 40), (3, 3), (1, 1, 1, 1), (1, 1), (2, 4, 4)),  # boxes end beyond the channels of either
]


@pytest.mark.parametrize(
    ("channels", "taps", "padding", "dilation", "box"),
    [
        *IN_BOXES,
        ((16, 48), (3, 3), (0, 0, 0, 0), (1, 1), (4, 2, 1)),
        ((16, 48), (3, 3), (1, 1, 1, 1), (1, 1), (16, 1, 1)),  # a pixel of each image
    ],
)
def test_images_in_boxes(channels, taps, padding, dilation, box):
    """Boxes reach over the border on every side, over the last image and the last filter. And back: the gradient."""
    n, (c, k), h, w = 3, channels, 5, 7
    conv = Convolution(1, n, c, k, h, w, taps, padding=padding, dilation=dilation, dtype=torch.bfloat16)
    p, q = conv.y.shape[2:]
    weight = conv.w.to(torch.bfloat16).permute(0, 2, 3, 1).reshape(k, -1).contiguous()

    def image(tensor, channels=16):
        return images_last(tensor.permute(0, 2, 3, 1).contiguous(), (*box, channels))

    def programs(height, width, columns):
        return cdiv(n, box[0]) * cdiv(height, box[1]) * cdiv(width, box[2]) * cdiv(columns, 32)

    y, dx = unwritten(conv.y.shape), unwritten(conv.dx.shape)
    forward, back = (
        TensorDescriptor.from_tensor(weight.reshape(k, -1, c), [first, 1, last])  # a box ends with its tap's channels
        if c % last
        else TensorDescriptor.from_tensor(weight, [first, last])
        for first, last in ((32, 16), (16, 32))
    )
    first = padding[0], padding[2]
    boxes_kernel[programs(p, q, k),](
        image(conv.x), forward, y, n, c, k, *taps, p, q, -first[0], -first[1], *dilation, *box, False
    )
    boxes_kernel[programs(h, w, c),](
        image(conv.dy), back, dx, n, k, c, *taps, h, w, *first, -dilation[0], -dilation[1], *box, True
    )
    assert torch.equal(y.double(), conv.y)
    assert torch.equal(dx.double(), conv.dx)
