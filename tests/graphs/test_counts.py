"""Parameters and multiply-adds of every network, against the figures of papers, torchvision, timm and the lecture.

They are how a reader recognises a network: one filter too few in a block is a different number.
"""

import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from tricnn import graphs
from tricnn.compiler.specialise import for_inference
from tricnn.graphs import ARCHITECTURES, SMALL
from tricnn.ir import Graph, GraphBuilder
from tricnn.ir.text import from_text, to_text
from tricnn.system.errors import TricnnError

from .comparison import DEEP

PUBLISHED = tomllib.loads((Path(__file__).parents[2] / "docs" / "published.toml").read_text())
PARAMETERS = {name: figures["parameters"][0] for name, figures in PUBLISHED.items() if "parameters" in figures}
GMACS = {name: figures["gmacs"][0] for name, figures in PUBLISHED.items() if "gmacs" in figures}
BATCH_NORM_TOO = {n: f["gmacs_with_batch_norm"][0] for n, f in PUBLISHED.items() if "gmacs_with_batch_norm" in f}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_is_the_published_one_and_its_small_member_has_its_layers(name):
    """What is asked of a declared network, which is declared once for all of it."""
    graph = ARCHITECTURES[name]()
    if name in PARAMETERS:
        assert graph.num_parameters == PARAMETERS[name]
    if name in GMACS:
        published = GMACS[name]
        last_digit = 10 ** -len(published.partition(".")[2])
        assert for_inference(graph).macs / 1e9 == pytest.approx(float(published), abs=last_digit)
    if name in BATCH_NORM_TOO:
        published = float(BATCH_NORM_TOO[name])
        assert published * 0.99 < graph.macs / 1e9 < published
    line = (ARCHITECTURES[name].__doc__ or "").splitlines()[0]
    assert 5 < len(line) < 110 and line.endswith(".")
    if name not in DEEP:
        is_the_same_as_text_and_when_small(name, graph)


def is_the_same_as_text_and_when_small(name, graph):
    assert from_text(to_text(graph)) == graph
    has_every_layer(name, graph, ARCHITECTURES[name](**SMALL[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_a_deep_network_too(name):
    is_the_same_as_text_and_when_small(name, ARCHITECTURES[name]())


def test_every_published_network_is_there():
    assert {*PARAMETERS, *GMACS, *BATCH_NORM_TOO} <= set(ARCHITECTURES)


def test_heads_and_biases_account_for_the_other_published_counts():
    assert graphs.inception_v3(aux=False).num_parameters == 23_834_568
    assert graphs.googlenet(aux=False).num_parameters == 6_998_552  # Caffe's
    assert graphs.googlenet_bn(aux=True).num_parameters == 13_004_888  # torchvision's GoogLeNet as it trains
    inception = graphs.inception_bn()
    filters = sum(inception.types[n.name].channels for n in inception.of("conv2d"))
    assert inception.num_parameters + filters == 11_295_240  # the Caffe port, whose convolutions have biases too


def test_networks_of_each_pixel_cost_what_torchvision_says():
    """At 520x520, the auxiliary head included; and the U-Net of PyTorch's hub, of half the width and one class."""
    assert graphs.fcn_resnet50().macs / 1e9 == pytest.approx(152.717, abs=1e-3)
    assert graphs.deeplabv3_resnet50().macs / 1e9 == pytest.approx(178.722, abs=1e-3)
    assert graphs.unet(num_classes=1, width=0.5).num_parameters == 7_763_041


@pytest.mark.parametrize("depth, published", [(18, 1.8), (34, 3.6), (50, 3.8), (101, 7.6), (152, 11.3)])
def test_resnet_v1_costs_what_the_paper_says(depth, published):
    """He et al., table 1: 10^9 multiply-adds, rounded down for some depths and to the nearest for others."""
    options = {"stride_on": "1x1"} if depth >= 50 else {}
    graph = ARCHITECTURES[f"resnet{depth}"](**options)
    assert graph.macs / 1e9 == pytest.approx(published, abs=0.07)
    assert graph.num_parameters == PARAMETERS[f"resnet{depth}"]


def weights(graph: Graph, *layers: str) -> int:
    return sum(graph.node_macs(graph.by_name[n]) // pixels(graph, n) for n in layers)


def pixels(graph: Graph, layer: str) -> int:
    return graph.types[layer].pixels


def macs(graph: Graph, *layers: str) -> int:
    return sum(graph.node_macs(graph.by_name[n]) for n in layers)


def test_the_lectures_table_of_alexnet():
    """Its figures are cut or rounded to the digits printed; its total leaves the last dense layer out."""
    graph = graphs.alexnet_lecture()
    rows = {
        ("conv1",): (35e3, 1e3, 101e6),
        ("conv2",): (614e3, 1e3, 415e6),
        ("conv3", "conv4", "conv5"): (3e6, 1e6, 445e6),
        ("dense1",): (26e6, 1e6, 26e6),
        ("dense2",): (16e6, 1e6, 16e6),
        ("conv1", "conv2", "conv3", "conv4", "conv5", "dense1", "dense2"): (46e6, 1e6, 1e9),
    }
    for layers, (parameters, digit, operations) in rows.items():
        assert weights(graph, *layers) == pytest.approx(parameters, abs=digit), layers
        assert macs(graph, *layers) == pytest.approx(operations, abs=max(1e6, operations / 100)), layers
    assert graph.types["flatten"].channels == 6400


def test_the_lectures_table_of_lenet():
    """150, 2,400 weights; its dense rows and its operations are ten times what its own drawing has."""
    graph = graphs.lenet()
    assert (weights(graph, "conv1"), weights(graph, "conv2")) == (150, 2400)
    assert 10 * weights(graph, "fc1") == 0.48e6 and 10 * weights(graph, "fc2") == pytest.approx(0.1e6, rel=0.01)
    assert 10 * macs(graph, "conv1") == pytest.approx(1.2e6, rel=0.03)


def test_the_lectures_inception_block_against_one_convolution():
    block = graphs.inception_block()
    assert block.types["concat"].per_image == (256, 28, 28)
    convolutions = [n.name for n in block.of("conv2d")]
    assert weights(block, *convolutions) == pytest.approx(0.16e6, abs=0.01e6)
    assert block.macs == macs(block, *convolutions) == pytest.approx(128e6, abs=1e6)
    for size, parameters, operations in ((3, 0.44e6, 346e6), (5, 1.22e6, 963e6)):
        b = GraphBuilder("plain")
        plain = b.build(b.conv2d(b.input("x", (192, 28, 28)), 256, size, padding=size // 2, bias=False))
        assert plain.num_parameters == pytest.approx(parameters, abs=0.01e6)
        assert plain.macs == pytest.approx(operations, abs=1e6)


def test_googlenet_costs_what_its_paper_says():
    """Szegedy et al., table 1: params in units of 1024, ops in millions.

    The paper's params are up to 7 % from what its own filters give, and so are the ops of 5a.
    """
    graph = graphs.googlenet()
    table = {
        "3a": (159, 128), "3b": (380, 304), "4a": (364, 73), "4b": (437, 88), "4c": (463, 100), "4d": (580, 119),
        "4e": (840, 170), "5a": (1072, 54), "5b": (1388, 71),
    }  # fmt: skip
    for block, (parameters, operations) in table.items():
        layers = [n.name for n in graph.of("conv2d") if n.name.startswith(f"inception{block}.")]
        assert len(layers) == 6
        assert weights(graph, *layers) / 1024 == pytest.approx(parameters, rel=0.08), block
        assert macs(graph, *layers) / 1e6 == pytest.approx(operations, abs=3 if block == "5a" else 1), block


def test_lenet5_has_the_papers_60000_parameters():
    """LeCun et al., section II.B, layer by layer; the output layer of radial basis functions has none to train."""
    graph = graphs.lenet5()
    published = {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 84 * 10 + 10}
    counted = dict.fromkeys(published, 0)
    for node in graph.parameters:
        size = 1
        for extent in graph.types[node.name].per_image:
            size *= extent
        counted[node.name.split(".")[0]] += size
    assert counted == published
    assert sum(published.values()) - published["output"] == 60_000
    connections = macs(graph, "c3.see3", "c3.see4", "c3.see6") + 16 * 100  # biases count as connections
    assert connections == 151_600


def has_every_layer(name: str, full: Graph, little: Graph) -> None:
    """Else what is checked and trained without a GPU is another network."""
    if name == "inception_block":  # the dense layer that gives it classes
        little = Graph(little.name, tuple(n for n in little.nodes if not n.name.startswith("fc")), full.outputs)
    assert [(n.name, n.op, n.inputs) for n in little.nodes] == [(n.name, n.op, n.inputs) for n in full.nodes]
    resized = {"parameter", "buffer", "input", "view_weight"}  # they have the shape of a parameter as an attribute
    for a, b in zip(full.nodes, little.nodes):
        depthwise = a.op == "conv2d" and 1 < a.attrs["groups"] == full.types[a.name].channels
        if depthwise:
            assert b.attrs["groups"] == little.types[b.name].channels, a.name
            a, b = (replace(n, attrs={**n.attrs, "groups": 1}) for n in (a, b))
        other = a.op in resized or a.name in ("AuxLogits.conv1.conv", "x") or a.op in ("pad_channels", "slice_channels")
        other = other or a.op == "upsample_bilinear2d"  # to the size of the image
        assert other or a.attrs == b.attrs, a.name


def test_the_orders_by_name_are_the_orders_by_argument():
    for order in ("bn_after_addition", "relu_before_addition", "relu_preactivation", "preactivation"):
        named = ARCHITECTURES[f"cifar_resnet20_{order}"]()
        argument = graphs.cifar_resnet20(order=order)
        assert (named.nodes, named.outputs) == (argument.nodes, argument.outputs)
        assert named.num_parameters == 269_722


def test_what_does_not_make_sense_is_said_in_one_line():
    wrong = {
        "stride_on": lambda: graphs.resnet50(stride_on="5x5"),
        "order": lambda: graphs.cifar_resnet20(order="random"),
        "width": lambda: graphs.alexnet_2012(width=0),
        "features.12": lambda: graphs.alexnet(input_shape=(3, 32, 32)),
    }
    for word, build in wrong.items():
        with pytest.raises(TricnnError, match=word) as caught:
            build()
        assert "\n" not in str(caught.value)


def test_declaring_the_deepest_networks_takes_under_a_second():
    for name in ("resnet152", "inception_resnet_v2"):
        start = time.process_time()
        ARCHITECTURES[name]()
        assert time.process_time() - start < 1, name
