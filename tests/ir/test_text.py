"""The text form: it round-trips, and whatever a file holds is answered by a graph or by one plain line.

Text graphs come from people and from strangers. A traceback, a silent misreading, or a name that reaches generated
code would each cost a user an afternoon, or more.
"""

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ir.random_graphs import networks
from tests.ir.samples import SAMPLES
from tricnn.compiler.differentiate import differentiate
from tricnn.compiler.specialise import for_training
from tricnn.graphs import lenet, lenet_sigmoid
from tricnn.ir import OPS, GraphBuilder, GraphError, Loss, ShapeError, TextError, TricnnError, from_text, to_text
from tricnn.ir.table import declared_operations

SMALL = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

TINY = """\
graph tiny   # a comment

x = input(shape=[N, 2, 5, 5])
conv1.weight = parameter(shape=[4, 2, 3, 3])
conv1 = conv2d(x, conv1.weight, stride=2, padding=(1, 0, 1, 0))
pool = max_pool2d(conv1, kernel_size=2, stride=[1, 1])
flat = flatten(pool)
drop = dropout(flat, p=0.25, layer=1)
fc.weight = parameter(shape=[3, 4])
fc = linear(drop, fc.weight)
output logits = fc loss_weight=0.5
"""


def with_line(number: int, line: str) -> str:
    """TINY with one of its lines (from 1) replaced."""
    lines = TINY.splitlines()
    lines[number - 1] = line
    return "\n".join(lines)


# --- round trip ------------------------------------------------------------------------------------------------------


def test_a_hand_written_graph_means_what_it_says():
    g = from_text(TINY)
    assert g.name == "tiny"
    assert [n.name for n in g.nodes][:3] == ["x", "conv1.weight", "conv1"]
    assert dict(g.by_name["conv1"].attrs) == {
        "stride": (2, 2), "padding": (1, 0, 1, 0), "dilation": (1, 1), "groups": 1,
    }  # fmt: skip
    assert str(g.types["conv1"]) == "[N, 4, 2, 2]"
    assert g.by_name["drop"].attrs["p"] == 0.25
    assert g.outputs[0].loss_weight == 0.5
    assert from_text(to_text(g)) == g


@pytest.mark.parametrize("graph", [lenet(), lenet_sigmoid()], ids=lambda g: g.name)
def test_architectures_round_trip_declared_and_differentiated(graph):
    for g in (graph, differentiate(for_training(graph, Loss(label_smoothing=0.1)))):
        again = from_text(to_text(g))
        assert again == g
        assert to_text(again) == to_text(g)
        assert again.types == g.types


def test_every_operation_round_trips():
    graphs = [sample.graph() for sample in SAMPLES]
    assert [g for g in graphs if from_text(to_text(g)) != g] == []


@settings(SMALL, max_examples=25)
@given(networks())
def test_random_graphs_round_trip(graph):
    for g in (graph, differentiate(for_training(graph))):
        assert from_text(to_text(g)) == g


def test_layers_may_come_in_any_order():
    head, *statements, output = [line for line in TINY.splitlines() if line]
    for seed in range(5):
        shuffled = random.Random(seed).sample(statements, len(statements))
        g = from_text("\n".join([head, output, *shuffled]))
        assert {n.name: n for n in g.nodes} == {n.name: n for n in from_text(TINY).nodes}


def test_a_layer_may_have_the_name_of_a_keyword():
    text = "graph graph\noutput = input(shape=[N, 2])\nN = relu(output)\nupdate = tanh(N)\noutput True = update\n"
    g = from_text(text)
    assert from_text(to_text(g)) == g
    assert [n.name for n in g.nodes] == ["output", "N", "update"]


@pytest.mark.parametrize("value", [1e-05, 0.1, 1e16, 1e-300, 123456789.123, 2.0])
def test_floats_round_trip_to_the_last_bit(value):
    g = from_text(f"graph g\nx = input(shape=[N, 2])\ny = scale(x, factor={value!r})\noutput y = y\n")
    assert g.by_name["y"].attrs["factor"] == value
    assert from_text(to_text(g)) == g


# --- what is refused -------------------------------------------------------------------------------------------------

SYNTAX = [
    # text, line, column, what the message must hold
    ("", 1, 1, "graph NAME"),
    ("# nothing here", 1, 1, "graph NAME"),
    ("x = input(shape=[N, 2])", 1, 1, "graph NAME"),
    (with_line(5, "conv1 = conv2d(x, conv1.weight"), 5, 31, "the end of the line"),
    (with_line(5, "conv1 = conv2d(x conv1.weight)"), 5, 18, "','"),
    (with_line(5, "conv1 = conv2d(x, conv1.weight))"), 5, 32, "the end of the line"),
    (with_line(5, "conv1 conv2d(x, conv1.weight)"), 5, 7, "'='"),
    (with_line(5, "conv1 = conv9d(x, conv1.weight)"), 5, 9, "conv2d"),
    (with_line(5, "conv1 = conv2d(stride=2, x)"), 5, 27, "inputs come before attributes"),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=2, stride=3)"), 5, 50, "twice"),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=)"), 5, 40, "expected a number"),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=[1, 2)"), 5, 45, "','"),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=two)"), 5, 40, "expected a number"),
    (with_line(5, "conv1 = conv2d(x, conv1.weight) ; import os"), 5, 33, "';'"),
    (with_line(5, "x = relu(x)"), 5, 1, "already defined in line 3"),
    (with_line(5, '"conv1" = relu(x)'), 5, 1, "layer name"),
    (with_line(5, "graph again"), 5, 7, "'='"),
    (with_line(5, "-3conv = relu(x)"), 5, 1, "'-'"),
    (with_line(5, "conv1 = relu(x)\\"), 5, 16, "unexpected"),
    (with_line(11, "output logits = fc weight=2"), 11, 20, "loss_weight"),
    (with_line(11, "output logits = fc loss_weight=big"), 11, 32, "expected a number"),
    (with_line(11, "output = "), 11, 10, "operation"),
]


@pytest.mark.parametrize(("text", "line", "column", "words"), SYNTAX, ids=[str(i) for i in range(len(SYNTAX))])
def test_a_syntax_error_says_where(text, line, column, words):
    with pytest.raises(TextError) as caught:
        from_text(text)
    message = str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column), message
    assert message.startswith(f"line {line}, column {column}: ")
    assert words in message
    assert "\n" not in message


MEANING = [
    # text, error, what the message must hold: where, which layer, the shapes, what would be accepted
    (with_line(5, "conv1 = conv2d(y, conv1.weight)"), GraphError, ["line 5", "conv1", "'y'"]),
    (with_line(5, "conv1 = conv2d(pool, conv1.weight)"), GraphError, ["line 5", "conv1", "pool", "cycle", "acyclic"]),
    (with_line(5, "conv1 = relu(conv1)"), GraphError, ["line 5", "conv1", "cycle"]),
    (with_line(5, "conv1 = conv2d(x)"), GraphError, ["line 5", "conv1", "x weight bias?", "1 given"]),
    (with_line(5, "conv1 = relu(x, x)"), GraphError, ["line 5", "conv1", "(x)", "2 given"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, strides=2)"), GraphError, ["line 5", "strides", "stride, padding"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=0)"), GraphError, ["line 5", "stride=0", "at least 1"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=1.5)"), GraphError, ["line 5", "stride=1.5", "integer"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, padding=-1)"), GraphError, ["line 5", "padding=-1", "negative"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, padding=(1, 2, 3))"), GraphError, ["line 5", "padding", "bottom"]),
    (with_line(5, 'conv1 = conv2d(x, conv1.weight, padding="ab")'), GraphError, ["line 5", "padding", "integer"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=N)"), GraphError, ["line 5", "stride=N", "integer"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, stride=True)"), GraphError, ["line 5", "stride=True", "integer"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, groups=3)"), ShapeError,
     ["line 5", "conv1", "groups=3", "2 input channels", "4 filters"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, groups=2)"), ShapeError,
     ["line 5", "conv1", "groups=2", "[4, 2, 3, 3]", "the input has 2"]),
    (with_line(5, "conv1 = conv2d(x, conv1.weight, dilation=(3, 1))"), ShapeError,
     ["line 5", "conv1", "7x3", "larger than its padded input 5x5", "more padding"]),
    (with_line(4, "conv1.weight = parameter(shape=[4, 3, 3, 3])"), ShapeError,
     ["line 5", "conv1", "[4, 3, 3, 3]", "the input has 2"]),
    (with_line(4, "conv1.weight = parameter(shape=[4, 2, 9, 3])"), ShapeError, ["line 5", "9x3", "6x6"]),
    (with_line(4, "conv1.weight = parameter(shape=[4, 18])"), ShapeError, ["line 5", "[K, C/groups, R, S]", "[4, 18]"]),
    (with_line(4, "conv1.weight = parameter(shape=[N, 2, 3, 3])"), GraphError, ["line 4", "conv1.weight", "shape"]),
    (with_line(3, "x = input(shape=[N, 2, 0, 5])"), GraphError, ["line 3", "x", "positive"]),
    (with_line(3, "x = input(shape=[N, 2, -1, 5])"), GraphError, ["line 3", "x", "positive"]),
    (with_line(3, "x = input(shape=[2, N, 5, 5])"), GraphError, ["line 3", "x", "N the batch size"]),
    (with_line(3, "x = input()"), GraphError, ["line 3", "x", "needs shape"]),
    (with_line(3, 'x = input(shape=[N, 2, 5, 5], dtype="int64")'), ShapeError, ["line 5", "conv1", "int64"]),
    (with_line(6, "pool = max_pool2d(conv1, kernel_size=5, stride=1)"), ShapeError, ["line 6", "5x5", "2x2"]),
    (with_line(6, "pool = max_pool2d(conv1, kernel_size=2, stride=1, padding=2)"), ShapeError, ["line 6", "half"]),
    (with_line(6, "pool = max_pool2d(conv1, kernel_size=2)"), GraphError, ["line 6", "stride", "at least 1"]),
    (with_line(6, 'pool = max_pool2d(conv1, kernel_size=2, stride=1, ceil_mode=1)'), GraphError,
     ["line 6", "ceil_mode=1", "True or False"]),
    (with_line(8, "drop = dropout(flat, p=1.0)"), GraphError, ["line 8", "p=1.0", "0.999"]),
    (with_line(8, "drop = dropout(flat, layer=1e999)"), TricnnError, ["line 8"]),
    (with_line(8, "drop = scale(flat, factor=1e999)"), TricnnError, ["line 8"]),
    (with_line(8, f"drop = dropout(flat, layer={'9' * 5000})"), TricnnError, ["line 8"]),
    (with_line(8, f"drop = scale(flat, factor={'[' * 5000}"), TricnnError, ["line 8"]),
    (with_line(8, "drop = add(flat, pool)"), ShapeError, ["line 8", "[N, 4]", "[N, 4, 1, 1]"]),
    (with_line(8, "drop = flatten(fc.weight)"), ShapeError, ["line 8", "drop"]),
    (with_line(9, "fc.weight = parameter(shape=[3, 5])"), ShapeError, ["line 10", "fc", "5", "4"]),
    (with_line(10, "fc = linear(pool, fc.weight)"), ShapeError, ["line 10", "[N, features]", "flatten"]),
    (with_line(11, "output logits = nowhere"), GraphError, ["line 11", "logits", "nowhere"]),
    (with_line(11, ""), GraphError, ["tiny", "no output"]),
    (TINY + "output logits = flat", GraphError, ["logits", "twice"]),
    (TINY + "update fc.weight = fc.weight", GraphError, ["line 12", "fc.weight", "buffer"]),
    (TINY + "gradient fc.weight = fc", GraphError, ["line 12", "fc.weight", "[N, 3]", "[3, 4]"]),
    (with_line(11, "output logits = fc loss_weight=1e999"), TricnnError, ["line 11"]),
    (with_line(11, "output logits = fc loss_weight=-1"), TricnnError, ["line 11", "logits", "loss_weight"]),
    (with_line(11, "output logits = fc training_only=3"), TricnnError, ["line 11", "training_only"]),
    (with_line(11, 'output logits = fc loss_weight="1"'), TricnnError, ["line 11", "loss_weight"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error", "words"), MEANING, ids=[str(i) for i in range(len(MEANING))])
def test_a_graph_that_makes_no_sense_is_answered_in_one_line_that_names_the_layer(text, error, words):
    with pytest.raises(error) as caught:
        from_text(text)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    for word in words:
        assert word in message, message


HOSTILE = [
    'a"b', "a'b", "a\nb", "a\r\nb", "../x", "/etc/passwd", "a;import os", "a b", "a/b", "a\\b", "a{b}", "a$b", "a`id`b",
    '__import__("os")', "x)\nimport os\n(", "\x00", "а", "ｃonv", "conv\u2028", "conv\u200b", "é", "-1", "-a", ".a",
    "a.", "a..b", "", " ", "a" * 129, "a" * 100_000, "%s", "\N{PILE OF POO}", "a\u0301", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused_wherever_it_stands(name):
    places = {
        "layer": f"graph g\nx = input(shape=[N, 2])\n{name} = relu(x)\noutput y = {name}\n",
        "input": f"graph g\nx = input(shape=[N, 2])\ny = relu({name})\noutput y = y\n",
        "operation": f"graph g\nx = input(shape=[N, 2])\ny = {name}(x)\noutput y = y\n",
        "attribute": f"graph g\nx = input(shape=[N, 2])\ny = relu(x, {name}=1)\noutput y = y\n",
        "graph": f"graph {name}\nx = input(shape=[N, 2])\ny = relu(x)\noutput y = y\n",
        "output": f"graph g\nx = input(shape=[N, 2])\ny = relu(x)\noutput {name} = y\n",
        "string": f'graph g\nx = input(shape=[N, 2], dtype="{name}")\ny = relu(x)\noutput y = y\n',
        "init": f'graph g\nx = input(shape=[N, 2])\nw = parameter(shape=[2, 2], init="{name}")\ny = linear(x, w)\n'
        "output y = y\n",
    }
    for place, text in places.items():
        with pytest.raises(TricnnError) as caught:
            from_text(text)
        message = str(caught.value)
        assert not re.search(r"[\r\n\x00\u2028]", message), place
        assert len(message) < 200 + len(declared_operations()), place


def test_a_layer_may_be_called_as_a_number_is_written():
    """nn.Sequential names its layers 0, 1, 2: names where a layer's name stands, numbers after ``=``."""
    b = GraphBuilder("2nd")
    x = b.conv2d(b.input("x", (1, 4, 4)), 2, 3, name="0")
    for name in ("1", "0.1", "1e5", "2.5e-3", "00", "3-4", "7.a"):
        x = b.relu(x, name=name)
    g = b.build(b.linear(b.add("scale", x, name="5", factor=5.0), 3, name="6"))
    assert from_text(to_text(g)) == g
    assert g.by_name["0"].inputs == ("x", "0.weight", "0.bias") and g.by_name["5"].attrs["factor"] == 5.0


def test_names_people_use_are_accepted():
    for name in (
        "conv1",
        "layer1.0.conv1.weight",
        "_x",
        "a-b",
        "Mixed_5b.branch3x3dbl-1",
        "a" * 128,
        "__import__",
        "os",
    ):
        g = from_text(f"graph g\nx0 = input(shape=[N, 2])\n{name} = relu(x0)\noutput y = {name}\n")
        assert from_text(to_text(g)) == g


# --- nothing but TricnnError -----------------------------------------------------------------------------------------


def graph_or_one_line(text: str) -> None:
    try:
        graph = from_text(text)
    except TricnnError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert from_text(to_text(graph)) == graph


#: any character; hypothesis' own strategy makes a table of all of them first, which takes seconds
CHARACTERS = st.integers(0, 127).map(chr) | st.integers(128, 0x10FFFF).filter(lambda c: c >> 11 != 0x1B).map(chr)


@SMALL
@given(st.text(CHARACTERS, max_size=200))
def test_any_text_at_all(text):
    graph_or_one_line(text)
    graph_or_one_line("graph g\n" + text)


TOKENS = [
    "graph", "output", "update", "gradient", "x", "y", "conv1", "=", "(", ")", "[", "]", ",", "N", "True", "\n",
    "1", "0", "-3", "2.5", "1e9", "shape", "stride", '"s"', "#", " ", "input", "parameter", "relu", "conv2d",
]  # fmt: skip


@SMALL
@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_any_tokens_in_any_order(tokens):
    graph_or_one_line("graph g\n" + " ".join(tokens))


@SMALL
@given(st.integers(0, len(TINY)), st.integers(0, 12), st.text(CHARACTERS, max_size=6) | st.sampled_from(TOKENS))
def test_a_graph_with_a_piece_cut_out_and_another_put_in(start, length, piece):
    graph_or_one_line(TINY[:start] + piece + TINY[start + length :])


SHAPES = ["[]", "[N]", "[3]", "[N, 4]", "[3, 4]", "[N, 4, 1, 1]", "[N, 4, 5, 6]", "[4, 4, 3, 3]", "[2, 4]",
          "[N, 2, 3]", "[N, 1, 2, 3, 4]", "[99999999999999999999, 1]"]  # fmt: skip
VALUES = [
    "0",
    "1",
    "2",
    "-1",
    "1.5",
    "[1, 2]",
    "[3, 3]",
    "[0, 0, 1, 1]",
    "[]",
    "[[1]]",
    "N",
    "True",
    '"x"',
    "1e400",
    "9" * 30,
]


@settings(SMALL, max_examples=400)
@given(st.data())
def test_any_operation_of_operands_of_any_shape(data):
    """Shape rules are written for the shapes they expect; what else comes must be refused, not crash."""
    row = OPS[data.draw(st.sampled_from(sorted(OPS)))]
    count = data.draw(st.sampled_from([len(row.inputs), len(row.inputs), len(row.inputs) + 1, 0]))
    sources, names = ["graph g"], []
    for i in range(count):
        op = data.draw(st.sampled_from(["input", "parameter"]))
        dtype = data.draw(st.sampled_from(["", "", ', dtype="int64"', ', dtype="uint8"'])) if op == "input" else ""
        sources.append(f"v{i} = {op}(shape={data.draw(st.sampled_from(SHAPES))}{dtype})")
        names.append(f"v{i}")
    for name in row.attrs:
        if data.draw(st.integers(0, 3)):
            names.append(f"{name}={data.draw(st.sampled_from(VALUES))}")
    graph_or_one_line("\n".join([*sources, f"y = {row.name}({', '.join(names)})", "output y = y"]))
