"""Every network, small: NumPy runs the fused training plan kernel by kernel, and it is the unfused graph in float64."""

import numpy as np
import pytest

import tricnn
from tricnn.graphs import ARCHITECTURES, SMALL

#: each family once, the small ones
QUICK = ("lenet5", "alexnet_2012", "vgg11_bn", "googlenet_bn", "resnet18", "resnet50", "resnet18_v2", "cifar_resnet20")


def step(name: str, fuse: str):
    graph = ARCHITECTURES[name](**SMALL[name])
    model = tricnn.compile(graph, "train", 2, "fp64", "numpy", fuse=fuse, seed=1)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, *graph.types[graph.inputs[0].name].per_image))
    loss, gradients = model.loss_and_grads(images, rng.integers(0, 10, 2))
    return loss, gradients, model.state_dict()


def compare(name: str) -> None:
    (loss, gradients, state), (expected, wanted, after) = step(name, "all"), step(name, "none")
    assert loss == pytest.approx(expected, rel=1e-10)
    assert set(gradients) == set(wanted) and wanted
    for parameter, gradient in wanted.items():
        tolerance = 1e-10 * max(1.0, float(np.abs(gradient).max()))
        np.testing.assert_allclose(gradients[parameter], gradient, rtol=0, atol=tolerance, err_msg=parameter)
    for value, x in after.items():
        np.testing.assert_allclose(state[value], x, rtol=1e-6, atol=1e-7, err_msg=value)  # read out as fp32


@pytest.mark.parametrize("name", QUICK)
def test_fused_equals_unfused(name):
    compare(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in QUICK])
def test_fused_equals_unfused_for_the_others(name):
    compare(name)
