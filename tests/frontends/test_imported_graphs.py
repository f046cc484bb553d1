"""An import is kept under a key of all that it depends on, and of nothing else."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import tricnn
from tricnn.frontends import imported_graphs, torch_export
from tricnn.frontends.imported_graphs import key_of

SCALE = 2.0


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * SCALE


class Net(nn.Module):
    def __init__(self, activation: Callable = torch.relu, **settings: object):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.activation, self.settings = activation, settings

    def forward(self, x):
        return helper(self.activation(self.conv(x))).mean((2, 3))


def key(module: nn.Module, *options: object, shape: tuple[int, ...] = (2, 2, 8, 8)) -> str | None:
    return key_of(module, (torch.zeros(shape),), *options)


def with_other_bias(net: Net) -> Net:
    net.conv = nn.Conv2d(2, 3, 3, bias=False)
    return net


def in_eval(net: Net) -> Net:
    return net.eval()


def with_a_frozen_weight(net: Net) -> Net:
    net.conv.weight.requires_grad_(False)
    return net


def with_stride(net: Net) -> Net:
    net.conv.stride = (2, 2)
    return net


@pytest.mark.parametrize(
    "other",
    [
        lambda: key(Net(torch.tanh)),
        lambda: key(Net(lambda x: x)),
        lambda: key(Net(p=0.5)),
        lambda: key(Net(), "name"),
        lambda: key(Net(), shape=(2, 2, 9, 8)),
        lambda: key(with_other_bias(Net())),
        lambda: key(in_eval(Net())),
        lambda: key(with_a_frozen_weight(Net())),
        lambda: key(with_stride(Net())),
        lambda: key(nn.Sequential(Net())),
    ],
)
def test_whatever_changes_the_graph_changes_the_key(other: Callable[[], str | None]) -> None:
    assert other() not in (key(Net()), None)


def test_code_and_what_it_reads_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number, a helper's instructions, a method: each as it is loaded now."""
    before = key(Net())
    with monkeypatch.context() as m:
        m.setitem(globals(), "SCALE", 3.0)
        assert key(Net()) != before
    with monkeypatch.context() as m:
        m.setattr(helper, "__code__", (lambda x: x / SCALE).__code__)
        assert key(Net()) != before
    with monkeypatch.context() as m:
        m.setattr(Net, "extra", lambda self: 1, raising=False)
        assert key(Net()) != before
    assert key(Net()) == before


def test_another_instance_with_other_weights_has_the_same_key() -> None:
    assert key(Net()) == key(Net()) == key(copy.deepcopy(Net()))
    assert key(Net(), shape=(2, 2, 8, 8)) == key(Net(), shape=(5, 2, 8, 8))


def test_what_cannot_be_described_has_no_key() -> None:
    hooked, listed = Net(), Net()
    hooked.conv.register_forward_hook(lambda *_: None)
    listed.hidden = [nn.Conv2d(1, 1, 1)]
    assert key(hooked) is None
    assert key(listed) is None


def test_a_kept_graph_is_found_by_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("TRICNN_CACHE", str(tmp_path))
    monkeypatch.setattr(imported_graphs, "_found_before", {})
    graph, _ = tricnn.from_torch(Net(), (1, 2, 8, 8))
    (file,) = tmp_path.rglob("*.txt")
    imported_graphs._found_before.clear()  # as another process begins

    def unwanted(*_: object) -> None:
        raise AssertionError("exported again")

    with monkeypatch.context() as m:
        m.setattr(torch_export, "exported", unwanted)
        assert tricnn.from_torch(Net(), (1, 2, 8, 8))[0] == graph
    imported_graphs._found_before.clear()
    file.write_text("graph damaged\n")
    assert tricnn.from_torch(Net(), (1, 2, 8, 8))[0] == graph
    assert tricnn.from_text(file.read_text()) == graph
