"""Measured times, from a file that ``tricnn bench --json`` or the GPU suite (`make gpu`, `make bench`) wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...lower.program import Program
from ...system.errors import DataError
from ...system.files import read_at_most
from ...system.limits import LARGEST_REPORT


@dataclass(frozen=True)
class Measured:
    """Microseconds by the number of a launch, and of whole steps by what ran them, and the device they ran on."""

    us: Mapping[int, float]
    steps: Mapping[str, float]
    device: str


def measured(path: Path, network: str, program: Program) -> Measured:
    """The times in a file that are of the same network, mode, dtype and batch as a program.

    Raises DataError, naming the file, where it is no such file, or has no such times.
    """
    wanted = (network, program.plan.mode, program.dtype, program.batch)
    try:
        found = json.loads(read_at_most(path, LARGEST_REPORT))
        launches, steps = _of_a_session(found) if "cases" in found else _of_bench(found)
        device = str(found.get("device", "a GPU"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"{path}: not what `tricnn bench --json` or the GPU suite writes: an object with timings, or with cases"
        ) from None
    if wanted not in launches and wanted not in steps:
        others = "; ".join(_named(case) for case in {**launches, **steps}) or "none"
        raise DataError(f"{path}: has no times of {_named(wanted)}; it has those of: {others}")
    rows = launches.get(wanted, {})
    times = {n: rows.get((launch.function, launch.layers)) for n, launch in enumerate(program.launches)}
    by_launch = {n: round(us, 3) for n, us in times.items() if us is not None}
    return Measured(by_launch, {name: round(us, 3) for name, us in steps.get(wanted, {}).items()}, device)


Case = tuple[Any, ...]  # network, mode, dtype, batch
Launches = dict[Case, dict[tuple[str, tuple[str, ...]], float]]
Steps = dict[Case, dict[str, float]]


def _of_a_session(found: Mapping[str, Any]) -> tuple[Launches, Steps]:
    """Of a file of the GPU suite: microseconds of launches by function and layers, and of steps by contender."""
    launches: Launches = {}
    steps: Steps = {}
    for row in found["cases"]:
        if row.get("kernels") and row.get("fuse", True):
            launches[_case(row)] = {
                (k["name"], tuple(k["layers"])): float(k["milliseconds"]) * 1e3 for k in row["kernels"]
            }
        if row.get("contenders"):
            times = {c["name"]: float(c["milliseconds"]) * 1e3 for c in row["contenders"] if "milliseconds" in c}
            steps.setdefault(_case(row), {}).update(times)
    return launches, steps


def _of_bench(found: Mapping[str, Any]) -> tuple[Launches, Steps]:
    """Of an object of ``tricnn bench --json``: microseconds of a step by what ran it."""
    rows = [row for row in found["timings"] if "median_seconds" in row]
    return {}, {
        _case({"network": found["graph"], **found}): {r["name"]: float(r["median_seconds"]) * 1e6 for r in rows}
    }


def _case(row: Mapping[str, Any]) -> Case:
    return row["network"], row["mode"], row["dtype"], row["batch"]


def _named(case: tuple[Any, ...]) -> str:
    network, mode, dtype, batch = case
    return f"{network}, {mode}, {dtype}, batch {batch}"
