"""Measured times of launches, from the file that the GPU suite (`make gpu`) writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...lower.program import Program
from ...system.errors import DataError
from ...system.files import read_at_most
from ...system.limits import LARGEST_REPORT


@dataclass(frozen=True)
class Measured:
    """Microseconds by the number of a launch, and the device on which they were measured."""

    us: dict[int, float]
    device: str


def measured(path: Path, network: str, program: Program) -> Measured:
    """The times of a program's launches, of the case in the file that has the same network, mode, dtype and batch.

    Raises DataError, naming the file, where it is no such file, or has no such case.
    """
    try:
        found = json.loads(read_at_most(path, LARGEST_REPORT))
        cases = [case for case in found["cases"] if case.get("kernels") and case.get("fuse", True)]
        wanted = (network, program.plan.mode, program.dtype, program.batch)
        known = {(c["network"], c["mode"], c["dtype"], c["batch"]): c["kernels"] for c in cases}
        rows: dict[tuple[str, tuple[str, ...]], float] = {
            (row["name"], tuple(row["layers"])): float(row["milliseconds"]) * 1e3 for row in known.get(wanted, [])
        }
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"{path}: not what the GPU suite writes: an object with cases, whose kernels have times"
        ) from None
    if not rows:
        others = "; ".join(_named(case) for case in known) or "none"
        raise DataError(f"{path}: has no kernels' times of {_named(wanted)}; it has those of: {others}")
    times = {n: rows.get((launch.function, launch.layers)) for n, launch in enumerate(program.launches)}
    return Measured({n: round(us, 3) for n, us in times.items() if us is not None}, str(found.get("device", "a GPU")))


def _named(case: tuple[Any, ...]) -> str:
    network, mode, dtype, batch = case
    return f"{network}, {mode}, {dtype}, batch {batch}"
