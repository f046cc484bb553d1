"""What a user would lose: a run in a container, on a cluster's file system, or beside twenty others."""

from __future__ import annotations

import errno
import os
import threading
import warnings
from pathlib import Path

import pytest

from tricnn.system import cores, files
from tricnn.system.cores import usable_cores, usable_memory, workers
from tricnn.system.errors import TricnnError
from tricnn.system.files import Held, held, read_at_most, write_atomically
from tricnn.system.paths import cache_folder, home, user_path

# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id that has no account: `docker run --user 12345`."""
    import pwd

    def absent(_: object) -> None:
        raise KeyError("no such user")

    for variable in ("HOME", "XDG_CACHE_HOME", "TRICNN_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", absent)


def test_a_home_by_name_by_account_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("TRICNN_CACHE", "~/k")
    assert user_path("~") == home() == Path("/home/someone")
    assert cache_folder() == user_path("~/k") == Path("/home/someone/k")
    assert user_path("a/~/b") == Path("a/~/b")


def test_no_home_and_no_account(nobody: None) -> None:
    assert home() is None and cache_folder() is None
    with pytest.raises(TricnnError, match=r"'~/k': there is no home folder \(HOME is not set"):
        user_path("~/k")


@pytest.mark.parametrize("text, words", [("~no-such-user/x", "no user 'no-such-user'"), ("a\0b", "NUL")])
def test_a_path_that_is_none(text: str, words: str) -> None:
    with pytest.raises(TricnnError, match=words):
        user_path(text)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def network_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """No locks (NFS without its lock daemon), and no syncing of folders (some FUSE and SMB mounts)."""
    import fcntl

    sync = os.fsync

    def refuse(number: int) -> None:
        raise OSError(number, os.strerror(number))

    def fsync(handle: int) -> None:
        refuse(errno.EINVAL) if os.path.isdir(f"/proc/self/fd/{handle}") else sync(handle)

    monkeypatch.setattr(fcntl, "flock", lambda *_: refuse(errno.ENOLCK))
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(files, "_warned", set())


def test_a_file_system_without_locks_and_synced_folders_is_warned_of_once(
    network_file_system: None, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning) as caught:
        for content in (b"one", b"two"):
            with held(tmp_path):
                write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"two" and os.listdir(tmp_path) == ["file"]
    assert len(caught) == 2
    assert "cannot be locked" in str(caught[0].message) and "does not sync folders" in str(caught[1].message)


def test_a_folder_is_held_once(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(Held), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_what_the_umask_lets_others_read_they_can(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    assert len(read_at_most(Path("/dev/zero"), 1000)) == 1001
    (tmp_path / "file").write_bytes(b"abc")
    assert read_at_most(tmp_path / "file", 3) == b"abc"
    with pytest.raises(IsADirectoryError):
        read_at_most(tmp_path, 3)


def test_a_pipe_is_read_and_one_without_a_writer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"x" * 200_000))
    writer.start()
    assert read_at_most(pipe, 1 << 20) == b"x" * 200_000
    writer.join()
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.1)
    with pytest.raises(TimeoutError, match="nothing was written to it"):
        read_at_most(pipe, 1 << 20)


# --- cores ------------------------------------------------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/a.slice/b.service\n",
    "sys/fs/cgroup/a.slice/cpu.max": "250000 100000\n",
    "sys/fs/cgroup/a.slice/b.service/cpu.max": "max 100000\n",
    "proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable:    60000000 kB\n",
    "sys/fs/cgroup/a.slice/memory.max": "1073741824\n",
    "sys/fs/cgroup/a.slice/memory.current": "805306368\n",
    "sys/fs/cgroup/a.slice/memory.stat": "anon 1\ninactive_file 268435456\n",
}
V1 = {
    "proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n",
    "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "200000\n",
    "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "536870912\n",
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "36870912\n",
}


@pytest.mark.parametrize("files, memory", [(V2, 512 << 20), (V1, 500_000_000)], ids=["v2", "v1"])
def test_what_a_control_group_gives_is_what_there_is(
    files: dict[str, str], memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(24)), raising=False)
    root = machine(tmp_path, files)
    assert usable_cores(root) == 2 and usable_memory(root) == memory
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(root) == 1
    assert usable_cores(tmp_path / "none") == 1 and usable_memory(tmp_path / "none") is None


def test_workers_are_few_enough_for_the_cores_the_memory_and_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 24)
    monkeypatch.setattr(cores, "usable_memory", lambda: 3 << 30)
    monkeypatch.delenv("TRICNN_WORKERS", raising=False)
    assert workers() == 12 and workers(5) == 5
    monkeypatch.setattr(cores, "usable_memory", lambda: 1 << 20)
    assert workers() == 1
    monkeypatch.setenv("TRICNN_WORKERS", "7")
    assert workers() == 7
    for wrong in ("0", "-1", "many", "9" * 5000):
        monkeypatch.setenv("TRICNN_WORKERS", wrong)
        with pytest.raises(TricnnError, match=r"TRICNN_WORKERS=.* is not a whole number from 1 to"):
            workers()


# --- the places of a compilation --------------------------------------------------------------------------------------

FILL = """import triton
import triton.language as tl


@triton.jit
def fill(x):
    tl.store(x, 1.0)
"""


def test_a_folder_that_is_gone_or_full_is_no_fault_of_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    from tricnn.build import worker_pool
    from tricnn.build.compile import KernelSpec, compile_kernels

    worker_pool.POOL.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    spec = KernelSpec("fill", FILL, {"x": "*fp32"}, {})
    with pytest.raises(worker_pool.NoPlace, match=r"^kernels cannot be compiled here: .*gone.*TMPDIR names a folder"):
        compile_kernels([spec], "sm_90", cache_dir=tmp_path / "cache", return_errors=True)


def test_a_working_folder_that_is_gone_is_none_of_a_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tricnn.build import worker_pool
    from tricnn.build.compile import KernelSpec, compile_kernels

    worker_pool.POOL.close()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.syspath_prepend("")
    (tmp_path / "gone").rmdir()
    try:
        (kernel,) = compile_kernels([KernelSpec("fill", FILL, {"x": "*fp32"}, {})], "sm_90", cache_dir=tmp_path)
        assert kernel.registers > 0
    finally:
        os.chdir(tmp_path)


def test_what_a_full_disk_says_is_told_from_what_a_kernel_does(tmp_path: Path) -> None:
    from tricnn.build.workplace import place_at_fault

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert place_at_fault(full, tmp_path) == f"{tmp_path}: No space left on device"
    assert place_at_fault(RuntimeError("ptxas fatal: could not write: No space left on device"), tmp_path)
    assert place_at_fault(ValueError("tl.dot wants K of 16"), tmp_path) is None
    assert place_at_fault(ValueError("the same, in a folder that cannot be"), Path("/dev/null/x"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert os.listdir(tmp_path) == []
