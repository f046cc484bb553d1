"""The limits that a user reads of are those that hold."""

import re
from pathlib import Path

from tricnn.system import limits

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_table_of_limits_is_the_limits():
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([0-9,]+)( MB)? \|", ARCHITECTURE.read_text(), re.MULTILINE)
    table = {name: int(value.replace(",", "")) << (20 if unit else 0) for name, value, unit in rows}
    assert table == {name: value for name, value in vars(limits).items() if name.isupper()}
