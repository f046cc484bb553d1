"""What an operation is, its row says; no room outside ``ir`` goes by its name.

A table that does not know the name of a new operation makes it slower, silently: SiLU once took 40 launches in an
Inception block where ReLU took 32. So a comparison with an operation's name, or a table of names, stands only where an
operation has a template of its own, and each of those places is counted here. A number may not rise; whoever lowers one
lowers it here, too.
"""

import ast
import re
from pathlib import Path

import pytest

from tricnn.ir import OPS

ROOT = Path(__file__).parents[2] / "tricnn"
#: the rooms that declare graphs, and that know the rows themselves
DECLARING = ("ir", "graphs", "kernels")
#: file -> lines that name operations, and why they may
ALLOWED = {
    "lower/lower.py": 1,  # the registry of templates: which function lowers what
    "lower/expressions.py": 1,  # the registry of pointwise operations that are more than a scalar expression
    "lower/copies.py": 1,  # which of the templates that copy
    "lower/partial_sums.py": 1,  # new running mean or variance, in the text that merges statistics
    "lower/sums.py": 2,  # the same, by a launch of its own
    "lower/body.py": 1,  # what a variable is called in the text
    "compiler/differentiate.py": 1,  # what a gradient's layer is called
    "cli/show_command.py": 1,  # attributes of an input, scale and shift, which are operations' names as well
    "machine/candidates.py": 1,  # the kinds of problems that have tiles, which templates give their names
    "frontends/torch_pointwise.py": 1,  # the registry: what PyTorch calls our operations
    "frontends/onnx_export.py": 1,  # the registry: what ONNX calls our operations
    "frontends/onnx_pointwise.py": 3,  # what patterns in files are made of (silu, gelu)
    "frontends/onnx_layers.py": 1,  # batch norm's operands
}


def named(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OPS


def part(node: ast.AST) -> bool:
    """Is it an operation's name, or some of one, such as ``_grad_input``?"""
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return len(text) > 2 and any(text in op for op in OPS)


def several(node: ast.Constant) -> bool:
    """Is it a text of names, such as ``"relu add".split()`` has?"""
    words = re.split(r"[\s,|]+", node.value.strip()) if isinstance(node.value, str) else []
    return len(words) > 1 and OPS.keys() >= set(words)


def of_operation(node: ast.AST, *names: str) -> bool:
    """Is it ``node.op``, ``op`` or ``problem.kind`` (or one of these names)?"""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in (names or ("op", "kind"))


def lines_that_name(source: str) -> set[int]:
    """Lines with a comparison with an operation's name, a table of such names, or a search for one."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                is_name = part if any(of_operation(side, "op") for side in sides) else named
                literal = any(is_name(inner) for side in sides for inner in ast.walk(side))
                hit = literal and any(of_operation(side) for side in sides)
            case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
                hit = sum(map(named, items)) > 1
            case ast.Dict(keys=keys, values=values):
                hit = max(sum(key is not None and named(key) for key in keys), sum(map(named, values))) > 1
            case ast.Call(func=ast.Attribute(value=value, attr="startswith" | "endswith"), args=[given]):
                hit = of_operation(value, "op") or (of_operation(value, "kind") and part(given))
            case ast.Call(func=ast.Attribute(attr="of"), args=[first, *_]):
                hit = named(first)
            case ast.Call(func=ast.Name(id="dict"), keywords=words):
                hit = sum(word.arg in OPS for word in words) > 1
            case ast.Call(args=given):
                hit = any(of_operation(a, "op") for a in given) and any(map(named, given))
            case ast.Subscript(value=value, slice=of):
                hit = of_operation(value, "op") or (of_operation(value, "OPS") and named(of))
            case ast.Assign(value=value) | ast.AnnAssign(value=value) | ast.MatchValue(value=value):
                hit = value is not None and named(value)
            case ast.Constant():
                hit = several(node)
            case _:
                hit = False
        if hit:
            found.add(node.lineno if hasattr(node, "lineno") else node.value.lineno)
    return found


def places() -> dict[str, set[int]]:
    files = (p for p in sorted(ROOT.rglob("*.py")) if p.relative_to(ROOT).parts[0] not in DECLARING)
    found = {p.relative_to(ROOT).as_posix(): lines_that_name(p.read_text(encoding="utf-8")) for p in files}
    return {name: lines for name, lines in found.items() if lines}


def test_no_room_goes_by_an_operation_s_name_save_where_it_has_a_template():
    other = {name: sorted(lines) for name, lines in places().items() if len(lines) != ALLOWED.get(name, 0)}
    assert other == {}, "ask the row instead (tricnn/ir/table.py: Op): lines that name operations"
    assert ALLOWED.keys() == places().keys(), "what is allowed is there"


@pytest.mark.parametrize(
    "line",
    ['if node.op == "relu": pass', 'if "add" != op: pass', 'FLAT = ("relu", "add")', 'SHORT = {"relu": 1, "add": 2}',
     'x = graph.of("conv2d")', 'if n.op in ("conv2d", *OTHERS): pass', 'if node.op.startswith("conv"): pass',
     'match node.op:\n    case "relu": pass', 'if "_grad_input" in node.op: pass',
     'if problem.kind.endswith("_weight"): pass', 'FLAT = "relu add".split()', 'FLAT = dict(relu=1, add=2)',
     'PRODUCT = {"by_input": "conv2d", "by_weight": "linear"}',
     'RELU = "relu"', 'if node.row is OPS["relu"]: pass', 'if node.op[:4] == "conv": pass', 'eq(node.op, "relu")'],
)  # fmt: skip
def test_each_way_of_naming_one_is_seen(line):
    assert lines_that_name(line)


def test_building_a_graph_is_not_naming():
    assert not lines_that_name('g.add("add", a, b)\nshape = {"scale": 1}\nif word == "log": pass\n')
