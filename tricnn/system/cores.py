"""How many processes may work at once: what this process may use of the machine, not what the machine has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .errors import TricnnError, shown

VARIABLE = "TRICNN_WORKERS"
WORKER_BYTES = 256 << 20  # of a process that compiles a kernel; most take 100 to 200 MB
MOST = 1024


def workers(most: int = MOST) -> int:
    """How many processes compile at once: ``$TRICNN_WORKERS``, else one for each usable core, as memory allows.
    At least one and at most ``most``. Raises TricnnError if the variable is not such a number."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen:
        if not re.fullmatch(r"[0-9]{1,6}", chosen) or not 1 <= int(chosen) <= MOST:
            raise TricnnError(f"{VARIABLE}={shown(chosen)} is not a whole number from 1 to {MOST}")
        return min(int(chosen), max(most, 1))
    memory = usable_memory()
    fit = MOST if memory is None else memory // WORKER_BYTES
    return max(1, min(usable_cores(), fit, most))


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use: its affinity, and what its control groups (v1 and v2) give it of them.
    ``root`` is where /proc and /sys are."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    quotas = [quota / period for quota, period in _cpu_quotas(root) if quota > 0 and period > 0]
    return max(1, min([cores, *(int(share) for share in quotas)]))


def blas_threads() -> int | None:
    """How many threads share one of NumPy's matrix products, and so its sums; None if its BLAS does not say."""
    from threadpoolctl import threadpool_info

    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    own = [library for library in found if "numpy" in library["filepath"]] or found
    return max((int(library["num_threads"]) for library in own), default=None)


def usable_memory(root: Path = Path("/")) -> int | None:
    """The bytes that this process may still fill: of the machine, and of its control groups; None if nothing says."""
    known = [int(kb) << 10 for kb in re.findall(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.M)]
    groups = [*_folders(root, "", "memory.max", "memory.current")]
    groups += _folders(root, "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
    for folder, limit, usage in groups:
        # What the page cache holds can be had back.
        cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(folder / "memory.stat"), re.M)
        if limit.isdigit() and usage.isdigit():
            known.append(max(0, int(limit) - int(usage) + (int(cached[1]) if cached else 0)))
    return min(known, default=None)


def _cpu_quotas(root: Path) -> Iterator[tuple[float, float]]:
    """(microseconds, of so many) of every control group around this process that has a quota."""
    for _, both, _ in _folders(root, "", "cpu.max", "cpu.max"):
        words = both.split()
        if len(words) == 2 and all(word.isdigit() for word in words):  # "max 100000": no quota
            yield int(words[0]), int(words[1])
    for _, quota, period in _folders(root, "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
        if quota.isdigit() and period.isdigit():  # -1: no quota
            yield int(quota), int(period)


def _folders(root: Path, controller: str, first: str, second: str) -> Iterator[tuple[Path, str, str]]:
    """The control groups around this process, from its own to the root, with the text of two of their files.
    ``controller`` is v1's; "" is the one hierarchy of v2."""
    base = root / "sys/fs/cgroup" / controller
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller not in names.split(","):
            continue
        own = base / path.lstrip("/")
        for folder in (own, *own.parents):
            if base not in (folder, *folder.parents):
                break
            yield folder, _text(folder / first).strip(), _text(folder / second).strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
