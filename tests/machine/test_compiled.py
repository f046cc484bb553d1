"""Machine code of the simulator's loops is kept while their sources are the same, whichever file of them changes."""

import ast
import importlib
import shutil
import sys
from pathlib import Path

import numba
import pytest

from tricnn.machine.simulator import compiled

CALLER = """
from .called import STEP, stepped
from .compiled import kept

@kept
def run(x):
    return stepped(x) + STEP
"""
CALLED = """
from .compiled import inner

STEP = {}

@inner
def stepped(x):
    return x + {}
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder of modules as the simulator's: one calls what another has, and reads a constant of it."""
    folder = tmp_path / "looproom"
    folder.mkdir()
    shutil.copy(compiled.__file__, folder / "compiled.py")
    for name, text in (("__init__", ""), ("caller", CALLER), ("called", CALLED.format(0, 1))):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    yield folder
    forget()


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "looproom"]:
        del sys.modules[name]


def started_anew():
    """The room's function as a new process has it."""
    forget()
    importlib.invalidate_caches()
    return importlib.import_module("looproom.caller").run


def test_code_is_kept_until_a_file_changes_that_the_function_does_not_stand_in(room):
    for text, result in ((CALLED.format(0, 1), 1), (CALLED.format(0, 20), 20), (CALLED.format(300, 20), 320)):
        (room / "called.py").write_text(text)
        run = started_anew()
        assert run(0) == result and not run.stats.cache_hits
        again = started_anew()
        assert again(0) == result and again.stats.cache_hits
        left = sorted(path.suffix for path in (room / "__pycache__").iterdir())
        assert left == [".nbc", ".nbi"]  # what was made of the sources before is gone


def test_where_no_folder_can_be_written_every_process_compiles(room, monkeypatch):
    (room / "__pycache__").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert started_anew()(0) == 1 and started_anew()(0) == 1


def test_compiled_functions_use_no_file_that_the_digest_does_not_cover():
    folder, using, foreign = Path(compiled.__file__).parent, set(), set()
    for path in folder.glob("*.py"):
        found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        if any(node.module == "compiled" for node in found):
            using.add(path.name)
            foreign |= {node.module for node in found if node.level != 1}
    assert using == {"core.py", "lanes.py", "trace.py", "warp_accesses.py"}
    assert foreign == {"__future__", "numpy.typing"}
    assert len({compiled.sources(), compiled.sources(Path(__file__)), compiled.sources(folder / "core.py")}) == 3
