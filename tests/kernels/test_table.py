"""The table in kernels/__init__.py is what one reads first: it must have every template."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "kernels"


def test_the_table_has_every_template() -> None:
    """A template is a function whose docstring says its grid."""
    table = set(re.findall(r"`(\w+)`", ast.get_docstring(ast.parse((FOLDER / "__init__.py").read_text())) or ""))
    functions = [
        node
        for path in sorted(FOLDER.glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    ]
    templates = {f.name for f in functions if re.search(r"Grid: \(|Any number of programs", ast.get_docstring(f) or "")}
    assert {"conv2d_fprop", "matmul_boxes", "update_of_many", "merge_stats"} <= templates
    assert templates - table == set()
    assert [f.name for f in functions if not ast.get_docstring(f)] == []
