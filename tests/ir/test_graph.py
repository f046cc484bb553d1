"""Declaring a graph: the builder, the verifier, the symbolic batch, and the questions a graph answers."""

import copy
import pickle

import networkx as nx
import pytest
import torch

from tricnn.graphs import lenet
from tricnn.ir import Graph, GraphBuilder, GraphError, Kind, N, Node, Output, ShapeError, TensorType, topological
from tricnn.ir.graph import derived_name


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the builder -----------------------------------------------------------------------------------------------------


def small() -> GraphBuilder:
    b = GraphBuilder("small")
    b.input("x", (3, 8, 8))
    return b


def test_layers_own_their_parameters_under_pytorchs_names():
    """A PyTorch state_dict loads by name: weight, bias, running_mean, running_var, in PyTorch's shapes."""
    b = small()
    x = b.conv2d("x", 8, (3, 5), padding=(1, 1, 2, 2), groups=1, name="conv1")
    x = b.relu(b.batch_norm(x, name="bn1"))
    b.linear(x, 10, name="fc")
    g = b.build("fc")
    module = torch.nn.Sequential()
    module.add_module("conv1", torch.nn.Conv2d(3, 8, (3, 5), padding=(1, 2)))
    module.add_module("bn1", torch.nn.BatchNorm2d(8))
    module.add_module("fc", torch.nn.Linear(8 * 8 * 8, 10))
    theirs = {k: tuple(v.shape) for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {n.name: g.types[n.name].shape for n in (*g.parameters, *g.buffers)} == theirs
    assert g.num_parameters == sum(p.numel() for p in module.parameters())


def test_scopes_nest_and_names_count_up():
    b = small()
    with b.scope("layer1"):
        with b.scope("0"):
            x = b.conv2d("x", 4, 3, name="conv1")
        y = b.relu(x)
    z = b.relu(y)
    assert (x, y) == ("layer1.0.conv1", "layer1.relu1")
    assert z.startswith("relu")
    assert "layer1.0.conv1.weight" in b.types


def test_a_name_is_never_given_twice_by_itself():
    b = small()
    b.relu("x", name="relu1")
    assert b.relu("x") == "relu2"
    with pytest.raises(GraphError) as error:
        b.relu("x", name="relu2")
    assert "relu2" in one_line(error) and "twice" in one_line(error)


def test_each_dropout_layer_draws_numbers_of_its_own():
    b = small()
    x = b.dropout(b.dropout("x"))
    layers = [n.attrs["layer"] for n in b.build(x).of("dropout")]
    assert len(set(layers)) == 2
    again = GraphBuilder("more", b.build())
    again.dropout(x)
    assert len({n.attrs["layer"] for n in again.nodes if n.op == "dropout"}) == 3


def test_groups_give_each_filter_its_share_of_the_channels():
    b = GraphBuilder("g")
    b.input("x", (6, 5, 5))
    b.conv2d("x", 9, 3, groups=3, name="c")
    assert b.types["c.weight"].shape == tuple(torch.nn.Conv2d(6, 9, 3, groups=3).weight.shape)


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda b: b.conv2d("x", 4, 9, name="c"), ["c", "9x9", "8x8"]),
        (lambda b: b.conv2d("x", 4, 3, groups=2, name="c"), ["c", "groups=2", "3 input channels", "4 filters"]),
        (lambda b: b.conv2d("x", 4, 3, groups=0, name="c"), ["c", "groups=0"]),
        (lambda b: b.conv2d("x", 4, (3,), name="c"), ["c", "kernel_size=(3,)", "pair"]),
        (lambda b: b.conv2d("x", 4, 0, name="c"), ["c", "kernel_size=0", "at least 1"]),
        (lambda b: b.conv2d("x", 0, 3, name="c"), ["c", "filters=0", "at least 1"]),
        (lambda b: b.conv2d("x", 4, 3, strides=2, name="c"), ["c", "strides", "stride"]),
        (lambda b: b.conv2d("nowhere", 4, 3), ["nowhere"]),
        (lambda b: b.linear("x", 0, name="fc"), ["fc", "0"]),
        (lambda b: b.max_pool2d("x", 2, 0, name="p"), ["p", "stride=0", "at least 1"]),
        (lambda b: b.avg_pool2d("x", 9, name="p"), ["p", "9x9", "8x8"]),
        (lambda b: b.max_pool2d("x", 2, padding=2, name="p"), ["p", "(2, 2, 2, 2)", "half"]),
        (lambda b: b.dropout("x", 1.5, name="d"), ["d", "1.5", "0.999"]),
        (lambda b: b.dropout("x", float("nan"), name="d"), ["d", "nan", "0.999"]),
        (lambda b: b.batch_norm("x", eps=-1.0, name="n"), ["n", "-1.0", "at least 0"]),
        (lambda b: b.concat([]), ["concat", "at least one input"]),
        (lambda b: b.add_("x", b.max_pool2d("x", 2), name="a"), ["a", "[N, 3, 8, 8]", "[N, 3, 4, 4]"]),
        (lambda b: b.concat(["x", b.flatten("x")], name="j"), ["j", "[N, 3, 8, 8]", "[N, 192]"]),
        (lambda b: b.relu("x", name="a;import os"), ["a;import os", "letters"]),
        (lambda b: b.relu("x", name="../x"), ["../x", "letters"]),
        (lambda b: b.add("teleport", "x", name="t"), ["t", "teleport", "conv2d"]),
        (lambda b: b.input("y", (0, 3, 3)), ["y", "positive"]),
        (lambda b: b.input("y", (3, 3)), ["y", "[N, C, H, W]"]),
        (lambda b: b.softmax("x", name="s"), ["s", "[N, classes]"]),
        (lambda b: b.conv2d(b.flatten("x", name="f"), 4, 1, name="c"), ["layer c", "[N, C, H, W]", "f is [N, 192]"]),
        (lambda b: b.conv2d(b.input("n", (), "int64"), 4, 1, name="c"), ["layer c", "[N, C, H, W]", "int64[N]"]),
        (lambda b: b.batch_norm(b.input("n", ()), name="bn"), ["layer bn", "[N, C] or [N, C, H, W]", "n is [N]"]),
        (lambda b: b.batch_norm(b.parameter("w", (3, 4), "constant(0)"), name="bn"), ["layer bn", "float32[3, 4]"]),
        (lambda b: b.linear(b.input("n", ()), 3, name="fc"), ["layer fc", "[N, F] or [N, C, H, W]", "n is [N]"]),
    ],
)
def test_a_layer_that_cannot_be_is_named_with_what_would_be_accepted(declare, words):
    with pytest.raises(GraphError) as error:
        declare(small())
    for word in words:
        assert word in one_line(error)


def test_a_graph_needs_an_output_and_names_each_once():
    with pytest.raises(GraphError, match="no output"):
        small().build()
    b = small()
    b.output("x", "a")
    b.output("x", "a")
    with pytest.raises(GraphError, match="twice"):
        b.build()


# --- the verifier ----------------------------------------------------------------------------------------------------

X = Node("x", "input", (), {"shape": (N, 3, 4, 4)})


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((X, X), "twice"),
        ((Node("y", "relu", ("x",)), X), "not defined before"),
        ((X, Node("y", "cosine", ("x",))), "unknown operation"),
        ((X, Node("y", "relu", ())), "0 given"),
        ((X, Node("y", "add", ("x",))), "1 given"),
        ((X, Node("y", "relu", ("x",), {"slope": 0.1})), "no attribute 'slope'"),
        ((X, Node("y", "dropout", ("x",), {"p": "half"})), "p='half' is not accepted"),
        ((X, Node(3, "relu", ("x",))), "layer name 3"),
        ((X, Node("y", "conv2d", ("x", "x"))), "weight must have no batch"),
        ((X, Node("y", "cross_entropy", ("x", "x"))), "labels must be int64"),
    ],
)
def test_making_a_graph_checks_it(nodes, words):
    with pytest.raises(GraphError) as error:
        Graph("g", nodes, (Output("y", nodes[-1].name),))
    assert words in one_line(error)


def test_a_backward_layer_must_fit_the_layer_it_belongs_to():
    """A pass that mixes up two layers is caught when it makes its graph, not by wrong gradients."""
    dy = Node("dy", "input", (), {"shape": (N, 5, 2, 2)})
    w = Node("w", "parameter", (), {"shape": (5, 3, 3, 3)})
    index = Node("i", "input", (), {"shape": (N, 5, 2, 2), "dtype": "uint8"})
    pool = {"kernel_size": 2, "stride": 2, "input_size": (4, 4)}
    good = [
        (w, Node("d", "conv2d_grad_input", ("dy", "w"), {"input_size": (4, 4)})),
        (X, Node("d", "conv2d_grad_weight", ("dy", "x"), {"kernel_size": 3})),
        (index, Node("d", "max_pool2d_grad", ("dy", "i"), pool)),
        (Node("d", "avg_pool2d_grad", ("dy",), pool),),
    ]
    for nodes in good:
        Graph("g", (dy, *nodes), (Output("d", "d"),))
        *before, node = nodes
        key = next(k for k in ("input_size", "kernel_size") if k in node.attrs)
        wrong = Node(node.name, node.op, node.inputs, {**node.attrs, key: (6, 6)})
        with pytest.raises(ShapeError, match="layer d"):
            Graph("g", (dy, *before, wrong), (Output("d", "d"),))


def test_attributes_are_complete_and_cannot_be_changed():
    b = small()
    g = b.build(b.conv2d("x", 4, 3, stride=2))
    attrs = g.by_name["conv1"].attrs
    assert dict(attrs) == {"stride": (2, 2), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    with pytest.raises(TypeError):
        attrs["stride"] = (1, 1)  # type: ignore[index]
    with pytest.raises(TypeError):
        g.types["conv1"] = g.types["x"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        g.name = "other"  # type: ignore[misc]


def test_a_graph_can_be_copied_and_sent_to_another_process():
    g = lenet()
    assert pickle.loads(pickle.dumps(g)) == g
    assert copy.deepcopy(g) == g
    assert hash(copy.deepcopy(g)) == hash(g)


def test_topological_keeps_the_given_order_where_it_can_and_names_a_cycle():
    a, b, c = Node("a", "relu", ("x",)), Node("b", "relu", ("x",)), Node("c", "add", ("a", "b"))
    assert topological([c, b, X, a]) == (X, b, a, c)
    assert topological([X, a, b, c]) == (X, a, b, c)
    with pytest.raises(GraphError, match=r"(p -> q -> p|q -> p -> q) form a cycle"):
        topological([Node("p", "relu", ("q",)), Node("q", "relu", ("p",))])
    with pytest.raises(GraphError, match="layer a: input 'x'"):
        topological([a])
    with pytest.raises(GraphError, match="twice"):
        topological([X, a, Node("a", "tanh", ("x",))])


# --- the batch is a symbol -------------------------------------------------------------------------------------------


def test_the_batch_stays_a_symbol_in_every_type():
    g = lenet()
    for node in g.nodes:
        assert g.types[node.name].batched == (node.op not in ("parameter", "buffer"))
    assert str(g.types["conv1"]) == "[N, 6, 28, 28]"
    assert g.types["conv1"].at(32) == (32, 6, 28, 28)
    assert g.types["conv1"].elements(32) == 32 * 6 * 28 * 28
    assert g.types["conv1.weight"].elements(32) == 6 * 25
    assert TensorType(()).elements(32) == 1


def test_there_is_one_batch():
    assert pickle.loads(pickle.dumps(N)) is N and copy.deepcopy(N) is N and repr(N) == "N"
    assert N != 1 and TensorType((N, 3)) == TensorType((N, 3)) != TensorType((1, 3))


# --- questions -------------------------------------------------------------------------------------------------------


def diamond() -> Graph:
    b = small()
    x = b.conv2d("x", 4, 3, padding=1, name="stem")
    left, right = b.relu(x, name="left"), b.tanh(x, name="right")
    b.sigmoid(right, name="dead")
    return b.build(b.add_(left, right, name="join"))


def test_networkx_answers_what_it_is_asked():
    g = diamond()
    dag = g.networkx()
    assert nx.is_directed_acyclic_graph(dag)
    assert nx.descendants(dag, "right") == {"join", "dead"}
    assert nx.ancestors(dag, "join") == {"x", "stem", "stem.weight", "stem.bias", "left", "right"}
    assert set(dag) == {n.name for n in g.nodes}
    assert dag.nodes["stem"] == {"op": "conv2d", "kind": "contraction", "type": "[N, 4, 8, 8]"}
    assert dag.number_of_edges() == 3 + 1 + 1 + 1 + 2


def test_consumers_name_each_reader_once():
    b = small()
    g = b.build(b.add_("x", "x", name="twice"))
    assert [n.name for n in g.consumers["x"]] == ["twice"]
    assert [n.name for n in diamond().consumers["stem"]] == ["left", "right"]


def test_pruning_leaves_what_a_result_needs_and_the_inputs():
    g = diamond()
    assert {n.name for n in g.nodes} - {n.name for n in g.pruned().nodes} == {"dead"}
    only_left = Graph("g", g.nodes, (Output("y", "left"),)).pruned()
    assert [n.name for n in only_left.nodes] == ["x", "stem.weight", "stem.bias", "stem", "left"]
    kept = Graph("g", (X, Node("y", "input", (), {"shape": (N, 2)})), (Output("y", "y"),)).pruned()
    assert [n.name for n in kept.nodes] == ["x", "y"]


def test_parameters_and_multiply_adds_follow_the_formulas():
    """k*c*r*s + k and k*c*r*s*p*q for a convolution; o*f + o and o*f for a dense layer; running statistics are none."""
    b = small()
    x = b.conv2d("x", 16, (3, 5), stride=2, groups=1)  # 3x2 pixels
    x = b.conv2d(x, 32, 1, bias=False)
    x = b.batch_norm(x)
    g = b.build(b.linear(x, 10))
    assert g.num_parameters == (16 * 3 * 15 + 16) + 32 * 16 + (32 + 32) + (10 * 32 * 3 * 2 + 10)
    assert g.macs == 16 * 3 * 15 * 6 + 32 * 16 * 6 + 10 * 32 * 6
    assert [n.kind for n in g.nodes if n.op == "linear"] == [Kind.CONTRACTION]


def test_names_that_passes_make_are_new_and_never_too_long():
    assert derived_name("conv1", "wgrad", {}) == "conv1.wgrad"
    assert derived_name("conv1", "wgrad", {"conv1.wgrad": 1}, {"conv1.wgrad2": 1}) == "conv1.wgrad3"
    long = derived_name("a" * 128, "wgrad", {})
    assert len(long) <= 128 and long != derived_name("a" * 127 + "b", "wgrad", {})
    dotted = derived_name(("a" * 59 + ".") + "b" * 68, "wgrad", {})
    Graph("g", (X, Node(dotted, "relu", ("x",))), (Output("y", dotted),))
