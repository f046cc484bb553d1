"""What costs no launch: a reader of an upsampled, padded or shuffled image looks at its pixels where they lie."""

import pytest

from tricnn.compiler.pipeline import planned
from tricnn.ir import Graph, GraphBuilder

FREE = {
    "nearest": lambda b, x: b.interpolate(x, (10, 12)),
    "nearest to any size": lambda b, x: b.interpolate(x, (7, 5)),
    "padding": lambda b, x: b.zero_pad2d(x, (1, 0, 2, 0)),
    "cropping": lambda b, x: b.zero_pad2d(x, (-1, 0, 0, -2)),
    "channel shuffle": lambda b, x: b.channel_shuffle(x, 2),
    "pixel shuffle": lambda b, x: b.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda b, x: b.pixel_unshuffle(x, 2),
}


def net(layer) -> Graph:
    """Convolution, batch norm, ReLU, the layer (or none), and a convolution that reads it."""
    b = GraphBuilder("net")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 6, 6)), 8, 3, padding=1, bias=False)))
    x = layer(b, x) if layer else x
    return b.build(b.linear(b.global_avg_pool(b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding=1, bias=False)))), 3))


def launches(layer, mode: str) -> int:
    return len(planned(net(layer), mode, "all").kernels)


@pytest.mark.parametrize("layer", FREE)
def test_forward_no_launch(layer):
    assert launches(FREE[layer], "infer") == launches(None, "infer")


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        (FREE["padding"], 0), (FREE["cropping"], 1), (FREE["channel shuffle"], 1), (FREE["nearest"], 1),
        (FREE["pixel shuffle"], 2), (FREE["pixel unshuffle"], 2),
        (lambda b, x: b.interpolate(x, (9, 4), mode="bilinear"), 2),
        (lambda b, x: b.adaptive_avg_pool2d(x, (4, 5)), 2),
        (lambda b, x: b.conv_transpose2d(x, 4, 3, stride=2, bias=False), 3),
    ],
)  # fmt: skip
def test_in_training(layer, more):
    """Backward, batch norm's sums leave with the kernel that stores the gradient in the batch norm's shape: that of the
    resampling. Where a gradient is read through a crop or a shuffle there is none, and the sums take one pass."""
    assert launches(layer, "train") == launches(None, "train") + more
