"""Images of another size, padded, cropped and shuffled: as PyTorch has it, from any size to any other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.ir.samples import ENV
from tricnn.compiler.differentiate import differentiate
from tricnn.ir import OPS, Graph, GraphBuilder, N, Output, from_text, to_text
from tricnn.ir.numpy_ops import resample as np_resample
from tricnn.run.interpreter import interpret
from tricnn.system.errors import TricnnError

SIZES = [(1, 1), (1, 5), (5, 1), (3, 7), (7, 3), (4, 8), (8, 4), (5, 15), (6, 6), (9, 10), (10, 9), (13, 29), (32, 12)]


def both_ways(op, attrs, size, result, torchs):
    """y and dx of our rows, and of PyTorch and its autograd, on an image whose axes go from n to p and from p to n."""
    (n, p), rng = (size, result), np.random.default_rng(0)
    x = rng.normal(size=(2, 3, n, p))
    y = OPS[op].numpy(ENV, {**attrs, "size": (p, n), "output_size": (p, n)}, x)
    dy = rng.normal(size=y.shape)
    dx = OPS[f"{op}_grad"].numpy(ENV, {**attrs, "input_size": (n, p)}, dy)
    tensor = torch.from_numpy(x).requires_grad_(True)
    expected = torchs(tensor, (p, n))
    expected.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, tensor.grad.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("size", "result"), SIZES)
def test_every_size_to_every_other_as_in_pytorch(size, result):
    """(14 to 46 is not among them: there PyTorch's fp32 arithmetic takes a pixel before the nearest one.)"""
    both_ways("upsample_nearest2d", {}, size, result, lambda x, s: F.interpolate(x, s, mode="nearest"))
    both_ways("adaptive_avg_pool2d", {}, size, result, F.adaptive_avg_pool2d)
    for corners in (False, True):
        both_ways(
            "upsample_bilinear2d", {"align_corners": corners}, size, result,
            lambda x, s, c=corners: F.interpolate(x, s, mode="bilinear", align_corners=c),
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["nearest", "half", "corners", "mean"])
def test_the_gradient_s_table_is_the_operation_s_read_the_other_way_round(kind):
    """As dense matrices, one is the transpose of the other; and what a result is made of has the weight 1 together."""
    for size, results in SIZES:
        dense = {}
        for name, taps, rows, columns in (
            ("ahead", np_resample.taps(kind, size, results), results, size),
            ("back", np_resample.transposed_taps(kind, size, results), size, results),
        ):
            dense[name] = np.zeros((rows, columns))
            np.add.at(dense[name], (np.arange(rows)[:, None], taps.index), taps.weight)
        np.testing.assert_array_equal(dense["ahead"].T, dense["back"])
        np.testing.assert_allclose(dense["ahead"].sum(axis=1), 1.0)


def test_what_has_no_weight_does_not_spread():
    """A pixel that is not a number is seen where it has a weight, and nowhere else."""
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 1, 2] = np.nan
    y = OPS["upsample_bilinear2d"].numpy(ENV, {"size": (7, 7), "align_corners": True}, x)
    assert np.argwhere(np.isnan(y[0, 0])).tolist() == [[p, q] for p in (1, 2, 3) for q in (3, 4, 5)]
    y = OPS["zero_pad2d"].numpy(ENV, {"padding": (-2, 1, 0, 0)}, x)
    assert not np.isnan(y).any() and y.shape == (1, 1, 3, 4)


@pytest.mark.parametrize("size", [(3, 4), (15, 17), (20, 300)])
def test_global_max_pool_of_an_image_of_any_size(size):
    """Values, and the gradient where maxima are equal: the first of them takes it all, as in PyTorch."""
    b = GraphBuilder("largest")
    graph = b.build(b.global_max_pool(b.input("x", (2, *size))))
    x = np.random.default_rng(0).integers(0, 4, (3, 2, *size)).astype(float)
    y = interpret(graph, {"x": x})["logits"]
    np.testing.assert_array_equal(y, x.max(axis=(2, 3), keepdims=True))
    b = GraphBuilder("loss", graph)
    weight = b.parameter("w", (3, 2), "constant(0)")
    labels = b.add("input", name="labels", shape=(N,), dtype="int64")
    flat = b.flatten(graph.outputs[0].value)
    loss = b.add("cross_entropy", b.add("linear", flat, weight), labels, name="loss")
    values = {"x": x, "w": np.arange(6.0).reshape(3, 2), "labels": np.array([0, 2, 1])}
    found = interpret(differentiate(Graph("loss", tuple(b.nodes), (Output("loss", loss),)), wrt=["x"]), values)
    tensor = torch.from_numpy(x).requires_grad_(True)
    logits = F.adaptive_max_pool2d(tensor, 1).flatten(1) @ torch.from_numpy(values["w"]).T
    F.cross_entropy(logits, torch.from_numpy(values["labels"])).backward()
    np.testing.assert_allclose(found["grad:x"], tensor.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("sizes", [2, 3, 7, (1, 4, 2)])
def test_split_as_in_pytorch(sizes):
    b = GraphBuilder("split")
    parts = b.split(b.input("x", (7, 2, 3)), sizes, name="s")
    for i, part in enumerate(parts):
        b.output(part, f"part{i}")
    x = np.random.default_rng(0).normal(size=(2, 7, 2, 3))
    found = interpret(b.build(), {"x": x})
    expected = torch.split(torch.from_numpy(x), list(sizes) if isinstance(sizes, tuple) else sizes, dim=1)
    assert len(parts) == len(expected)
    for i, part in enumerate(expected):
        np.testing.assert_array_equal(found[f"part{i}"], part.numpy())


def build(declare):
    b = GraphBuilder("net")
    return b.build(declare(b, b.input("x", (6, 5, 4))))


LAYERS = {
    "conv_transpose2d": lambda b, x: b.conv_transpose2d(x, 4, 3, stride=2, output_padding=1, groups=2, name="t"),
    "nearest": lambda b, x: b.interpolate(x, scale_factor=(2, 3)),
    "bilinear": lambda b, x: b.interpolate(x, (9, 2), mode="bilinear", align_corners=True),
    "adaptive": lambda b, x: b.adaptive_avg_pool2d(x, (2, 3)),
    "pad": lambda b, x: b.zero_pad2d(x, (1, -2, 0, 3)),
    "channel_shuffle": lambda b, x: b.channel_shuffle(x, 3),
    "pixel_unshuffle": lambda b, x: b.pixel_unshuffle(b.zero_pad2d(x, (1, 0, 0, 0)), 2),
    "pixel_shuffle": lambda b, x: b.pixel_shuffle(b.slice_channels(x, 0, 4), 2),
    "global_max_pool": lambda b, x: b.global_max_pool(x),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_text_form_round_trips(layer):
    graph = build(LAYERS[layer])
    assert from_text(to_text(graph)) == graph


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda b, x: b.conv_transpose2d(x, 4, 3, stride=2, output_padding=2, name="t"),
         "layer t (conv_transpose2d): output_padding=(2, 2) must be smaller than stride=(2, 2) on each axis"),
        (lambda b, x: b.conv_transpose2d(x, 4, 1, padding=3, name="t"),
         "layer t (conv_transpose2d): padding (3, 3, 3, 3) leaves -1x-2 pixels; use less padding or a larger kernel"),
        (lambda b, x: b.conv_transpose2d(x, 5, 1, groups=2, name="t"),
         "layer t: groups=2 must divide the 6 input channels and the 5 filters"),
        (lambda b, x: b.add("conv_transpose2d", x, b.parameter("w", (5, 2, 3, 3), "constant(0)"), name="t"),
         "layer t (conv_transpose2d): weight float32[5, 2, 3, 3] with groups=1 fits 5 input channels, which groups "
         "must divide; the input has 6"),
        (lambda b, x: b.interpolate(x, name="up"), "layer up: interpolate takes either size or scale_factor"),
        (lambda b, x: b.interpolate(x, scale_factor=1.5, name="up"),
         "layer up: scale_factor=1.5 is not accepted; an integer or a pair (height, width) of at least 1"),
        (lambda b, x: b.interpolate(x, 8, mode="bicubic", name="up"),
         "layer up: mode='bicubic' is not accepted; one of nearest, bilinear"),
        (lambda b, x: b.interpolate(x, 8, align_corners=True, name="up"),
         "layer up: align_corners is for mode bilinear"),
        (lambda b, x: b.interpolate(b.flatten(x), 8, name="up"), "layer up: input must be [N, C, H, W], "),
        (lambda b, x: b.adaptive_avg_pool2d(b.flatten(x), 8, name="a"),
         "layer a (adaptive_avg_pool2d): input must be [N, C, H, W], it is [N, 120]"),
        (lambda b, x: b.zero_pad2d(x, (-3, -2, 0, 0), name="p"),
         "layer p (zero_pad2d): padding (-3, -2, 0, 0) leaves nothing of 5x4 pixels; a side that is cut keeps one at "
         "least"),
        (lambda b, x: b.zero_pad2d(x, "all", name="p"), "layer p: padding='all' is not accepted; an integer, "),
        (lambda b, x: b.channel_shuffle(x, 4, name="s"),
         "layer s (channel_shuffle): groups=4 must divide the 6 channels"),
        (lambda b, x: b.pixel_shuffle(x, 2, name="s"),
         "layer s (pixel_shuffle): upscale_factor=2 takes 4 channels for one; the input has 6"),
        (lambda b, x: b.pixel_unshuffle(x, 2, name="s"),
         "layer s (pixel_unshuffle): downscale_factor=2 must divide height and width of the input, 5x4"),
        (lambda b, x: b.split(x, 1.5, name="s")[0], "layer s: sizes=1.5 is not accepted; an integer of at least 1"),
        (lambda b, x: b.split(x, np.int64(4)) and b.split(x, None, name="s")[0], "layer s: sizes=None is not accepted"),
        (lambda b, x: b.relu([x], name="r"), "layer r: input ['x'] is not defined before it"),
        (lambda b, x: b.group_norm("y" * 10**6, 2), f"there is no layer '{'y' * 76}..."),
        (lambda b, x: b.split(x, (2, 3), name="s")[0],
         "layer s: sizes [2, 3] are 5 channels, the input has 6"),
        (lambda b, x: b.global_max_pool(b.flatten(x), name="m"), "layer m: input must be [N, C, H, W], "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_by_the_name_of_the_layer(declare, message):
    with pytest.raises(TricnnError) as error:
        build(declare)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
