"""docs/pytorch.md and docs/onnx.md list the operations that are supported, all of them and no other."""

import re
from pathlib import Path

from tricnn.frontends.onnx_ops import ONNX
from tricnn.frontends.torch_ops import ATEN


def listed(page: str) -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    (found,) = re.findall(r"## Supported operat.*?```text\n(.*?)```", text, re.DOTALL)
    return sorted(found.split())


def test_the_documented_operations_are_the_supported_ones() -> None:
    aten = sorted(name for name in ATEN if name.startswith("aten.") and name.count(".") > 1)
    assert [f"aten.{name}" for name in listed("pytorch.md")] == aten
    assert listed("onnx.md") == sorted(ONNX)
