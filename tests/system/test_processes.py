"""What the machine, or somebody else on it, does to a process of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tricnn.system.errors import TargetError

ROOT = Path(__file__).parents[2]


def python(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)


def test_the_interpreter_asked_for_too_late_is_said() -> None:
    ran = python(
        "import os, triton\nos.environ['TRITON_INTERPRET'] = '1'\n"
        "from tricnn.system.errors import TargetError\nfrom tricnn.run.triton_executor import pick_device\n"
        "try:\n    pick_device()\nexcept TargetError as error:\n    print(error)\n",
        TRITON_INTERPRET="0",
    )
    assert ran.stdout == "TRITON_INTERPRET was set to '1' after triton was imported: set it before, or start anew\n", (
        ran
    )


def test_without_what_only_unix_has_a_network_still_trains(tmp_path: Path) -> None:
    """No fcntl, pwd, affinity, user ids or fork, as on Windows: the library works, with a warning that nothing is
    locked. (The command line says where it runs.)"""
    ran = python(
        "import os, random, subprocess, sys, tempfile, threading, warnings\nimport networkx\nimport numpy as np\n"
        "for name in ('fcntl', 'pwd'):\n    sys.modules[name] = None\n"
        "for name in ('getuid', 'sched_getaffinity', 'register_at_fork', 'O_NOFOLLOW', 'O_NONBLOCK'):\n"
        "    delattr(os, name)\n"
        "import tricnn\nfrom tricnn.build import worker_pool\nfrom tricnn.build.cache import Entry, KernelCache\n"
        "from tricnn.training.checkpoint import sole_writer\nfrom pathlib import Path\n"
        "m = tricnn.compile(tricnn.graphs.lenet(), mode='train', batch=2)\n"
        "print(float(m.loss_and_grads(np.zeros((2, 1, 28, 28), np.float32), np.array([0, 1]))[0]) > 0)\n"
        f"folder = Path({str(tmp_path)!r})\ncache = KernelCache(folder)\ncache.put('ab' * 32, Entry({{}}, {{}}))\n"
        "print(cache.get('ab' * 32) is not None)\n"
        "warnings.simplefilter('error')\n"
        "try:\n    with sole_writer(folder):\n        pass\nexcept RuntimeWarning as w:\n    print(w)\n",
        HOME=str(tmp_path),
    )
    assert ran.stdout.startswith("True\nTrue\n") and "cannot be locked" in ran.stdout, ran


@pytest.mark.parametrize("mode, refused", [(0o700, False), (0o755, False), (0o775, False), (0o777, True)])
def test_kernels_are_not_launched_from_a_folder_that_everybody_can_write(
    mode: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton

    from tricnn.build.compile_ahead import check_triton_cache

    folder = tmp_path / "triton"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setattr(triton.knobs.cache, "dir", str(folder))
    if not refused:
        return check_triton_cache()
    with pytest.raises(TargetError, match="other users can write them; TRITON_CACHE_DIR names a folder of your own"):
        check_triton_cache()
