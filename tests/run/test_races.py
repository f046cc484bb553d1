"""A kernel whose programs depend on each other is right under the interpreter and wrong on a GPU: it must show.

That no kernel of small networks races with a GPU's tiles is held in test_counting.py; tests/zoo looks at every network
with the interpreter's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tricnn.check.races import Race, RacesFound, racing
from tricnn.check.verify import compiled, verify_model
from tricnn.emit.emit import emit
from tricnn.ir import Graph, GraphBuilder
from tricnn.lower.program import Launch, Program
from tricnn.lower.size import Size
from tricnn.run import triton_executor
from tricnn.run.triton_executor import interpreting

pytestmark = pytest.mark.skipif(not interpreting(), reason="races are looked for under Triton's interpreter")


@triton.jit
def copy(x, y, count, STEP: tl.constexpr, SHIFT: tl.constexpr):
    """y[i + SHIFT] = x[i] + 1, 16 elements a program, STEP from one program to the next."""
    lane = tl.program_id(0) * STEP + tl.arange(0, 16)
    value = tl.load(x + lane, mask=lane < count, other=0)
    tl.store(y + lane + SHIFT, value + 1, mask=lane < count)


@triton.jit
def again(x, y):
    """y = x, and once more what was stored."""
    lane = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(y + lane, tl.load(x + lane))
    tl.store(x + lane, tl.load(y + lane))


@triton.jit
def together(x, y):
    """All 16 threads store one element."""
    tl.store(y + tl.arange(0, 16) // 16, tl.load(x + tl.arange(0, 16)))


@contextmanager
def looked_at(tensors: dict[str, Any]) -> Iterator[list[Race]]:
    launch = Launch("k", "k", (Size.of(1),), (), reads=("x",), writes=("y",), layers=(), kind="copy", flops=0, loads={})
    with racing(launch, tensors) as races:
        yield races


def what(races: list[Race]) -> list[str]:
    return [f"{r.buffer} {r.element} {r.what}" for r in races]


def test_programs_that_keep_to_themselves_do_not_race() -> None:
    x, y = torch.zeros(40), torch.zeros(40)
    for target in (y, x):  # to another tensor, or in place
        with looked_at({"x": x, "y": target}) as races:
            copy[3,](x, target, 40, 16, 0)
        assert races == []


def test_two_programs_that_store_one_element_do() -> None:
    x, y = torch.zeros(40), torch.zeros(40)
    with looked_at({"x": x, "y": y}) as races:
        copy[3,](x, y, 40, 12, 0)
    assert what(races) == ["y 12 stored by two programs"]
    with looked_at({"x": x, "y": y}) as races:
        together[1,](x, y)
    assert what(races) == ["y 0 stored by two threads of a program"]


def test_what_a_neighbour_may_have_changed_already_is_a_race_whoever_comes_first() -> None:
    x = torch.zeros(40)
    for shift, element in ((1, 17), (-1, 16)):  # stored by the first program; loaded by the first program
        with looked_at({"x": x, "y": x}) as races:
            copy[2,](x[1:], x[1:], 32, 16, shift)
        assert what(races) == [f"y {element} loaded by one program, stored by another"]


def test_a_program_that_loads_what_it_has_stored() -> None:
    x, y = torch.zeros(40), torch.zeros(40)
    with looked_at({"x": x, "y": y}) as races:
        again[2,](x, y)
    assert what(races) == ["y 0 loaded by the program that has stored it"]


def test_tensors_in_the_memory_of_others() -> None:
    x = torch.zeros(40)
    with looked_at({"x": x, "y": x[20:]}) as races:
        pass
    assert what(races) == ["y 0 in the memory of x"]


def found(graph: Graph) -> list[str]:
    """The races of a training step with a GPU's tiles."""
    model = compiled(graph, mode="train", batch=3, dtype="bf16", target="sm_90")
    races = RacesFound(model, 3)
    verify_model(model, 3, watch=races)
    return [str(race) for race in races.races]


def test_a_mistake_in_a_template_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tile of filters stores all of the join that it reads, not just its share: the same numbers, so nothing but
    this test would notice, until some reader comes too early."""
    right, wrong = "if mine:", "if c >= 0:"

    def mistaken(program: Program) -> str:
        source = emit(program)
        assert right in source
        return source.replace(right, wrong)

    monkeypatch.setattr(triton_executor, "emit", mistaken)
    b = GraphBuilder("join")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 8, 8)), 32, 3, padding=1, name="c0"), name="b0"))
    y = b.batch_norm(b.conv2d(x, 32, 3, padding=1, name="c1"), name="b1")
    x = b.relu(b.batch_norm(b.conv2d(b.relu(b.add_(x, y)), 320, 1, name="c2"), name="b2"))
    graph = b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))
    assert [line for line in found(graph) if "stored by two programs" in line]
