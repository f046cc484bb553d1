"""`tricnn tune`: what it would time, and, with a clock of ours in place of a GPU's, all it does with what it measures.

A user would lose a training run to a tile that is fast and wrong, or a file of measurements to an interrupted one.
"""

import errno
import os
from functools import partial
from types import SimpleNamespace

import pytest

from tricnn.build.compile import CompileError
from tricnn.build.worker_pool import NoPlace
from tricnn.cli import tune_command
from tricnn.cli.arguments import read_graph
from tricnn.cli.screen import Screen
from tricnn.ir import TricnnError
from tricnn.lower.lower import lower
from tricnn.machine import tuned_files as tuning
from tricnn.machine.candidates import candidates
from tricnn.measure import tune
from tricnn.run.model import compile
from tricnn.run.quick_interpreter import quick_interpreter

BATCH, TARGET = 5, "sm_90"


def test_a_dry_run_lists_problems_and_candidates_without_a_gpu(tricnn):
    ran = tricnn("tune", "lenet", "--batch", 256, "--dtype", "bf16", "--dry-run", "--json")
    assert (ran.status, ran.err) == (0, "")
    problems = ran.json["problems"]
    conv1 = next(p for p in problems if p["shape"].startswith("N256 C1 ") and p["kind"] == "conv2d")
    assert conv1["shape"] == "N256 C1 H28 W28 K6 R5 S5 P28 Q28 PT2 PL2 WINDOW_H2 WINDOW_W2"
    # 256 images of 28x28 pixels and 6 filters: bf16 pixels and weights in, an fp32 bias, pooled pixels and their
    # positions out
    moved = 256 * 28 * 28 * 2 + 2 * 6 * 25 + 4 * 6 + 256 * 14 * 14 * 6 * (2 + 1)
    assert conv1["least_us"] == pytest.approx(1e6 * moved / 3.35e12, abs=1e-3)
    assert conv1["rule"] == conv1["candidates"][0] and len(conv1["candidates"]) > 3
    least = [p["least_us"] for p in problems]
    assert least == sorted(least, reverse=True) and len({(p["kind"], p["shape"]) for p in problems}) == len(problems)
    text = tricnn("tune", "lenet", "--dry-run").out
    assert "conv2d_grad_weight" in text and "sm_90.toml" in text


def test_without_a_gpu_it_says_so(tricnn, monkeypatch):
    monkeypatch.setattr("tricnn.run.model.gpu_present", lambda: False)
    ran = tricnn("tune", "lenet")
    assert ran.status == 2 and ran.out == "" and "--dry-run" in ran.err and ran.err.count("\n") == 1


def test_a_file_of_tiles_is_used_and_a_damaged_one_refused(tricnn, tiny, tmp_path):
    problem = next(c.problem for c in program_of(tiny, "infer").choices if c.problem.kind == "conv2d")
    path = tmp_path / "mine.toml"
    tuning.write(path, {problem: tuning.Entry(tuning.Tile(64, 16, 16, 4, 1), 1.0, 2.0, "none", "never")})
    out = tmp_path / "out"
    command = ("compile", tiny, "--batch", BATCH, "--dtype", "bf16", "--target", TARGET)
    ran = tricnn(*command, "--tuned", path, "--out", out)
    assert ran.status == 0 and "BLOCK_M=64, BLOCK_N=16," in (out / "kernels.py").read_text()
    path.write_text("[sm_90.conv2d.bf16]\n" + '"N1" = 3\n')
    for damaged in ((*command, "--tuned", path), ("tune", tiny, "--dry-run", "--out", path)):
        ran = tricnn(*damaged)
        assert ran.status == 2 and ran.out == "" and f"{path}: line 2" in ran.err and ran.err.count("\n") == 1


def test_tune_and_report_say_which_tuned_tiles_are_passed_over(tricnn, tiny, tmp_path):
    choice = next(c for c in program_of(tiny).choices if c.problem.kind == "conv2d")
    path, page = tmp_path / "mine.toml", tmp_path / "page.html"
    entry = tuning.Entry(tuning.Tile(64, 16, 16, 4, 1), 1.0, 2.0, "none", "never", ("0" * 12,))
    tuning.write(path, {choice.problem: entry})
    how = (tiny, "--mode", "train", "--batch", BATCH, "--dtype", "bf16", "--target", TARGET)
    ran = tricnn("tune", *how, "--dry-run", "--out", path)
    assert "1 function passed over a tuned tile" in " ".join(ran.out.split())
    assert tricnn("report", *how, "--tuned", path, "--out", page, "--json").json["stale"] == [choice.function]
    assert "1 passed over one that was found for other code" in page.read_text()


# --- the loop, with a clock of ours ---------------------------------------------------------------------------------


def program_of(tiny, mode="train"):
    return lower(compile(read_graph(tiny), mode, BATCH, "bf16", "numpy").plan, "bf16", BATCH, TARGET)


class FakeClock:
    """The n-th tile of every site takes ``times[n]``, the last ones as long as the last of them; each really runs,
    once."""

    def __init__(self, *times):
        self.times, self.order, self.number, self.again = times, [], {}, False

    def __call__(self, work):
        if work not in self.number:
            if self.again:  # another site
                self.number, self.order, self.again = {}, [], False
            self.number[work] = len(self.number)
            work()
        else:
            self.again = True
        self.order.append(self.number[work])
        return self.times[min(self.number[work], len(self.times) - 1)]


def of_layers(site, layers):
    """Is a site the forward product of one of these layers?"""
    return site.problem.kind == "conv2d" and {name.partition("_")[2] for name in site.kernels} & set(layers)


def compiles(specs):
    return [SimpleNamespace(spill_bytes=0, hazards=0) for _ in specs]


@pytest.fixture
def tuned(tiny, tmp_path, monkeypatch):
    """Tune some problems of the tiny network (its convolution), four candidates of each, and give the JSON object."""
    monkeypatch.setattr(tune, "candidates", lambda problem: candidates(problem)[:4])
    monkeypatch.setattr(tune, "ROUNDS", 3)
    make = partial(compile, read_graph(tiny), "train", BATCH, "bf16", "triton", TARGET)

    def run(clock, compiler=compiles, seconds=100.0, known=(), layers=("conv",)):
        wanted = [site for site in tune.sites(program_of(tiny)) if of_layers(site, layers)]
        out = tmp_path / "tuned.toml"
        with quick_interpreter():
            with tuning.only({}):
                tuner = tune.Tuner(make(), clock, compiler)
            return tune_command.tuned(tuner, make, "a clock", wanted, seconds, out, dict(known), Screen(True)), out

    return run


def test_the_fastest_tile_is_written_and_used_from_then_on(tuned, tiny):
    clock = FakeClock(9e-6, 8e-6, 3e-6, 7e-6)
    result, out = tuned(clock)
    (row,) = result["problems"]
    (problem, entry), *others = tuning.read(out).items()
    assert others == [] and (entry.us, entry.rule_us, entry.device) == (3.0, 9.0, "a clock")
    assert tune_command.shown(entry.tile) == row["winner"] == row["candidates"][2]
    assert result["winners"] == 1 and len(row["us"]) == len(row["candidates"])
    count = len(row["candidates"])
    assert clock.order == list(range(count)) * tune.ROUNDS  # in turns, so that what slows one slows all
    with tuning.using(str(out)):
        choice = next(c for c in program_of(tiny).choices if c.problem == problem)
    assert choice.tile == entry.tile


def test_a_gain_that_is_noise_leaves_the_rule(tuned, tmp_path):
    result, out = tuned(FakeClock(1.0e-6, 0.99e-6))
    assert result["winners"] == 0 and result["problems"][0]["winner"] is None and not out.exists()


def test_what_spills_does_not_compile_or_is_wrong_takes_no_part(tuned, monkeypatch):
    def compiler(specs):
        results = compiles(specs)
        results[1].spill_bytes = 8
        results[2] = CompileError("k", TARGET, "too much shared memory")
        return results

    seen = []

    def one_wrong(problem, tile):
        seen.append(tile)
        return 5 if len(seen) == 1 else 0

    monkeypatch.setattr(tune, "mistakes", one_wrong)
    (row,) = tuned(FakeClock(9e-6, 5e-6), compiler)[0]["problems"]
    assert list(row["refused"].values()) == ["spills 8 bytes", "too much shared memory", "5 wrong numbers"]
    assert row["winner"] not in row["refused"] and row["winner"] == row["candidates"][4]


def test_what_would_win_is_checked_on_integers_until_one_is_right(tuned, monkeypatch):
    checked = []

    def two_wrong(problem, tile):
        checked.append(tune_command.shown(tile))
        return 7 if len(checked) < 3 else 0

    monkeypatch.setattr(tune, "mistakes", two_wrong)
    row = tuned(FakeClock(9e-6, 4e-6, 3e-6, 5e-6, 8.99e-6))[0]["problems"][0]
    rule, first, second, third, _ = row["candidates"]
    assert checked == [second, first, third] and row["winner"] == third and row["rule"] == rule
    assert set(row["refused"]) == {first, second}
    monkeypatch.setattr(tune, "mistakes", lambda problem, tile: 1)
    row = tuned(FakeClock(9e-6, 4e-6, 3e-6, 5e-6, 8.99e-6))[0]["problems"][0]
    assert row["winner"] is None and set(row["refused"]) == {first, second, third}


@pytest.mark.parametrize(
    "reason", ["spills 8 bytes", "refills registers that are still read", "too much shared memory"]
)
def test_where_the_rules_tile_takes_no_part_the_fastest_candidate_wins(tuned, capsys, reason):
    def compiler(specs):
        results = compiles(specs)
        if reason.startswith("spills"):
            results[0] = SimpleNamespace(spill_bytes=8, hazards=0)
        elif reason.startswith("refills"):
            results[0] = SimpleNamespace(spill_bytes=0, hazards=2)
        else:
            results[0] = CompileError("k", TARGET, reason)
        return results

    result, out = tuned(FakeClock(9e-6, 8e-6, 8.5e-6), compiler)
    (row,) = result["problems"]
    (entry,) = tuning.read(out).values()
    assert row["refused"] == {row["rule"]: reason} and row["winner"] == row["candidates"][2]
    assert (entry.us, entry.rule_us) == (8.0, float("inf"))
    heading = {"graph": "tiny", "mode": "train", "dtype": "bf16", "batch": BATCH, "target": TARGET, "file": str(out)}
    tune_command.show({**result, **heading, "dry_run": False}, Screen(False))
    assert f"the rule's tile took no part ({reason})" in " ".join(capsys.readouterr().out.split())


class Failing(FakeClock):
    """The launch of one tile fails."""

    def __call__(self, work):
        if self.number.get(work, len(self.number)) == 2:
            self.number.setdefault(work, 2)
            self.order.append(2)
            raise RuntimeError("CUDA error: invalid\nargument")
        return super().__call__(work)


def test_a_launch_that_fails_takes_no_part(tuned):
    (row,) = tuned(Failing(9e-6, 8e-6, 1e-6, 7e-6))[0]["problems"]
    assert row["refused"] == {row["candidates"][2]: "RuntimeError: CUDA error: invalid argument"}
    assert row["winner"] == row["candidates"][3]


def test_a_gpu_that_fails_ends_it_with_one_line_and_the_winners_so_far(tuned, tmp_path, monkeypatch):
    """Here the second problem's launches leave an error behind."""
    problems = []

    def wait(self, site, tile):
        problems.append(site.problem) if site.problem not in problems else None
        if len(problems) == 2:
            raise tune.DeviceLost(f"the GPU failed while {site.problem} ran")

    monkeypatch.setattr(tune.Tuner, "synchronise", wait)
    with pytest.raises(TricnnError) as caught:
        tuned(FakeClock(9e-6, 1e-6), layers=("conv", "fc"))
    aside = tmp_path / "tuned.toml.unchecked"
    assert str(caught.value).startswith(f"the GPU failed while {problems[1]} ran; the winners so far are in {aside}")
    assert list(tuning.read(aside)) == problems[:1] and not (tmp_path / "tuned.toml").exists()
    result, out = tuned(FakeClock(9e-6), seconds=0.0, layers=("conv", "fc"))  # the next run
    assert list(tuning.read(out)) == problems[:1] and result["winners"] == 1 and not aside.exists()


def test_a_full_disk_is_no_result_of_a_tile(tuned, tmp_path, monkeypatch):
    """Nothing that could not be written is slower, or wrong; what was measured before stays."""
    asked = []

    def compiler(specs):
        asked.append(specs)
        if len(asked) == 2:
            raise NoPlace(f"{tmp_path}: No space left on device")
        return compiles(specs)

    with pytest.raises(TricnnError) as caught:
        tuned(FakeClock(9e-6, 1e-6), compiler, layers=("conv", "fc"))
    aside = tmp_path / "tuned.toml.unchecked"
    assert str(caught.value).startswith("kernels cannot be compiled here: ") and str(aside) in str(caught.value)
    assert len(tuning.read(aside)) == 1 and not (tmp_path / "tuned.toml").exists()

    def full(source):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "emitted.py")

    monkeypatch.setattr(tune, "load_module", full)
    with pytest.raises(TricnnError, match=r"compiled here: .*No space left on device.*nothing had won"):
        tuned(FakeClock(9e-6, 1e-6))


def test_a_gpu_that_fails_in_the_last_check_loses_no_winners(tuned, tmp_path, monkeypatch):
    def fail(model, batch):
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    with monkeypatch.context() as patch, pytest.raises(TricnnError) as caught:
        patch.setattr(tune, "verify_model", fail)
        tuned(FakeClock(9e-6, 1e-6))
    aside, message = tmp_path / "tuned.toml.unchecked", str(caught.value)
    assert "illegal memory access was" in message and str(aside) in message and "\n" not in message
    found = tuning.read(aside)
    assert len(found) == 1 and not (tmp_path / "tuned.toml").exists()
    result, out = tuned(FakeClock(9e-6), seconds=0.0)  # the next run
    assert tuning.read(out) == found and result["winners"] == 1 and not aside.exists()


def test_an_error_while_waiting_for_the_gpu_is_one_line(tiny):
    def fail():
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    site = tune.sites(program_of(tiny))[0]
    executor = SimpleNamespace(device="cuda", torch=SimpleNamespace(cuda=SimpleNamespace(synchronize=fail)))
    with pytest.raises(tune.DeviceLost, match="illegal memory access was") as caught:
        tune.Tuner.synchronise(SimpleNamespace(model=SimpleNamespace(executor=executor)), site, site.rule)
    assert str(site.problem) in str(caught.value)


def test_a_winner_that_is_outside_its_tolerance_in_the_network_is_not_written(tuned, monkeypatch):
    def strict(model, batch):
        return [SimpleNamespace(kernel=k.name, ok=k.anchor.name != "conv") for k in model.plan.kernels]

    monkeypatch.setattr(tune, "verify_model", strict)
    result, out = tuned(FakeClock(9e-6, 1e-6), layers=("conv", "fc"))
    assert [p.sizes["H"] for p in tuning.read(out)] == [1] and result["winners"] == 1  # the dense layer
    assert [row["wrong"] for row in result["problems"] if "H1 " not in row["shape"]] == [True]


def test_what_was_known_stays_unless_it_was_timed_anew(tuned, tiny):
    entry = tuning.Entry(tuning.Tile(16, 16, 16, 4, 2), 1.0, 2.0, "before", "2020-01-01")
    known = {c.problem: entry for c in program_of(tiny).choices if c.kernel.partition("_")[2] in ("conv", "fc")}
    result, out = tuned(FakeClock(1e-6), known=known)
    assert result["winners"] == 0 and [p.sizes["H"] for p in tuning.read(out)] == [1]


def test_the_budget_and_an_interrupt_end_it_and_keep_what_is_measured(tuned):
    result, out = tuned(FakeClock(1e-6), seconds=0.0)
    assert result["reached"] == 0 and not out.exists()

    class Interrupted(FakeClock):
        def __call__(self, work):
            if work not in self.number and self.again:
                raise KeyboardInterrupt
            return super().__call__(work)

    result, out = tuned(Interrupted(9e-6, 1e-6), layers=("conv", "fc"))
    assert (result["reached"], result["of"], result["winners"]) == (1, 2, 1) and len(tuning.read(out)) == 1


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TricnnError, match="cannot be written"):
        tuning.write(tmp_path / "file" / "tuned.toml", {})
