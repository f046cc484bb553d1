"""The record of hazards over versions of Triton: what counts as right, and which functions are compiled for it."""

from pathlib import Path

import pytest

from benchmarks import hazard_matrix
from tricnn.graphs import ARCHITECTURES
from tricnn.lower.from_graph import lowered

DONE = {"functions": 5, "products": 3, "tensor_core": 3, "hazards": 0, "spill_bytes": 0}
CASES = [(triton, "sm_90", "bf16", "lenet", mode) for triton in ("3.8.0", "3.9.0") for mode in ("infer", "train")]


def test_a_record_is_right_if_all_cases_are_there_without_a_hazard():
    rows, right = hazard_matrix.table(dict.fromkeys(CASES, DONE))
    assert right and rows[2:] == [
        "| 3.8.0 | sm_90 | bf16 | 2 of 2 | 10 | 6 | 0 | 0 |", "| 3.9.0 | sm_90 | bf16 | 2 of 2 | 10 | 6 | 0 | 0 |",
    ]  # fmt: skip


@pytest.mark.parametrize("case", [{**DONE, "hazards": 1}, {"error": "kernel k0 does not compile"}, None])
def test_a_hazard_an_error_and_a_missing_case_are_not_right(case):
    lines = dict.fromkeys(CASES, DONE)
    lines[CASES[0]] = case
    rows, right = hazard_matrix.table({key: value for key, value in lines.items() if value is not None})
    assert not right
    assert any("does not compile" in row for row in rows) == (case is not None and "error" in case)


def test_functions_with_a_product_are_those_that_multiply_matrices():
    program = lowered(ARCHITECTURES["lenet"](), "train", 8, "bf16", "sm_90", fuse="auto")
    products = {f.name for f in program.functions if hazard_matrix.has_product(f)}
    multiplies = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight", "linear", "linear_grad_input")
    kinds = {launch.function: launch.kind for launch in program.launches}
    for name, kind in kinds.items():
        main = next(k for k in kinds if name.startswith(k)) == name
        assert not main or (name in products) == kind.startswith(multiplies), (name, kind)


def test_a_case_that_the_file_has_is_not_computed_again(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(hazard_matrix, "of_network", lambda case, batch, cache: done.append(case) or DONE)
    file = tmp_path / "hazards.jsonl"
    hazard_matrix.record(CASES[:1], file, 8, None, lambda text: None)
    hazard_matrix.record(CASES, file, 8, None, lambda text: None)
    assert done == CASES and set(hazard_matrix.read(file)) == set(CASES)


def test_the_committed_record_has_no_hazard():
    lines = hazard_matrix.read(Path(hazard_matrix.__file__).with_name("hazards.jsonl"))
    assert lines and {found["hazards"] for found in lines.values()} == {0}
