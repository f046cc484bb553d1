"""What a user with a GPU gets, as far as it can be known without one.

Two minutes of compiling. The quick suite compiles whole networks (tests/lower/test_build.py), which use most of these
templates, with no spills and on tensor cores.
"""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports():
    """In a process of its own: there the kernels are compiled, here they are interpreted."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.kernels.compile_templates"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_template_compiles(reports):
    assert len({report["name"] for report in reports}) > 20


def test_half_precision_convolutions_use_tensor_cores_and_keep_to_their_registers(reports):
    """Prologue and statistics included: a kernel that spills, or multiplies one by one, loses what fusion gained."""
    convolutions = [report for report in reports if "tensor_core" in report]
    assert {r["name"] for r in convolutions} == {"tensor_core_fprop", "tensor_core_dgrad", "tensor_core_wgrad"}
    assert all(r["tensor_core"] for r in convolutions), convolutions
    assert all(r["spilled"] == 0 for r in convolutions), convolutions
