"""``tricnn.from_torch``: what comes in computes what the module computes, under the module's own names."""

import copy
import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tricnn
from tests.frontends import modules, modules_by_hand
from tests.frontends.judge import check_infer, check_train, images, imported, lively, load
from tricnn.frontends.assembler import NotImported
from tricnn.ir import Graph

LENET = (1, 12, 12)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.LocalResponseNorm(3), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3),
        nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.Sigmoid(), nn.Linear(8, 5),
    )  # fmt: skip


CASES = {
    "sequential": (lenet, LENET),
    "residual": (modules.Residual, (3, 8, 8)),
    "shapes": (modules.Shapes, (3, 12, 12)),
    "shared": (modules.Shared, (2, 5, 5)),
    "frozen": (modules.Frozen, (2, 8, 8)),
    "many": (modules.Many, (2, 6, 6)),
    "mobile": (modules.Mobile, (3, 10, 10)),
    "resized": (modules.Resized, (2, 8, 8)),
    "arithmetic": (modules.Arithmetic, (2, 7, 7)),
    "channels last": (modules.ChannelsLast, (2, 5, 5)),
    "standardised": (modules_by_hand.Standardized, (3, 6, 5)),
    "gates and borders": (modules_by_hand.GatesAndBorders, (3, 6, 5)),
    "channel masks": (modules_by_hand.ChannelMasks, (3, 6, 5)),
    "branches": (modules.Branches, (3, 6, 5)),
    "probabilities": (modules.Probabilities, (3, 6, 5)),
    "one number": (modules.OneNumber, (3, 6, 5)),
    "normalised by hand": (modules_by_hand.NormalizedByHand, (3, 6, 5)),
    "computed weights": (modules_by_hand.ComputedWeights, (3, 6, 5)),
    "rows and columns": (modules_by_hand.RowsAndColumns, (3, 8, 6)),
    "separable attention": (modules_by_hand.SeparableAttention, (3, 4, 6)),
}


@cache
def case(name: str) -> tuple[nn.Module, Graph]:
    """A module in train(), which no test changes, and its graph."""
    make, shape = CASES[name]
    module = lively(make()).train()
    return module, imported(module, shape)


#: those whose export takes many seconds; the operations in them have tests of their own
LONG = ("resized", "arithmetic", "shapes")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in CASES])
def test_what_it_computes(name: str) -> None:
    module, graph = case(name)
    check_infer(module, graph, CASES[name][1])
    check_train(module, graph, CASES[name][1])


@pytest.mark.parametrize(
    ("name", "executor"),
    [("frozen", "eager"), ("frozen", "triton")]
    + [pytest.param(n, "triton", marks=pytest.mark.slow) for n in CASES if n != "frozen"],
)
def test_on_other_executors(name: str, executor: str) -> None:
    """ATen layer by layer, and the kernels under Triton's interpreter."""
    module, graph = case(name)
    check_infer(module, graph, CASES[name][1], executor)
    check_train(module, graph, CASES[name][1], executor)


def test_names_and_state_are_the_modules_own() -> None:
    """Layers whose names are digits, the file of either loads into the other."""
    module, graph = case("sequential")
    state = module.state_dict()
    assert {"0", "0.weight", "10.bias"} <= set(graph.by_name)
    m = tricnn.compile(graph, "train", batch=2)
    m.load_state_dict(state)
    twin = lenet()
    twin.load_state_dict({n: torch.from_numpy(x) for n, x in m.state_dict().items()}, strict=True)
    assert torch.equal(twin[4].weight, module[4].weight.float())
    assert tricnn.from_text(str(graph)) == graph


def test_residual_names_are_those_of_the_zoo() -> None:
    graph = case("residual")[1]
    layers = {n.name for n in graph.nodes if n.inputs}
    assert {"layer1.1.conv1", "layer1.1.bn2", "layer1.1.downsample.0", "layer1.1.relu", "layer1.1.relu_2",
            "layer1.0.add", "avgpool", "fc"} <= layers  # fmt: skip


def test_what_is_frozen_stays_frozen() -> None:
    """A weight without gradient has none here, and frozen statistics are not the batch's."""
    module, graph = case("frozen")
    assert [n.name for n in graph.of("batch_norm") if n.attrs["frozen"]] == ["stem.1", "body.1"]
    assert {n.name for n in graph.parameters} == {n for n, p in module.named_parameters() if p.requires_grad}


def test_a_module_in_eval_mode_is_taken_in_eval_mode() -> None:
    """Training goes on with fixed statistics and without dropout, as PyTorch does with it."""
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3))
    module = lively(module).eval()
    graph = imported(module, (2, 4, 4))
    assert not graph.of("dropout")
    check_train(module, graph, (2, 4, 4))
    check_infer(module, graph, (2, 4, 4))


@pytest.mark.parametrize("named", [True, False])
def test_outputs_of_training_are_left_out_of_inference(named: bool) -> None:
    module = lively(modules.Auxiliary(named)).train()
    head = "aux_logits" if named else "output1"
    graph = imported(module, (2, 6, 6), loss_weights={head: 0.3})
    assert [(o.name, o.training_only, o.loss_weight) for o in graph.outputs] == [
        ("logits", False, 1.0), (head, True, 0.3)
    ]  # fmt: skip
    assert [n.attrs["p"] for kind in ("dropout", "dropout2d") for n in graph.of(kind)] == [0.25, 0.4]
    check_infer(module, graph, (2, 6, 6))
    module.drop.p = module.channels.p = 0.0  # PyTorch draws other numbers than we do
    check_train(module, imported(module, (2, 6, 6), loss_weights={head: 0.3}), (2, 6, 6), weights=[1.0, 0.3])


@pytest.mark.parametrize("swapped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_stochastic_depth_is_one_layer_with_numbers_of_its_own(swapped: bool) -> None:
    class Deep(nn.Sequential):
        def forward(self, x):
            for layer in self[:2]:
                x = x + layer(x)
            return self[2](x.mean((2, 3)))

    blocks = [nn.Sequential(nn.Conv2d(2, 2, 1), modules.DropPath(p, swapped)) for p in (0.2, 0.5)]
    module = Deep(*blocks, nn.Linear(2, 3))
    drawn = imported(module.train(), (2, 4, 4)).of("stochastic_depth")
    assert [n.attrs["p"] for n in drawn] == pytest.approx([0.2, 0.5])  # 0.5 is what bernoulli_ draws unsaid
    assert len({n.attrs["layer"] for n in drawn}) == 2
    module = lively(module)
    check_infer(module, imported(module.train(), (2, 4, 4)), (2, 4, 4))


def test_buffers_that_are_in_no_state_dict() -> None:
    """They come with the state where forward reads them; a module has them anyway."""
    module = lively(modules.Blurred())
    x = torch.from_numpy(images((3, 8, 6)))
    graph, state = tricnn.from_torch(module, (2, 3, 8, 6))
    assert set(state) - set(module.state_dict()) == {"mean", "filt"}
    assert {n.name for n in graph.parameters} == {n for n, _ in module.named_parameters()}
    m = tricnn.compile(graph, batch=3, dtype="fp64")
    m.load_state_dict(state)
    right = module(x)
    np.testing.assert_allclose(m(x), right.detach(), rtol=1e-10)
    right.square().sum().backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    tricnn.Module(module, (2, 3, 8, 6), dtype="fp64", executor="numpy")(x).square().sum().backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-10, atol=1e-12)


def test_a_dictionary_of_outputs() -> None:
    assert [o.name for o in case("many")[1].outputs] == ["out", "sides.0", "sides.1"]
    with pytest.raises(tricnn.TricnnError, match=r"no output aux; the outputs are out, sides\.0, sides\.1"):
        imported(modules.Many(), (2, 6, 6), loss_weights={"aux": 0.3})


def test_no_weights_are_needed() -> None:
    with torch.device("meta"):
        module = modules.Residual()
    graph, state = tricnn.from_torch(module, (1, 3, 8, 8))
    assert not state
    assert graph == case("residual")[1]


def test_one_graph_for_every_batch_and_kind_of_example() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    graph = tricnn.from_torch(module, torch.zeros(1, 1, 4, 4))[0]
    assert graph == tricnn.from_torch(module, np.zeros((5, 1, 4, 4), np.float32))[0]
    assert graph == tricnn.from_torch(torch.nn.DataParallel(module), [torch.zeros(3, 1, 4, 4)])[0]
    m = tricnn.compile(graph)
    load(m, module)
    assert m(images((1, 4, 4))).shape == (3, 2)


def test_everything_unknown_is_said_at_once() -> None:
    """Each operation with its line of code; what follows is looked at too, and gives no error of its own."""
    module = modules.Unknown()
    with pytest.raises(NotImported) as caught:
        imported(module, (2, 9, 9))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("unknown cannot be imported, 3 problems: aten.cumsum.default (at modules.py:")
    assert "`x = torch.cumsum(self.conv(x), 1)` and 1 more): not supported" in message
    assert message.endswith("docs/pytorch.md has the supported operations: write forward with those, or import a part "
                            "of the module")  # fmt: skip
    found = caught.value.problems
    assert [p.operation for p in found] == [
        "aten.cumsum.default", "aten.erfinv.default", "aten.cumsum.default", "aten.roll.default",
    ]  # fmt: skip
    lines = Path(modules.__file__).read_text().split("\n")
    for problem in found:
        place = re.fullmatch(r"modules\.py:(\d+) `(.*)`", problem.code)
        assert place and lines[int(place[1]) - 1].strip() == place[2]


class _Wrong(nn.Module):
    def __init__(self, what: str):
        super().__init__()
        self.what = what
        self.conv = nn.Conv2d(2, 4, 3)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        if self.what == "batch":
            return self.conv(x).view(2, 4, -1).mean(-1)
        if self.what == "numbers" and x.sum() > 0:
            return x
        if self.what == "buffer":
            self.seen += self.conv(x).mean((0, 2, 3))
        if self.what == "channels":
            x = x[:, :1]
        if self.what == "permuted":
            return self.conv(x.transpose(2, 3)).mean((2, 3))
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            "batch",
            r"1 problem: aten\.view\.default \(at .*\): it fixes the batch size; write it as x\.shape\[0\] or -1",
        ),
        (
            "numbers",
            r"_Wrong .* \(test_from_torch.py:\d+ `if self.what == \"numbers\" .*decides? by the numbers in a tensor",
        ),
        ("buffer", r"forward changes the buffer seen; only batch norm may change buffers"),
        ("channels", r"_Wrong cannot be exported .*expected input.* to have 2 channels, but got 1 channels"),
        (
            "permuted",
            r"in conv at .*: it needs its input as \[N, 2, 8, 8\], made of \[N, 2, 8, 8\] by ",
        ),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(what: str, says: str, capsys) -> None:
    with pytest.raises(tricnn.TricnnError, match=says) as caught:
        imported(_Wrong(what), (2, 8, 8))
    assert "\n" not in str(caught.value)
    assert "def forward" not in capsys.readouterr().err  # which torch.export prints of its own


def test_examples_and_modules_that_are_none() -> None:
    module = nn.Conv2d(2, 4, 3)
    for example in (torch.zeros(2, 8, 8), "2,8,8", [], None, (2, 8, 8)):
        with pytest.raises(tricnn.TricnnError, match=r"example: .*; a tensor \[N, C, H, W\]"):
            tricnn.from_torch(module, example)
    for wrong in (torch.relu, None, type(module)):
        with pytest.raises(tricnn.TricnnError, match=r"from_torch takes a torch\.nn\.Module"):
            tricnn.from_torch(wrong, (1, 2, 8, 8))
    with pytest.raises(tricnn.TricnnError, match=r"module 0: its parameters have no shape yet"):
        tricnn.from_torch(nn.Sequential(nn.LazyConv2d(3, 3)), (1, 2, 8, 8))
    with pytest.raises(tricnn.TricnnError, match=r"module 0: momentum=None"):
        tricnn.from_torch(nn.Sequential(nn.BatchNorm2d(2, momentum=None)), (1, 2, 8, 8))


def test_nothing_of_the_module_is_changed() -> None:
    module = modules.Auxiliary(True).train()
    module.aux.eval()
    before, modes = copy.deepcopy(module.state_dict()), [m.training for m in module.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, state = tricnn.from_torch(module, (2, 2, 6, 6))
    assert modes == [m.training for m in module.modules()]
    assert all(torch.equal(before[n], x) for n, x in module.state_dict().items())
    assert list(state) == list(before)
    assert all(torch.equal(before[n], x) for n, x in state.items())


@pytest.mark.parametrize("executor", ["numpy", "eager", "triton"])
def test_a_state_with_scalars_goes_in_and_comes_out_as_it_was(executor: str) -> None:
    """Also those that forward does not read, as counters and thresholds are."""
    module, graph = case("computed weights")
    model = tricnn.compile(graph, "train", 2, "fp32", executor)
    model.load_state_dict(module.state_dict())
    state = model.state_dict()
    assert state["temperature"].shape == () and state["temperature"] == np.float32(module.temperature.item())
    model.load_state_dict(state)
