"""What kernels read from memory comes 16 bytes at a time where the layout allows: the machine code says so."""

import re

import pytest

from benchmarks.instructions import instructions
from tests.lower.test_static import loads as sizes
from tricnn.build.build import spec
from tricnn.build.compile import compile_kernels
from tricnn.compiler.pipeline import planned
from tricnn.ir import Graph, GraphBuilder
from tricnn.lower.lower import lower

KINDS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")


def network(channels: int) -> Graph:
    """Two convolutions with batch norm and ReLU between: the second one's kernels normalise, or mask, as they load."""
    b = GraphBuilder("pair")
    x = b.input("x", (channels, 14, 14))
    for name in ("c1", "c2", "c3"):
        x = b.relu(b.batch_norm(b.conv2d(x, channels, 3, padding=1, bias=False, name=name)))
    return b.build(b.linear(b.global_avg_pool(x), 8, name="fc"))


def loaded_by(binary: bytes) -> set[str]:
    """The instructions of a kernel that load from global memory, or that are Hopper's own products."""
    names = [i.name for i in instructions(binary)]
    return {name for name in names if re.match(r"(LDG|LDGSTS|UTMALDG|HGMMA)\b", name)}


def sixteen_bytes_at_a_time(names: set[str]) -> bool:
    """Does something come 16 bytes at a time, and nothing by one or two?"""
    return any(".128" in i for i in names) and not any(re.search(r"\.[US](8|16)\b", i) for i in names)


def loads(channels: int, target: str, kinds: tuple[str, ...]) -> dict[str, set[str]]:
    """What loads from global memory or multiplies, by kind of kernel: those of the layer in the middle."""
    program = lower(planned(network(channels), "train", "all"), "bf16", 256, target)
    chosen = {x.kind: x.function for x in program.launches if x.kind in kinds and x.layers and "c2" in x.kernel}
    functions = [next(f for f in program.functions if f.name == chosen[kind]) for kind in kinds]
    compiled = compile_kernels([spec(f) for f in functions], target)
    return {kind: loaded_by(kernel.binary) for kind, kernel in zip(kinds, compiled, strict=True)}


@pytest.mark.slow  # test_build.py looks at the kernels of a step that it compiles
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_channels_in_multiples_of_16_bytes_are_loaded_so(target: str) -> None:
    for kind, names in loads(64, target, KINDS).items():
        assert sixteen_bytes_at_a_time(names), (kind, names)
        assert ("HGMMA" in {i.partition(".")[0] for i in names}) == (target == "sm_90"), "Hopper's own product"
        if target == "sm_90" and kind != "conv2d_grad_weight":
            assert any(i.startswith("UTMALDG") for i in names), (kind, names)


@pytest.mark.slow
def test_channels_that_do_not_line_up_cannot_be() -> None:
    """The same look at 18 bytes a pixel: so the test above would notice."""
    (names,) = loads(18 // 2, "sm_80", KINDS[:1]).values()
    assert any(re.search(r"\.[US]16\b", i) for i in names)


def test_gradients_of_dense_weights_in_tf32_too() -> None:
    """The summed axis is outermost in both operands, and Hopper's product wants it innermost: what asynchronous copies
    would bring 4 bytes at a time."""
    b = GraphBuilder("dense")
    g = b.build(b.linear(b.input("x", (64,)), 64, name="fc"))
    program = lower(planned(g, "train", "all"), "tf32", 256, "sm_90")
    name = next(x.function for x in program.launches if x.kind == "linear_grad_weight")
    kernel = compile_kernels([spec(next(f for f in program.functions if f.name == name))], "sm_90")[0]
    assert "wgmma" in str(kernel.assembly["ptx"])
    assert sizes(kernel) == {16}
