"""``torch.compile(model, backend="tricnn")``: what runs compiled, what runs as before, and the same numbers."""

import copy
import tomllib
import warnings
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tricnn
from tests.frontends.test_module import SHAPE, assert_state_close, in_threads, train
from tests.graphs.reference import REFERENCE
from tricnn.frontends.torch_backend import PLANS, compile_backend
from tricnn.ir import TricnnError
from tricnn.run.open_step import OpenStep, TritonOpen

OPTIONS = {"dtype": "fp64", "executor": "numpy"}


class Odd(nn.Module):
    """A call in the middle that tricnn does not know, ReLU in place, a reshape by the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(256, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn(self.a(images)), inplace=True)
        h = torch.cumsum(h, 3)
        h = h + self.b(h)
        return self.fc(h.view(images.size(0), -1))


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    PLANS.clear()


def test_regions_train_to_pytorchs_losses_and_weights() -> None:
    """Two batch sizes, for which Dynamo comes twice, and there is one plan of each region; one warning a region."""
    torch.manual_seed(0)
    module = Odd().double()
    other = copy.deepcopy(module)
    fast = torch.compile(other, backend=compile_backend, options=OPTIONS)
    expected = train(module, SHAPE, 2)
    one = torch.randn((1, *SHAPE[1:]), dtype=torch.float64)
    with pytest.warns(UserWarning, match="cumsum.*not supported") as said:
        found = train(fast, SHAPE, 2)
        evaluated = copy.deepcopy(other).eval()(one)
        again = fast.eval()(one)
        fast.train()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert_state_close(module, other, 1e-10)
    torch.testing.assert_close(again, evaluated)
    left = [w for w in said if "a region is left to PyTorch" in str(w.message)]
    assert len(left) == 3  # one for each time that Dynamo came
    assert len(PLANS) == 3  # of the first region in training and in evaluation, of the second one for both


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_networks_are_one_region_and_train_as_pytorchs(name: str) -> None:
    module, shape = REFERENCE[name](3, 0.125).double(), (3, 3, 32, 32)
    with torch.no_grad():
        module(torch.zeros(shape, dtype=torch.float64))
    other = copy.deepcopy(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = train(torch.compile(other, backend=compile_backend, options={**OPTIONS, "strict": True}), shape, 2)
    torch.testing.assert_close(found, train(module, shape, 2), rtol=1e-8, atol=1e-8)
    assert_state_close(module, other, 1e-7)
    assert len(PLANS) == 1


def test_a_model_is_explained() -> None:
    text = str(tricnn.explain(Odd(), torch.randn(SHAPE), executor="numpy"))
    assert text.startswith("7 of 8 calls compiled, in 2 regions")
    assert "region 1: left to PyTorch, 1 call (cumsum): aten.cumsum.default: not supported" in text
    assert "k00_a: a, bn.stats, bn.new_mean, bn.new_var" in text


def test_what_lies_channels_last_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are read where they are, and a gradient is what a kernel wrote. What would be copied is said: the
    3x3 weights, 4 bytes a number; those of a 1x1 convolution lie the same way in both layouts."""
    read: set[int] = set()
    written: set[int] = set()
    backward, taken = OpenStep.backward, TritonOpen.give_back

    def observed(*args: Any) -> dict[str, Any]:
        found = backward(*args)
        written.update(x.untyped_storage().data_ptr() for x in found.values())
        return found

    def seen(self: TritonOpen, batch: int, tensors: dict[str, Any]) -> None:
        read.update(tensors[name].untyped_storage().data_ptr() for name in self.bound)
        taken(self, batch, tensors)

    monkeypatch.setattr(OpenStep, "backward", observed)
    monkeypatch.setattr(TritonOpen, "give_back", seen)
    module, x = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 1)), torch.randn(2, 2, 4, 4)
    assert f"{4 * 2 * 9 * 4} B of parameters are copied" in str(tricnn.explain(module, x, executor="triton"))
    module = module.to(memory_format=torch.channels_last)
    assert "are copied" not in str(tricnn.explain(module, x, executor="triton"))
    read.clear()
    torch._dynamo.reset()
    torch.compile(module, backend=compile_backend, options={"executor": "triton"})(x).square().sum().backward()
    assert read == {p.untyped_storage().data_ptr() for p in module.parameters()}
    assert written == {p.grad.untyped_storage().data_ptr() for p in module.parameters()}


def test_threads_lose_no_running_statistics() -> None:
    """The same images again and again, by four threads as by one."""
    module, x = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).double(), torch.randn(SHAPE)
    before, x = copy.deepcopy(module), x.double()
    fast = torch.compile(module, backend=compile_backend, options=OPTIONS)
    for _ in range(1 + 4 * 5):
        before(x)
    fast(x)
    in_threads(4, lambda number: [fast(x) for _ in range(5)])
    assert int(module[1].num_batches_tracked) == 21
    assert_state_close(before, module, 1e-12)


def test_strict_and_unknown_options_are_errors() -> None:
    x = torch.randn(SHAPE)
    for options, message in (
        ({"strict": True}, "not everything can be compiled"),
        ({"dtpye": "fp32"}, "option 'dtpye' is unknown; accepted: dtype, fuse, executor, strict"),
        ({"executor": "cuda"}, "option executor='cuda'; accepted: auto"),
        ({"fuse": "most"}, "fuse 'most' is not a policy; accepted: auto, all, none"),
    ):
        torch._dynamo.reset()
        with pytest.raises(Exception, match=message) as error:
            torch.compile(Odd(), backend=compile_backend, options=options)(x)
        assert isinstance(error.value, TricnnError) or "TricnnError" in message or message in str(error.value)


def test_what_others_see_changed_in_place_stays_with_them() -> None:
    """The images are the caller's: a region that changes them is left alone."""

    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.relu_()) + 1

    module, x = Changes(), torch.randn(SHAPE)
    given = x.clone()
    with pytest.warns(UserWarning, match="in place, which others read"):
        y = torch.compile(module, backend=compile_backend, options={"executor": "numpy"})(given)
    assert torch.equal(given, x.relu())
    torch.testing.assert_close(y, module(x))


def test_autocast_is_followed() -> None:
    module, x = Odd().eval(), torch.randn(SHAPE)
    fast = torch.compile(module, backend=compile_backend, options={"executor": "numpy"})
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        warnings.simplefilter("ignore")
        y, expected = fast(x), module(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.1, atol=0.1)


@pytest.mark.skipif(
    "tricnn" not in entry_points(group="torch_dynamo_backends").names, reason="tricnn is not installed, by pip -e ."
)
def test_it_is_found_by_its_name_and_fuses_as_it_is_told() -> None:
    module, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).double(), torch.randn(SHAPE).double()
    kernels = []
    for fuse in (False, True):
        torch._dynamo.reset()
        fast = torch.compile(module, backend="tricnn", options={**OPTIONS, "fuse": fuse, "strict": True})
        torch.testing.assert_close(fast(x), module(x))
        (step,) = PLANS.values()
        kernels.append(len(step.plan.kernels))
        PLANS.clear()
    assert kernels[0] > kernels[1]


def test_the_entry_point_leads_there() -> None:
    pyproject = tomllib.loads((Path(tricnn.__file__).parents[1] / "pyproject.toml").read_text())
    module, _, name = pyproject["project"]["entry-points"]["torch_dynamo_backends"]["tricnn"].partition(":")
    assert getattr(import_module(module), name) is compile_backend
