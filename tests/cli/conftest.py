"""Commands run inside this process where they can; a folder of their own, and one cache of kernels for all tests."""

import json
from dataclasses import dataclass

import pytest

from tricnn.cli import main
from tricnn.system import waiting

TINY = """\
graph tiny
x = input(shape=[N, 1, 8, 8])
conv.weight = parameter(shape=[4, 1, 3, 3], init="he_normal(fan_out)")
conv = conv2d(x, conv.weight, padding=1)
act = relu(conv)
pool = max_pool2d(act, kernel_size=2, stride=2)
flat = flatten(pool)
fc.weight = parameter(shape=[10, 64], init="he_normal(fan_in)")
fc = linear(flat, fc.weight)
output logits = fc
"""


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def tricnn(capsys, monkeypatch, tmp_path, kernel_cache):
    """``tricnn("show", "lenet")`` in an empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TRICNN_CACHE", str(kernel_cache))
    monkeypatch.delenv("COLUMNS", raising=False)  # parallel test runners set it
    monkeypatch.setattr(waiting, "SECONDS_BETWEEN_LINES", 3600.0)  # on a busy machine quick things take seconds

    def run(*argv):
        capsys.readouterr()
        status = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture
def tiny(tmp_path):
    """A file with a network of two layers."""
    path = tmp_path / "tiny.txt"
    path.write_text(TINY)
    return path
