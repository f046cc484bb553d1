"""Values with several readers, where one of them is fused with the layer that makes the value; values in several parts.

A kernel may then compute less than the others need, or do for one layer what only another one asked for. Each network
is held to PyTorch's autograd: in float64 by the plan's NumPy executor, where nothing has been written there is NaN, and
in fp32 by the emitted kernels.
"""

import numpy as np
import pytest

import tricnn
from tests.compiler import reference
from tests.ir.random_graphs import CLASSES, values_for
from tricnn.compiler.policies import RULES
from tricnn.ir import Graph, GraphBuilder

BATCH, TWO = 2, "pooling,hosting"
NETS = {}


def net(build) -> None:
    NETS[build.__name__] = build


def classifier(b: GraphBuilder, *images: str) -> Graph:
    """A dense head on the means of each image; one after another."""
    parts = [b.global_avg_pool(x) for x in images]
    return b.build(b.linear(b.concat(parts), CLASSES, name="fc"))


@net
def pooled_and_activated(b, x):
    """4x4x5: the fifth column is in no window, but in the tanh."""
    y = b.conv2d(x, 4, 1, name="conv")
    return classifier(b, b.tanh(y), b.avg_pool2d(y, 2))


@net
def pooled_and_convolved(b, x):
    """A stem whose result is pooled, and activated for a convolution with a stride."""
    y = b.conv2d(x, 4, 3, padding=1, name="stem")
    deep = b.conv2d(b.relu(y), 4, 3, stride=2, name="deep")
    return classifier(b, deep, b.conv2d(b.avg_pool2d(y, 2), 4, 1, name="wide"))


@net
def pooled_and_put_out(b, x):
    y = b.relu(b.conv2d(x, 2, 3, padding=1, name="conv"))
    return classifier(b, b.max_pool2d(y, (1, 2)), b.concat([y, x]))


@net
def pooled_by_a_host(b, x):
    """relu is computed, and stored for others, by a 1x1 convolution that pools what it computes."""
    y = b.relu(b.conv2d(x, 4, 3, padding=1, name="conv"))
    y = b.relu(b.batch_norm(y, name="bn"))
    return classifier(b, b.max_pool2d(b.conv2d(y, 4, 1, name="host"), 2), b.conv2d(y, 4, 3, name="other"))


@net
def preactivation_with_a_pooled_shortcut(b, x):
    """He et al. 2016b, with the shortcut of ResNet-D (He et al. 2019) around all of the block, at an odd size."""
    z = b.conv2d(x, 4, 3, padding=1, bias=False, name="stem")
    y = b.relu(b.batch_norm(z, name="bn1"))
    y = b.conv2d(y, 4, 3, stride=2, bias=False, name="conv1")
    y = b.conv2d(b.relu(b.batch_norm(y, name="bn2")), 4, 3, padding=1, bias=False, name="conv2")
    return classifier(b, b.add_(y, b.avg_pool2d(z, 2)))


@net
def activation_first_with_a_pooled_shortcut(b, x):
    """The same without batch norm, at 17x17 (see ``built``): the stem's kernel activates its result as well."""
    z = b.conv2d(x, 4, 3, padding=1, name="stem")
    y = b.conv2d(b.relu(z), 4, 3, stride=2, name="conv1")
    y = b.conv2d(b.relu(y), 4, 3, padding=1, name="conv2")
    return classifier(b, b.add_(y, b.avg_pool2d(z, 2)))


@net
def smooth_activation_between_convolutions(b, x):
    """The backward pass wants z = conv(x) for gelu's gradient: gelu(z) is recomputed, also for a weight's gradient."""
    z = b.conv2d(x, 4, 3, padding=1, name="up")
    return classifier(b, b.conv2d(b.add("gelu", z, name="act"), 4, 1, name="down"))


@net
def normalised_twice(b, x):
    """Two batch norms over one convolution, each with its momentum and epsilon."""
    y = b.conv2d(x, 4, 3, name="conv")
    return classifier(b, b.batch_norm(y, momentum=0.1, name="one"), b.batch_norm(y, momentum=0.7, eps=0.1, name="two"))


@net
def convolved_side_by_side(b, x):
    """Convolutions that become one, with one sum over pixels; each batch norm's running statistics are a part of it."""
    ends = [b.batch_norm(b.conv2d(x, k, 1, name=f"conv{k}"), momentum=k / 10, name=f"bn{k}") for k in (2, 3, 4)]
    return classifier(b, b.concat(ends))


@net
def a_branch_seen_as_vectors(b, x):
    """Each branch is stored amid the other's channels, but for a dense layer that activates it as it loads it."""
    ends = [b.relu(b.conv2d(x, k, 3, name=f"conv{k}"), name=f"branch{k}") for k in (2, 3)]
    b.output(b.linear(b.relu(b.flatten(ends[0])), CLASSES, name="aux"), "aux", loss_weight=0.5, training_only=True)
    return classifier(b, b.conv2d(b.concat(ends), 4, 1, name="last"))


@net
def normalised_and_pooled(b, x):
    y = b.conv2d(x, 4, 3, padding=1, name="conv")
    return classifier(b, b.batch_norm(y, name="bn"), b.avg_pool2d(y, 2))


@net
def one_channel_among_vectors(b, x):
    """A slice, for the concatenation's gradient, of a view of a slice: at other pixels and channels."""
    y = b.relu(b.batch_norm(b.conv2d(x, 1, 3, padding=1, name="conv"), name="bn"))
    return b.build(b.linear(b.concat([b.flatten(x), b.flatten(b.concat([y]))]), CLASSES, name="fc"))


@net
def a_convolution_and_a_dense_layer_added(b, x):
    """The gradient of both biases is the sum of one value, seen as an image and as vectors."""
    h, w = b.type(x).spatial
    y = b.conv2d(x, 4, (h, w), name="conv")
    other = b.add("unflatten", b.linear(b.flatten(x), 4, name="dense"), shape=(4, 1, 1))
    return b.build(b.linear(b.relu(b.add_(y, other)), CLASSES, name="fc"))


@net
def weights_in_parts(b, x):
    """Channels of a convolution's weight, and columns of a dense one, are parameters of their own: LeNet-5's table."""
    w = b.concat([b.parameter("w1", (4, 1, 2, 2), "he_normal"), b.parameter("w2", (4, 2, 2, 2), "he_normal")])
    y = b.global_avg_pool(b.relu(b.add("conv2d", x, w)))
    v = b.concat([b.parameter("v1", (3, 1), "he_normal"), b.parameter("v2", (3, 3), "he_normal")])
    bias = b.concat([b.parameter("b1", (1,), "constant(0)"), b.parameter("b2", (2,), "constant(0)")])
    return b.build(b.add("linear", b.flatten(y), v, bias, name="fc"))


def without(rule: str) -> str:
    return ",".join(r for r in RULES if r != rule)


def built(name: str) -> Graph:
    b = GraphBuilder(name)
    return NETS[name](b, b.input("x", (3, 17, 17) if name == "activation_first_with_a_pooled_shortcut" else (3, 5, 7)))


def differences(net: Graph, mode: str, policy: str, executor: str) -> list[str]:
    """The results that are not PyTorch's."""
    values = values_for(net, BATCH, 1)
    labels = np.arange(BATCH) % CLASSES
    dtype, tolerance = ("fp64", 1e-10) if executor == "numpy" else ("fp32", 1e-4)
    model = tricnn.compile(net, mode, BATCH, dtype, executor, fuse=policy, seed=5)
    model.load_state_dict({name: values[name] for name in model.state_dict()})
    if mode == "infer":
        expected, found = reference.outputs(net, values), {"logits": model(values["x"])}
    else:
        expected = reference.training_step(net, values, labels, seed=5)
        loss, grads = model.loss_and_grads(values["x"], labels)
        state = model.state_dict()
        found = {
            "loss": loss,
            **{f"grad:{name}": g for name, g in grads.items()},
            **{n.name: state[n.name] for n in net.buffers},
        }
    return [k for k, v in expected.items() if not np.allclose(found[k], v, rtol=tolerance, atol=tolerance)]


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("name", NETS)
def test_plans_equal_pytorch(name, mode):
    """By every rule, by each alone, and by all but one."""
    policies = ["all", "auto", "none", TWO, *RULES, *map(without, RULES)]
    wrong = {policy: differences(built(name), mode, policy, "numpy") for policy in policies}
    assert {policy: found for policy, found in wrong.items() if found} == {}


@pytest.mark.parametrize("mode", ["train", pytest.param("infer", marks=pytest.mark.slow)])  # a step runs the forward
@pytest.mark.parametrize("name", NETS)
def test_kernels_equal_pytorch(name, mode):
    policies = ["all", *{"pooled_by_a_host": [TWO], "convolved_side_by_side": [without("siblings")]}.get(name, [])]
    wrong = {policy: differences(built(name), mode, policy, "triton") for policy in policies}
    assert {policy: found for policy, found in wrong.items() if found} == {}
