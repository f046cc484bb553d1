"""The benchmark's machinery: what a night on a rented GPU would be lost to. Nothing here is timed."""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_case, gpu_suite, pages, suite
from benchmarks.kernel_profile import against_cudnn, profile
from benchmarks.part import Part
from tricnn import graphs
from tricnn.cli.bench_command import in_seconds
from tricnn.lower.from_graph import lowered
from tricnn.measure import contest
from tricnn.measure.contest import BASELINE, CONTENDERS, SLOW_TO_START, Contest
from tricnn.report.page.measured import measured
from tricnn.run.quick_interpreter import quick_interpreter

REPOSITORY = Path(__file__).parents[2]
CASE = dict(name="a case", kind="bench", network="rehearsal", mode="infer", dtype="fp32", batch=1)


def run_session(tmp_path, cases, budget=60.0, **more):
    options = argparse.Namespace(rehearse=True, budget=budget, out=str(tmp_path), jobs=1)
    session = gpu_suite.Session(options, cases, **more)
    status = session.run()
    return status, json.loads(session.path.read_text()), session


# --- what is timed --------------------------------------------------------------------------------------------------


def test_the_most_important_comes_first_and_all_that_was_asked_for_is_there():
    cases = [c for c in suite.the_cases(False) if c["kind"] == "bench"]
    assert (cases[0]["network"], cases[0]["mode"], cases[0]["batch"]) == ("resnet50", "train", 256)
    there = {(c["network"], c["mode"], c["batch"]) for c in cases}
    networks = {"lenet", "alexnet", "vgg16", "vgg16_bn", "googlenet_bn", "inception_v3", "resnet18", "resnet50"}
    for network in networks:
        for batch in (64, 256):
            assert (network, "train", batch) in there
        for batch in (1, 32, 256):
            assert (network, "infer", batch) in there
    assert {name for c in cases for name in c.get("contenders", CONTENDERS)} == {*CONTENDERS, *SLOW_TO_START}
    assert any(c["kind"] == "profile" for c in suite.the_cases(False)[:12])
    assert len({c["name"] + str(c.get("contenders")) for c in cases}) == len(cases)


# --- a session survives ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_case_that_fails_or_hangs_is_reported_and_what_was_found_is_written_after_each(tmp_path):
    seen = []
    cases = [
        dict(name="fails", kind="fail", limit=60), dict(name="hangs", kind="hang", limit=12),
        dict(name="fails again", kind="fail", limit=60, expected="failed"),
    ]  # fmt: skip
    written = lambda found, path: seen.append([row["status"] for row in found["cases"]])  # noqa: E731
    status, found, session = run_session(tmp_path, cases, on_write=written)
    assert status == 1 and [row["status"] for row in found["cases"]] == ["failed", "timed out", "passed"]
    assert seen[0] == ["failed", "not reached", "not reached"] and len(seen) >= 3
    assert "this failure was asked for" in found["cases"][0]["error"]
    assert not session.parts.exists() and len(found["commit"]) == 40


def test_what_the_budget_does_not_reach_is_said(tmp_path):
    status, found, _ = run_session(tmp_path, [dict(name="late", kind="fail", limit=60)], budget=1.0)
    assert status == 0 and found["cases"] == [{"name": "late", "status": "not reached"}]


# --- contenders -----------------------------------------------------------------------------------------------------


def bench(tmp_path, *names, **changed):
    """The rows of a case, on the CPU."""
    part = Part(str(tmp_path / "part.json"))
    with quick_interpreter():
        gpu_case.bench({**CASE, "contenders": names, **changed}, part, rehearse=True)
    return {row["name"]: row for row in part.found["contenders"]}, part


def test_each_contender_is_held_to_pytorch_and_has_its_ratio_to_it(tmp_path):
    rows, part = bench(tmp_path, "tricnn fused", "torch.compile")
    assert list(rows) == [BASELINE, "tricnn fused", "torch.compile"] and part.found["status"] == "passed"
    assert all(row["milliseconds"] > 0 and row["ratio"] > 0 for row in rows.values())
    assert 0 <= rows["tricnn fused"]["apart"] < 1e-4 and rows["tricnn fused"]["gradients_apart"] is None
    assert rows["tricnn fused"]["launches"] == 5


def test_one_that_computes_something_else_is_not_timed(tmp_path, monkeypatch):
    honest = contest.numbers
    monkeypatch.setattr(contest, "numbers", lambda x: honest(x) * (1.01 if not isinstance(x, list) else 1))
    rows, part = bench(tmp_path, "tricnn fused")
    assert (
        "differs from PyTorch eager: apart 0.01" in rows["tricnn fused"]["error"] and part.found["status"] == "failed"
    )
    assert "milliseconds" not in rows["tricnn fused"]


def test_one_that_fails_leaves_the_others_and_a_second_process_goes_on_where_the_first_ended(tmp_path, monkeypatch):
    honest = Contest.make

    def make(self, name):
        if name == "torch.compile":
            raise MemoryError("CUDA out of memory")
        return honest(self, name)

    monkeypatch.setattr(Contest, "make", make)
    rows, _ = bench(tmp_path, "torch.compile", "torch.compile max-autotune")
    assert "out of memory" in rows["torch.compile"]["error"] and "ratio" in rows["torch.compile max-autotune"]
    monkeypatch.setattr(Contest, "make", honest)
    again, _ = bench(tmp_path, "torch.compile", "torch.compile max-autotune")
    assert again == rows  # what is known is not timed again


def test_networks_that_draw_random_numbers_are_not_compared():
    random = SimpleNamespace(mode="train", graph=graphs.alexnet())
    assert Contest.apart(random, None, {}) == {"apart": None, "gradients_apart": None}


def test_a_training_step_is_held_to_all_gradients_and_has_its_update(tmp_path, monkeypatch):
    """A gradient that is wrong in one layer stops it, though the loss is right; and SGD's velocities are there."""
    updated = []
    honest = contest.Ours.optimiser
    monkeypatch.setattr(contest.Ours, "optimiser", lambda ours: updated.append(ours) or honest(ours))
    rows, _ = bench(tmp_path, "tricnn fused", mode="train")
    assert rows["tricnn fused"]["gradients_apart"] < 1e-4 and len(updated) == 1
    gradients = contest.Ours.gradients

    def wrong(ours):
        found = gradients(ours)
        return {**found, "conv2.weight": found["conv2.weight"] * 0}

    monkeypatch.setattr(contest.Ours, "gradients", wrong)
    (tmp_path / "part.json").unlink()
    rows, _ = bench(tmp_path, "tricnn fused", mode="train")
    assert "gradients_apart 1, accepted 0.01" in rows["tricnn fused"]["error"]


def test_gradients_that_are_nothing_but_rounding_do_not_count():
    theirs = {"w": torch.ones(100, dtype=torch.float64), "b": torch.full((2,), 1e-9, dtype=torch.float64)}
    assert contest.distance({"w": theirs["w"], "b": -theirs["b"]}, theirs) < 1e-6
    assert math.isnan(contest.distance({"w": theirs["w"], "b": math.nan * theirs["b"]}, theirs))
    assert contest.distance({"w": 0.9 * theirs["w"], "b": theirs["b"]}, theirs) == pytest.approx(0.1)


def test_where_pytorch_cannot_run_the_others_are_timed_alone(tmp_path, monkeypatch):
    """It may fail, as for want of memory; or end its process, after which the next one does not try again."""

    def fails(self, *rest):
        raise MemoryError("CUDA out of memory")

    monkeypatch.setattr(Contest, "pytorch", fails)
    rows, part = bench(tmp_path, "tricnn fused")
    assert "out of memory" in rows[BASELINE]["error"] and part.found["status"] == "passed"
    assert rows["tricnn fused"]["milliseconds"] > 0 and "ratio" not in rows["tricnn fused"]
    assert "ratio" not in in_seconds(rows["tricnn fused"])  # as `tricnn bench` prints it
    monkeypatch.undo()
    other = tmp_path / "other"
    other.mkdir()
    (other / "part.json").write_text(json.dumps({"contenders": [{"name": BASELINE, "error": "ended"}]}))
    monkeypatch.setattr(Contest, "measure_baseline", lambda self: pytest.fail("tried again"))
    rows, _ = bench(other, "tricnn fused")
    assert rows["tricnn fused"]["milliseconds"] > 0


def test_peak_memory_is_that_of_the_contender_alone(tmp_path, monkeypatch):
    """Read before the baseline runs beside it."""

    turns, peaks = [], []
    arena = SimpleNamespace(peak=lambda work: peaks.append(len(turns)) or 9)
    honest = contest.in_turns
    monkeypatch.setattr(contest, "Memory", lambda rehearse: arena)
    monkeypatch.setattr(contest, "in_turns", lambda works, *rest: turns.append(works) or honest(works, *rest))
    rows, _ = bench(tmp_path, "tricnn fused")
    assert rows["tricnn fused"]["peak_bytes"] == 9 and peaks == [0, 1] and len(turns) == 2


def test_pages_that_cannot_be_written_stop_nothing(tmp_path):
    def broken(found, path):
        raise ImportError("no module named matplotlib")

    cases = [dict(name="fails", kind="fail", limit=60, expected="failed")]
    status, found, _ = run_session(tmp_path, cases, on_write=broken)
    assert status == 0 and "matplotlib" in found["pages"]


def test_the_mean_beside_cudnn_is_over_the_shapes_not_the_launches():
    def row(kind, problem, ours, theirs):
        return dict(kind=kind, problem=problem, milliseconds=ours, cudnn_milliseconds=theirs)

    rows = [row("conv2d", "a", 1.0, 2.0), row("conv2d", "a", 1.0, 2.0), row("conv2d", "b", 1.0, 0.5),
            row("conv2d_grad_weight", "c", 2.0, 8.0), dict(kind="merge_stats", milliseconds=1.0)]  # fmt: skip
    means = against_cudnn(rows)
    assert means == pytest.approx({"fprop": 1.0, "wgrad": 4.0, "all": 4 ** (1 / 3)})


def test_every_kernel_has_its_share_of_the_limit_and_the_library_beside_it(tmp_path):
    part = Part(str(tmp_path / "part.json"))
    with quick_interpreter():
        profile(CASE, part, rehearse=True)
    rows = part.found["kernels"]
    assert len(rows) == 5 and sum(r["percent"] for r in rows) == pytest.approx(100)
    for row in rows:
        assert row["cudnn_milliseconds"] > 0
        assert row["share_of_limit"] == pytest.approx(row["least_milliseconds"] / row["milliseconds"])
        assert row["teraflops"] == pytest.approx(row["flops"] / row["milliseconds"] / 1e9)


def test_a_file_of_a_session_has_the_times_that_a_page_shows(tmp_path):
    """By the code that times, and the session's that writes, to the page's that reads: of each launch and of a step."""
    about = dict(network="lenet", mode="infer", dtype="bf16", batch=1, limit=60)
    cases = [dict(name="profile", kind="profile", **about), dict(name="bench", kind="bench", contenders=[], **about)]
    session = gpu_suite.Session(argparse.Namespace(rehearse=True, budget=60.0, out=str(tmp_path), jobs=1), cases)
    for number, case in enumerate(cases):
        with quick_interpreter():
            gpu_case.run_case(case, Part(str(session.parts / f"{number}.json")), rehearse=True)
        (session.parts / f"{number}.log").touch()
        session.running[number] = (SimpleNamespace(poll=lambda: 0), time.monotonic(), time.monotonic() + 60)
        session.look(number)
    found = json.loads(session.path.read_text())
    assert [row["status"] for row in found["cases"]] == ["passed", "passed"]
    program = lowered(graphs.lenet(), "infer", 1, "bf16", "sm_90", fuse=True)
    times = measured(session.path, "lenet", program)
    launches = {row["name"]: row["milliseconds"] * 1e3 for row in found["cases"][0]["kernels"]}
    expected = {number: launches[launch.function] for number, launch in enumerate(program.launches)}
    assert times.us == pytest.approx(expected, abs=1e-3) and len(expected) == 5
    assert times.steps == pytest.approx({BASELINE: found["cases"][1]["contenders"][0]["milliseconds"] * 1e3}, abs=1e-3)
    assert times.device == found["device"]


# --- pages ----------------------------------------------------------------------------------------------------------


def found_on_a_gpu():
    def contender(name, ms, **more):
        return {"name": name, "milliseconds": ms, "ratio": ms / 10, "images_per_second": 1e3, "peak_bytes": 2e9, **more}

    kernel = dict(name="k00_conv1", kind="conv2d", layers=["conv1"], milliseconds=0.5, dram_bytes=1e6, flops=1e9,
                  gigabytes_per_second=2.0, teraflops=2.0, least_milliseconds=0.1, share_of_limit=0.2, percent=100.0,
                  cudnn_milliseconds=0.6)  # fmt: skip
    about = dict(network="resnet50", mode="train", dtype="bf16", batch=256, status="passed")
    rows = [
        contender(BASELINE, 10.0),
        contender("tricnn fused", 5.0, apart=1e-3),
        {"name": "torch.compile", "error": ""},
    ]
    return {
        "date": "20260102-030405", "commit": "f" * 40, "device": "a GPU", "driver": "555", "capability": [9, 0],
        "versions": {"torch": "2"}, "cases": [
            {"name": "bench", "kind": "bench", **about, "contenders": rows},
            {"name": "profile", "kind": "profile", **about, "kernels": [kernel, {**kernel, "flops": 0}]},
            {"name": "late", "status": "not reached"}, {"name": "bad", "status": "failed", "error": "a\nlast | line"},
        ],
    }  # fmt: skip


def test_pages_say_what_ran_on_what_and_draw_it(tmp_path):
    files = pages.write_pages(found_on_a_gpu(), tmp_path / "results" / "bench.json")
    assert [f.name for f in files] == ["bench.json", "bench.md", "bench-bars.png", "bench-roofline.png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files[2:])
    page = files[1].read_text()
    for words in (
        "a GPU", "555", "torch 2", "f" * 40, "20260102-030405", "](bench-bars.png)", "| torch.compile | failed |",
        "| tricnn fused | 5.000 | 0.500 | 1,000 | 2.00 GB", "20% | 0.6000 |", "- late: not reached",
        "- bad: failed: last | line",
    ):  # fmt: skip
        assert words in page
    assert json.loads(files[0].read_text()) == found_on_a_gpu()


def test_pages_of_a_session_that_found_nothing_yet(tmp_path):
    files = pages.write_pages({"cases": [{"name": "late", "status": "not reached"}]}, tmp_path / "bench.json")
    assert [f.name for f in files] == ["bench.json", "bench.md"]


def test_without_a_gpu_it_says_so_and_writes_exact_figures_and_predictions(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "gpu_there", lambda: False)
    monkeypatch.setattr(suite, "NETWORKS", ("lenet",))
    monkeypatch.setattr(sys, "argv", ["suite", "--out", str(tmp_path)])
    assert suite.main() == 0
    out = capsys.readouterr().out
    assert "There is no GPU" in out and "predicted" in out
    rows = json.loads((tmp_path / "predicted.json").read_text())["predictions"]
    row = next(r for r in rows if (r["mode"], r["batch"]) == ("infer", 1))
    assert row["fused"]["launches"] == 5 and row["unfused"]["launches"] == 11  # counted by hand: docs/zoo.md
    fc3 = next(k for k in row["kernels"] if k["layers"] == ["fc3"])
    moved = (84 + 84 * 10 + 10) * 2 + 10 * 4  # bf16 but for the fp32 bias
    assert fc3["dram_bytes"] == moved and fc3["flops"] == 2 * 84 * 10
    assert fc3["bound"] == "launch" and fc3["predicted_us"] > 2  # so few bytes take no time
    assert row["fused"]["predicted_us"] == pytest.approx(sum(k["predicted_us"] for k in row["kernels"]), abs=0.01)
    # A roofline is drawn of measured times only: at its predicted one a kernel is on the roof, whatever it is.
    assert {p.name for p in tmp_path.iterdir()} == {"predicted.json", "predicted.md", "predicted-bars.png"}


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="not a clone")
def test_results_are_not_in_gits_view():
    """`make bench` and `make gpu` must not leave a clone with changes to commit, or to lose."""
    names = ["predicted.json", "predicted-bars.png", "bench.md", "gpu-20260102-030405.json", "rehearsal-1.json"]
    command = ["git", "check-ignore", *(f"benchmarks/results/{name}" for name in names)]
    ignored = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.split()
    assert len(ignored) == len(names)


@pytest.mark.parametrize("argv, words", [
    (["--only", "zzz"], "no case's name contains 'zzz'"), (["--budget", "-3"], "--budget"), (["--jobs", "0"], "--jobs"),
    (["--out", "/dev/null/deeper"], "cannot be written"),
])  # fmt: skip
@pytest.mark.parametrize("command", [suite, gpu_suite])
def test_arguments_that_make_no_session(argv, words, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["suite", *argv])
    assert command.main() == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and not printed.out
