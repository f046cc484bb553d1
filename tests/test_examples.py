"""The examples do what the README says of them."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from tricnn.cli.command_line import run as main

EXAMPLES = Path(__file__).parents[1] / "examples"
NETWORK = str(EXAMPLES / "my_network.txt")


def test_the_network_as_text_is_ten_lines():
    assert len((EXAMPLES / "my_network.txt").read_text().splitlines()) == 10


def test_the_network_as_text_compiles_verifies_and_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TRICNN_CACHE", str(tmp_path / "cache"))
    assert main(["compile", NETWORK, "--target", "sm_90", "--batch", "64", "--out", str(tmp_path / "out")]) == 0
    assert "conv, pool, act" in capsys.readouterr().out and (tmp_path / "out" / "kernels.py").exists()
    assert main(["verify", NETWORK]) == 0
    assert "all within tolerance" in capsys.readouterr().out
    assert main(["train", NETWORK, "--data", "digits", "--epochs", "8"]) == 0
    shown = capsys.readouterr().out
    assert float(shown.split("test accuracy ")[-1].split("%")[0]) > 90


def test_the_network_in_python_verifies_itself_and_prints_its_kernels():
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "my_network.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "# plan of two_views: infer, fused" in done.stdout and "# plan of two_views: train, fused" in done.stdout
    assert done.stdout.count("values within tolerance") == 2 and "@triton.jit" in done.stdout


def test_a_kernel_is_learned_from_what_pytorch_made_with_it(tmp_path):
    """From two files of pictures of 8 bits: each pixel is wrong by up to 1/510, which no kernel can make good."""
    image = np.random.default_rng(1).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    secret = torch.tensor([[0.1, 0.0, 0.2], [0.0, 0.4, 0.0], [0.0, 0.3, 0.0]])
    colours = torch.from_numpy(image / 255).float().permute(2, 0, 1)[:, None]
    made = torch.nn.functional.conv2d(colours, secret[None, None], padding=1)[:, 0].permute(1, 2, 0)
    matplotlib.image.imsave(tmp_path / "before.png", image)
    matplotlib.image.imsave(tmp_path / "after.png", (made.numpy() * 255).round().astype(np.uint8))
    words = [sys.executable, EXAMPLES / "learn_kernel.py", tmp_path / "before.png", tmp_path / "after.png"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers = [float(text) for text in re.findall(r"-?\d+\.\d*", done.stdout.partition(":\n")[2])]
    assert np.reshape(numbers, (3, 3)) == pytest.approx(secret.numpy(), abs=2e-3)


def test_a_picture_is_filtered_as_pytorch_filters_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    matplotlib.image.imsave(tmp_path / "photo.png", image)
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    words = [sys.executable, EXAMPLES / "filter_photograph.py", tmp_path / "made" / "out.png", tmp_path / "photo.png"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    drawn = matplotlib.image.imread(tmp_path / "made" / "out.png")[..., :3]
    assert drawn.shape == (24, 32, 3)
    edges = [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]
    blur = [[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]]
    for kernel, quarter in ((edges, drawn[:12, 16:]), (blur, drawn[12:, 16:])):
        colours = torch.from_numpy(image / 255).permute(2, 0, 1)[:, None]
        expected = torch.nn.functional.conv2d(colours, torch.tensor([[kernel]], dtype=torch.float64), padding=1)
        np.testing.assert_allclose(quarter, expected[:, 0].permute(1, 2, 0).clip(0, 1), atol=1 / 255)


def test_a_unet_learns_to_tell_pixels_apart(capsys):
    """Seen: 94 % after one epoch, 98.6 % after four."""
    found = importlib.util.spec_from_file_location("segment_shapes", EXAMPLES / "segment_shapes.py")
    example = importlib.util.module_from_spec(found)
    found.loader.exec_module(example)
    assert example.main(1) > 0.85
    assert "mean IoU" in capsys.readouterr().err
