"""Compiling for GPUs that are not here: the facts, against NVIDIA's own tools, and that nothing is left running."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tricnn.build.compile import CompiledKernel, CompileError, CompilerFailed, KernelSpec, SourceName, compile_kernels
from tricnn.build.inspect_binary import hip_facts, named_instructions
from tricnn.machine.targets import TARGETS, parse_target
from tricnn.system.errors import TargetError

FIVE = ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"]
NVIDIA = FIVE[:4]
ROOT = Path(__file__).parents[2]
PYTHONPATH = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}

HEAD = "import triton\nimport triton.language as tl\n\n\n"

ADD = (
    HEAD
    + """@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)
"""
)

# out = a @ b; a: [64, K], b: [K, 64]
DOT = (
    HEAD
    + """@triton.jit
def dot(a, b, out, K, BK: tl.constexpr):
    i, j, k = tl.arange(0, 64)[:, None], tl.arange(0, 64)[None, :], tl.arange(0, BK)
    total = tl.zeros((64, 64), tl.float32)
    for start in range(0, K, BK):
        left = tl.load(a + i * K + start + k[None, :])
        total = tl.dot(left, tl.load(b + (start + k[:, None]) * 64 + j), total, input_precision="ieee")
    tl.store(out + i * 64 + j, total)
"""
)

# the same through descriptors: what Hopper and newer copy with the tensor memory accelerator
DOT_TMA = (
    HEAD
    + """@triton.jit
def dot_tma(a, b, out, K, BK: tl.constexpr):
    left = tl.make_tensor_descriptor(a, [64, K], [K, 1], [64, BK])
    right = tl.make_tensor_descriptor(b, [K, 64], [64, 1], [BK, 64])
    total = tl.zeros((64, 64), tl.float32)
    for start in range(0, K, BK):
        total = tl.dot(left.load([0, start]), right.load([start, 0]), total)
    i, j = tl.arange(0, 64)[:, None], tl.arange(0, 64)[None, :]
    tl.store(out + i * 64 + j, total)
"""
)

# 256 values a thread that must all live until their sum is known: no GPU has the registers
SPILLING = (
    HEAD
    + """@triton.jit
def spilling(x, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(x + i, a * tl.sum(a))
"""
)

ONE_LINE = HEAD + "@triton.jit\ndef kernel(x):\n    tl.store(x, 1)\n"


def add_spec(**changes: object) -> KernelSpec:
    return KernelSpec("add", ADD, dict(x="*fp32", y="*fp32", out="*fp32", n="i32"), {"BLOCK": 256, **changes})


def dot_spec(dtype: str, name: str = "dot", source: str = DOT) -> KernelSpec:
    return KernelSpec(name, source, {"a": f"*{dtype}", "b": f"*{dtype}", "out": "*fp32", "K": "i32"}, {"BK": 32})


SPECS = {
    "add": add_spec(),
    "dot": dot_spec("fp16"),
    # of small tiles, for its products are an instruction each
    "dot_fp32": replace(dot_spec("fp32", source=DOT.replace("64", "16")), constants={"BK": 16}),
    "dot_tma": dot_spec("fp16", "dot_tma", DOT_TMA),
}
#: what takes seconds to compile: quick tests do so for one of NVIDIA's GPUs
SPILLS = KernelSpec("spilling", SPILLING, {"x": "*fp32"}, {"N": 32 * 1024})


@pytest.fixture(scope="module")
def compiled(kernel_cache: Path) -> dict[str, dict[str, CompiledKernel]]:
    """Every kernel for each of the five targets, by whichever process of the run is the first to ask."""
    found = {target: compile_kernels(list(SPECS.values()), target, cache_dir=kernel_cache) for target in FIVE}
    return {t: {n: replace(k, from_cache=False) for n, k in zip(SPECS, kernels)} for t, kernels in found.items()}


@pytest.fixture(scope="module")
def spilling(kernel_cache: Path) -> Callable[[str], CompiledKernel]:
    """The kernel that spills, for a target."""
    return lambda target: compile_kernels([SPILLS], target, cache_dir=kernel_cache)[0]


def tool(name: str) -> str:
    spec = importlib.util.find_spec("triton")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        pytest.skip(f"this triton has no {name}")
    return str(path)


@pytest.mark.parametrize("target", FIVE)
def test_kernels_are_compiled_for_the_gpu_not_interpreted(target: str, compiled: dict) -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"  # as conftest.py sets it: the workers must not see it
    kind, language = ("hsaco", "amdgcn") if target == "gfx942" else ("cubin", "ptx")
    for name, kernel in compiled[target].items():
        assert kernel.binary[:4] == b"\x7fELF"
        assert (kernel.target, kernel.binary_kind, list(kernel.assembly)) == (target, kind, [language])
        assert kernel.name == SPECS[name].name and kernel.name in kernel.assembly[language]
        assert 1 <= kernel.registers <= 512 and kernel.num_warps == 4


@pytest.mark.parametrize("target", FIVE)
def test_tensor_cores_are_reported_for_matrix_products_only(target: str, compiled: dict) -> None:
    kernels = compiled[target]
    assert not kernels["add"].tensor_core
    assert kernels["dot"].tensor_core
    # IEEE fp32 products: NVIDIA's matrix units have none, AMD's CDNA has (v_mfma_f32_*_f32)
    assert kernels["dot_fp32"].tensor_core == (target == "gfx942")


@pytest.mark.parametrize("target", FIVE)
def test_bulk_copies_are_reported_where_the_hardware_has_them(target: str, compiled: dict) -> None:
    assert not compiled[target]["dot"].bulk_copy
    assert compiled[target]["dot_tma"].bulk_copy == (target in ("sm_90", "sm_100", "sm_120"))


@pytest.mark.parametrize("target", FIVE)
def test_shared_memory_is_what_the_tiles_need(target: str, compiled: dict) -> None:
    assert compiled[target]["add"].shared_bytes == 0
    tiles = 2 * 64 * 32 * 2  # bytes of the two fp16 tiles of one step
    assert tiles // 2 <= compiled[target]["dot"].shared_bytes <= 4 * tiles


SPILLING_TARGETS = ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in NVIDIA if t != "sm_90")]


def agrees_with_nvidias_disassembler(kernel: CompiledKernel, folder: Path) -> None:
    """Registers as cuobjdump says; matrix, copy and local-memory instructions one for one as nvdisasm prints them."""
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.binary)
    usage = subprocess.run([tool("cuobjdump"), "-res-usage", file], capture_output=True, text=True, check=True)
    assert f"REG:{kernel.registers} " in usage.stdout + usage.stderr, kernel.name
    sass = subprocess.run([tool("nvdisasm"), "-c", file], capture_output=True, text=True, check=True).stdout
    printed: dict[str, int] = {}
    for operation in re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)", sass, re.MULTILINE):
        if re.fullmatch(r"\w*MMA|UTMA(LDG|STG|REDG)|UBLK(CP|RED)|STL|LDL", operation):
            operation = re.sub(r"^UTC.*MMA$", "UTCMMA", operation)
            printed[operation] = printed.get(operation, 0) + 1
    assert named_instructions(kernel.binary) == printed, kernel.name


@pytest.mark.parametrize("target", NVIDIA)
def test_facts_agree_with_nvidias_disassembler(target: str, compiled: dict, tmp_path: Path) -> None:
    agrees_with_nvidias_disassembler(compiled[target]["dot_tma"], tmp_path)


@pytest.mark.parametrize("target", SPILLING_TARGETS)
def test_spills_are_seen(target: str, spilling: Callable[[str], CompiledKernel], tmp_path: Path) -> None:
    kernel = spilling(target)
    assert kernel.spill_bytes > 0 and "LDL" in named_instructions(kernel.binary)
    agrees_with_nvidias_disassembler(kernel, tmp_path)


@pytest.mark.parametrize("target", FIVE)
def test_spills_are_seen_only_where_there_are_some(target: str, compiled: dict) -> None:
    for name, kernel in compiled[target].items():
        # A store alone is no spill: ptxas 12.9's checks of TMA addresses put an argument on the stack for a trap.
        assert kernel.spill_bytes == 0, name
        assert target not in NVIDIA or "LDL" not in named_instructions(kernel.binary), name


@pytest.mark.slow
def test_amd_spills_are_the_bytes_its_assembly_stores(tmp_path: Path) -> None:
    spec = KernelSpec("spilling", SPILLING, {"x": "*fp32"}, {"N": 128 * 1024})
    (kernel,) = compile_kernels([spec], "gfx942", cache_dir=tmp_path)
    stored = re.findall(r"; (\d+)-byte Folded Spill", kernel.assembly["amdgcn"])  # LLVM's comment at each
    assert kernel.spill_bytes == sum(map(int, stored)) > 0


def test_amd_spills_are_those_of_its_assembly(compiled: dict) -> None:
    """Registers that LLVM says it has spilt, 4 bytes each; a whole kernel that spills takes LLVM six seconds."""
    kernel = compiled["gfx942"]["dot"]
    assembly = kernel.assembly["amdgcn"]
    told = assembly.replace(".vgpr_spill_count: 0", ".vgpr_spill_count: 96").replace(
        ".sgpr_spill_count: 0", ".sgpr_spill_count: 3"
    )
    assert hip_facts(assembly, 0)["spill_bytes"] == kernel.spill_bytes == 0
    assert hip_facts(told, 0)["spill_bytes"] == 4 * 96 + 4 * 3


def test_pointers_are_taken_as_aligned(tmp_path: Path) -> None:
    """Four floats in one load, which is what the alignment is promised for."""
    source = HEAD + "@triton.jit\ndef copy(x, y):\n    i = tl.arange(0, 512)\n    tl.store(y + i, tl.load(x + i))\n"
    spec = KernelSpec("copy", source, {"x": "*fp32", "y": "*fp32"}, {})
    (kernel,) = compile_kernels([spec], "sm_80", cache_dir=tmp_path)
    assert "ld.global.v4.b32" in kernel.assembly["ptx"]


def test_constants_may_name_what_the_source_has(tmp_path: Path) -> None:
    source = HEAD + (
        "@triton.jit\ndef twice(v):\n    return v + v\n\n\n"
        "@triton.jit\ndef kernel(x, F: tl.constexpr, T: tl.constexpr, S: tl.constexpr, D: tl.constexpr = 3):\n"
        "    tl.store(x, F(tl.full((), S[1] + D, T)).to(tl.float32))\n"
    )
    constants = {"F": SourceName("twice"), "T": SourceName("tl.float16"), "S": (1, 2.5)}
    (kernel,) = compile_kernels([KernelSpec("kernel", source, {"x": "*fp32"}, constants)], "sm_90", cache_dir=tmp_path)
    assert "1093664768" in kernel.assembly["ptx"]  # the bits of 11.0 = 2 * (2.5 + 3)


def test_same_specification_gives_the_same_bytes(compiled: dict, tmp_path: Path) -> None:
    for target in ("sm_90", "gfx942"):
        (again,) = compile_kernels([SPECS["dot"]], target, cache_dir=tmp_path)
        assert again == compiled[target]["dot"]


def test_callers_settings_do_not_change_the_code(
    monkeypatch: pytest.MonkeyPatch, compiled: dict, tmp_path: Path
) -> None:
    for name, value in {"TRITON_OVERRIDE_ARCH": "sm80", "DISABLE_PTXAS_OPT": "1", "TRITON_ENABLE_ASAN": "1"}.items():
        monkeypatch.setenv(name, value)
    from tricnn.build.worker_pool import POOL

    POOL.close()  # the workers at hand were started without
    (kernel,) = compile_kernels([SPECS["dot"]], "sm_90", cache_dir=tmp_path)
    assert kernel.binary == compiled["sm_90"]["dot"].binary


# --- what cannot be compiled -----------------------------------------------------------------------------------------


def test_unknown_target_lists_those_there_are() -> None:
    with pytest.raises(TargetError) as caught:
        parse_target("sm_91")
    assert f"supported: {', '.join(TARGETS)}" in str(caught.value) and "unknown target 'sm_91'; " in str(caught.value)
    assert set(FIVE) <= set(TARGETS)


def test_targets_answer_to_the_names_vendors_tools_print() -> None:
    assert parse_target("sm_90a") is parse_target("sm_90")
    assert parse_target("gfx942:sramecc+:xnack-") is parse_target("gfx942")


def failure(spec: KernelSpec, target: str, cache: Path) -> str:
    with pytest.raises(CompileError) as caught:
        compile_kernels([spec], target, cache_dir=cache)
    text = str(caught.value)
    assert isinstance(caught.value, TargetError) and "\n" not in text
    assert text.startswith(f"kernel {spec.name} does not compile for {target}: ")
    return text


@pytest.mark.parametrize(
    ("source", "signature", "constants", "says"),
    [
        (ONE_LINE.replace("x, 1", "x, undefined"), {"x": "*fp32"}, {}, "undefined is not defined"),
        (ONE_LINE.replace("def", "dof"), {"x": "*fp32"}, {}, "syntax error in line 6"),
        (ONE_LINE, {"y": "*fp32"}, {}, "it has no argument 'y'; it has x"),
        (ONE_LINE, {}, {}, "'x' is in neither the signature nor the constants"),
        (ONE_LINE, {"x": "*fp33"}, {}, "unknown type '*fp33'"),
        (ONE_LINE, {"x": "*fp32"}, {"x": 1}, "both in the signature and a constant"),
        (ONE_LINE, {}, {"x": object()}, "is of type object"),
        (ONE_LINE.replace("kernel", "other"), {"x": "*fp32"}, {}, "no @triton.jit function kernel"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", {}, {}, "the compiler crashed (SIGSEGV)"),
    ],
)
def test_an_error_is_one_line_that_names_the_kernel(
    source: str, signature: dict, constants: dict, says: str, tmp_path: Path
) -> None:
    assert says in failure(KernelSpec("kernel", source, signature, constants), "sm_90", tmp_path)


def test_an_error_of_ptxas_is_quoted(tmp_path: Path) -> None:
    body = "tl.inline_asm_elementwise('bogus.f32 $0, $1;', '=r,r', [tl.load(x)], tl.float32, True, 1)"
    spec = KernelSpec("kernel", ONE_LINE.replace("x, 1", f"x, {body}"), {"x": "*fp32"}, {})
    text = failure(spec, "sm_90", tmp_path)
    assert "ptxas" in text and "bogus" in text and "/" not in text


def test_what_could_never_be_launched_is_an_error(tmp_path: Path) -> None:
    warps = KernelSpec("kernel", ONE_LINE, {"x": "*fp32"}, {}, num_warps=64)
    assert "64 warps of 32, a block has at most 1024 threads" in failure(warps, "sm_90", tmp_path)
    source = HEAD + (
        "@triton.jit\ndef kernel(x):\n    i, k = tl.arange(0, 16), tl.arange(0, 2048)\n"
        "    a, b = tl.load(x + i[:, None] * 2048 + k[None, :]), tl.load(x + k[:, None] * 16 + i[None, :])\n"
        "    tl.store(x + i[:, None] * 16 + i[None, :], tl.dot(a, b).to(tl.float16))\n"
    )
    tiles = KernelSpec("kernel", source, {"x": "*fp16"}, {}, num_warps=8)
    assert "a block has at most 101376" in failure(tiles, "sm_120", tmp_path)
    assert "a block has at most 101376" in failure(tiles, "sm_120", tmp_path)  # from the cache too


def test_errors_can_be_results(tmp_path: Path) -> None:
    bad = KernelSpec("bad", ONE_LINE, {}, {})
    seen: list[str] = []
    results = compile_kernels(
        [bad, add_spec(), bad], "sm_80", cache_dir=tmp_path, return_errors=True, on_done=lambda k: seen.append(k.name)
    )
    assert [type(r) for r in results] == [CompilerFailed, CompiledKernel, CompilerFailed] and seen == ["add"]


# --- processes -------------------------------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupting_leaves_no_process(how: signal.Signals, tmp_path: Path) -> None:
    source = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}\\n')\n"
        "time.sleep(60)\n"
    )
    script = (
        "from pathlib import Path\nfrom tricnn.build.compile import KernelSpec, compile_kernels\n"
        f"compile_kernels([KernelSpec('k', {source!r}, {{}}, {{}})], 'sm_80', cache_dir=Path({str(tmp_path)!r}))\n"
    )
    environment = os.environ | PYTHONPATH | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    pids: list[int] = []
    deadline = time.monotonic() + 300
    while len(pids) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        if (tmp_path / "pids").exists():
            pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    process.send_signal(how)
    process.wait(timeout=100)
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(pids) == 2 and all(map(gone, pids))
    assert not list(tmp_path.glob("tricnn-compile-*"))


def test_workers_are_used_again_and_a_fork_does_not_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another test, too, and with another cache or terminal: a worker takes a second to start."""
    from tricnn.build.worker_pool import POOL

    compile_kernels([add_spec()], "sm_80", cache_dir=tmp_path, workers=1)
    before = [worker.pid for worker in POOL._idle]
    for name in ("PYTEST_CURRENT_TEST", "TRICNN_CACHE", "COLUMNS"):
        monkeypatch.setenv(name, "77")
    compile_kernels([add_spec(BLOCK=512)], "sm_80", cache_dir=tmp_path, workers=1)
    assert [worker.pid for worker in POOL._idle] == before
    child = os.fork()
    if child == 0:
        os._exit(0 if not POOL._idle else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (kernel,) = compile_kernels([add_spec(BLOCK=1024)], "sm_80", cache_dir=tmp_path, workers=1)
    assert not kernel.from_cache and [worker.pid for worker in POOL._idle] == before
