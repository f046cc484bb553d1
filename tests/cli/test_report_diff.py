"""``tricnn report --diff``: what changed between two pages."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.test_report_page import Page
from tricnn.report.page.compare import difference, read


@pytest.fixture
def pages(tricnn, tiny):
    """The same network with a kernel a layer, and fused."""
    for name, fuse in (("a", "none"), ("b", "auto")):
        how = ("--mode", "infer", "--fuse", fuse, "--target", "sm_90")
        assert tricnn("report", tiny, *how, "--out", f"{name}.html").status == 0
    return "a.html", "b.html"


def test_a_policy_and_another(tricnn, tiny, pages):
    """The figures of both are those that explain counts; what one kernel did away with is gone."""
    found = tricnn("report", "--diff", *pages, "--out", "d.html", "--json").json
    told = tricnn("explain", tiny, "--mode", "infer", "--target", "sm_90", "--json").json
    assert found["totals"]["launches"] == [told["unfused"]["launches"], told["launches"]]
    assert found["totals"]["dram_bytes"] == [told["unfused"]["dram_bytes"], told["dram_bytes"]]
    what = {row["kernel"]: row["what"] for row in found["kernels"]}
    assert what["act"] == what["pool"] == "gone" and what["conv"] == "changed"
    (conv,) = [row for row in found["kernels"] if row["kernel"] == "conv"]
    assert (conv["before"]["layers"], conv["after"]["layers"]) == (["conv"], ["conv", "pool", "act"])
    text = Path("d.html").read_text()
    page = Page(text)
    assert page.open == [] and {link[0] for link in page.links} <= {"#", "d"}
    assert "<del>" in text and "<ins>" in text and text.count("<script") == 0


def test_edges_that_one_policy_fuses(tricnn):
    """They are those of which explain says so under one policy and not under the other."""
    told = {}
    for policy in ("epilogue", "auto"):
        how = ("--mode", "train", "--fuse", policy, "--target", "sm_90")
        assert tricnn("report", "lenet", *how, "--out", f"{policy}.html").status == 0
        edges = tricnn("explain", "lenet", *how, "--json").json["edges"]
        told[policy] = {(e["producer"], e["consumer"]): e["fused"] for e in edges}
    both = told["epilogue"].keys() & told["auto"].keys()
    expected = {edge: told["auto"][edge] for edge in both if told["auto"][edge] != told["epilogue"][edge]}
    found = tricnn("report", "--diff", "epilogue.html", "auto.html", "--json").json["edges"]
    assert {(e["producer"], e["consumer"]): e["fused"] for e in found} == expected != {}


def test_a_page_and_itself(tricnn, pages):
    found = tricnn("report", "--diff", pages[1], pages[1], "--json").json
    assert {row["what"] for row in found["kernels"]} == {"same"} and found["edges"] == found["sources"] == []


def test_numbers_of_kernels_are_no_difference(tricnn, pages):
    """One kernel more before the others, and all the rest is the same."""
    facts = read(Path(pages[1]))
    later = json.loads(re.sub(r"\bk(\d\d)(?=[_\"])", lambda m: f"k{int(m[1]) + 1:02d}", json.dumps(facts)))
    assert later != facts
    found = difference(facts, later)
    assert {row["what"] for row in found["kernels"]} == {"same"} and found["sources"] == []


@pytest.mark.parametrize(
    "content, said",
    [("<html></html>", "not a page that tricnn report wrote"), ('{"a": 1}', "format None"),
     ('{"tricnn_report": 1}', "a report of format 1; this tricnn compares format 2: write it anew"), ("{", "damaged"),
     ('<script id="tricnn-report">AAAA</script>', "damaged"), (None, "cannot be read")],
)  # fmt: skip
def test_what_is_no_report(tricnn, pages, tmp_path, content, said):
    other = tmp_path / "other.html"
    if content is not None:
        other.write_text(content)
    ran = tricnn("report", "--diff", pages[0], other)
    assert ran.status == 2 and said in ran.err and str(other) in ran.err and ran.out == ""


def test_what_must_be_given(tricnn, pages):
    assert "a MODEL is needed" in tricnn("report").err
    assert "one too many" in tricnn("report", "lenet", "--diff", *pages).err
