"""What a user would lose: the losses of recipes, equal to what PyTorch's functions give, by every executor."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn
from tricnn import Loss, Mixed
from tricnn.run.loss_targets import read_by_loss
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


#: the same of each pixel: images of H x W, and a 1x1 convolution in place of the dense layer
H, W = 2, 3
IMAGES = RNG.standard_normal((N, C, H, W)).astype(np.float32)
MAP, OTHER_MAP = RNG.integers(0, K, (N, H, W)), RNG.integers(0, K, (N, H, W))
HOLED = np.where(RNG.random((N, H, W)) < 0.3, 255, MAP).astype(np.uint8)  # as a PNG has it
T = RNG.dirichlet(np.ones(K), (N, H, W)).astype(np.float32).transpose(0, 3, 1, 2)
DENSE = {
    "pixels": (Loss(), MAP, lambda x: F.cross_entropy(x, long(MAP))),
    "pixels, all of it": (
        Loss(ignore_index=255, class_weights=WEIGHTS, label_smoothing=0.1),
        HOLED,
        lambda x: F.cross_entropy(x, long(HOLED).long(), w.double(), ignore_index=255, label_smoothing=0.1),
    ),
    "pixels mixed": (
        Loss(mixed=True),
        Mixed(MAP, OTHER_MAP, SHARE),
        lambda x: (
            long(SHARE)[:, None, None] * F.cross_entropy(x, long(MAP), reduction="none")
            + (1 - long(SHARE))[:, None, None] * F.cross_entropy(x, long(OTHER_MAP), reduction="none")
        ).mean(),
    ),
    "pixels' probabilities": (Loss(mixed=True), T, lambda x: F.cross_entropy(x, long(T).double())),
    "pixels, binary": (
        Loss("binary_cross_entropy"), T, lambda x: F.binary_cross_entropy_with_logits(x, long(T).double()),
    ),
    "pixels, squared": (Loss("mean_squared_error"), T, lambda x: F.mse_loss(x, long(T).double())),
}  # fmt: skip
ALL = CASES | DENSE


def network(outputs=(K,), dense=False):
    b = tricnn.GraphBuilder("head")
    x = b.input("x", (C, H, W) if dense else (C,))
    for i, k in enumerate(outputs):
        b.output(b.conv2d(x, k, 1, name=f"fc{i}") if dense else b.linear(x, k, name=f"fc{i}"), f"out{i}")
    return b.build()


def drawn(dense):
    weight = 3 * np.random.default_rng(1).standard_normal((K, C))
    return weight[:, :, None, None] if dense else weight


def model(loss, executor, dense=False, **options):
    made = tricnn.compile(network(dense=dense), "train", N, executor=executor, loss=loss, **options)
    made.load_state_dict({"fc0.weight": drawn(dense), "fc0.bias": np.arange(K)})
    return made


def by_pytorch(case):
    """The loss and its gradient by the weight, in float64."""
    dense = case in DENSE
    weight = torch.tensor(drawn(dense)).float().double().requires_grad_()
    layer, x = (F.conv2d, IMAGES) if dense else (F.linear, X)
    loss = ALL[case][2](layer(torch.tensor(x).double(), weight, torch.arange(K).double()))
    loss.backward()
    return float(loss.detach()), weight.grad.numpy()


@pytest.mark.parametrize("executor", ["numpy", "eager", "triton"])
@pytest.mark.parametrize("case", ALL)
def test_loss_and_gradient_are_pytorchs(case, executor):
    (loss, labels, _), dense = ALL[case], case in DENSE
    value, grads = model(loss, executor, dense).loss_and_grads(IMAGES if dense else X, labels)
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


def test_what_is_read_of_tensors_is_that_of_arrays():
    for case, (loss, labels, _) in ALL.items():
        graph = network(dense=case in DENSE)
        given = Mixed(*map(torch.tensor, labels)) if isinstance(labels, Mixed) else torch.tensor(labels)
        mine = read_by_loss(loss, graph, labels, N, tensors=False)
        theirs = read_by_loss(loss, graph, given, N, tensors=True)
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype.name == str(b.dtype).removeprefix("torch.") and a.dtype in (np.float32, np.int64)
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-6)


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
    with pytest.raises(TricnnError, match="254 is out of range"):
        model(Loss(ignore_index=255), "numpy", True).loss_and_grads(IMAGES, np.minimum(HOLED, 254))
    with pytest.raises(TricnnError, match=r"expected an array or tensor \[5, 2, 3\], one per pixel, got \[5\]"):
        model(Loss(), "numpy", True).loss_and_grads(IMAGES, LABELS)
    with pytest.raises(GraphError, match="needs as many in each"):
        tricnn.compile(network((7, 5)), "train", N, executor="numpy", loss=Loss(mixed=True))
