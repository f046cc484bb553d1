"""One list of passes from a declared graph to its plan: whoever compiles runs it."""

import ast
from pathlib import Path

import pytest

import tricnn
from tests.compiler.nets import NETS
from tricnn.compiler import pipeline
from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import PASSES, Aim, planned
from tricnn.graphs import inception_block
from tricnn.ir import TargetError, to_text
from tricnn.lower.from_graph import lowered

ROOT = Path(tricnn.__file__).parents[1]


def ran(mode: str, policy: str) -> list[str]:
    return [step.name for step in PASSES if step.runs(Aim(mode, policy))]


def test_what_runs_when() -> None:
    """The unfused plan is of the network as declared; a pass that prepares for a rule runs only with that rule."""
    last = "weights-rounded"  # without which products in 16 bits would not compile
    assert ran("infer", "none") == ["expanded", "for-inference", last]
    assert ran("train", "none") == ["expanded", "for-training", "differentiated", last]
    few = ["expanded", "for-inference", "batch-norm-folded", "sums-folded", "tidied", "padding-absorbed"]
    assert ran("infer", "epilogue") == [*few, last]
    assert ran("infer", "all") == ran("infer", "auto") == [*few, "siblings-merged", "slices-joined", last]
    most = ["expanded", "for-training", "tidied", "padding-absorbed", "differentiated", "gradients-compacted"]
    assert ran("train", "prologue") == [*most, last]
    assert ran("train", "all") == [step.name for step in PASSES if "train" in (step.modes or "train")]
    assert ran("open", "all") == [{"for-training": "open"}.get(name, name) for name in ran("train", "all")]
    assert {step.name for step in PASSES} == {*ran("infer", "all"), *ran("train", "all"), *ran("open", "all")}


@pytest.mark.parametrize("policy", ["auto", "epilogue", "none"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_python_and_the_command_line_run_the_same_plan(mode: str, policy: str) -> None:
    graph = inception_block()
    program = lowered(graph, mode, 8, "bf16", "sm_90", fuse=policy)
    model = tricnn.compile(graph, mode, 8, "bf16", "numpy", "sm_90", policy)
    assert str(model.plan) == str(program.plan) == str(planned(graph, mode, policy, Cost(8, "bf16", "sm_90")))


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("net", NETS, ids=lambda g: g.name)
def test_a_pass_leaves_what_it_was_given_as_it_was(net: tricnn.Graph, mode: str) -> None:
    shown: list[tuple[str, str, object]] = []
    planned(net, mode, show=lambda name, value: shown.append((name, str(value), value)))
    assert [name for name, _, _ in shown] == ["declared", *ran(mode, "auto"), "plan"]
    assert all(str(value) == text for _, text, value in shown)
    assert shown[0][1] == to_text(net)


def test_nobody_else_composes_passes() -> None:
    """A second list would leave a pass out one day."""
    tree = ast.parse(Path(pipeline.__file__).read_text())
    from_beside = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1
                   for alias in node.names}  # fmt: skip
    (table,) = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PASSES"]
    passes = {node.func.id for node in ast.walk(table) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
              and node.func.id in from_beside} - {"trained"}  # fmt: skip
    assert {"differentiate", "merge_siblings", "fold_batch_norm"} <= passes
    composing = set()
    for path in (p for folder in ("tricnn", "benchmarks") for p in (ROOT / folder).rglob("*.py")):
        imported = {alias.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
                    for alias in node.names}  # fmt: skip
        if len(imported & passes) > 1:
            composing.add(path.name)
    assert composing == {"pipeline.py"}


def test_a_mode_that_is_none() -> None:
    with pytest.raises(TargetError, match="mode 'test' is unknown; accepted: infer, train"):
        planned(NETS[0], "test")
