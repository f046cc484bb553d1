"""A network written in PyTorch becomes the graph that the zoo declares: the same launches, the same bytes."""

import pytest

import tricnn
from tests.graphs.comparison import Case
from tricnn.lower.from_graph import lowered

QUICK = ["lenet"]
SLOW = [
    "resnet18",
    "alexnet_2012",
    "vgg11_bn",
    "googlenet_bn",
    "inception_v3",
    "resnet50",
    "cifar_resnet20",
    "inception_block",
]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_an_imported_network_costs_what_the_declared_one_does(name: str) -> None:
    case = Case(name)
    shape = (2, *case.graph.types["x"].per_image)
    graph, state = tricnn.from_torch(case.module.float().train(), shape, cache=False)
    assert {n: tuple(x.shape) for n, x in state.items() if not n.endswith("num_batches_tracked")} == {
        n.name: case.graph.types[n.name].per_image for n in (*case.graph.parameters, *case.graph.buffers)
    }
    for mode in ("infer", "train"):
        for fuse in ("auto", "none"):
            a, b = (lowered(g, mode, 64, "bf16", "sm_90", fuse=fuse) for g in (case.graph, graph))
            assert (len(a.launches), a.dram_bytes()) == (len(b.launches), b.dram_bytes()), (mode, fuse)
