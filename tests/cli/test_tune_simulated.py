"""`tricnn tune --simulate`: tiles chosen without a GPU, which nobody may take for measured ones."""

from itertools import count
from types import SimpleNamespace

import pytest

from tricnn.machine import tuned_files as tuning
from tricnn.machine.simulator import VERSION
from tricnn.machine.tiles import Tile
from tricnn.measure import tune, tune_simulated

HOW = ("--mode", "infer", "--batch", 64, "--dtype", "bf16", "--target", "sm_90", "--simulate", "--json")
OTHER = Tile(32, 16, 16, 4, 1)


@pytest.fixture
def one_candidate(monkeypatch):
    monkeypatch.setattr(tune, "candidates", lambda problem: [OTHER])


def test_the_simulated_times_of_tiles_decide_by_three_percent(tricnn, tiny, tmp_path, one_candidate):
    """The command, the compilers and the simulator as they are, on two tiles of each problem."""
    out = tmp_path / "mine.toml"
    ran = tricnn("tune", tiny, *HOW, "--out", out)
    assert ran.status == 0, ran.err
    assert ran.json["simulated"] and ran.json["device"] == f"simulated H100, model {VERSION}"
    assert ran.json["reached"] == ran.json["of"] == len(ran.json["problems"]) > 0
    for row in ran.json["problems"]:
        times = row["us"]
        assert set(times) | set(row["refused"]) == set(row["candidates"]) and times
        best = min(times, key=times.get)
        assert row["winner"] == (best if times[best] <= 0.97 * times[row["rule"]] else None) and not row["wrong"]
    known = tuning.read(out) if out.exists() else {}
    assert len(known) == ran.json["winners"] and all(entry.simulated for entry in known.values())


def test_a_winner_is_written_with_its_origin_and_never_over_a_measured_one(
    tricnn, tiny, tmp_path, one_candidate, monkeypatch
):
    code = SimpleNamespace(spill_bytes=0, hazards=0)
    monkeypatch.setattr("tricnn.build.compile.compile_kernels", lambda specs, **how: [code for _ in specs])
    later = count(100, -10)  # each launch that is asked for takes less than the one before
    monkeypatch.setattr(tune_simulated, "kept", lambda *a, **k: SimpleNamespace(us=float(next(later))))
    out = tmp_path / "mine.toml"
    first = tricnn("tune", tiny, *HOW, "--out", out)
    found = tuning.read(out)
    assert first.json["winners"] == len(found) > 0
    assert {(e.tile.n, e.device, e.simulated) for e in found.values()} == {(16, tune_simulated.DEVICE, True)}

    measured = {p: tuning.Entry(e.tile, 1.0, 2.0, "a device", "2026-01-02") for p, e in found.items()}
    tuning.write(out, measured)
    again = tricnn("tune", tiny, *HOW, "--out", out)
    assert again.json["of"] == first.json["of"] - len(measured) and tuning.read(out) == measured


def test_a_measured_tile_comes_before_a_simulated_one_in_whichever_file(tmp_path, monkeypatch):
    problem = tuning._problem("sm_90", "conv2d", "bf16", "N64 C16 H8 W8 K32 R1 S1 P8 Q8")
    entries = {
        "mine": tuning.Entry(Tile(64, 32, 16, 4, 2), 1.0, 2.0, tune_simulated.DEVICE, ""),
        "shipped": tuning.Entry(Tile(32, 32, 16, 4, 2), 1.5, 2.0, "H100", ""),
    }
    digests = []
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(tuning, "shipped", tuning.shipped.__wrapped__)  # kept by nobody: the file changes here
    for mine, shipped, wanted in (
        ("mine", "shipped", "shipped"),
        ("shipped", "mine", "shipped"),
        ("mine", "mine", "mine"),
    ):
        for name, which in (("mine.toml", mine), ("sm_90.toml", shipped)):
            tuning.write(tmp_path / name, {problem: entries[which]})
        with tuning.using(str(tmp_path / "mine.toml")):
            assert tuning.lookup(problem)[0] == entries[wanted]
            digests.append(tuning.digest("sm_90"))
    assert len(set(digests)) == 3  # what a build remembers must not outlive a change of the files


def test_targets_without_a_model_are_refused(tricnn, tiny):
    ran = tricnn("tune", tiny, "--target", "sm_80", "--simulate")
    assert ran.status == 2 and ran.err.count("\n") == 1 and "sm_90" in ran.err
