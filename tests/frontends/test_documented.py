"""docs/pytorch.md lists the operations that are supported, all of them and no other."""

import re
from pathlib import Path

from tricnn.frontends.torch_ops import supported


def test_the_documented_operations_are_the_supported_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "pytorch.md").read_text()
    (listed,) = re.findall(r"## Supported operations.*?```text\n(.*?)```", text, re.DOTALL)
    assert sorted(f"aten.{name}" for name in listed.split()) == supported()
