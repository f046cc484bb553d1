"""Compiled for GPUs that are not there: registers, spills and tensor cores are facts a test can hold."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tricnn.build.build as build_module
from tests.lower.test_vector_loads import KINDS, loaded_by, sixteen_bytes_at_a_time
from tricnn.build.build import Build, build, tensors_of
from tricnn.build.compile import CompiledKernel, CompileError
from tricnn.build.inspect_binary import multiplies_beside_the_program
from tricnn.compiler.fusion.fuser import fuse
from tricnn.compiler.pipeline import planned
from tricnn.graphs import lenet, resnet50
from tricnn.ir import Graph, GraphBuilder, TricnnError
from tricnn.lower.from_graph import lowered
from tricnn.machine import tiles
from tricnn.machine.dtypes import BYTES


def block() -> Graph:
    """A residual block whose convolutions read what batch norm and relu make of the one before."""
    b = GraphBuilder("block")
    x = b.input("x", (64, 8, 8))
    first = b.relu(b.batch_norm(b.conv2d(x, 64, 3, padding=1, bias=False)))
    y = b.relu(b.batch_norm(b.conv2d(first, 64, 1, bias=False)))
    y = b.batch_norm(b.conv2d(y, 64, 3, padding=1, bias=False))
    return b.build(b.linear(b.global_avg_pool(b.relu(b.add_(y, first))), 16))


def one_convolution() -> Graph:
    b = GraphBuilder("one")
    return b.build(b.conv2d(b.input("x", (16, 8, 8)), 16, 3, name="conv"))


def computed_weights() -> Graph:
    """Standardised weights (NFNets), and what a function makes of a weight: in training products read them rounded."""
    b = GraphBuilder("computed")
    x = b.input("x", (16, 8, 8))
    for i, op in enumerate(("standardize_filters", "tanh")):
        w = b.add(op, b.parameter(f"w{i}", (16, 16, 3, 3), "he_normal"))
        x = b.relu(b.add("conv2d", x, w, padding=1))
    return b.build(b.linear(b.global_avg_pool(x), 8))


#: network, batch, type, target; products of the step, and how many of them may read registers while they multiply
STEPS = [
    (block, 64, "bf16", "sm_90", 11, 3),
    (block, 64, "fp16", "sm_90", 11, 3),
    *((lenet, 256, "bf16", target, 14, 0) for target in ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")),
]


@pytest.mark.parametrize(
    ("network", "batch", "dtype", "target", "products", "beside"),
    [pytest.param(*step, marks=[pytest.mark.slow] * (number > 0)) for number, step in enumerate(STEPS)],
)
def test_a_training_step_compiles_without_spills_or_hazards_and_on_tensor_cores(
    network: Callable[[], Graph], batch: int, dtype: str, target: str, products: int, beside: int, tmp_path: Path
) -> None:
    plan, cache = planned(network(), "train", "all"), tmp_path / "cache"
    result = build(plan, dtype, batch, target, cache_dir=cache)
    assert [k["name"] for k in result.kernels if k["spill_bytes"]] == []
    assert [k["name"] for k in result.kernels if k["hazards"]] == []
    assert sum(multiplies_beside_the_program(c.binary) for c in result.compiled.values()) >= beside
    contractions = [k for k in result.kernels if k["kind"].startswith(("conv2d", "linear"))]
    assert len(contractions) == products and all(k["tensor_core"] for k in contractions)
    loads = {k["name"]: loaded_by(result.compiled[k["name"]].binary) for k in contractions if k["kind"] in KINDS}
    assert network is lenet or [name for name in loads if not sixteen_bytes_at_a_time(loads[name])] == []
    # Whole tiles come by bulk copies exactly where the program says so, and only where there are such instructions.
    described = [f.name for f in result.program.functions if any("tensordesc" in kind for _, kind in f.parameters)]
    assert [k["name"] for k in result.kernels if k["bulk_copy"]] == described
    assert bool(described) == (target in ("sm_90", "sm_100", "sm_120"))
    folder = tmp_path / "out"
    files = result.write(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {f.name for f in files} == {f.name for f in folder.iterdir()}
    for kernel in manifest["kernels"]:
        assert (folder / kernel["binary"]).stat().st_size > 0
    assert [launch["kernel"] for launch in manifest["launches"]] == [x.function for x in result.program.launches]
    again = build(plan, dtype, batch, target, cache_dir=cache)
    assert all(k.from_cache for k in again.compiled.values()) and again.kernels == result.kernels
    result.write(folder)  # over itself


def test_a_manifest_says_where_every_parameter_and_gradient_is() -> None:
    """Also those that lie within another buffer, and those of which inference reads what was computed from them."""
    train, infer = (lowered(resnet50(), mode, 8, "bf16", "sm_90", fuse="all") for mode in ("train", "infer"))
    found = json.loads(json.dumps(tensors_of(train)))
    parameters = {n.name for n in resnet50().parameters}
    assert set(found["gradients"]) == parameters
    assert found["placed"]["layer1.0.downsample.1.weight"]["first"] == 64  # behind that of bn1
    for name in (*parameters, *found["gradients"].values()):
        place = found["placed"].get(name, {"buffer": name, "first": 0, "elements": 0})
        buffer = train.buffers[place["buffer"]]
        assert place["first"] + place["elements"] <= buffer.bytes(8) // BYTES[buffer.dtype]
    assert all(new in train.buffers and old in train.buffers for old, new in found["updates"].items())
    assert found["rounded"]["conv1.weight"] == "conv1.weight:bf16" and found["sums"]
    folded = json.loads(json.dumps(tensors_of(infer)))
    assert folded["prepared"]["bn1.folded_weight"]["inputs"] == ["conv1.weight", "bn1.weight", "bn1.running_var"]
    assert not folded["gradients"] and not folded["sums"]


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("tf32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["train", pytest.param("infer", marks=pytest.mark.slow)])
def test_weights_that_a_step_computes_are_multiplied_on_tensor_cores(mode: str, dtype: str, tmp_path: Path) -> None:
    """Both operands of a product are of one type, or it does not compile; the interpreter takes any two."""
    result = build(planned(computed_weights(), mode, "all"), dtype, 8, "sm_90", cache_dir=tmp_path)
    products = [k for k in result.kernels if k["kind"].startswith(("conv2d", "linear"))]
    assert sum(k["launches"] for k in products) == (8 if mode == "train" else 3)
    assert all(k["tensor_core"] for k in products)


def test_ieee_fp32_uses_no_tensor_cores(tmp_path: Path) -> None:
    """fp32 means IEEE products; tensor cores would round them to tf32, as they do when that is asked for."""
    for dtype in ("fp32", "tf32"):
        result = build(fuse(one_convolution(), "infer"), dtype, 8, "sm_90", cache_dir=tmp_path)
        assert [k["tensor_core"] for k in result.kernels] == [dtype == "tf32"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    result = build(fuse(one_convolution(), "infer"), "bf16", 8, "sm_90", cache_dir=tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(TricnnError, match="cannot write to"):
        result.write(tmp_path / "file" / "out")


def test_a_step_that_changes_no_tile_does_not_end_the_search_for_one_that_spills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LeNet-5 on sm_80: its second step to smaller tiles changed nothing, and a kernel kept 4 spilt bytes."""
    sizes = [64, 64, 32]
    monkeypatch.setattr(tiles, "contraction", lambda *given, **_: tiles.Tile(sizes[min(given[-1], 2)], 16, 16, 4, 1))

    def compiled(specs, target, **_):
        facts = dict(target=target, digest="", binary=b"x", binary_kind="cubin", assembly={}, registers=8, hazards=0,
                     shared_bytes=0, num_warps=4, tensor_core=True, bulk_copy=False, from_cache=True)  # fmt: skip
        return [CompiledKernel(name=s.name, spill_bytes=0 if "BLOCK_M=32" in s.source else 4, **facts) for s in specs]

    monkeypatch.setattr(build_module, "compile_kernels", compiled)
    plan = fuse(one_convolution(), "infer")
    for _ in range(2):  # the second build begins where the first one ended
        built = build_module.build(plan, "bf16", 64, "sm_80", cache_dir=tmp_path)
        assert [k["spill_bytes"] for k in built.kernels] == [0]


def built_with(hazards_of: dict[int, int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A convolution built by a compiler that leaves so many hazards where a kernel has so many stages."""

    def compiled(specs, target, **_):
        facts = dict(target=target, digest="", binary=b"x", binary_kind="cubin", assembly={}, registers=8,
                     spill_bytes=0, shared_bytes=0, num_warps=4, tensor_core=True, bulk_copy=False,
                     from_cache=True)  # fmt: skip
        return [CompiledKernel(name=s.name, hazards=hazards_of.get(s.num_stages, 0), **facts) for s in specs]

    monkeypatch.setattr(build_module, "compile_kernels", compiled)
    plan = fuse(one_convolution(), "infer")
    return build_module.build(plan, "bf16", 64, "sm_90", cache_dir=folder)


def test_a_kernel_with_a_hazard_is_no_longer_pipelined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):  # the second build begins where the first one ended
        built = built_with({3: 4, 2: 4}, tmp_path, monkeypatch)
        assert [k["hazards"] for k in built.kernels] == [0]
        assert [f.num_stages for f in built.program.functions] == [1]


def test_a_kernel_that_has_a_hazard_in_every_form_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CompileError, match=r"kernel k00_conv .* triton >= 3\.9 does not"):
        built_with({3: 4, 2: 4, 1: 1}, tmp_path, monkeypatch)
