"""The record of whole networks' machine code: what counts as wrong, and what is printed of it."""

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import static_checks
from benchmarks.static_checks import NETWORKS, checked, main, read, right, table


def built(**kernel: int | bool) -> SimpleNamespace:
    """A program of one product and one pass; ``kernel`` is what the product's machine code has otherwise."""
    facts = {"spill_bytes": 0, "hazards": 0, "registers": 168, "tensor_core": True}
    compiled = {"product": facts | kernel, "pass": facts | {"registers": 40, "tensor_core": False}}
    return SimpleNamespace(
        program=SimpleNamespace(functions=[SimpleNamespace(name=name) for name in compiled]),
        compiled={name: SimpleNamespace(**code) for name, code in compiled.items()},
    )


@pytest.fixture(autouse=True)
def _products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_checks, "has_product", lambda function: function.name == "product")


def test_what_is_right_is_counted() -> None:
    found = checked(built())
    assert found == {"kernels": 2, "products": 1, "tensor_core": 1, "spill_bytes": 0, "hazards": 0, "registers": 168,
                     "wrong": []}  # fmt: skip
    assert right(found) and not right({"error": "no place"})


@pytest.mark.parametrize("kernel", [{"spill_bytes": 8}, {"hazards": 1}, {"tensor_core": False}])
def test_a_kernel_that_spills_refills_or_multiplies_slowly_is_named(kernel: dict[str, int | bool]) -> None:
    found = checked(built(**kernel))
    assert found["wrong"] == ["product"] and not right(found)


def test_a_record_is_read_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each case; 1 as soon as one is not as it should be, and 1 for a record of nothing."""
    path, case = tmp_path / "record.jsonl", ["3.9.0", "sm_90", "bf16", "unet", "train"]
    assert main(["table", str(path)]) == 1
    path.write_text(json.dumps({"case": case, "batch": 128, **checked(built())}) + "\n")
    assert main(["table", str(path)]) == 0
    assert "| `unet` | train | sm_90 | bf16, 128 | 2 | 1 | 1 | 0 | 0 | 168 | 3.9.0 |" in capsys.readouterr().out
    other = {"case": [*case[:4], "infer"], "batch": 128, **checked(built(spill_bytes=8))}
    path.write_text(path.read_text() + json.dumps(other) + "\n")
    assert main(["table", str(path)]) == 1


def test_the_committed_record_is_whole_and_right_and_the_page_has_it() -> None:
    path = Path(static_checks.__file__).with_name("static_checks.jsonl")
    lines = read(path)
    wanted = set(product(("sm_90", "sm_80"), NETWORKS, ("infer", "train")))
    assert {(target, network, mode) for (_, target, _, network, mode), _ in lines} >= wanted
    assert all(map(right, lines.values()))
    assert "\n".join(table(lines)) in (path.parents[1] / "docs" / "static-checks.md").read_text()
