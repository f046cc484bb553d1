"""docs/operations.md is what the table says, and the names on it are those of PyTorch, ONNX and the text form."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from tricnn.frontends.onnx_ops import ONNX
from tricnn.ir import OPS, GraphBuilder, GraphError, from_text

DOCS = Path(__file__).parents[2] / "docs"
spec = importlib.util.spec_from_file_location("operations", DOCS / "operations.py")
operations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(operations)

#: what only the compiler makes, besides gradients: not what a network is declared of
MADE = {
    "batch_stats", "channel_sum", "concat_filters", "diagonal_weight", "fill", "filter_sum", "fold_bias", "fold_weight",
    "max_pool2d_index", "normalize", "pad_window", "round_weight", "row", "running_mean", "running_var",
    "slice_filters", "spread_channels", "stack",
}  # fmt: skip


def test_the_page_is_current():
    assert operations.PAGE.read_text() == operations.page()


def test_every_operation_is_on_it_once():
    assert {name for name in OPS if "_grad" not in name} == operations.NAMES.keys() | MADE
    rows = re.findall(r"^\| `(\w+)` \|", operations.PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(OPS)


def test_the_names_are_pytorchs_and_onnxs():
    for name, (pytorch, onnx) in operations.NAMES.items():
        found = torch
        for part in filter(None, pytorch.split(".")):
            found = getattr(found, part)
        assert not onnx or onnx in ONNX, name


def test_the_example_of_the_text_form_is_a_graph():
    (text,) = re.findall(r"```tricnn\n(.*?)```", operations.PAGE.read_text(), re.DOTALL)
    assert from_text(text).num_parameters == 6 * 25 + 4704 * 10 + 10


def test_a_name_that_is_nearly_right_is_said():
    b = GraphBuilder("net")
    x = b.input("x", (3, 8, 8))
    with pytest.raises(GraphError, match=r"unknown operation 'relu_6'; did you mean relu6\? known: abs, "):
        b.add("relu_6", x)
    with pytest.raises(GraphError, match=r"no attribute 'negativ_slope'; did you mean negative_slope\? it has: neg"):
        b.add("leaky_relu", x, negativ_slope=0.1)
    with pytest.raises(GraphError, match=r"unknown operation 'conv2'; did you mean conv2d\? known: "):
        from_text("graph g\nx = input(shape=[N, 3, 8, 8])\ny = conv2(x)\noutput y = y\n")
    with pytest.raises(GraphError, match="unknown operation 'zzz'; known: "):
        b.add("zzz", x)
