"""What people write for what is meant: PyTorch's and NumPy's names and numbers, a GPU's own name. It is taken, or the
error says what would be."""

from typing import Any

import numpy as np
import pytest
import torch

import tricnn
from tests.run.networks import network
from tricnn.ir import Graph, GraphBuilder, GraphError, TargetError, from_text, to_text
from tricnn.machine.targets import GPUS, TARGETS, parse_target


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("float32", "fp32"), (torch.float32, "fp32"), (np.float32, "fp32"), (np.dtype("float32"), "fp32"),
        ("bfloat16", "bf16"), (torch.bfloat16, "bf16"), ("torch.bfloat16", "bf16"), ("half", "fp16"),
        (torch.half, "fp16"), (np.float16, "fp16"), ("float64", "fp64"), (torch.double, "fp64"), ("tf32", "tf32"),
    ],
)  # fmt: skip
def test_a_dtype_by_pytorchs_and_numpys_names(written: Any, meant: str) -> None:
    assert tricnn.compile(network("small"), dtype=written, executor="numpy").dtype == meant


@pytest.mark.parametrize("written", ["int8", torch.int8, np.int32, "fp23", None, 32, object])
def test_a_dtype_that_is_none_is_refused_with_those_that_are(written: Any) -> None:
    with pytest.raises(TargetError, match=r"^dtype .* is unknown; .*accepted: fp32, tf32, fp16, bf16, fp64$"):
        tricnn.compile(network("small"), dtype=written)


def test_a_word_that_is_nearly_right_gets_a_hint() -> None:
    for change, hint in (
        ({"dtype": "fp23"}, "fp32"),
        ({"executor": "tritn"}, "triton"),
        ({"mode": "training"}, "train"),
    ):
        with pytest.raises(TargetError, match=f"did you mean {hint}"):
            tricnn.compile(network("small"), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("H100", "sm_90"), ("h100", "sm_90"), ("NVIDIA H100 80GB HBM3", "sm_90"), ("H200", "sm_90"),
        ("A100-SXM4-80GB", "sm_80"), ("gfx942:sramecc+:xnack-", "gfx942"),
        ("B200", "sm_100"), ("RTX 4090", "sm_89"), ("rtx5090", "sm_120"), ("MI300X", "gfx942"), ("sm90", "sm_90"),
        ("sm_90a", "sm_90"), ("compute_80", "sm_80"), ("9.0", "sm_90"), ("10.0", "sm_100"),
    ],
)  # fmt: skip
def test_a_target_by_the_gpus_name(written: str, meant: str) -> None:
    assert parse_target(written).name == meant
    assert tricnn.compile(network("small"), target=written, executor="numpy").target == meant


def test_every_gpu_that_is_named_has_a_target() -> None:
    assert set(GPUS) <= set(TARGETS)
    names = [gpu for gpus in GPUS.values() for gpu in gpus]
    assert len(names) == len(set(names))


def test_a_target_that_is_nearly_one_gets_a_hint() -> None:
    for written, hint in (("sm_91", "sm_90"), ("gfx943", "gfx942"), ("h1000", "sm_90")):
        with pytest.raises(
            TargetError, match=f"^unknown target '{written}'; did you mean {hint}[?] supported: sm_80, "
        ):
            parse_target(written)


def with_numbers_of(kind: Any, real: Any) -> Graph:
    b = GraphBuilder("numbers")
    x = b.input("x", (kind(6), kind(8), kind(8)))
    x = b.conv2d(x, kind(9), kind(3), stride=kind(2), padding=kind(1), groups=kind(3), name="c")
    x = b.max_pool2d(
        x, (kind(2), kind(1)), kind(1), padding=(kind(0), kind(0)), ceil_mode=kind is np.int64 and np.True_
    )
    b.output(b.linear(b.flatten(x), kind(4), name="a"), "a", loss_weight=real(0.5))
    return b.build(b.linear(x, 3, name="fc"))


def test_numpys_integers_are_integers() -> None:
    graph, plain = with_numbers_of(np.int64, np.float32), with_numbers_of(int, float)
    assert [n.inputs for n in graph.nodes] == [n.inputs for n in plain.nodes] and graph.outputs == plain.outputs
    for node, other in zip(graph.nodes, plain.nodes, strict=True):
        assert dict(node.attrs) == {**other.attrs, **({"ceil_mode": True} if node.op == "max_pool2d" else {})}
    assert from_text(to_text(graph)) == graph
    assert tricnn.compile(graph, batch=np.int64(2), executor="numpy").batch == 2  # type: ignore[arg-type]


def test_numbers_that_do_not_divide_are_refused_for_that() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (6, 8, 8))
    for groups, said in ((np.int64(4), "groups=4 must divide the 6 input channels and the 8 filters"),
                         (0, "groups=0 is not accepted; an integer of at least 1"),
                         (1.5, "groups=1.5 is not accepted; an integer of at least 1")):  # fmt: skip
        with pytest.raises(GraphError, match=f"^layer c: {said}"):
            b.conv2d(x, 8, 3, groups=groups, name="c")


def test_the_sum_of_two_layers_is_called_so() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (6, 8, 8))
    with pytest.raises(GraphError, match=r"^add\(x, relu1\): x is a layer; the sum of two layers is add_\(a, b\)"):
        b.add(x, b.relu(x))
    with pytest.raises(GraphError, match="unknown operation 'nonsense'; known: "):
        b.add("nonsense", x)
    relu = b.relu(x, name="relu")  # a layer that is called as an operation is
    assert b.type(b.add("relu", relu)) == b.type(x)
