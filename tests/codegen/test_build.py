"""Compiled for GPUs that are not there: registers, spills and tensor cores are facts a test can hold."""

import json
from pathlib import Path

import pytest

from tricnn.codegen.build import Build, build
from tricnn.compiler.fuse import fuse
from tricnn.graphs import lenet
from tricnn.ir import TricnnError
from tricnn.runtime.model import specialised


def lenet_build(tmp_path: Path, target: str, dtype: str = "bf16") -> Build:
    plan = fuse(specialised(lenet(), "train"), "train")
    return build(plan, dtype, 256, target, cache_dir=tmp_path / "cache")


TARGETS = ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in ("sm_80", "sm_100", "sm_120", "gfx942"))]


@pytest.mark.parametrize("target", TARGETS)
def test_lenet_compiles_without_spills_and_on_tensor_cores(tmp_path: Path, target: str) -> None:
    result = lenet_build(tmp_path, target)
    assert [k["name"] for k in result.kernels if k["spill_bytes"]] == []
    contractions = [k for k in result.kernels if k["kind"].startswith(("conv2d", "linear"))]
    assert len(contractions) == 14 and all(k["tensor_core"] for k in contractions)
    folder = tmp_path / "out"
    files = result.write(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {f.name for f in files} == {f.name for f in folder.iterdir()}
    for kernel in manifest["kernels"]:
        assert (folder / kernel["binary"]).stat().st_size > 0
    assert [launch["kernel"] for launch in manifest["launches"]] == [x.function for x in result.program.launches]
    again = lenet_build(tmp_path, target)
    assert all(k.from_cache for k in again.compiled.values()) and again.kernels == result.kernels
    result.write(folder)  # over itself


def test_ieee_fp32_uses_no_tensor_cores(tmp_path: Path) -> None:
    """fp32 means IEEE products; tensor cores would round them to tf32."""
    plan = fuse(specialised(lenet(), "infer"), "infer")
    result = build(plan, "fp32", 8, "sm_90", cache_dir=tmp_path)
    assert not any(k["tensor_core"] for k in result.kernels)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    plan = fuse(specialised(lenet(), "infer"), "infer")
    result = build(plan, "bf16", 8, "sm_90", cache_dir=tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(TricnnError, match="cannot write to"):
        result.write(tmp_path / "file" / "out")
