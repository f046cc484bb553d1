"""The lecture's figures of cost: parameters, bytes, multiply-adds, hours."""

import pytest

from tests.lecture.executors import layer
from tricnn.graphs import lenet, lenet_sigmoid
from tricnn.ir import GraphBuilder

CPU, GPU = 0.15e12, 12e12  # multiply-adds per second the slides grant an i7 and a Titan RTX


def test_one_hidden_layer_on_a_photograph_has_3_6_billion_weights():
    """36M features into 100 units: 3.6 G weights, 14 GB in fp32; more than all cats and dogs (1.5 billion)."""
    b = GraphBuilder("photograph")
    graph = b.build(b.linear(b.input("x", (36_000_000,)), 100, bias=False))
    assert graph.num_parameters == 3_600_000_000 > 1_500_000_000
    assert graph.num_parameters * 4 / 1e9 == pytest.approx(14, abs=0.5)
    assert graph.macs == 3_600_000_000


def test_a_layer_of_100_channels_5x5_on_64x64_is_a_gigaflop():
    """c_i * c_o * k_h * k_w * m_h * m_w = 100 * 100 * 25 * 4096 = 1.024e9; ten of them on 1M images are 10 PF."""
    graph = layer((100, 64, 64), lambda b, x: b.conv2d(x, 100, 5, padding=2))
    assert graph.types["conv1"].spatial == (64, 64)
    assert graph.macs == 100 * 100 * 5 * 5 * 64 * 64 == 1_024_000_000
    b = GraphBuilder("ten")
    x = b.input("x", (100, 64, 64))
    for _ in range(10):
        x = b.conv2d(x, 100, 5, padding=2)
    total = b.build(x).macs * 1_000_000
    assert total == pytest.approx(10e15, rel=0.03)
    # the slide's 18 h and 14 min are those of 10 PF even (18.5, cut off); the exact product is 2.4 % more
    for work, hours, minutes in ((10e15, 18.5, 13.9), (total, 19.0, 14.2)):
        assert work / CPU / 3600 == pytest.approx(hours, abs=0.05)
        assert work / GPU / 60 == pytest.approx(minutes, abs=0.05)


def test_lenet_has_61706_parameters():
    """6*25+6, 16*6*25+16, 400*120+120, 120*84+84, 84*10+10; the slide's 150 and 2.4K are weights without biases."""
    weights = [6 * 1 * 25, 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10]
    biases = [6, 16, 120, 84, 10]
    macs = [weights[0] * 28 * 28, weights[1] * 10 * 10, *weights[2:]]
    for graph in (lenet(), lenet_sigmoid()):
        assert graph.num_parameters == sum(weights) + sum(biases) == 61_706
        assert graph.types["conv1.weight"].elements(1) == 150
        assert graph.types["conv2.weight"].elements(1) == 2400
        assert graph.macs == sum(macs) == 416_520
        # the slide's 1.2M and 2.4M for the convolutions are ten times what the weights and pixels it describes give
        assert [graph.node_macs(graph.by_name[name]) for name in ("conv1", "conv2")] == [117_600, 240_000]


def test_lenets_layers_have_the_sizes_of_the_lecture():
    graph = lenet()
    sizes = ["[N, 6, 28, 28]", "[N, 6, 14, 14]", "[N, 16, 10, 10]", "[N, 16, 5, 5]", "[N, 400]", "[N, 120]", "[N, 84]"]
    names = ["conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "fc2"]
    assert [str(graph.types[name]) for name in names] == sizes
    assert str(graph.types[graph.outputs[0].value]) == "[N, 10]"
    assert {n.op for n in lenet_sigmoid().nodes} >= {"sigmoid", "avg_pool2d"}
    assert {n.op for n in graph.nodes} >= {"relu", "max_pool2d"}
