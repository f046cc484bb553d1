"""Launches, bytes and memory of plans do not grow unseen: they are held to the record in the repository."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import static_figures
from benchmarks.static_figures import FIGURES, compare, figures_of, read, record

BASELINE = Path(static_figures.__file__).with_suffix(".jsonl")
CASE = ("lenet", "infer", "auto", "sm_90")


def line(**changed):
    return {CASE: {"launches": 5, "dram_bytes": 100, "peak_memory_bytes": 50, "sha256": "a", **changed}}


@pytest.mark.parametrize("case", [c for c in read(BASELINE) if c[0] in ("lenet", "alexnet", "resnet18")], ids=" ".join)
def test_no_figure_is_worse_than_the_recorded_one(case):
    """A record holds figures that were reached once; `record` writes a new one when they are smaller."""
    recorded = read(BASELINE)[case]
    found = figures_of(case, recorded["batch"], recorded["dtype"], text=False)
    assert {f: found[f] for f in FIGURES if found[f] > recorded[f]} == {}


def test_figures_are_those_that_were_counted_by_hand():
    """LeNet-5 for inference: two convolutions with pooling and three dense layers, one launch each (docs/zoo.md)."""
    assert figures_of(CASE, 256, "bf16")["launches"] == 5


@pytest.mark.parametrize(
    "changed, verdict",
    [
        ({}, []),
        ({"sha256": "b"}, ["source"]),
        ({"launches": 4, "sha256": "b"}, ["better"]),
        ({"launches": 4, "dram_bytes": 101}, ["worse"]),  # one is worse, whatever another one gains
        ({"peak_memory_bytes": 51}, ["worse"]),
        ({"error": "layer x: no kernel"}, ["failed"]),
    ],
)
def test_two_records_are_compared_case_by_case(changed, verdict):
    assert [v for v, case, _ in compare(line(), line(**changed))] == verdict
    assert list(compare({}, line())) == []  # a new network is neither


def test_a_record_goes_on_where_it_ended_and_the_comparison_is_an_exit_status(tmp_path, monkeypatch, capsys):
    old, new, told = tmp_path / "old.jsonl", tmp_path / "new.jsonl", []
    cases = [("lenet", "infer", policy, "sm_90") for policy in ("auto", "none")]
    record(cases[:1], old, 256, "bf16", True, told.append)
    record(cases, old, 256, "bf16", True, told.append)
    assert len(told) == 2 and list(read(old)) == cases
    found = [json.loads(text) for text in old.read_text().splitlines()]
    for grown, status in ((0, 0), (1, 1)):
        new.write_text("".join(json.dumps({**f, "launches": f["launches"] + grown}) + "\n" for f in found))
        monkeypatch.setattr(sys, "argv", ["static_figures", "compare", str(old), str(new)])
        assert static_figures.main() == status
    assert "worse   lenet infer auto sm_90: launches 5 -> 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["{}", "no json", '{"case": ["lenet"]}', '{"case": ["a", "b", "c", "d"], "launches": 1}']
)
def test_a_file_that_is_no_record_is_refused_by_its_line(text, tmp_path, monkeypatch, capsys):
    path = tmp_path / "other.jsonl"
    path.write_text(text + "\n")
    monkeypatch.setattr(sys, "argv", ["static_figures", "compare", str(path), str(path)])
    assert static_figures.main() == 2 and "line 1 is not one that `record` writes" in capsys.readouterr().err
