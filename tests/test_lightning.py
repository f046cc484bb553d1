"""Lightning trains a compiled network, as the example has it. `make compat` installs it and runs this."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tricnn

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.compat
def test_lightning_trains_a_compiled_network(tmp_path):
    """Its loop, clipping, accumulation, schedule, validation, checkpoint. Seen: 88.6 % after one epoch."""
    found = importlib.util.spec_from_file_location("with_lightning", EXAMPLES / "with_lightning.py")
    example = importlib.util.module_from_spec(found)
    found.loader.exec_module(example)
    assert example.main(1, folder=tmp_path) > 0.8
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    state = {name.removeprefix("net."): x for name, x in torch.load(checkpoint)["state_dict"].items()}
    tricnn.compile(tricnn.graphs.lenet(num_classes=10), executor="numpy").load_state_dict(state)


@pytest.mark.compat
def test_lightning_trains_it_on_two_processes():
    """By DistributedDataParallel and gloo, which Lightning sets up. Seen after one epoch, which has half as many
    updates as one process makes: 77 % and 71 %, as each process tests its half of the images with one network."""
    command = [sys.executable, str(EXAMPLES / "with_lightning.py"), "1", "2"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (accuracy,) = re.findall(r"test accuracy ([\d.]+)%", done.stdout)
    assert float(accuracy) > 60
    assert "distributed_backend=gloo" in done.stderr and "MEMBER: 2/2" in done.stderr
