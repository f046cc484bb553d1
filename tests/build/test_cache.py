"""The cache of compiled kernels: what is damaged is never used, and nothing is ever compiled twice."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tricnn.build import worker_pool
from tricnn.build.cache import Entry, KernelCache
from tricnn.build.compile import CompiledKernel, KernelSpec, compile_kernels
from tricnn.system.errors import TricnnError
from tricnn.system.paths import cache_folder

ROOT = Path(__file__).parents[2]
PYTHONPATH = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}

FILL = """import triton
import triton.language as tl


@triton.jit
def fill(x, n, VALUE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, VALUE, i < n)
"""


def fill_spec(value: object) -> KernelSpec:
    return KernelSpec("fill", FILL, {"x": "*fp32", "n": "i32"}, {"VALUE": value, "BLOCK": 256})


def only_entry(cache: Path) -> Path:
    (path,) = cache.rglob("*.kernel")
    return path


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompiledKernel, Path]:
    """A kernel, and the cache that has it alone."""
    folder = tmp_path_factory.mktemp("once")
    (kernel,) = compile_kernels([fill_spec(1.0)], "sm_80", cache_dir=folder)
    return kernel, folder


@pytest.fixture
def first(compiled_once: tuple[CompiledKernel, Path], tmp_path: Path) -> CompiledKernel:
    """The kernel, in a cache of the test's own: ``tmp_path``."""
    kernel, folder = compiled_once
    assert not kernel.from_cache
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return kernel


@pytest.fixture
def compilations(compiled_once: tuple[CompiledKernel, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that workers were asked for since. These are not started: the answer to each is that to the first."""
    kernel, folder = compiled_once
    entry = KernelCache(folder).get(kernel.digest)
    assert entry is not None
    answer = {
        "facts": entry.facts,
        "binary": base64.b64encode(kernel.binary).decode(),
        "assembly": dict(kernel.assembly),
    }
    asked: list[str] = []

    def run(jobs: Sequence[dict[str, Any]], *_: object) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, job in enumerate(jobs):
            asked.append(job["name"])
            yield number, answer

    monkeypatch.setattr(worker_pool.POOL, "run", run)
    return asked


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(worker_pool.subprocess, "Popen", refuse)
    worker_pool.POOL.close()


def test_second_call_reads_the_file(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    specs = [fill_spec(1.0), fill_spec(2.0)]
    first = compile_kernels(specs, "sm_90", cache_dir=tmp_path)
    request.getfixturevalue("no_workers")
    seen = []
    second = compile_kernels(specs, "sm_90", cache_dir=tmp_path, on_done=seen.append)
    assert [k.from_cache for k in first] == [False, False] and [k.from_cache for k in second] == [True, True]
    assert second == [dataclasses.replace(k, from_cache=True) for k in first] == seen


@pytest.mark.usefixtures("first")
def test_reading_the_cache_does_not_import_triton(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom tricnn.build.compile import KernelSpec, compile_kernels\n"
        f"spec = KernelSpec('fill', {FILL!r}, {{'x': '*fp32', 'n': 'i32'}}, {{'VALUE': 1.0, 'BLOCK': 256}})\n"
        f"(kernel,) = compile_kernels([spec], 'sm_80', cache_dir=Path({str(tmp_path)!r}))\n"
        "assert kernel.from_cache and not {'triton', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | PYTHONPATH)


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: flip(data, len(data) // 2),
        lambda data: flip(data, 0),
        lambda data: flip(data, 20),
        lambda data: flip(data, len(data) - 1),
        lambda data: data[: len(data) // 2],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data + b"more",
        lambda data: b"\x7fELF" * 100,
    ],
)
def test_a_damaged_file_is_compiled_anew(
    damage: Callable[[bytes], bytes], first: CompiledKernel, compilations: list[str], tmp_path: Path
) -> None:
    path = only_entry(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    (second,) = compile_kernels([fill_spec(1.0)], "sm_80", cache_dir=tmp_path)
    assert second == first and not second.from_cache and compilations == ["fill"]
    assert path.read_bytes() == whole


def test_the_second_compilation_gives_the_same_bytes(first: CompiledKernel, tmp_path: Path) -> None:
    path = only_entry(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(flip(whole, len(whole) // 2))
    (second,) = compile_kernels([fill_spec(1.0)], "sm_80", cache_dir=tmp_path)
    assert second == first and not second.from_cache and path.read_bytes() == whole


def test_another_kernels_file_is_not_taken_for_this_one(tmp_path: Path) -> None:
    one, two = compile_kernels([fill_spec(1.0), fill_spec(2.0)], "sm_80", cache_dir=tmp_path)
    cache = KernelCache(tmp_path)
    cache.path(two.digest).write_bytes(cache.path(one.digest).read_bytes())
    (again,) = compile_kernels([fill_spec(2.0)], "sm_80", cache_dir=tmp_path)
    assert not again.from_cache and again == two


@pytest.mark.parametrize(
    "entry",
    [
        Entry({}, {"binary": b"x"}),
        Entry({"registers": "many"}, {}),
        Entry({**dict.fromkeys(["registers", "spill_bytes", "shared_bytes", "num_warps"], 1), "tensor_core": 1}, {}),
    ],
)
def test_a_whole_file_with_other_contents_is_compiled_anew(
    entry: Entry, first: CompiledKernel, compilations: list[str], tmp_path: Path
) -> None:
    KernelCache(tmp_path).put(first.digest, entry)
    (again,) = compile_kernels([fill_spec(1.0)], "sm_80", cache_dir=tmp_path)
    assert again == first and not again.from_cache and compilations == ["fill"]


def test_equal_specifications_are_compiled_once(compilations: list[str], tmp_path: Path) -> None:
    results = compile_kernels([fill_spec(1.0), fill_spec(2.0), fill_spec(1.0)], "sm_80", cache_dir=tmp_path)
    assert results[0] == results[2] and results[0].digest != results[1].digest
    assert compilations == ["fill"] * 2 and len(list(tmp_path.rglob("*.kernel"))) == 2


def test_everything_that_changes_the_code_changes_the_key(compilations: list[str], tmp_path: Path) -> None:
    spec = fill_spec(1)
    variants = [spec, fill_spec(1.0), fill_spec(True), fill_spec(0.0), fill_spec(-0.0), fill_spec(float("inf"))]
    variants.append(dataclasses.replace(spec, source=FILL + "\n"))
    variants.append(dataclasses.replace(spec, num_warps=8))
    variants.append(dataclasses.replace(spec, num_stages=3))
    variants.append(dataclasses.replace(spec, signature={"x": "*fp16", "n": "i32"}))
    kernels = compile_kernels(variants, "sm_80", cache_dir=tmp_path) + compile_kernels(
        [spec], "sm_86", cache_dir=tmp_path
    )
    assert len({kernel.digest for kernel in kernels}) == len(compilations) == len(variants) + 1


SCRIPT = """
import sys
from pathlib import Path
from tricnn.build.compile import KernelSpec, compile_kernels
specs = [KernelSpec("fill", {source!r}, {{"x": "*fp32", "n": "i32"}}, {{"VALUE": v, "BLOCK": 256}}) for v in range(3)]
kernels = compile_kernels(specs, "sm_80", cache_dir=Path({cache!r}), workers=1)
print(*[kernel.registers for kernel in kernels], *[len(kernel.binary) for kernel in kernels])
"""


def test_two_processes_may_compile_at_once(tmp_path: Path) -> None:
    """Also: a script with no `if __name__ == "__main__"` works."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(source=FILL, cache=str(tmp_path / "cache")))
    environment = os.environ | PYTHONPATH
    both = [
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) for _ in "ab"
    ]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and said[0] == said[1] != ""
    kernels = compile_kernels([fill_spec(v) for v in range(3)], "sm_80", cache_dir=tmp_path / "cache")
    assert all(kernel.from_cache for kernel in kernels)
    assert not list((tmp_path / "cache").rglob(".new-*"))


def test_a_directory_that_cannot_be_written_is_one_warning(compilations: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="kernels are not cached: cannot write") as caught:
        kernels = compile_kernels([fill_spec(1.0), fill_spec(2.0)], "sm_80", cache_dir=tmp_path / "file" / "cache")
    assert len(kernels) == len(compilations) == 2 and len(caught) == 1


@pytest.mark.usefixtures("compilations")
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("TRICNN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/someone/.cache/tricnn")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_folder() == Path("/var/cache/me/tricnn")
    monkeypatch.setenv("TRICNN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    compile_kernels([fill_spec(1.0)], "sm_80")
    assert only_entry(tmp_path)


def test_reading_never_warns_or_raises(tmp_path: Path) -> None:
    key = "ab" * 32
    cache = KernelCache(tmp_path)
    path = cache.path(key)
    assert path is not None
    path.mkdir(parents=True)  # a directory where the file should be
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get(key) is None and KernelCache(None).get(key) is None


# --- whose entries they are -------------------------------------------------------------------------------------------

KEY = "ab" * 32
ENTRY = Entry({"registers": 40}, {"binary": b"machine code", "ptx": b"text"})


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give a file to another user")
def test_an_entry_of_another_user_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code runs with the rights of whoever launches it."""
    cache = KernelCache(tmp_path)
    cache.put(KEY, ENTRY)
    mine = cache.path(KEY)
    assert mine is not None and cache.get(KEY) == ENTRY
    os.chown(mine, 4321, -1)
    assert cache.get(KEY) is None
    theirs = cache.path(KEY, 4321)
    assert theirs is not None and theirs != mine
    theirs.parent.mkdir(parents=True)
    mine.rename(theirs)
    assert cache.get(KEY) is None
    monkeypatch.setenv("TRICNN_CACHE_TRUST", "root, 4321")
    assert cache.get(KEY) == ENTRY
    os.chown(theirs, 8765, -1)  # in the folder of one who is trusted, by one who is not
    assert cache.get(KEY) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_entry_that_others_can_write_has_no_effect(mode: int, tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, ENTRY)
    path = cache.path(KEY)
    assert path is not None
    path.chmod(mode)
    assert cache.get(KEY) is None


def test_an_entry_that_is_a_link_or_a_pipe_has_no_effect(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, ENTRY)
    path = cache.path(KEY)
    assert path is not None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get(KEY) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.get(KEY) is None


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o644), (0o077, 0o600), (0o000, 0o644)])
def test_an_entry_is_readable_by_whom_the_umask_lets_and_written_by_nobody_else(
    umask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        KernelCache(tmp_path).put(KEY, ENTRY)
    finally:
        os.umask(before)
    assert only_entry(tmp_path).stat().st_mode & 0o777 == mode
    assert KernelCache(tmp_path).get(KEY) == ENTRY


def test_every_flipped_bit_of_an_entry_is_seen(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, ENTRY)
    path = only_entry(tmp_path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(flip(whole, position))
        assert cache.get(KEY) is None, position
    path.write_bytes(whole)
    assert cache.get(KEY) == ENTRY


def test_an_entry_that_unpacks_to_gigabytes_is_absent(tmp_path: Path) -> None:
    """128 kB that would be 128 MB (and a thousand times as much as easily); well-formed, and the user's own."""
    packed = zlib.compressobj(9)
    blob = b"".join(packed.compress(bytes(1 << 24)) for _ in range(8)) + packed.flush()
    header = json.dumps({"key": KEY, "facts": {}, "blobs": [["binary", 3]]}).encode()
    body = len(header).to_bytes(4, "little") + header + blob
    cache = KernelCache(tmp_path)
    cache.put(KEY, ENTRY)
    only_entry(tmp_path).write_bytes(b"tricnn kernel 1\n" + hashlib.sha256(body).digest() + body)
    tracemalloc.start()
    assert cache.get(KEY) is None
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("header", [b"[" * 100_000, b"3", b'{"key": 5}', b'{"key": "%b", "blobs": 4}' % KEY.encode()])
def test_an_entry_with_another_header_is_absent(header: bytes, tmp_path: Path) -> None:
    body = len(header).to_bytes(4, "little") + header + zlib.compress(b"")
    cache = KernelCache(tmp_path)
    cache.put(KEY, ENTRY)
    only_entry(tmp_path).write_bytes(b"tricnn kernel 1\n" + hashlib.sha256(body).digest() + body)
    assert cache.get(KEY) is None


def test_trusting_a_user_who_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICNN_CACHE_TRUST", "root,no-such-user")
    with pytest.raises(TricnnError, match=r"TRICNN_CACHE_TRUST: there is no user 'no-such-user'; accepted: names"):
        KernelCache(tmp_path).get(KEY)
