"""The log of predictions: none is lost, none is changed after the fact, each finds its outcome."""

from dataclasses import replace

from benchmarks import predictions
from benchmarks.predictions import LOG, NOT_MEASURED, Line, by_hand, merged, read, with_outcomes, write
from benchmarks.suite import NETWORKS, WORK

ONE = Line("lenet", "train", "bf16", "256", "H100 SXM", "2026-01-02", "17", "0.0040")


def session(ms, **more):
    case = {"network": "lenet", "mode": "train", "dtype": "bf16", "batch": 256, "contenders": [
        {"name": "PyTorch eager", "milliseconds": 9.0}, {"name": "tricnn fused", "milliseconds": ms}]}  # fmt: skip
    return {"cases": [case, {"name": "late", "status": "not reached"}], "device": "a GPU", "date": "20260203-1", **more}


def test_a_log_reads_back():
    lines = [ONE, replace(ONE, batch="64", measured="0.1", outcome="25x")]
    assert read(write(lines)) == lines


def test_a_prediction_that_changed_is_a_new_line_behind_the_old_one():
    other, newer = replace(ONE, network="alexnet"), replace(ONE, predicted="2026-03-04", least="0.0030")
    assert merged([ONE, other], [replace(ONE, predicted="2026-03-04")]) == [ONE, other]
    assert merged([ONE, other], [newer]) == [ONE, newer, other]
    assert merged([], [ONE]) == [ONE]


def test_an_outcome_goes_to_the_last_prediction_of_its_case():
    newer = replace(ONE, least="0.0050")
    lines = with_outcomes([ONE, newer, replace(ONE, batch="64")], session(0.01))
    assert [line.measured for line in lines] == [NOT_MEASURED, "0.0100", NOT_MEASURED]
    assert lines[1].outcome.startswith("2.00x the least, a GPU, 20260203")
    assert with_outcomes([ONE], session(0.01, rehearsal=True)) == [ONE]


def test_a_graph_counts_before_single_launches():
    found = session(0.01)
    found["cases"][0]["contenders"].append({"name": "tricnn fused, CUDA graph", "milliseconds": 0.008})
    assert with_outcomes([ONE], found)[0].measured == "0.0080"


def test_the_log_has_a_prediction_for_every_network_and_invents_no_outcome():
    lines = read(LOG.read_text())
    assert {line.case[:4] for line in lines} >= {(n, m, "bf16", str(b)) for n in NETWORKS for m, b in WORK}
    assert all(line.outcome for line in lines if line.measured != NOT_MEASURED)


def test_the_command_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["predictions", "--only", "lenet", "--log", str(tmp_path / "log.md")])
    assert predictions.main() == 0 and "5 predictions" in capsys.readouterr().out
    assert len(read((tmp_path / "log.md").read_text())) == len(WORK)
    monkeypatch.setattr("sys.argv", ["predictions", "--only", "lenett"])
    assert predictions.main() == 2 and "accepted: resnet50" in capsys.readouterr().err
    (tmp_path / "list.json").write_text("[1]")
    log = (tmp_path / "log.md").read_text()
    arguments = ["--only", "lenet", "--log", str(tmp_path / "log.md"), str(tmp_path / "list.json")]
    monkeypatch.setattr("sys.argv", ["predictions", *arguments])
    assert predictions.main() == 2 and "a JSON object was expected" in capsys.readouterr().err
    assert (tmp_path / "log.md").read_text() == log
    notes = "\n## Simulated\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    (tmp_path / "log.md").write_text(log + notes)
    monkeypatch.setattr("sys.argv", ["predictions", "--only", "lenet", "--log", str(tmp_path / "log.md")])
    assert predictions.main() == 0 and (tmp_path / "log.md").read_text() == log + notes
    assert by_hand(log) == ""
