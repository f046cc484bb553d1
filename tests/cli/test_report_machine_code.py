"""``tricnn report --machine-code``: instructions beside the lines that they came from."""

import json
from pathlib import Path

import pytest

from tests.cli.browser import needs_browser, opened
from tricnn.build.listing import located


def test_an_instruction_is_from_its_line_and_from_those_that_called_it():
    """Lines of other files (Triton's own functions) are left out; a comment holds until the next one."""
    printed = """
kernel:
	//## File "/tmp/a/kernel.py", line 9
        /*0000*/                   LDC R1, c[0x0][0x28] ;
	//## File "/lib/triton/standard.py", line 40 inlined at "/tmp/a/kernel.py", line 3
	//## File "/tmp/a/kernel.py", line 3 inlined at "/tmp/a/kernel.py", line 9
	//## File "/tmp/a/kernel.py", line 9
        /*0010*/              @!P0 FADD R2, R3, R4 ;
.L_x_1:
        /*0020*/                   EXIT ;
.L_x_2:
        /*0030*/                   BRA `(.L_x_2);
        /*0040*/                   NOP;
"""
    assert located(printed, "kernel.py") == [
        ("LDC R1, c[0x0][0x28]", [9]), ("@!P0 FADD R2, R3, R4", [3, 9]), (".L_x_1:", []), ("EXIT", [3, 9])
    ]  # fmt: skip


@pytest.fixture
def page(tricnn, tiny):
    """The page of a convolution with pooling and activation, with its kernel's machine code; and its object."""
    how = ("--mode", "infer", "--batch", "8", "--dtype", "bf16", "--target", "sm_90")
    ran = tricnn("report", tiny, *how, "--machine-code", "k00", "--out", "tiny.html", "--json")
    assert ran.status == 0, ran.err
    return Path("tiny.html"), ran.json


@needs_browser
def test_what_a_line_became(page, tmp_path):
    """A maximum is FMNMX, a store STG; the code is that which is launched; the browser inflates all of it, and a
    click on a line marks its instructions."""
    path, facts = page
    (name, code), *others = facts["machine_code"]["functions"].items()
    assert others == [] and name == "k00_conv" and code["same"]
    lines = facts["functions"][name]["source"].splitlines()
    became = {}
    for chain, text in code["rows"]:
        for block, line in code["chains"][chain]:
            if block == name:
                became.setdefault(lines[line].split("(")[0].strip(), []).append(text)
    pooling, store = became["pooled, position = max_over_window"], became["tl.store"]
    assert any("FMNMX" in text for text in pooling) and not any("STG" in text for text in pooling)
    assert any("STG" in text for text in store) and not any("FMNMX" in text for text in store)
    assert sum(row["count"] for row in code["counts"]) == code["instructions"] > 100
    steps = """
    location.hash = "#k00"; await wait();
    const panel = document.getElementById("panel");
    panel.querySelector("h3 button").click();
    for (let n = 0; n < 40 && !panel.querySelector(".machine"); n++) await wait();
    const rows = [...panel.querySelectorAll(".machine b")].map((e) => e.textContent);
    [...panel.querySelectorAll(".lines b")].find((e) => e.textContent.includes("= max_over_window")).click();
    return {rows, marked: [...panel.querySelectorAll(".machine .from")].map((e) => e.textContent)};"""
    found, errors = opened(path.resolve(), tmp_path, steps)
    assert errors == []
    assert found["rows"] == [text for _, text in code["rows"]]
    assert found["marked"] == pooling


def test_kernels_that_are_not_there(tricnn, tiny):
    ran = tricnn("report", tiny, "--mode", "infer", "--machine-code", "k77")
    assert ran.status == 2 and "no kernel k77" in ran.err and "k00 to k01_fc" in ran.err and not ran.out


def test_without_machine_code_a_page_carries_none(tricnn, tiny):
    ran = tricnn("report", tiny, "--mode", "infer", "--out", "none.html", "--json")
    assert "machine_code" not in json.loads(ran.out) and 'id="machine:' not in Path("none.html").read_text()
