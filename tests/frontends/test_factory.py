"""``package.module:factory`` where the command line takes MODEL."""

import json
from pathlib import Path

import pytest

import tricnn
from tricnn.cli import main

NETS = '''
import torch
from torch import nn

import tricnn


def net(num_classes=7):
    body = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, num_classes))


class Numbers(nn.Module):
    """Looks at numbers as it is made, which there are none of on the meta device."""

    def __init__(self):
        super().__init__()
        self.net = net(int(torch.ones(3).sum()))

    def forward(self, x):
        return self.net(x)


made = net(5)
lenet = tricnn.graphs.lenet
number = 3


def broken():
    raise RuntimeError("no\\nweights")


def text():
    return "net"


class Unknown(nn.Module):
    def forward(self, x):
        return x.cumsum(1)
'''


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A current folder with a file of networks in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRICNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tricnn_test_nets.py").write_text(NETS)
    return tmp_path


@pytest.mark.parametrize(
    ("what", "options", "parameters"),
    [
        ("net", [], 112 + 35),
        ("net", ["--classes", "9"], 112 + 45),
        ("Numbers", ["--input", "3,16,16"], 112 + 15),
        ("made", [], 112 + 25),
        ("lenet", [], tricnn.graphs.lenet().num_parameters),
    ],
)
def test_what_a_factory_makes(folder: Path, capsys, what: str, options: list[str], parameters: int) -> None:
    assert main(["show", f"tricnn_test_nets:{what}", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == parameters


@pytest.mark.slow
def test_a_module_is_compiled_and_verified_by_its_name(folder: Path, capsys) -> None:
    assert main(["compile", "tricnn_test_nets:net", "--mode", "train", "--input", "3,8,8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["graph"] == "net"
    assert main(["verify", "tricnn_test_nets:net", "--input", "3,8,8", "--json"]) == 0


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("tricnn_test_nets:nett", "tricnn_test_nets has no nett; did you mean net?"),
        ("tricnn_test_net:net", "there is no Python module tricnn_test_net here or among installed ones"),
        ("tricnn_test_nets:broken", "tricnn_test_nets:broken() failed: RuntimeError: no weights"),
        ("tricnn_test_nets:text", "tricnn_test_nets:text returns str; MODEL is a function that returns an nn.Module"),
        ("tricnn_test_nets:number", "is of type int; MODEL is a function that returns an nn.Module"),
        ("tricnn_test_nets:Unknown", "aten.cumsum.default (at tricnn_test_nets.py:39 `return x.cumsum(1)`): not"),
        ("tricnn_test_nets:", "is not package.module:factory, such as torchvision.models:resnet50"),
        ("tricnn_test_nets:net --width 2", "--width is for architectures; tricnn_test_nets:net is a PyTorch module"),
        ("tricnn_test_nets:made --classes 3", "is a network already, which num_classes cannot change"),
        ("tricnn_test_nets:net --input 1,8,8", "cannot be exported"),
    ],
)
def test_bad_names_are_one_line(folder: Path, capsys, model: str, says: str) -> None:
    assert main(["show", *model.split()]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tricnn: error: ")]
    assert len(said) == 1
    assert says in said[0]
