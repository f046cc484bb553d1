"""Group, instance and global response normalisation, declared and imported, against PyTorch's values and gradients."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tricnn
from tests.frontends.judge import check_infer, check_train, imported, lively
from tricnn.system.errors import GraphError

C, H, W, BATCH = 6, 4, 5, 3


def network(kind, groups):
    b = tricnn.GraphBuilder("normed")
    y = b.conv2d(b.input("x", (2, H, W)), C, 3, padding=1, name="conv")
    y = b.global_response_norm(y, name="norm") if kind == "response" else b.group_norm(y, groups, name="norm")
    return b.build(b.conv2d(b.relu(y), 3, 1, name="last"))


def by_pytorch(kind, groups, state, x, labels):
    """The loss and the gradients in float64. ConvNeXt V2's own module has its weights at 0, where x alone is left."""
    t = {name: torch.tensor(value).double().requires_grad_() for name, value in state.items()}
    y = F.conv2d(torch.tensor(x).double(), t["conv.weight"], t["conv.bias"], padding=1)
    if kind == "response":
        response = y.norm(dim=(2, 3), keepdim=True)
        share = response / (response.mean(1, keepdim=True) + 1e-6)
        y = y + t["norm.weight"].view(-1, 1, 1) * (y * share) + t["norm.bias"].view(-1, 1, 1)
    else:
        y = F.group_norm(y, groups, t["norm.weight"], t["norm.bias"])
    loss = F.cross_entropy(F.conv2d(F.relu(y), t["last.weight"], t["last.bias"]), torch.tensor(labels))
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in t.items()}


@pytest.mark.parametrize(
    "kind, groups, executor",
    [
        ("group", 1, "numpy"), ("group", 2, "numpy"), ("group", 3, "eager"), ("group", 2, "triton"),
        ("group", C, "numpy"), ("group", C, "triton"), ("response", 0, "numpy"), ("response", 0, "triton"),
    ],
)  # fmt: skip
def test_a_step_equals_pytorch(kind, groups, executor):
    rng = np.random.default_rng(0)
    model = tricnn.compile(network(kind, groups), "train", BATCH, executor=executor)
    state = {name: rng.normal(size=v.shape).astype(np.float32) for name, v in model.state_dict().items()}
    x, labels = rng.normal(size=(BATCH, 2, H, W)).astype(np.float32), rng.integers(0, 3, (BATCH, H, W))
    model.load_state_dict(state)
    loss, grads = model.loss_and_grads(x, labels)
    expected, gradients = by_pytorch(kind, groups, state, x, labels)
    assert loss == pytest.approx(expected, rel=1e-5)
    largest = max(abs(g).max() for g in gradients.values())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(grads[name], gradient, rtol=0, atol=2e-5 * largest, err_msg=name)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.groups = nn.Conv2d(3, C, 3), nn.GroupNorm(2, C)
        self.plain, self.images = nn.GroupNorm(1, C, affine=False), nn.InstanceNorm2d(C, affine=True)
        self.fc, self.rows = nn.Linear(C, 5), nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 4)

    def forward(self, x):
        x = self.conv(x)
        x = self.images(torch.relu(self.groups(x))) + self.plain(x)
        return self.last(self.rows(self.fc(torch.relu(x).mean((2, 3)))))


def test_modules_come_in_under_their_names():
    """GroupNorm with and without weights, InstanceNorm2d, and BatchNorm1d of [N, C]."""
    module = lively(Normed())
    graph = imported(module.train(), (3, 6, 7))
    check_train(module, graph, (3, 6, 7))
    check_infer(module.eval(), imported(module, (3, 6, 7)), (3, 6, 7))


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(GraphError, match="layer norm: groups=4 must divide the 6 channels"):
        network("group", 4)
