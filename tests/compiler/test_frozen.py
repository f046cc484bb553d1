"""Frozen layers: what a user would lose is a fine-tuned network whose first layers, or their statistics, moved."""

import numpy as np
import pytest
import torch

import tricnn
from tricnn.compiler.frozen import frozen_parameters
from tricnn.system.errors import TricnnError
from tricnn.training import Dataset, ParameterGroup, Trainer, TrainOptions


def network():
    b = tricnn.GraphBuilder("tuned")
    x = b.input("x", (3, 8, 8))
    for name, channels in (("stem", 4), ("body", 6)):
        with b.scope(name):
            x = b.relu(b.batch_norm(b.conv2d(x, channels, 3, padding=1, bias=False, name="conv"), name="bn"))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, before, channels in (("stem", 3, 4), ("body", 4, 6)):
            layers = {"conv": torch.nn.Conv2d(before, channels, 3, padding=1, bias=False),
                      "bn": torch.nn.BatchNorm2d(channels)}  # fmt: skip
            setattr(self, name, torch.nn.ModuleDict(layers))
        self.fc = torch.nn.Linear(6, 3)

    def forward(self, x):
        for part in (self.stem, self.body):
            x = torch.relu(part["bn"](part["conv"](x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return rng.standard_normal((6, 3, 8, 8)), rng.integers(0, 3, 6)


@pytest.mark.parametrize("executor", ["numpy", "eager"])
@pytest.mark.parametrize("freeze", [["stem"], ["stem.conv", "*.bn"], ["body.conv.weight", "fc.bias"]])
def test_gradients_and_statistics_are_pytorchs_with_the_same_layers_frozen(batch, executor, freeze):
    x, labels = batch
    model = tricnn.compile(network(), "train", 6, "fp64", executor, freeze=freeze)
    theirs = Theirs().double()
    theirs.load_state_dict({name: torch.tensor(x) for name, x in model.state_dict().items()}, strict=False)
    still = frozen_parameters(network(), freeze)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name not in still)
    for name in ("stem", "body"):
        norm = getattr(theirs, name)["bn"]
        norm.train(norm.weight.requires_grad)
    before = model.state_dict()
    loss, grads = model.loss_and_grads(x, labels)
    wanted = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(labels))
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    assert set(model.frozen) == still
    assert sorted(grads) == sorted(n for n, p in theirs.named_parameters() if p.requires_grad)
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
    after, expected = model.state_dict(), theirs.state_dict()
    for name in before:
        if "running" in name:
            np.testing.assert_allclose(after[name], expected[name].numpy(), rtol=1e-12, err_msg=name)
    assert any((before[n] != after[n]).any() for n in before if "body.bn.running" in n) == ("*.bn" not in freeze)


def test_nothing_is_computed_remembered_or_kept_for_what_is_frozen():
    """No weight gradient of a frozen layer, and no gradient of the image that only it would read."""
    whole, tuned = (tricnn.compile(network(), "train", 64, executor="numpy", freeze=f) for f in ((), ("stem",)))
    kinds = [[n.op for n in m.plan.graph.nodes] for m in (whole, tuned)]
    for op in ("conv2d_grad_weight", "normalize_grad_sums", "batch_stats"):
        assert [k.count(op) for k in kinds] == [2, 1], op
    assert [k.count("conv2d_grad_input") for k in kinds] == [1, 0]
    assert len(tuned.program.launches) < len(whole.program.launches)
    assert tuned.program.peak_memory_bytes(64) < whole.program.peak_memory_bytes(64)


def data():
    rng = np.random.default_rng(2)
    images, labels = rng.integers(0, 256, (24, 3, 8, 8), np.uint8), rng.integers(0, 3, 24)
    return Dataset("noise", images[:18], labels[:18], images[18:], labels[18:], 3)


def test_a_run_leaves_frozen_layers_to_the_bit_and_resumes_only_under_the_same(tmp_path):
    model = tricnn.compile(network(), "train", 6, executor="numpy", freeze="stem")
    before = model.state_dict()
    options = TrainOptions(epochs=1, batch=6, optimiser="adamw", weight_decay=0.1, ema=0.9)
    Trainer(model, data(), options, out=tmp_path).fit()
    after = model.state_dict()
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert moved == {name for name in before if not name.startswith("stem")}
    with pytest.raises(TricnnError, match=r"frozen .*stem"):
        whole = tricnn.compile(network(), "train", 6, executor="numpy")
        Trainer(whole, data(), options, out=tmp_path, resume=True).fit()


@pytest.mark.parametrize("executor", ["numpy", pytest.param("triton", marks=pytest.mark.slow)])
def test_siblings_of_which_one_is_frozen_are_not_merged(executor):
    """A gradient of merged weights would be that of both."""
    b = tricnn.GraphBuilder("two")
    x = b.relu(b.conv2d(b.input("x", (3, 6, 6)), 4, 3, padding=1, name="first"))
    x = b.concat([b.conv2d(x, 4, 1, name="left"), b.conv2d(x, 4, 1, name="right")])
    graph = b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))
    rng = np.random.default_rng(3)
    x, labels = rng.standard_normal((4, 3, 6, 6)).astype(np.float32), rng.integers(0, 3, 4)
    (_, whole), (_, part) = (
        tricnn.compile(graph, "train", 4, executor=executor, freeze=f).loss_and_grads(x, labels) for f in ((), ["left"])
    )
    assert whole.keys() - part.keys() == {"left.weight", "left.bias"}
    for name, gradient in part.items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        (["stam"], "stem"),
        (["stem", "body", "fc"], "no parameter to train"),
        *((wrong, "^freeze=.* is not accepted; a name of layers or parameters, or a list of such names$")
          for wrong in (3, None, True, [2], {"stem": 1})),
        ("x" * 10**6, "a pattern has at most 1000"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_cannot_be_frozen_is_said(freeze, said):
    with pytest.raises(TricnnError, match=said):
        tricnn.compile(network(), "train", freeze=freeze)


def test_groups_have_their_own_rate_and_decay_as_torchs_have():
    model = tricnn.compile(network(), "train", 6, "fp64", "numpy")
    theirs = Theirs().double()
    theirs.load_state_dict({name: torch.tensor(x) for name, x in model.state_dict().items()}, strict=False)
    named = dict(theirs.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if n.startswith("fc")], "lr": 0.5, "weight_decay": 0.01},
        {"params": [p for n, p in named.items() if "bn" in n], "lr": 0.05, "weight_decay": 0.0},
        {"params": [p for n, p in named.items() if "conv" in n], "lr": 0.05, "weight_decay": 0.01},
    ]
    reference = torch.optim.AdamW(groups)
    images, labels = data().train_images, data().train_labels
    only = Dataset("one batch", images[:6], labels[:6], images[6:], labels[6:], 3)
    options = TrainOptions(
        epochs=3, batch=6, lr=0.05, optimiser="adamw", weight_decay=0.01, schedule="constant", warmup_epochs=0,
        groups=(ParameterGroup("*.bn", weight_decay=0.0), ParameterGroup("fc", lr=10)),
    )  # fmt: skip
    for epoch in range(3):
        for x, labels in only.training(options, epoch, 0):
            reference.zero_grad()
            torch.nn.functional.cross_entropy(theirs(torch.tensor(x).double()), torch.tensor(labels)).backward()
            reference.step()
    Trainer(model, only, options).fit()
    for name, parameter in named.items():
        np.testing.assert_allclose(model.state_dict()[name], parameter.detach().numpy(), rtol=1e-7, atol=1e-9)
    with pytest.raises(TricnnError, match="groups"):
        Trainer(model, only, TrainOptions(groups=(ParameterGroup("head"),))).fit()
