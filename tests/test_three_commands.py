"""What a user would lose: from a folder of pictures to a network that others run, by three commands.

`make compat` runs it too, where onnxruntime is installed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_three_commands_of_the_readme_lead_from_pictures_to_a_checked_network(tmp_path):
    """Typed as they stand there, by bash, in a folder with the examples and an environment. Seen: 97 % of the test
    pictures. What is exported is run by onnxruntime where that is installed, on pictures that were kept back."""
    text = (ROOT / "README.md").read_text()
    (commands,) = re.findall(r"in three commands.*?```sh\n(.*?)```", text, re.DOTALL)
    assert len(re.sub(r"\\\n", "", commands).splitlines()) == 3
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, words in (("python", ""), ("tricnn", "-m tricnn ")):
        (tmp_path / ".venv" / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert float(re.findall(r"test accuracy ([\d.]+)%", done.stdout)[-1]) > 85
    assert (tmp_path / "out" / "shapes.onnx").stat().st_size > 50_000
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    session = runtime.InferenceSession(tmp_path / "out" / "shapes.onnx")
    right = []
    for path in sorted((tmp_path / "out" / "shapes" / "val").glob("*/*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)[4:36, 4:36] / 255
        normalised = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        (logits,) = session.run(None, {"x": normalised.astype(np.float32).transpose(2, 0, 1)[None]})
        right.append(["cross", "disc", "square"][int(logits.argmax())] == path.parent.name)
    assert len(right) == 150 and np.mean(right) > 0.85
