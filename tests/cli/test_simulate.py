"""`tricnn compile --simulate`: each kernel's time on an H100, by its machine code; named simulated everywhere."""

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


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_what_has_no_model_is_refused(tricnn, tiny, target):
    ran = tricnn("compile", tiny, "--target", target, "--simulate")
    assert ran.status == 2 and ran.out == ""
    assert "sm_90" in ran.err and target in ran.err and len(ran.err.splitlines()) == 1
