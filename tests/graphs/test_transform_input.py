"""Networks whose published weights expect other images than everybody's: torchvision's ``transform_input``."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tricnn
from tricnn.ir import Graph, GraphBuilder, GraphError, ShapeError, from_text, to_text

from .comparison import Case

NAMES = ("googlenet_bn", "inception_v3")


class Transformed(nn.Module):
    """What torchvision's GoogLeNet and Inception3 do first if ``transform_input`` is set, as they have been with the
    published weights: undo ImageNet's normalisation, and scale to -1..1."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        return self.network(torch.cat((red, green, blue), 1))


def small(name: str, **options: bool) -> tuple[Case, Graph]:
    """The network beside its PyTorch module, and declared with ``options``; without the head of training."""
    shape = {"input_shape": (3, 80, 80)} if name == "googlenet_bn" else {}
    case = Case(name, {"aux": False, **shape})
    return case, Case(name, {"aux": False, **shape, **options}).graph


def load(model: tricnn.Model, case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_state_dict(case.module.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_images_are_rescaled_as_torchvision_does(name: str) -> None:
    case, graph = small(name, transform_input=True)
    images = torch.from_numpy(case.x)
    case.module.eval()
    with torch.no_grad():
        wanted, without = Transformed(case.module)(images).numpy(), case.module(images).numpy()
    for executor in ("numpy", "eager"):
        model = tricnn.compile(graph, dtype="fp64", executor=executor)
        load(model, case)
        np.testing.assert_allclose(model(case.x), wanted, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(model(images).numpy(), wanted, rtol=1e-8, atol=1e-10)
    assert np.abs(wanted - without).max() > 0.01 * np.abs(without).max()  # images that are not are others
    plain = tricnn.compile(case.graph, dtype="fp64", executor="numpy")
    load(plain, case)
    np.testing.assert_allclose(plain(case.x), without, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("executor", ("numpy", "eager", "triton"))
@pytest.mark.parametrize("mode", ("infer", "train"))
def test_every_executor_rescales_and_before_padding(executor: str, mode: str) -> None:
    """Zeros of padding are zeros of what the network sees."""
    scale, shift = (2.0, 0.5), (-1.0, 3.0)

    def declared(**options: tuple[float, ...]) -> Graph:
        b = GraphBuilder("g")
        x = b.relu(b.conv2d(b.input("x", (2, 4, 4), **options), 3, 3, padding=1, name="c"))
        return b.build(b.linear(b.flatten(x), 3, name="fc"))

    x, labels = np.random.default_rng(0).standard_normal((2, 2, 4, 4), dtype=np.float32), np.array([0, 2])
    seen = x * np.array(scale, np.float32)[:, None, None] + np.array(shift, np.float32)[:, None, None]
    itself = tricnn.compile(declared(scale=scale, shift=shift), mode, 2, executor=executor)
    plain = tricnn.compile(declared(), mode, 2, executor=executor)
    if mode == "infer":
        np.testing.assert_array_equal(itself(x), plain(seen))
        np.testing.assert_array_equal(itself(torch.as_tensor(x)), plain(seen))
    else:
        (loss, grads), (wanted, plain_grads) = itself.loss_and_grads(x, labels), plain.loss_and_grads(seen, labels)
        assert loss == wanted
        for n in grads:
            np.testing.assert_array_equal(grads[n], plain_grads[n])


def test_what_is_done_to_images_is_in_the_text() -> None:
    graph = tricnn.graphs.inception_v3(width=1 / 16, transform_input=True)
    assert "scale=[0.458, 0.448, 0.45]" in to_text(graph) and from_text(to_text(graph)) == graph
    assert "scale" not in to_text(tricnn.graphs.inception_v3(width=1 / 16))


def test_numbers_that_are_not_one_for_each_channel_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"^layer x \(input\): scale has 2 numbers, which is not one for each channel"):
        GraphBuilder("g").input("x", (3, 4, 4), scale=(1.0, 2.0))
    with pytest.raises(GraphError, match=r"shift=.*a list of finite numbers"):
        GraphBuilder("g").input("x", (1, 4, 4), shift=(float("nan"),))
    with pytest.raises(GraphError, match=r"transform_input is for images of 3 channels, not of shape \[1, 80, 80\]"):
        tricnn.graphs.googlenet_bn(input_shape=(1, 80, 80), transform_input=True)


@pytest.mark.parametrize("name", NAMES)
def test_loading_pytorchs_weights_says_which_images_they_expect(name: str, tmp_path: Path) -> None:
    """In one line, if they are not what the network was declared for; silent for weights of one's own."""
    case, graph = small(name, transform_input=True)
    model = tricnn.compile(case.graph, executor="numpy")
    torch.save(case.module.state_dict(), tmp_path / "theirs.pth")
    for state in (case.module.state_dict(), tmp_path / "theirs.pth"):
        said = rf"^{name}: images are taken as they are; .* declare {name}\(transform_input=True\)$"
        with pytest.warns(UserWarning, match=said):
            model.load_state_dict(state)
    model.save_state_dict(tmp_path / "ours.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tricnn.compile(graph, executor="numpy").load_state_dict(tmp_path / "theirs.pth")
        model.load_state_dict(model.state_dict())
        model.load_state_dict(tmp_path / "ours.safetensors")


def test_show_says_what_becomes_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tricnn.cli.command_line import run

    def shown(*arguments: str) -> str:
        assert run(["show", *arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    mine = tmp_path / "mine.txt"
    mine.write_text(to_text(tricnn.graphs.googlenet_bn(width=1 / 16, transform_input=True)))
    assert "x: multiplied by 0.458, 0.448, 0.45, by channel, as it comes" in shown(str(mine))
    assert "declare inception_v3(transform_input=True)" in shown("inception_v3", "--width", "0.0625")
    assert "images" not in shown("resnet18").replace("an image", "")
    assert json.loads(shown(str(mine), "--json"))["input_transform"]["x"]["scale"] == [0.458, 0.448, 0.45]
