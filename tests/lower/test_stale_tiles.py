"""Tuned tiles know the functions they were found for.

A user would lose speed without a word: a tile that was the fastest for a kernel as it was once, or for another
network's epilogue, may be slower than the rule's for the kernel of today.
"""

from dataclasses import replace

import pytest

from tricnn.compiler.pipeline import planned
from tricnn.ir import GraphBuilder
from tricnn.lower import function_digest
from tricnn.lower.lower import lower
from tricnn.lower.templates import closure
from tricnn.machine import tuned_files as tuning
from tricnn.machine.tiles import Form, Tile
from tricnn.measure.tune import digests

RULE, MEASURED, SIMULATED = "the rule's", Tile(64, 32, 32, 4, 2), Tile(32, 32, 32, 4, 2)


def network(name="conv", relu=False):
    b = GraphBuilder("one")
    x = b.conv2d(b.input("x", (20, 9, 9)), 40, 3, name=name)
    return planned(b.build(b.relu(x) if relu else x), "infer", "all")


PLAN = network()
(FIRST,) = lower(PLAN, "bf16", 8).choices


def digests_with(tile, plan=PLAN):
    with tuning.only({FIRST.problem: tile}):
        program = lower(plan, "bf16", 8)
    return digests(program, {choice.kernel for choice in program.choices})


@pytest.fixture
def file(tmp_path):
    def written(name, tile, functions, device="a device"):
        path = tmp_path / f"{name}.toml"
        tuning.write(path, {FIRST.problem: tuning.Entry(tile, 1.0, 2.0, device, "2026-01-02", functions)})
        return path

    return written


def lowered(path, plan=PLAN, forms=None):
    with tuning.using(str(path)):
        program = lower(plan, "bf16", 8, forms=forms)
    (choice,) = program.choices
    return (choice.tile if choice.tile != FIRST.tile else RULE), bool(program.passed)


def of_changed_templates(text):
    def changed(code):
        *others, last = closure(code)
        return [*others, replace(last, text=text(last.text))]

    return changed


def test_a_tile_is_for_the_functions_that_it_was_found_for(file):
    path = file("mine", MEASURED, digests_with(MEASURED))
    assert tuning.read(path)[FIRST.problem].functions == digests_with(MEASURED) != ()
    assert lowered(path) == (MEASURED, False)
    assert lowered(path, network("renamed")) == (MEASURED, False)  # a layer's name takes no time
    assert lowered(path, network(relu=True)) == (RULE, True)
    assert lowered(file("any", MEASURED, ()), network(relu=True)) == (MEASURED, False)


def test_a_tile_found_for_an_older_template_is_passed_over(file, monkeypatch):
    path = file("mine", MEASURED, digests_with(MEASURED))
    monkeypatch.setattr(function_digest, "closure", of_changed_templates(lambda text: f"# said anew\n{text}"))
    assert lowered(path) == (MEASURED, False)
    monkeypatch.setattr(function_digest, "closure", of_changed_templates(lambda text: f"{text}\n    pass"))
    assert lowered(path) == (RULE, True)
    # A tile that spills gives way to the rule's first one, not to a smaller one, whether it is passed over or not.
    (name,) = [FIRST.function]
    smaller = {name: Form(1)}
    (by_rule,) = lower(PLAN, "bf16", 8, forms=smaller).choices
    assert lowered(path, forms=smaller) == (by_rule.tile, True)
    monkeypatch.undo()
    assert lowered(path, forms=smaller) == (RULE, False)


def test_a_stale_measured_tile_gives_way_to_a_simulated_one_that_is_not(file, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(tuning, "shipped", tuning.shipped.__wrapped__)  # kept by nobody: the file changes here
    file("sm_90", SIMULATED, digests_with(SIMULATED), "simulated H100")
    assert lowered(file("mine", MEASURED, digests_with(MEASURED))) == (MEASURED, False)
    assert lowered(file("mine", MEASURED, ("0" * 12,))) == (SIMULATED, True)
    file("sm_90", SIMULATED, ("1" * 12,), "simulated H100")
    assert lowered(file("mine", MEASURED, ("0" * 12,))) == (RULE, True)


def test_a_digest_that_is_none_is_refused(file):
    path = file("mine", MEASURED, ("0" * 12,))
    path.write_text(path.read_text().replace("0" * 12, "layer1"))
    with pytest.raises(tuning.TricnnError, match=r"line 7.*12 hexadecimal digits"):
        tuning.read(path)
