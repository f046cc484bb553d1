"""What a user would lose: the losses of recipes, equal to what PyTorch's functions give, by every executor."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn
from tricnn import Loss, Mixed
from tricnn.run.loss_targets import targets_of
from tricnn.system.errors import GraphError, TricnnError

N, C, K = 5, 6, 7
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, C)).astype(np.float32)
LABELS, OTHER = RNG.integers(0, K, N), RNG.integers(0, K, N)
SHARE = RNG.random(N).astype(np.float32)
WEIGHTS = tuple(RNG.random(K).round(3))
P = RNG.dirichlet(np.ones(K), N).astype(np.float32)
HOLES = np.where(np.arange(N) % 3 == 1, 255, LABELS)
long, w = torch.tensor, torch.tensor(WEIGHTS)


def one_hot(labels, smoothing=0.0):
    return F.one_hot(long(labels), K).double() * (1 - smoothing) + smoothing / K


#: (loss, labels, what PyTorch says of the logits)
CASES = {
    "labels": (Loss(), LABELS, lambda x: F.cross_entropy(x, long(LABELS))),
    "smoothed": (Loss(label_smoothing=0.1), LABELS, lambda x: F.cross_entropy(x, long(LABELS), label_smoothing=0.1)),
    "weighted": (
        Loss(label_smoothing=0.1, class_weights=WEIGHTS),
        LABELS,
        lambda x: F.cross_entropy(x, long(LABELS), w.double(), label_smoothing=0.1),
    ),
    "ignored": (
        Loss(ignore_index=255, class_weights=WEIGHTS),
        HOLES,
        lambda x: F.cross_entropy(x, long(HOLES), w.double(), ignore_index=255),
    ),
    "ignored and smoothed": (
        Loss(ignore_index=255, label_smoothing=0.2),
        HOLES,
        lambda x: F.cross_entropy(x, long(HOLES), ignore_index=255, label_smoothing=0.2),
    ),
    "probabilities": (
        Loss(mixed=True, label_smoothing=0.1, class_weights=WEIGHTS),
        P,
        lambda x: F.cross_entropy(x, long(P).double(), w.double(), label_smoothing=0.1),
    ),
    "mixup": (
        Loss(mixed=True, label_smoothing=0.1),
        Mixed(LABELS, OTHER, 0.3),
        lambda x: (
            0.3 * F.cross_entropy(x, long(LABELS), label_smoothing=0.1)
            + 0.7 * F.cross_entropy(x, long(OTHER), label_smoothing=0.1)
        ),
    ),
    "a share for each image": (
        Loss(mixed=True),
        Mixed(LABELS, OTHER, SHARE),
        lambda x: (
            long(SHARE) * F.cross_entropy(x, long(LABELS), reduction="none")
            + (1 - long(SHARE)) * F.cross_entropy(x, long(OTHER), reduction="none")
        ).mean(),
    ),
    "binary": (
        Loss("binary_cross_entropy"),
        P,
        lambda x: F.binary_cross_entropy_with_logits(x, long(P).double()),
    ),
    "binary of labels": (
        Loss("binary_cross_entropy", label_smoothing=0.1),
        LABELS,
        lambda x: F.binary_cross_entropy_with_logits(x, one_hot(LABELS, 0.1)),
    ),
    "squared": (Loss("mean_squared_error"), P, lambda x: F.mse_loss(x, long(P).double())),
}


def network(outputs=(K,)):
    b = tricnn.GraphBuilder("head")
    x = b.input("x", (C,))
    for i, k in enumerate(outputs):
        b.output(b.linear(x, k, name=f"fc{i}"), f"out{i}")
    return b.build()


def model(loss, executor, **options):
    made = tricnn.compile(network(), "train", N, executor=executor, loss=loss, **options)
    made.load_state_dict({"fc0.weight": 3 * np.random.default_rng(1).standard_normal((K, C)), "fc0.bias": np.arange(K)})
    return made


def by_pytorch(case):
    """The loss and its gradient by the weight, in float64."""
    weight = torch.tensor(3 * np.random.default_rng(1).standard_normal((K, C))).float().double().requires_grad_()
    loss = CASES[case][2](F.linear(torch.tensor(X).double(), weight, torch.arange(K).double()))
    loss.backward()
    return float(loss), weight.grad.numpy()


@pytest.mark.parametrize("executor", ["numpy", "eager", "triton"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_pytorchs(case, executor):
    loss, labels, _ = CASES[case]
    value, grads = model(loss, executor).loss_and_grads(X, labels)
    expected, gradient = by_pytorch(case)
    # Logits are up to about 20: rounded to fp32 they move by 20·2^-24, and each of 5 images' gradients by as much.
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(grads["fc0.weight"], gradient, rtol=0, atol=2e-5 * max(1, abs(gradient).max()))


def test_tensors_and_another_batch_and_a_copy_give_the_same():
    loss, labels, _ = CASES["mixup"]
    made = model(loss, "numpy")
    value, _ = made.loss_and_grads(X, labels)
    import pickle

    copy = pickle.loads(pickle.dumps(made))
    assert copy.loss == loss
    assert copy.loss_and_grads(X, labels)[0] == value
    tensors = Mixed(*(torch.tensor(part) for part in labels))
    assert made.loss_and_grads(torch.tensor(X), tensors)[0] == pytest.approx(value, rel=1e-6)
    made.loss_and_grads(X[:2], Mixed(LABELS[:2], OTHER[:2], 0.5))


def test_targets_of_tensors_are_those_of_arrays():
    graph = network()
    for loss, labels, _ in CASES.values():
        given = Mixed(*map(torch.tensor, labels)) if isinstance(labels, Mixed) else torch.tensor(labels)
        mine = targets_of(loss, graph, labels, N, tensors=False)
        theirs = targets_of(loss, graph, given, N, tensors=True)
        assert mine.dtype == np.float32 and theirs.dtype == torch.float32
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-6)


def test_a_batch_that_is_ignored_whole_has_no_loss():
    value, grads = model(Loss(ignore_index=255), "numpy").loss_and_grads(X, np.full(N, 255))
    assert value == 0 and not grads["fc0.weight"].any()


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "hinge"},
        {"label_smoothing": 1.5},
        {"kind": "mean_squared_error", "label_smoothing": 0.1},
        {"class_weights": (-1.0, 1.0)},
        {"kind": "binary_cross_entropy", "ignore_index": 0},
    ],
)
def test_losses_that_make_no_sense_are_refused(settings):
    with pytest.raises(TricnnError):
        Loss(**settings)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(TricnnError, match=r"expected \[5, 7\] or \[5\] labels, got \[5, 6\]"):
        model(Loss(mixed=True), "numpy").loss_and_grads(X, P[:, :6])
    with pytest.raises(TricnnError, match="3 class weights and 7 classes"):
        model(Loss(class_weights=(1, 2, 3)), "numpy").loss_and_grads(X, LABELS)
    with pytest.raises(TricnnError, match="out of range"):
        model(Loss(mixed=True), "numpy").loss_and_grads(X, LABELS + K)
    with pytest.raises(GraphError, match="needs as many in each"):
        tricnn.compile(network((7, 5)), "train", N, executor="numpy", loss=Loss(mixed=True))
