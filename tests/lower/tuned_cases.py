"""Small problems that show a tile's edges."""

from typing import NamedTuple

from tricnn.ir import GraphBuilder
from tricnn.machine.tiles import Problem


def edges(kind, m, n, k, dtype):
    """(problem, batch to run): a second tile of rows and of columns that is nearly empty, a sum that ends within a
    block; and a single image, less than one tile of rows; with strides, with few channels, and dense layers."""
    pixels = max(m, k if kind.endswith("weight") else 1)
    high = pixels // 9 + 1  # three images of [high, 3] pixels are a few more than one tile
    c, k_ = {
        "conv2d": (k + 5, n + 3),
        "conv2d_grad_input": (n + 3, k + 5),
        "conv2d_grad_weight": (n + 3, m + 3),
    }[kind]
    plain = dict(C=c, H=high, W=3, K=k_, R=2, S=1, P=high, Q=3, PT=1)
    strided = dict(C=c, H=2 * high, W=5, K=k_, R=1, S=3, P=high, Q=3, SH=2, SW=2, PL=1)
    few = dict(C=3, H=high, W=3, K=19, R=3, S=3, P=high, Q=3, PT=1, PL=1)
    dense = dict(C=c, H=1, W=1, K=k_, R=1, S=1, P=1, Q=1)  # a dense layer
    shapes = [(plain, 3), (plain, 1), (few, 3), (strided, 2), (dense, m + 2), (dense, 1)]
    return [(Problem.of("sm_90", kind, dtype, {"N": 4, **shape}), batch) for shape, batch in shapes]


#: (images, height, width) of which boxes of so many pixels are more than one in each axis, the last of them cut short
IMAGES = {16: (2, 9, 11), 32: (2, 11, 11), 64: (2, 11, 21), 128: (4, 11, 21), 256: (8, 11, 21)}


class Boxed(NamedTuple):
    """A problem, the batch to run, the template that it must become, and how many operands and results that takes by
    tensor descriptors."""

    problem: Problem
    batch: int
    template: str
    descriptors: int


def boxed_edges(kind, m, n, k, dtype):
    """The same where tensor descriptors bring the operands: channels are a multiple of 8, as few as show the edge. The
    last box then reaches beyond the channels, the rows, or the image."""
    rows, columns, depth = m + 8, n + 8, k + 8
    whole = 16 if k == 16 else depth  # boxes of 16 are for 16 channels
    taps = k if k in (16, 128) else 2 * k  # a box ends where the channels of its tap do
    across = (n - 8, n) if n >= 128 else (columns, 2 * n)  # large boxes take the interpreter long: one of them
    images, height, width = IMAGES[m]
    batch = 1 if m < 64 else 3
    high = m // 9 + 1
    one = dict(H=1, W=1, R=1, S=1, P=1, Q=1)
    pixels = dict(H=high, W=3, R=1, S=1, P=high, Q=3)
    padded = dict(N=images, H=height, W=width, R=2, S=3, P=height, Q=width, PT=1, PL=1)
    every_other = dict(H=2 * high, W=5, R=1, S=1, P=high, Q=3, SH=2, SW=2)
    strided = dict(H=2 * high, W=5, R=1, S=3, P=high, Q=3, SH=2, SW=2, PL=1)
    halved = dict(padded, H=2 * height, W=2 * width, SH=2, SW=2)
    shapes = {
        "conv2d": [
            (dict(one, C=whole, K=columns), 2 * m + 3, "matmul_boxes", 3),
            (dict(one, C=depth, K=columns), 1, *(("conv2d_fprop", 2) if k == 16 else ("matmul_boxes", 3))),
            (dict(pixels, C=whole, K=columns), 3, "matmul_boxes", 3),
            (dict(pixels, C=depth, K=columns), 1, *(("conv2d_fprop", 2) if k == 16 else ("matmul_boxes", 3))),
            (dict(padded, C=taps, K=across[0]), batch, "conv2d_boxes", 2),
            (dict(halved, C=taps, K=across[0]), batch, "conv2d_streams", 3),
            (dict(every_other, C=depth, K=columns), 2, "conv2d_fprop", 1),
            (dict(strided, C=2 * k, K=columns), 2, "conv2d_fprop", 1),
        ],
        "conv2d_grad_input": [
            (dict(one, C=columns, K=whole), 2 * m + 3, "matmul_boxes", 3),
            (dict(one, C=columns, K=depth), 1, *(("conv2d_dgrad", 2) if k == 16 else ("matmul_boxes", 3))),
            (dict(pixels, C=columns, K=whole), 3, "matmul_boxes", 3),
            (dict(pixels, C=columns, K=depth), 1, *(("conv2d_dgrad", 2) if k == 16 else ("matmul_boxes", 3))),
            (dict(padded, C=across[1], K=taps), batch, "conv2d_boxes", 2),
            (dict(halved, C=across[1], K=taps), batch, "conv2d_streams", 2),
            (dict(every_other, C=columns, K=depth), 2, "conv2d_dgrad", 1),
            (dict(strided, C=2 * n, K=depth), 2, "conv2d_dgrad", 1),
        ],
        "conv2d_grad_weight": [
            (dict(one, C=columns, K=rows), k + 2, "conv2d_wgrad", 2),
            (dict(one, C=columns, K=rows), 1, "conv2d_wgrad", 2),
            (dict(pixels, C=columns, K=rows, H=k // 9 + 1, P=k // 9 + 1), 3, "conv2d_wgrad", 2),
            (dict(pixels, C=columns, K=rows, H=k // 9 + 1, P=k // 9 + 1), 1, "conv2d_wgrad", 2),
            (dict(strided, C=columns, K=rows, H=2 * (k // 9 + 1), P=k // 9 + 1), 2, "conv2d_wgrad", 1),
        ],
    }[kind]
    return [Boxed(Problem.of("sm_90", kind, dtype, {"N": 4, **shape}), *rest) for shape, *rest in shapes]


def unit(b, x, channels, size, name):
    """A convolution with batch norm."""
    return b.batch_norm(b.conv2d(x, channels, size, padding=size // 2, bias=False, name=name), name=f"{name}_bn")


def trained_in_boxes():
    """Products in boxes that leave statistics of their result, and those that leave the sums of batch norm's gradient:
    of pixels as they come and of whole images."""
    b = GraphBuilder("trained")
    x = b.input("x", (32, 8, 7))
    wide, tall = (b.relu(unit(b, x, *size)) for size in ((72, 1, "wide"), (64, 3, "tall")))
    left = b.conv2d(wide, 64, 1, bias=False, name="left")
    right = b.conv2d(tall, 64, 3, padding=1, name="right")
    return b.build(b.linear(b.flatten(b.add_(left, right)), 8, name="fc"))


def inferred_in_boxes():
    """The same in inference: what is added to a result, what reads some channels of a wider image or writes them."""
    b = GraphBuilder("inferred")
    x = b.input("x", (64, 8, 7))
    y = b.relu(unit(b, b.relu(unit(b, x, 32, 1, "narrow")), 32, 3, "tall"))
    x = b.relu(b.add_(unit(b, y, 64, 1, "wide"), x))
    left = b.relu(unit(b, x, 40, 1, "left"))
    right = b.relu(unit(b, b.relu(unit(b, x, 32, 1, "first")), 64, 3, "second"))
    return b.build(b.linear(b.global_avg_pool(b.concat([left, right])), 16, name="fc"))
