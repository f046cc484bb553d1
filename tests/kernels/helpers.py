"""What the kernel tests share: exact inputs, outputs that show what was not written, and plain loads and stores.

With TRITON_INTERPRET=0 and a GPU, the same tests run compiled.
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tricnn.kernels.numerics import INTERPRETED, round_to

DEVICE = "cpu" if INTERPRETED else "cuda"


def cdiv(a, b):
    return -(-a // b)


def integers(shape, dtype, generator):
    """Small integers, about half of them zero: every sum of their products is exact. Four axes lie channels last."""
    values = torch.randint(-2, 3, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator)
    return channels_last(values.to(DEVICE, dtype))


def unwritten(shape, dtype=torch.float32):
    """NaN everywhere, or 255 in an array of bytes: what a kernel must leave no trace of."""
    return channels_last(
        torch.full(shape, float("nan") if dtype.is_floating_point else 255, dtype=dtype, device=DEVICE)
    )


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def images_last(images, box):
    """A descriptor of images [N, H, W, C], by rows, columns, images and channels, in boxes of so many of each."""
    return TensorDescriptor.from_tensor(images.movedim(0, -2), [*box[1:-1], box[0], box[-1]])


@triton.jit
def load_tile(pixel, channel, mask, args):
    x, channels = args
    return tl.load(x + pixel * channels + channel, mask=mask, other=0.0)


@triton.jit
def store_tile(tile, pixel, channel, mask, part, args):
    y, channels = args
    tl.store(y + pixel * channels + channel, round_to(tile, y.dtype.element_ty), mask=mask)


@triton.jit
def store_row(total, element, mask, split, args):
    """For reductions: row `split` of y: [splits, length]."""
    y, length = args
    tl.store(y + split * length + element, total, mask=mask)
