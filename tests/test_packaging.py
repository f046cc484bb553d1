"""What a user would lose: `pip install` of a wheel or an sdist that works, and that leaves the name `kernels` alone."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each import proves a link or a data file; the file that was imported must lie where we put it.
PROBE = """
import pathlib, sys, importlib.util
import tricnn.kernels, tricnn.graphs, tricnn.training
root = pathlib.Path(sys.argv[1])
for module in (tricnn.kernels, tricnn.graphs):
    assert pathlib.Path(module.__file__).is_relative_to(root), module.__file__
assert importlib.util.find_spec("kernels") is None and importlib.util.find_spec("graphs") is None
package = pathlib.Path(tricnn.__file__).parent
assert (package / "py.typed").is_file()
page = package / "report" / "page"
assert [p for p in ("templates/page.html", "assets/page.css", "assets/page.js") if not (page / p).is_file()] == []
print("fine")
"""
# The environment that runs the tests may have an editable install of its own: only the one in this folder counts.
INSTALLED = """
import site, sys
for name in [m for m in sys.modules if m.startswith("__editable__")]: del sys.modules[name]
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
sys.path.insert(0, {0!r})
site.addsitedir({0!r})
"""

pytestmark = pytest.mark.slow


def python(*arguments, cwd, path=""):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, env={"PYTHONPATH": str(path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy as a clone would have it, links kept; tools leave build/ and *.egg-info behind."""
    copy = tmp_path_factory.mktemp("clone") / "tricnn"
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "out")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    return copy


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    python("-m", "build", "--no-isolation", "--sdist", "--outdir", out, cwd=source)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the sdist: as `pip install tricnn.tar.gz` does."""
    out = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "unpacked", filter="data")
    (unpacked,) = (out / "unpacked").iterdir()
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", out, cwd=unpacked)
    (path,) = out.glob("*.whl")
    return path


def test_the_sdist_has_what_a_developer_needs(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    for name in ("pyproject.toml", "Makefile", "constraints.txt", "LICENSE", "tests/test_packaging.py"):
        assert name in names
    assert "tricnn/kernels/__init__.py" in names and "tricnn/graphs/__init__.py" in names


def test_the_wheel_has_every_module_once_and_no_foreign_name(source, wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"tricnn", "tricnn-0.1.0.dist-info"}
    packaged = {name.removeprefix("tricnn/") for name in names if name.endswith(".py")}
    written = {str(path.relative_to(source / "tricnn")) for path in source.glob("tricnn/**/*.py")}
    for folder in ("kernels", "graphs"):
        written |= {str(path.relative_to(source)) for path in source.glob(f"{folder}/**/*.py")}
    assert packaged == written
    assert "tricnn/machine/tuned/sm_90.toml" in names
    assert len(names) == len(set(names))


def test_the_wheel_imports(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert python("-c", PROBE, tmp_path / "site", cwd=tmp_path, path=tmp_path / "site") == "fine"


def test_an_editable_install_imports(source, tmp_path):
    build = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    python("-c", build, tmp_path, cwd=source)
    (editable,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(editable).extractall(tmp_path / "site")
    assert python("-c", INSTALLED.format(str(tmp_path / "site")) + PROBE, source, cwd=tmp_path) == "fine"


def test_a_plain_path_imports(source, tmp_path):
    probe = PROBE.replace("assert importlib.util.find_spec", "# top-level folders are visible here: ")
    assert python("-c", probe, source, cwd=tmp_path, path=source) == "fine"
