"""What training does with declarations that are easily meant otherwise: one clear rule, warning or error each."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import tricnn
from tests.run.networks import network
from tricnn.ir import Graph, GraphBuilder, GraphError, from_text

X = np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 1])


def classifier(classes: int, *, softmax: bool) -> Graph:
    b = GraphBuilder("classifier")
    logits = b.linear(b.flatten(b.input("x", (2, 3, 3))), classes, name="fc")
    return b.build(b.softmax(logits, name="probabilities") if softmax else logits)


@pytest.mark.parametrize("executor", ("numpy", "eager", "triton"))
def test_probabilities_are_trained_by_their_own_logarithm(executor: str) -> None:
    """-log softmax(z)[label], as PyTorch has it, and not cross entropy of a softmax of a softmax."""
    train = tricnn.compile(classifier(3, softmax=True), "train", 4, executor=executor)
    layer = nn.Linear(18, 3)
    layer.load_state_dict({n.removeprefix("fc."): torch.as_tensor(x) for n, x in train.state_dict().items()})
    wanted = nn.functional.nll_loss(layer(torch.as_tensor(X).flatten(1)).log_softmax(1), torch.as_tensor(LABELS))
    wanted.backward()
    loss, gradients = train.loss_and_grads(X, LABELS)
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(gradients["fc.weight"], layer.weight.grad, rtol=1e-4, atol=1e-6)
    infer = tricnn.compile(classifier(3, softmax=True), "infer", 4, executor=executor)
    np.testing.assert_allclose(infer(X).sum(axis=1), 1.0, rtol=1e-6)  # and inference gives the probabilities


def test_a_single_class_cannot_be_trained() -> None:
    graph = classifier(1, softmax=False)
    assert tricnn.compile(graph, "infer")(X).shape == (4, 1)
    with pytest.raises(GraphError, match=r"^output logits: training needs at least 2 classes, this has 1; "):
        tricnn.compile(graph, "train")
    b = GraphBuilder("second")
    pooled = b.global_avg_pool(b.input("x", (2, 3, 3)))
    b.output(b.linear(pooled, 1), "score")
    with pytest.raises(GraphError, match=r"^output score: training needs at least 2 classes"):
        tricnn.compile(b.build(b.linear(pooled, 3)), "train")


ZERO = """graph zero
x = input(shape=[N, 2, 3, 3])
f = flatten(x)
w = parameter(shape=[3, 18])
b = parameter(shape=[3])
y = linear(f, w, b)
output y = y
"""


def test_weights_that_start_as_zeros_are_named_at_the_first_step() -> None:
    """Declared without init a parameter is 0; in two layers such weights never learn. Biases are meant to be 0."""
    model = tricnn.compile(from_text(ZERO), "train", 4, executor="numpy")
    with pytest.warns(UserWarning, match="^zero: trained from zeros: w; a parameter declared without init is 0"):
        model.loss_and_grads(X, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.loss_and_grads(X, LABELS)  # said once
        loaded = tricnn.compile(from_text(ZERO), "train", 4, executor="numpy")
        loaded.load_state_dict({"w": np.ones((3, 18)), "b": np.zeros(3)})
        loaded.loss_and_grads(X, LABELS)
        tricnn.compile(network("small"), "train", 4, executor="numpy").loss_and_grads(np.ones((4, 4, 9, 9)), LABELS)
