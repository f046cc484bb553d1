"""The notebooks of the lecture run, are built from what they say, and need nothing but the public surface."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import tricnn

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9][0-9]-*.py"))
#: what every `make test` runs; the others take about ten seconds each, or more
QUICK = {"02-dense-to-convolution"}
LARGEST = 500_000  # bytes of a built notebook
#: modules that a notebook may import
MODULES = {"tricnn", "lesson", "numpy", "matplotlib", "torch", "sklearn", "os", "time", "math", "itertools"}


@pytest.fixture(scope="module")
def build():
    """``notebooks/build.py`` as a module."""
    spec = importlib.util.spec_from_file_location("build_notebooks", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(script: Path) -> list[str]:
    """The text of a script's code cells."""
    cells = re.split(r"^# %%", script.read_text(), flags=re.MULTILINE)[1:]
    return [text.partition("\n")[2] for text in cells if not text.startswith(" [markdown]")]


def beyond_the_public_surface(text: str) -> list[str]:
    """What a script imports, or reaches for, that no user of tricnn is promised."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        elif isinstance(node, ast.Attribute):
            foreign = isinstance(node.value, ast.Name) and node.value.id == "tricnn" and node.attr not in tricnn.__all__
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            found += [node.attr] if foreign or private else []
            continue
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            if top not in MODULES | {"json", "subprocess", "sys", "tempfile", "collections", "typing", "__future__"}:
                found.append(name)
            if top == "tricnn" and inner:
                found.append(name)
    return found


def run(script: Path, folder: Path) -> subprocess.CompletedProcess:
    """A script run by Python alone, as a reader would, its pictures drawn and thrown away."""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent), "MPLBACKEND": "agg", "TRICNN_CACHE": str(folder)}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, script], cwd=FOLDER, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, id=s.stem, marks=[] if s.stem in QUICK else pytest.mark.slow) for s in SCRIPTS],
)
def test_a_notebook_runs_and_what_it_asserts_holds(script, tmp_path):
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_assertion_that_does_not_hold_is_seen(tmp_path):
    """One figure made wrong on purpose, 29 for the 28 rows that a 5x5 kernel leaves of 32, ends the run."""
    (script,) = [s for s in SCRIPTS if s.stem == "04-padding-and-stride"]
    text, changed = re.subn(r"^assert (.*) == 28$", r"assert \1 == 29", script.read_text(), flags=re.MULTILINE)
    assert changed == 1
    wrong = tmp_path / "wrong.py"
    wrong.write_text(f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\n{text}")
    done = run(wrong, tmp_path)
    assert done.returncode == 1 and "AssertionError" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_a_notebook_is_built_from_its_script(script, build):
    assert build.in_step(script), f"run: python notebooks/build.py {script.stem[:2]}"
    built = script.with_suffix(".ipynb")
    assert built.stat().st_size < LARGEST
    cells = [c for c in nbformat.read(built, as_version=4).cells if c.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs), "no picture"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "cells ran out of order"


def test_a_changed_script_is_out_of_step(build, tmp_path):
    script = tmp_path / SCRIPTS[0].name
    script.write_text(SCRIPTS[0].read_text())
    assert not build.in_step(script)  # nothing was built
    script.with_suffix(".ipynb").write_bytes(SCRIPTS[0].with_suffix(".ipynb").read_bytes())
    assert build.in_step(script)
    script.write_text(script.read_text().replace("import numpy as np", "import numpy", 1))
    assert not build.in_step(script)


@pytest.mark.parametrize("script", [*SCRIPTS, FOLDER / "lesson.py"], ids=lambda s: s.stem)
def test_notebooks_use_the_public_surface_only(script):
    assert beyond_the_public_surface(script.read_text()) == []


@pytest.mark.parametrize(
    "text, what",
    [
        ("from tricnn.run.model import compile", "tricnn.run.model"),
        ("import tricnn.ir.graph", "tricnn.ir.graph"),
        ("tricnn.check.verify()", "check"),
        ("model._step(x, y)", "_step"),
        ("import scipy.ndimage", "scipy.ndimage"),
    ],
)
def test_what_is_not_public_is_found(text, what):
    assert beyond_the_public_surface(text) == [what]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_a_notebook_has_the_parts_of_a_lesson(script):
    """A title with its number, checks in cells of their own, exercises, and the kernels at the end."""
    text, cells = script.read_text(), code(script)
    assert re.search(rf"^# # {int(script.stem[:2])}\. ", text, re.MULTILINE)
    assert re.search(r"^# ## Exercises$", text, re.MULTILINE)
    assert ".plan" in cells[-1]
    checks = [cell for cell in cells if "assert " in cell]
    assert len(checks) >= 2
    for cell in checks:
        assert cell.startswith("# Check: "), "assertions stand in a cell of their own, which says what is checked"
        assert "print(" not in cell and "plt." not in cell


def test_the_list_of_notebooks_is_whole():
    listed = re.findall(r"^\| \d+ \| \[.*\]\((.*)\.ipynb\)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert listed == [script.stem for script in SCRIPTS]


def test_a_kernel_that_is_not_there_is_not_shown_as_nothing(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    lesson = importlib.import_module("lesson")
    model = tricnn.compile(tricnn.graphs.lenet(), target="sm_90")
    text = lesson.kernel(model, "k04_fc3")
    assert text.startswith("# k04_fc3: linear") and text.count("@triton.jit") >= 1 and "k03" not in text
    with pytest.raises(KeyError, match=r"no kernel k09.*k04_fc3"):
        lesson.kernel(model, "k09_fc3")
