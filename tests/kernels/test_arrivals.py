"""The last program of a launch adds up what the others left: it must find it there, on a GPU and under the interpreter,
whichever way the parts are added, and however the step before ended."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.kernels.arrival_order import COUNT, block, faults, images, kernels, steps
from tests.kernels.arrival_order import compiled as ptx_of
from tests.run.networks import network
from tricnn.check.counting import BytesCounted
from tricnn.check.races import RacesFound
from tricnn.check.verify import compiled, verify_model
from tricnn.emit.emit import emit
from tricnn.lower import last_programs
from tricnn.lower.from_graph import lowered
from tricnn.lower.names import ARRIVALS
from tricnn.lower.program import Launch, Program
from tricnn.machine.targets import TARGETS
from tricnn.run import triton_executor
from tricnn.run.model import Model
from tricnn.run.triton_executor import interpreting

interpreted = pytest.mark.skipif(not interpreting(), reason="programs are looked at under Triton's interpreter")


@pytest.fixture(scope="module")
def machine_code() -> list[str]:
    """PTX of a kernel whose parts are added at once, of one where they come in groups, of one of images in boxes."""
    one, two = kernels("sm_90", "bf16", 2)[0], kernels("sm_80", "bf16", 512)[0]
    three = next(s for s in kernels("sm_90", "bf16", 2, images()) if "conv2d_streams(" in s.source)
    return [*ptx_of([one], "sm_90"), *ptx_of([two], "sm_80"), *ptx_of([three], "sm_90")]


def test_machine_code_stores_meets_counts_meets_and_loads(machine_code: list[str]) -> None:
    assert [steps(ptx).count(COUNT) for ptx in machine_code] == [1, 2, 1]
    assert [faults(ptx) for ptx in machine_code] == [[], [], []]


def test_machine_code_that_does_not_is_found(machine_code: list[str]) -> None:
    """Barriers left out, before the addition and behind it, and an addition that orders nothing. (Of the source nothing
    can be left out: Triton puts barriers of its own around such an addition.)"""
    for ptx in machine_code:
        count = re.search(r"\n[^\n]*atom\.global\.gpu\.acq_rel\.add", ptx)
        assert count is not None
        before, behind = ptx[: count.start()], ptx[count.start() :]
        stored = before.rindex("st.global")
        early = before[:stored] + re.sub(r"\tbar\.sync \t0;\n", "", before[stored:]) + behind
        assert "a program is counted before all threads have stored" in faults(early)
        loaded = behind.index("ld.global")
        late = before + re.sub(r"\tbar\.sync \t0;\n", "", behind[:loaded]) + behind[loaded:]
        assert "a thread loads before it knows who is last" in faults(late)
        assert "weak atom.global.gpu.relaxed.add.u32 is no order" in faults(ptx.replace("acq_rel", "relaxed"))
        assert "a load behind may be stale" in faults(before + behind.replace("ld.global", "ld.global.nc"))


def trained(batch: int) -> Model:
    return compiled(block(), mode="train", batch=batch, dtype="bf16", target="sm_90")


@interpreted
@pytest.mark.parametrize(("batch", "levels"), [(3, 1), (11, 2)])
def test_last_programs_do_what_the_plan_says(batch: int, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where parts come in groups, as those of large batches do (here 8 and 3 of 11); and no program reads what
    another may not have written yet."""
    monkeypatch.setattr(last_programs, "AT_ONCE", 2)
    monkeypatch.setattr(last_programs, "_pays", lambda *_: True)
    model = trained(batch)
    lines = [line for f in model.program.functions for helper in f.helpers for line in helper]
    assert sum("is_last(" in line for line in lines) == 3 * levels
    bytes_, races = BytesCounted(model, batch), RacesFound(model, batch)

    @contextmanager
    def both(launch: Launch) -> Iterator[None]:
        with bytes_(launch), races(launch):
            yield

    assert all(check.ok for check in verify_model(model, batch, watch=both))
    assert all(launch.ok for launch in bytes_.launches)
    assert races.races == []


@interpreted
def test_an_addition_that_orders_nothing_is_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(program: Program) -> str:
        return emit(program).replace('sem="acq_rel"', 'sem="relaxed"')

    monkeypatch.setattr(triton_executor, "emit", mistaken)
    model = trained(3)
    races = RacesFound(model, 3)
    verify_model(model, 3, watch=races)
    assert "loaded by one program, stored by another" in {race.what for race in races.races}


@interpreted
def test_a_step_after_an_interrupted_one_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C under the interpreter ends a launch between two of its programs, some of them counted already."""
    from triton.runtime.interpreter import InterpreterBuilder

    model = trained(3)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(3, 16, 8, 8)).astype(np.float32), np.array([0, 1, 2])
    state = {name: np.copy(value) for name, value in model.state_dict().items()}
    loss, wanted = model.loss_and_grads(x, labels)
    model.load_state_dict(state)
    count, left = InterpreterBuilder.create_atomic_rmw, [1]

    def interrupted(*arguments: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return count(*arguments)

    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(InterpreterBuilder, "create_atomic_rmw", interrupted)
        model.loss_and_grads(x, labels)
    model.load_state_dict(state)
    again, found = model.loss_and_grads(x, labels)
    assert again == loss and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_launches_stay_where_nothing_says_that_all_have_come() -> None:
    """On AMD's GPUs a barrier of Triton's waits for shared memory only."""
    assert {name for name, target in TARGETS.items() if not target.arrivals} == {n for n in TARGETS if n[:3] == "gfx"}
    program = lowered(network("residual"), "train", 3, "bf16", "gfx942", fuse="auto")
    assert ARRIVALS not in program.buffers and sum(launch.kind == "merge_stats" for launch in program.launches) == 3


def test_a_launch_is_left_where_counting_its_programs_takes_longer() -> None:
    """Many short programs, each of which would wait."""
    kept = {}
    for batch in (4, 30000):
        launches = lowered(block(), "train", batch, "bf16", "sm_80", fuse="auto").launches
        kept[batch] = sum(launch.kind == "split_sum" for launch in launches)
    assert kept[4] == 0 < kept[30000]
