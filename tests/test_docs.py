"""The figures in the documentation are those of the code, and what the Makefile says of itself."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import tricnn
from benchmarks import coverage_page

DOCS = Path(__file__).parents[1] / "docs"


def script(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def zoo():
    """``docs/zoo.py`` as a module."""
    return script("zoo")


def test_the_table_of_many_gpus_is_made_of_every_gradient():
    """LeNet's 61,706 numbers of 4 bytes; the last bucket is ready when the step ends."""
    step, buckets = script("distributed").step_of("lenet")
    assert sum(bucket.bytes for bucket in buckets) == 61_706 * 4 and buckets[-1].ready == step > 0


def test_the_table_of_networks_has_the_sizes_that_the_graphs_have(zoo):
    assert zoo.sizes() in (DOCS / "zoo.md").read_text()


def test_the_table_has_the_launches_of_lenet_by_hand(zoo):
    """Inference is a kernel for each of the two convolutions and three dense layers, with 11 layers in all."""
    cells = [cell.strip() for cell in zoo.plans(["lenet"]).splitlines()[-1].split("|")]
    assert cells[1:4] == ["`lenet`", "5", "11"]
    assert float(cells[4]) < float(cells[5]) and float(cells[8]) < float(cells[9]) and int(cells[6]) < int(cells[7])


def test_the_glossary_says_where_things_are():
    """Each word once, and files that exist."""
    rows = [line.split("|")[1:4] for line in (DOCS / "glossary.md").read_text().splitlines() if line.startswith("| ")]
    words = [word.strip() for name, _, _ in rows for word in name.split(",") if word.strip() != "word"]
    assert len(words) == len(set(words)) > 30
    for word in ("tile", "descriptor", "pitch", "place", "part", "box", "anchor", "prologue", "epilogue", "side sum"):
        assert word in words
    places = [path for _, _, where in rows for path in re.findall(r"`([^`]+)`", where)]
    assert [p for p in places if not ((DOCS.parent / "tricnn" / p).exists() or (DOCS.parent / p).exists())] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("goal, work", [("demo", "tricnn.cli.demo"), ("test", "pytest"), ("notebooks", "build.py")])
def test_make_says_what_it_does_and_how_long_that_takes_before_it_starts(goal, work):
    command = ["make", "-n", goal, "VENV=/nowhere"]  # prints what it would do, as in a fresh clone
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # of the make around this
    said = subprocess.run(
        command, cwd=DOCS.parent, capture_output=True, text=True, check=True, env=plain
    ).stdout.splitlines()
    about, setup, last = said[0], next(s for s in said if "Installing" in s), said[-1]
    (minutes,) = re.findall(r"\d+ to \d+ minutes on 2 cores", about)
    assert about.startswith("echo ") and "minutes" in setup and work in last
    assert re.search(rf"make {goal} .*{minutes}", (DOCS.parent / "README.md").read_text())
    assert " -q" not in last, "pytest -q does not say how many tests there are"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_compat_runs_every_test_of_what_it_installs():
    """Tests that are skipped elsewhere for want of a package, or that are marked so."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", "compat", "COMPAT=/nowhere"]
    said = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=True, env=plain).stdout
    (line,) = [line for line in said.splitlines() if " -m pytest " in line]
    paths = [DOCS.parent / word for word in line.split() if word.startswith("tests/")]
    assert all(path.exists() for path in paths)
    needing = [
        path
        for path in DOCS.parent.glob("tests/**/test_*.py")
        if re.search(r"^@pytest\.mark\.compat|^ +.*importorskip\(", path.read_text(), re.MULTILINE)
    ]
    assert len(needing) > 3 and [p for p in needing if not any(p.is_relative_to(path) for path in paths)] == []
    assert "benchmarks.coverage --models 'torchvision:*' --stage logits --again missing" in said
    assert "-m benchmarks.coverage_page" in said


def test_the_page_of_other_peoples_networks_is_what_the_record_says():
    assert coverage_page.main(["--check"]) == 0


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.py")), ids=lambda path: path.name)
def test_scripts_of_docs_need_only_what_is_installed(path):
    """``python docs/zoo.py`` has docs/ on its path, and the root of the repository in no environment but this one's."""
    imported = re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    assert "benchmarks" not in imported and "tests" not in imported


@pytest.fixture
def typed():
    """The blocks of Python that a reader of the README can type, in their order."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if "@triton.jit" not in block]  # that one is a kernel as it is emitted


def undefined(text):
    """What ruff says of names that a program uses and has not."""
    words = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "concise", "-"]
    return re.findall(r"F821 (.*)", subprocess.run(words, input=text, capture_output=True, text=True).stdout)


def test_the_python_of_the_readme_has_every_name_that_it_uses(typed):
    assert len(typed) == 4 and undefined("".join(typed)) == []
    assert len(undefined(typed[-1])) > 3, "it goes on from the blocks before"


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands_there(typed, tmp_path, monkeypatch):
    """One block after the other. A small module stands for torchvision's, which need not be installed."""
    nn = torch.nn
    small = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(7688, 10))
    stand_in = SimpleNamespace(models=SimpleNamespace(resnet18=lambda: small))
    monkeypatch.setitem(sys.modules, "torchvision", stand_in)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in typed:
        exec(block, names)
    assert (tmp_path / "mine.safetensors").exists() and names["loss"].isfinite()
    assert names["net"](torch.zeros(2, 3, 64, 64)).shape == (2, 10)


@pytest.mark.slow
def test_the_python_of_the_page_on_training_runs_as_it_stands_there(tmp_path, monkeypatch):
    """On six pictures, once and not thirty times."""
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "training.md").read_text(), re.DOTALL)
    pixels = np.random.default_rng(0).integers(0, 255, (6, 30, 40, 3)).astype(np.uint8)
    for i, picture in enumerate(pixels):
        for part in ("train", "val"):
            where = tmp_path / "pictures" / part / "abc"[i % 3]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(where / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block.replace("epochs=30", "epochs=1"), names)
    assert names["result"].epochs == 1 and names["data"].num_classes == 3
    there = {path.name for path in (tmp_path / "out" / "run").iterdir()}
    assert {"checkpoint.safetensors", "averaged.safetensors", "epochs.csv", "log.jsonl"} <= there


@pytest.mark.slow
def test_the_python_of_the_page_on_pytorch_runs_as_it_stands_there():
    """One block after the other, with a small module, four images and a loss of the reader's."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "pytorch.md").read_text(), re.DOTALL)
    nn = torch.nn
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    names = {
        "torch": torch,
        "module": nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.BatchNorm2d(8), nn.ReLU(), *pooled),
        "images": torch.randn(4, 3, 224, 224),
        "labels": torch.arange(4),
        "any_loss": nn.MultiMarginLoss(),
    }
    before = names["module"][0].weight.clone()
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 3 and names["net"].get_parameter("0.weight") is names["module"][0].weight
    assert not torch.equal(before, names["module"][0].weight)
    assert names["fast"](names["images"]).shape == (4, 10)


@pytest.mark.slow
def test_the_whole_table_is_current(zoo, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["zoo.py", "--check"])
    assert zoo.main() == 0, capsys.readouterr().err


def test_every_folder_of_tests_is_described():
    tests = DOCS.parent / "tests"
    folders = {path.name for path in tests.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(re.findall(r"^\| `(\w+)/`", (tests / "README.md").read_text(), re.MULTILINE)) == folders


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "tests/README.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md"))]
)
def test_links_of_a_page_lead_somewhere(page):
    """A link to a file, from where the page lies, and to a heading of a page."""
    path = DOCS.parent / page
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.DOTALL)
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link, _, _ in links if link and not (path.parent / link).exists()] == []
    inside = [(path.parent / link if link else path, anchor) for link, _, anchor in links if anchor]
    assert [(file.name, anchor) for file, anchor in inside if anchor not in anchors(file)] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_on_the_site():
    """mkdocs.yml has each page once, and needs nothing that pyproject.toml's ``docs`` does not bring."""
    site = (DOCS.parent / "mkdocs.yml").read_text()
    listed = re.findall(r"^ +- [\w ,]+: ([\w-]+\.md)$", site, re.MULTILINE)
    assert sorted(listed) == sorted(["index.md", *(page.name for page in DOCS.glob("*.md"))])
    wanted = (DOCS.parent / "constraints.txt").read_text()
    assert "mkdocs-material==" in wanted and "mkdocstrings-python==" in wanted


def test_the_reference_has_all_that_is_public():
    """``::: tricnn.Model`` of docs/api.md is there; and what is there is public."""
    page = (DOCS / "api.md").read_text()
    named = re.findall(r"^::: tricnn\.(\w+)$", page, re.MULTILINE)
    assert set(named) <= set(tricnn.__all__) and len(named) == len(set(named))
    assert {name for name in tricnn.__all__ if name not in named and f"tricnn.{name}" not in page} == set()


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed: make docs")
def test_the_site_is_built_without_a_warning(tmp_path):
    """Where its packages are, which the default environment does not have (143 MB): every link, anchor and name of the
    reference."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "index.html").exists()


def test_the_reading_order_names_files_that_are_there():
    """From declare to run: every stop has its file."""
    page = (DOCS / "architecture.md").read_text()
    stops = page[page.index("## From declare to run") : page.index("## Conventions every room shares")]
    named = set(re.findall(r"`((?:tricnn/)?[a-z]+/[\w/]+\.py)", stops))
    root = DOCS.parent
    assert len(named) > 20
    assert [name for name in named if not (root / name).exists() and not (root / "tricnn" / name).exists()] == []
