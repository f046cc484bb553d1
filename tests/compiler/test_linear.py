"""A dense layer is compiled as the convolution that it is: of an image of one pixel with one pixel."""

import re

import pytest

from tricnn.compiler.pipeline import planned
from tricnn.ir import GraphBuilder
from tricnn.lower.lower import lower
from tricnn.machine.candidates import KIND_OF


def head(dense: bool):
    """Two layers with an activation between them, dense or as 1x1 convolutions of one pixel."""
    b = GraphBuilder("head")
    x = b.relu(b.conv2d(b.input("x", (16, 8, 8)), 32, 3, padding=1, name="conv"))
    x = b.max_pool2d(x, 8) if not dense else b.flatten(b.max_pool2d(x, 8))
    for name, outputs in (("fc1", 64), ("fc2", 24)):
        x = b.linear(x, outputs, name=name) if dense else b.conv2d(x, outputs, 1, name=name)
        x = b.relu(x) if name == "fc1" else x
    return b.build(x if dense else b.flatten(x))


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_dense_layer_and_a_convolution_of_one_pixel_are_the_same_kernels(mode, dtype):
    """As many launches and bytes, the same problems and tiles for tuning, and the same text of every function but for
    the names in it."""
    programs = [lower(planned(head(dense), mode, "all"), dtype, 64, "sm_90") for dense in (True, False)]
    dense, convolution = ([launch for launch in p.launches if of_head(launch.kernel)] for p in programs)
    assert len(dense) == len(convolution) >= (2 if mode == "infer" else 5)
    assert programs[0].dram_bytes(64) == programs[1].dram_bytes(64)
    assert [(c.kernel, c.problem, c.tile) for c in programs[0].choices if of_head(c.kernel)] == [
        (c.kernel, c.problem, c.tile) for c in programs[1].choices if of_head(c.kernel)
    ]
    assert {c.problem.kind for c in programs[0].choices if of_head(c.kernel)} <= set(KIND_OF.values())
    assert all(templates(programs[0], x) for x in dense)
    assert [templates(programs[0], x) for x in dense] == [templates(programs[1], x) for x in convolution]


def of_head(kernel):
    return kernel.partition("_")[2].startswith("fc")


def templates(program, launch):
    """The templates that a launch's function calls, with their numbers."""
    text = next(f.text for f in program.functions if f.name == launch.function)
    return re.findall(r"^\s+(\w+_?\w*)\(|\b([A-Z][A-Z_]*)=(\w+)", text, re.MULTILINE)
