"""First layers that read overlapping windows of a packed image: they compute what they did, of the bytes they state.

Without these a network's first layer, the one with the largest image, could be wrong at an edge, or read what lies
beside the image as a part of it.
"""

import numpy as np
import pytest
import torch

from tricnn.check.counting import BytesCounted
from tricnn.check.races import RacesFound
from tricnn.check.verify import compiled, verify_model
from tricnn.ir.builder import GraphBuilder
from tricnn.lower.from_graph import lowered

#: channels, image, filters, kernel, stride, padding (top, bottom, left, right): ResNet's, AlexNet's and Inception's
#: layers made small, and one with nothing square, whose windows are three elements apart
LAYERS = {
    "resnet": (3, (31, 32), 70, (7, 7), (2, 2), (3, 3, 3, 3)),
    "alexnet": (3, (63, 66), 64, (11, 11), (4, 4), (2, 2, 2, 2)),
    "inception": (3, (33, 34), 32, (3, 3), (2, 2), (0, 0, 0, 0)),
    "uneven": (2, (15, 64), 16, (5, 4), (1, 3), (2, 0, 1, 3)),
}


def declared(layer, *, norm=True, beside=False):
    channels, size, filters, kernel, stride, padding = LAYERS[layer]
    b = GraphBuilder(layer)
    x = b.input("x", (channels, *size))
    y = b.conv2d(x, filters, kernel, name="conv", bias=not norm, stride=stride, padding=padding)
    y = b.relu(b.batch_norm(y, name="bn") if norm else y)
    y = b.global_avg_pool(y)
    if beside:
        y = b.concat([y, b.global_avg_pool(x)])
    return b.build(b.linear(y, 5, name="fc"))


def kinds(program):
    """Which functions of a program read windows."""
    return [f.name for f in program.functions if "conv2d_windows" in f.call]


@pytest.mark.parametrize("layer", ["resnet", "uneven"])
def test_every_value_is_right_every_byte_counted_and_no_element_shared(layer):
    model = compiled(declared(layer, norm=layer == "resnet"), mode="train", batch=2, dtype="bf16")
    assert len(kinds(model.program)) == 2
    counted, races = BytesCounted(model, 2), RacesFound(model, 2)
    assert all(check.ok for check in verify_model(model, 2, watch=counted))
    assert [x.launch.function for x in counted.launches if not x.ok] == []
    verify_model(model, 2, watch=races)
    assert races.races == []


@pytest.mark.parametrize("layer", LAYERS)
def test_integers_give_what_pytorch_computes_in_every_bit(layer):
    channels, size, filters, kernel, stride, (top, bottom, left, right) = LAYERS[layer]
    b = GraphBuilder(layer)
    y = b.conv2d(b.input("x", (channels, *size)), filters, kernel, name="conv", bias=False, stride=stride,
                 padding=(top, bottom, left, right))  # fmt: skip
    model = compiled(b.build(y), mode="infer", batch=2, dtype="bf16")
    assert kinds(model.program) == ["k00_conv"]
    rng = np.random.default_rng(1)
    x = torch.as_tensor(rng.integers(-2, 3, (2, channels, *size)), dtype=torch.float64)
    w = torch.as_tensor(rng.integers(-1, 2, (filters, channels, *kernel)), dtype=torch.float64)
    model.load_state_dict({"conv.weight": w.float().numpy()})
    want = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (left, right, top, bottom)), w, stride=stride)
    assert torch.equal(model(x.float()), want.bfloat16().float())


def test_images_lie_amid_zeros_as_the_file_says_and_stay_there():
    model = compiled(declared("resnet"), mode="infer", batch=2, dtype="bf16")
    packing = model.program.buffers["x"].packing
    assert (packing.rows, packing.left) == (32, 9)  # a row more, for rows are taken two by two; three pixels of padding
    assert f".view(N, 32, {packing.pitch})[:, :31, 9:105]; all else stays 0." in model.source
    images = np.random.default_rng(0).standard_normal((2, 3, 31, 32), dtype=np.float32)
    for x in (images, 2 * images):
        model(x)
        stored = model.executor.bind(2)["x"].view(2, 32, packing.pitch).float()
        inside = stored[:, :31, 9:105].clone()
        assert torch.equal(inside.reshape(2, 31, 32, 3), torch.as_tensor(x).permute(0, 2, 3, 1).bfloat16().float())
        stored[:, :31, 9:105] = 0
        assert not stored.any()


@pytest.mark.parametrize(("graph", "dtype", "target"), [
    (declared("resnet", beside=True), "bf16", "sm_90"),
    (declared("resnet"), "fp32", "sm_90"),
    (declared("resnet"), "bf16", "sm_80"),
    (declared("resnet"), "fp16", "gfx942"),
], ids=["another reader", "fp32", "no bulk copies", "AMD"])  # fmt: skip
def test_an_input_that_something_else_reads_or_no_box_can_is_as_it_was(graph, dtype, target):
    program = lowered(graph, "train", 8, dtype, target, fuse=True)
    assert program.buffers["x"].packing is None
    assert kinds(program) == []
