"""`tricnn compile --simulate`: each kernel's time on an H100, by its machine code; named simulated everywhere."""

from pathlib import Path

import pytest

ADDED = ["simulated_us", "limit_us", "limit", "share", "waits_for", "waits_share"]


def test_compile_simulates_each_kernel_and_the_whole(tricnn, tiny):
    how = ("compile", tiny, "--batch", 64, "--dtype", "bf16", "--target", "sm_90")
    plain, found = tricnn(*how, "--json").json, tricnn(*how, "--simulate", "--json").json
    assert set(found) - set(plain) == {"simulated_us", "limit_us", "simulator"}
    assert found["simulator"] == {"version": 1, "gpu": "H100 SXM"}
    for kernel, without in zip(found["kernels"], plain["kernels"], strict=True):
        assert sorted(set(kernel) - set(without)) == sorted(ADDED)
        assert kernel["simulated_us"] > kernel["limit_us"] > 0
        # 3.0 TB/s and 660 TFLOP/s
        limits = {"bytes": kernel["dram_bytes"] / 3.0e6, "products": kernel["flops"] / 660e6}
        assert kernel["limit_us"] == pytest.approx(max(limits.values()), abs=1e-3)
        assert limits[kernel["limit"]] == max(limits.values())
        assert kernel["share"] == pytest.approx(kernel["limit_us"] / kernel["simulated_us"], abs=1e-3)
    assert found["simulated_us"] == pytest.approx(sum(k["simulated_us"] for k in found["kernels"]), abs=0.01)
    shown = tricnn(*how, "--simulate")
    assert shown.status == 0 and "simulated, not measured" in shown.out
    assert all(k["waits_for"] in shown.out for k in found["kernels"])
    step = tricnn(*how, "--mode", "train", "--simulate", "--json").json  # its last launch goes by a table of addresses
    assert step["kernels"][-1]["name"] == "sum_weight_gradients" and step["kernels"][-1]["share"] < 1
    assert step["simulated_us"] == pytest.approx(sum(k["simulated_us"] for k in step["kernels"]), abs=0.01)


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_what_has_no_model_is_refused(tricnn, tiny, target):
    ran = tricnn("compile", tiny, "--target", target, "--simulate")
    assert ran.status == 2 and ran.out == ""
    assert "sm_90" in ran.err and target in ran.err and len(ran.err.splitlines()) == 1


def test_bench_shows_simulated_times_and_calls_them_so(tricnn, tiny):
    """The same kernels as ``compile --simulate``, so the same times, beside those of this machine."""
    how = ("--batch", 64, "--dtype", "bf16", "--target", "sm_90", "--simulate")
    found = tricnn("bench", tiny, "--mode", "infer", *how, "--seconds", "0", "--json").json["simulated"]
    compiled = tricnn("compile", tiny, *how, "--json").json
    assert found["simulated_us"] == compiled["simulated_us"] and found["simulator"] == compiled["simulator"]
    assert [k["simulated_us"] for k in found["kernels"]] == [k["simulated_us"] for k in compiled["kernels"]]
    assert "simulated, not measured (model 1" in tricnn("bench", tiny, "--mode", "infer", *how, "--seconds", "0").out
    ran = tricnn("bench", tiny, "--simulate", "--target", "sm_80")
    assert ran.status == 2 and "sm_90" in ran.err


def test_a_page_has_simulated_times_and_calls_them_so(tricnn, tiny):
    how = ("--batch", 64, "--dtype", "bf16", "--target", "sm_90", "--simulate")
    facts = tricnn("report", tiny, "--mode", "infer", *how, "--out", "page.html", "--json").json
    compiled = tricnn("compile", tiny, *how, "--json").json
    assert facts["simulated_us"] == pytest.approx(compiled["simulated_us"], abs=0.01)
    for launch in facts["launch_rows"]:
        assert launch["simulated_us"] > launch["limit_us"] > 0 and launch["waits_for"]
    code = {k["name"]: k for k in compiled["kernels"]}
    for name, function in facts["functions"].items():
        for key in ("registers", "spill_bytes", "shared_bytes", "tensor_core", "bulk_copy", "hazards"):
            assert function[key] == code[name][key]
    text = Path("page.html").read_text()
    assert "simulated times are of model 1" in text and "not measured" in text and 'aria-label="roofline"' in text
