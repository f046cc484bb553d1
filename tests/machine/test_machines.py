"""The table of machines: its figures agree with each other, and what is built on it takes each target's own.

A wrong figure makes no error: tiles, persistent grids and the choice of plans are then those of some other GPU.
"""

import pytest

from tricnn.compiler.cost import LAUNCH, Cost, Work
from tricnn.machine import tiles
from tricnn.machine.machines import COMMON, MACHINES, machine_of
from tricnn.machine.targets import TARGETS

H100, H200, A100 = COMMON["sm_90"], machine_of("sm_90", "NVIDIA H200"), COMMON["sm_80"]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("dtype", ["bf16", "tf32", "fp32"])
def test_a_rate_is_multiprocessors_times_clock_times_a_power_of_two(machine, dtype):
    """Units come in powers of two; a data sheet may take another clock for its fp32 units, never a tenth faster."""
    clocks = machine.multiprocessors * machine.clock * 1e9
    assert machine.products_a_clock(dtype) * clocks == pytest.approx(machine.rate(dtype), rel=0.09)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
def test_what_was_measured_is_less_than_the_data_sheet_promises_and_says_how(machine):
    got = machine.measured
    assert machine.reached().bandwidth <= machine.bandwidth and machine.reached().rate("bf16") <= machine.rate("bf16")
    assert bool(got.copy or got.narrow) == bool(got.source)
    assert machine.shared_limit <= machine.shared


def test_units_by_hand():
    """The white papers: 1024 multiply-adds of fp16 a clock on A100's multiprocessor, 2048 on H100's; TF32 half; fp32
    64 and 128."""
    assert [A100.products_a_clock(d) for d in ("fp16", "tf32", "fp32")] == [2048, 1024, 128]
    assert [H100.products_a_clock(d) for d in ("fp16", "tf32", "fp32")] == [4096, 2048, 256]
    assert A100.cache_bytes_a_clock * 108 == round(2.8 * 2040 / 1.41)


def test_a_device_is_known_by_its_name():
    assert (H100.name, H200.name, A100.name) == ("H100 SXM", "H200", "A100")
    assert machine_of("sm_90", "NVIDIA H100 80GB HBM3") is machine_of("sm_90", "NVIDIA GH200 480GB") is H100
    assert H200.memory > H100.memory and H200.multiprocessors == H100.multiprocessors


def test_targets_are_those_that_have_a_machine_and_take_their_limits_from_it():
    assert set(TARGETS) == set(COMMON)
    assert TARGETS["sm_90"].shared_limit == 227 * 1024 and TARGETS["gfx942"].shared_limit == 64 * 1024


def test_persistent_grids_fill_the_target_they_are_for():
    """Two programs on each of 108, 132, 148 multiprocessors."""
    assert [tiles.programs(target) for target in ("sm_80", "sm_90", "sm_100")] == [216, 264, 296]
    with tiles.chosen_for(tiles.INTERPRETER):
        assert tiles.programs("sm_80") == tiles.programs("sm_90") == 4


def test_predictions_go_by_what_copies_reach():
    work = Work(0, 3e9, 0, 0, 10_000)
    assert Cost(256, "bf16", "sm_90").seconds(work) == pytest.approx(LAUNCH + 1e-3)  # 3.0 TB/s, measured
    assert Cost(256, "bf16", "sm_80").seconds(work) == pytest.approx(LAUNCH + 3 / (0.9 * 2040))  # nobody has
