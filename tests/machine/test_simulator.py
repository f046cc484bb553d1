"""The simulator's times of streams whose time is known by arithmetic, and that changes of the machine move them so."""

from dataclasses import replace

import pytest

from tricnn.machine.sass import Parameters
from tricnn.machine.simulator import Hopper, Launch, NotSimulated, simulate, traced
from tricnn.machine.simulator.core import WAITS
from tricnn.machine.simulator.launch import box_bytes, programs_per_processor, sampled

from .streams import BASE, assembled, launch

GPU = Hopper()
#: a load of 128 bytes that nothing holds up: its way through the multiprocessor's port, and memory's latency
ONE_LOAD = 128 / GPU.port_bytes_per_clock + GPU.dram_latency


def clocks(one: Launch, gpu: Hopper = GPU) -> float:
    return (simulate(one, gpu).us - gpu.launch_us) * gpu.clock_ghz * 1e3


def per_repeat(lines: list[str], before: tuple[str, ...] = (), times: int = 200, **how) -> float:
    """Clocks that each repetition of some lines adds."""
    gpu = how.pop("gpu", GPU)
    once, twice = (clocks(launch(*before, *lines * n, **how), gpu) for n in (times, 2 * times))
    return (twice - once) / times


ADDRESS = ("1 S2R R0, SR_TID.X", "1 b0 NOP")


@pytest.mark.parametrize(
    ("line", "warps", "expected"),
    [
        ("1 FADD R1, R1, R2", 4, 1),  # one warp a scheduler: an instruction a clock
        ("1 FADD R1, R1, R2", 8, 2),  # two: they share its issue slots
        ("4 FADD R1, R1, R2", 4, 4),  # latency that nothing hides
        ("4 FADD R1, R1, R2", 16, 4),  # hidden: four warps take turns
        ("4 FADD R1, R1, R2", 32, 8),  # eight warps: issue slots again
        ("1 IADD3 R1, R1, R2, R3", 4, 2),  # 16 lanes for 32 threads
        ("1 IMAD R1, R1, R2, R3", 4, 2),
        ("1 MUFU.EX2 R1, R2", 4, 8),  # 4 lanes
        ("1 HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24, gsb0", 4, 128 * GPU.matrix_slowdown),
    ],
)  # fmt: skip
def test_a_stream_takes_the_clocks_of_its_pipe(line, warps, expected):
    assert per_repeat([line], warps=warps) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("instruction", "stride", "conflicts"),
    [("LDS", 4, 1), ("LDS", 8, 2), ("LDS", 16, 4), ("LDS", 128, 32), ("LDS", 132, 1), ("LDS.64", 8, 2),
     ("LDS.64", 16, 4), ("LDS.128", 16, 4), ("LDS.128", 128, 32), ("LDS", 0, 1), ("STS", 8, 2)],
)  # fmt: skip
def test_conflicting_banks_take_turns(instruction, stride, conflicts):
    """32 banks of 4 bytes; 64-bit accesses go by half warps, 128-bit ones by quarters. Four warps, one pipe."""
    operands = "[R1], R4" if instruction == "STS" else "R4, [R1]"
    before = (*ADDRESS, f"4 IMAD R1, R0, {stride:#x}, RZ")
    assert per_repeat([f"1 {instruction} {operands}"], before) == pytest.approx(4 * conflicts, rel=0.01)


def test_a_chain_of_loads_takes_latency_after_latency():
    line = "1 w1 b2 LDG.E R4, desc[UR4][R2.64]"
    before = (*ADDRESS, "4 IMAD.WIDE R2, R0, 0x4, RZ")
    chain = [line.replace("R2.64]", f"R2.64+{0x80 * i:#x}]") for i in range(100)]
    short, long = (clocks(launch(*before, *chain[:n], warps=1)) for n in (50, 100))
    assert (long - short) / 50 == pytest.approx(ONE_LOAD, abs=1)


def test_a_stream_of_loads_takes_its_bytes_at_the_bandwidth():
    """4096 programs of 8 warps that load 64 times 512 bytes: 1.07 GB, 358 us at 3.0 TB/s."""
    lines = [
        "1 S2R R0, SR_TID.X", "1 S2R R5, SR_CTAID.X", "4 LOP3.LUT R6, R0, 0xff, RZ, 0xc0, !PT",
        "4 IMAD R6, R5, 0x4000, R6", "4 IMAD.WIDE R2, R6, 0x10, RZ",
        *(f"1 LDG.E.128 R8, desc[UR4][R2.64+{0x1000 * i:#x}]" for i in range(64)),
    ]  # fmt: skip
    got = simulate(launch(*lines, warps=8, programs=4096))
    assert got.loaded_bytes == 4096 * 64 * 8 * 512
    assert got.us == pytest.approx(got.loaded_bytes / GPU.dram_bytes_per_us, rel=0.04)
    assert got.dram_share == 1
    from_l2 = simulate(replace(launch(*lines, warps=8, programs=4096), read_bytes=0.0))
    l2 = 132 * GPU.l2_bytes_per_clock * GPU.clock_ghz * 1e3
    assert from_l2.us == pytest.approx(got.loaded_bytes / l2, rel=0.05)


@pytest.mark.parametrize(("stride", "moved"), [(4, 128), (0, 32), (8, 256), (32, 1024), (1024, 1024)])
def test_an_access_moves_the_sectors_that_it_touches(stride, moved):
    one = launch(*ADDRESS, f"4 IMAD.WIDE R2, R0, {stride:#x}, RZ", "1 LDG.E R4, desc[UR4][R2.64]", warps=1)
    assert simulate(one).loaded_bytes == moved
    again = launch(*ADDRESS, f"4 IMAD.WIDE R2, R0, {stride:#x}, RZ", *["1 LDG.E R4, desc[UR4][R2.64]"] * 3, warps=1)
    assert simulate(again).loaded_bytes == moved  # from then on the first-level cache has them


def test_a_barrier_waits_for_the_last_warp():
    """Warp 0 computes 400 clocks more than the others, at every one of 50 barriers."""
    body = ["1 @P0 BRA `(.L_a)", *["4 FADD R1, R1, R2"] * 100, ".L_a:", "1 BAR.SYNC.DEFER_BLOCKING 0x0"]
    before = (*ADDRESS, "4 ISETP.GE.AND P0, PT, R0, 0x20, PT")

    def stream(times):
        return [line.replace(".L_a", f".L_{i}") for i in range(times) for line in body]

    short, long = (simulate(launch(*before, *stream(n), warps=8)) for n in (25, 50))
    gone = (long.us - short.us) * GPU.clock_ghz * 1e3 / 25
    assert gone == pytest.approx(400 + 22, rel=0.02)
    assert long.reason == "barrier"


def test_a_loop_runs_as_often_as_its_argument_says():
    lines = ("1 LDC R4, c[0x0][0x210]", "4 MOV R1, RZ", ".L_0:", "4 IADD3 R1, R1, 0x1, RZ",
             "4 ISETP.LT.AND P0, PT, R1, R4, PT", "1 @P0 BRA `(.L_0)")  # fmt: skip
    for times in (1, 7, 5000):
        one = launch(*lines, warps=2, arguments={"N": times})
        assert simulate(one).instructions == 2 * (2 + 3 * times + 1)


def test_a_loop_runs_as_often_as_the_launchs_table_says_each_program():
    """Without the table the same loop cannot be followed."""
    times = [1, 7, 100, 3, 50, 2, 9, 40]
    lines = ("1 LDC.64 R2, c[0x0][0x210]", "1 S2R R5, SR_CTAID.X", "4 MOV R1, RZ", "4 IMAD.WIDE R2, R5, 0x8, R2",
             "1 w0 LDG.E.64 R4, desc[UR4][R2.64]", ".L_0:", "4 b1 IADD3 R1, R1, 0x1, RZ",
             "4 ISETP.LT.AND P0, PT, R1, R4, PT", "1 @P0 BRA `(.L_0)")  # fmt: skip
    one = replace(
        launch(*lines, warps=2, programs=len(times)),
        signature={"table": "*i64"},
        parameters=Parameters(BASE, ((0, 8),)),
    )
    known = simulate(replace(one, values={"table": times}))
    assert known.instructions == 2 * (5 + 3 * sum(times) / len(times) + 1) and not known.assumed
    with pytest.raises(NotSimulated, match="a loop's end depends on numbers in memory"):
        simulate(one)


def test_threads_that_part_come_together():
    """Of each warp the even threads run 3 instructions more; both halves run what is behind."""
    lines = (*ADDRESS, "4 LOP3.LUT R1, R0, 0x1, RZ, 0xc0, !PT", "4 ISETP.NE.AND P0, PT, R1, RZ, PT",
             "1 @P0 BRA `(.L_0)", *["4 FADD R1, R1, R2"] * 3, ".L_0:", *["4 FADD R1, R1, R2"] * 5)  # fmt: skip
    assert simulate(launch(*lines, warps=1)).instructions == 5 + 3 + 5 + 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([".L_0:", "1 w0 LDS R4, [R2]", "1 b1 ISETP.NE.AND P0, PT, R4, RZ, PT", "1 @P0 BRA `(.L_0)"], "in memory"),
        (["1 CALL.REL.NOINC R4"], "register"),
        (["1 UTMALDG.2D [UR8], [UR4]"], "descriptor"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_refused_with_its_instruction(lines, words):
    with pytest.raises(NotSimulated, match=words) as refused:
        simulate(launch(*lines))
    assert lines[-1].split(" ", 1)[1].split()[-1] in str(refused.value)


@pytest.mark.parametrize("skips", ["@P0 EXIT", "@P0 BRA `(.L_0)"])
def test_what_may_be_skipped_happens(skips):
    lines = ("1 w0 LDS R4, [R2]", "1 b1 ISETP.NE.AND P0, PT, R4, RZ, PT", f"1 {skips}", *["1 NOP"] * 20, ".L_0:")
    got = simulate(launch(*lines, warps=1))
    assert got.instructions == 3 + 20 + 1 and got.assumed
    assert not simulate(launch("1 NOP")).assumed


@pytest.mark.parametrize("skips", ["@P0 EXIT", "@P0 BRA `(.L_0)"])
def test_what_the_last_program_does_is_charged_to_one(skips):
    """Programs count themselves, and the one that finds all others counted goes on for 4,000 clocks. That is the tail
    of the kernel, once, however many waves of programs there are; and those that skip it do no more than they did."""

    def counted(work: int, programs: int) -> Launch:
        return launch(
            *ADDRESS, "4 IMAD.WIDE R2, R0, 0x4, RZ", "1 w1 ATOMG.E.ADD.STRONG.GPU PT, R4, desc[UR4][R2.64], R5",
            "4 b2 ISETP.NE.AND P0, PT, R4, 0x7, PT", f"4 {skips}", *["4 FADD R1, R1, R2"] * work, ".L_0:", "4 NOP",
            programs=programs,
        )  # fmt: skip

    tails = [clocks(counted(1000, n)) - clocks(counted(0, n)) for n in (1, 100, 20000)]
    assert tails == pytest.approx([4000] * 3, abs=40)
    assert simulate(counted(1000, 100)).instructions == simulate(counted(0, 100)).instructions


def test_a_fence_for_the_whole_gpu_holds_its_warp():
    assert per_repeat(["6 MEMBAR.ALL.GPU"], warps=1) == pytest.approx(600, rel=0.01)
    assert per_repeat(["6 MEMBAR.ALL.CTA"], warps=1) == pytest.approx(6, rel=0.02)


def test_warps_that_wait_for_nobody_are_no_endless_loop():
    waits = launch("1 SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4+0x10], R4")
    with pytest.raises(NotSimulated, match="barrier"):
        simulate(waits)


# --- a change of the machine moves a time by what its equation says ---------------------------------------------------


def test_half_the_latency_takes_half_of_every_load_away():
    before = (*ADDRESS, "4 IMAD.WIDE R2, R0, 0x4, RZ")
    chain = launch(*before, *(f"1 w1 b2 LDG.E R4, desc[UR4][R2.64+{0x80 * i:#x}]" for i in range(100)), warps=1)
    gone = clocks(chain) - clocks(chain, GPU.scaled(dram_latency=0.5))
    assert gone == pytest.approx(99 * GPU.dram_latency / 2, rel=0.01)


def test_half_the_bandwidth_doubles_a_copy():
    lines = [
        "1 S2R R0, SR_TID.X", "1 S2R R5, SR_CTAID.X", "4 IMAD R6, R5, 0x400, R0", "4 IMAD.WIDE R2, R6, 0x10, RZ",
        "1 w0 LDG.E.128 R8, desc[UR4][R2.64]", "1 b1 STG.E.128 desc[UR4][R2.64+0x40000000], R8",
    ]  # fmt: skip
    copy = traced(launch(*lines, warps=8, programs=20000))
    full, half = (simulate(copy, GPU.scaled(dram_bytes_per_us=f)).us for f in (1, 0.5))
    moved = copy.loaded_bytes + copy.stored_bytes
    assert moved == 20000 * 256 * 32
    assert half - full == pytest.approx(moved / GPU.dram_bytes_per_us, rel=0.1)


def test_conflicts_that_are_padded_away_leave_their_clocks():
    before, line = (*ADDRESS, "4 IMAD R1, R0, {}, RZ"), "1 LDS R4, [R1]"
    conflicting, padded = (
        clocks(launch(*(b.format(stride) for b in before), *[line] * 100, warps=4)) for stride in ("0x80", "0x84")
    )
    assert conflicting - padded == pytest.approx(100 * 4 * (32 - 1), rel=0.01)


def test_what_warps_wait_for_is_the_whole_of_their_time():
    line, warps = "1 FADD R1, R1, R2", 16
    got = simulate(launch(*[line] * 1000, warps=warps))
    assert got.reason == "issue slots" and set(got.waits) <= set(WAITS)
    assert sum(got.waits.values()) == pytest.approx(1, abs=0.01)


# --- what stands around the clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warps", "registers", "shared", "expected"),
    [(4, 32, 0, 16), (4, 128, 0, 4), (8, 255, 0, 1), (8, 128, 0, 2), (1, 16, 0, 32), (4, 32, 100_000, 2),
     (4, 32, 232_448, 1)],
)  # fmt: skip
def test_programs_that_fit_a_multiprocessor(warps, registers, shared, expected):
    """By hand, from the CUDA programming guide's table for compute capability 9.0: 65,536 registers, 64 warps, 32
    programs, 228 KB of which each program takes 1 KB more than it asks for."""
    one = replace(launch("1 NOP", warps=warps), registers=registers, shared_bytes=shared)
    assert programs_per_processor(one) == expected


def test_every_further_wave_takes_as_long():
    """Of programs of which a multiprocessor holds one, 132 run at once."""
    lines = ["4 FADD R1, R1, R2"] * 400
    waves = [clocks(replace(launch(*lines, programs=n), shared_bytes=200_000)) for n in (264, 396, 528)]
    wave = 4 * 400 + GPU.program_start
    assert waves[1] - waves[0] == pytest.approx(wave, rel=0.02) == waves[2] - waves[1]


def test_boxes_are_as_wide_as_their_swizzle():
    assert box_bytes("tensordesc<bf16[2, 8, 8, 64]>") == 2 * 8 * 8 * 128
    assert box_bytes("tensordesc<bf16[64, 128]>") == 64 * 128
    assert box_bytes("tensordesc<fp32[16, 8]>") == 16 * 32


@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 1, 1), (100_000, 1, 1), (7, 9, 1), (50, 2, 3)])
def test_sampled_programs_are_some_of_the_grid(grid):
    found = sampled(grid)
    assert 1 <= len(found) <= 8
    assert all(0 <= at < size for program in found for at, size in zip(program, grid, strict=True))


def test_code_without_control_bits_is_refused():
    one = replace(launch("1 NOP"), code=[replace(x, control=None) for x in assembled("1 EXIT")])
    with pytest.raises(NotSimulated, match="control"):
        simulate(one)
