"""The log of predictions: python -m benchmarks.predictions [RESULTS.json ...]

Writes benchmarks/predictions.md: for each network what its kernels need at least, by their exact bytes and operations
and a device's data sheet, beside what was measured, once it was. A prediction that changed is a new line; no line is
taken away. RESULTS are files of `make bench` on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.suite import DTYPE, NETWORKS, WORK, predicted
from tricnn.ir.wording import plural

LOG = Path(__file__).with_name("predictions.md")
NOT_MEASURED = "not measured"
HEAD = """\
# Predictions and outcomes

Written by `python -m benchmarks.predictions`. least ms: the sum over all kernels of max(bytes / bandwidth, operations /
rate), exact bytes and operations of the fused plan, rates of the device's data sheet: a step cannot be faster. A line
whose prediction changed with the compiler is followed by a new one. measured ms: the median of `tricnn fused` (as one
CUDA graph, where that ran). Simulated times, predicted before a change and found after it, stand below the table.

"""
#: how the part of a log begins that people write
BY_HAND = "\n## "
COLUMNS = ("network", "mode", "dtype", "batch", "device", "predicted", "launches", "least ms", "measured ms", "outcome")


@dataclass(frozen=True)
class Line:
    """A prediction, all of it as text: what for, when, and what came of it."""

    network: str
    mode: str
    dtype: str
    batch: str
    device: str
    predicted: str
    launches: str
    least: str
    measured: str = NOT_MEASURED
    outcome: str = ""

    @property
    def case(self) -> tuple[str, ...]:
        return (self.network, self.mode, self.dtype, self.batch, self.device)


def read(text: str) -> list[Line]:
    """The lines of a log's first table."""
    table = text.partition(BY_HAND)[0].splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table if row.startswith("|")]
    return [Line(*row) for row in rows[2:]]


def write(lines: Iterable[Line]) -> str:
    rows = [COLUMNS, tuple("---" if i < 6 else "---:" for i in range(len(COLUMNS))), *map(astuple, lines)]
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def by_hand(text: str) -> str:
    """What stands below a log's first table: predictions of simulated times, which people write."""
    _, heading, rest = text.partition(BY_HAND)
    return heading + rest


def merged(lines: list[Line], fresh: Iterable[Line]) -> list[Line]:
    """The log with new predictions, each after the older ones of its case."""
    for new in fresh:
        last = max((i for i, line in enumerate(lines) if line.case == new.case), default=None)
        if last is None:
            lines = [*lines, new]
        elif (lines[last].launches, lines[last].least) != (new.launches, new.least):
            lines = [*lines[: last + 1], new, *lines[last + 1 :]]
    return lines


def with_outcomes(lines: list[Line], found: Mapping[str, Any]) -> list[Line]:
    """The log with what a session measured, beside the last prediction of each case."""
    for case in found.get("cases", []):
        times = {c["name"]: c["milliseconds"] for c in case.get("contenders", []) if "milliseconds" in c}
        measured = times.get("tricnn fused, CUDA graph", times.get("tricnn fused"))
        if measured is None or found.get("rehearsal"):
            continue
        key = tuple(str(case[name]) for name in ("network", "mode", "dtype", "batch"))
        for i in reversed(range(len(lines))):
            if lines[i].case[:4] == key:
                ratio = measured / float(lines[i].least) if float(lines[i].least) else float("nan")
                note = f"{ratio:.2f}x the least, {found.get('device')}, {found.get('date', '')[:8]}"
                lines = [*lines[:i], replace(lines[i], measured=f"{measured:.4f}", outcome=note), *lines[i + 1 :]]
                break
    return lines


def predictions(networks: Iterable[str], target: str) -> Iterable[Line]:
    from tricnn.machine.machines import machine_of

    today = datetime.now(UTC).strftime("%Y-%m-%d")
    for network in networks:
        for mode, batch in WORK:
            fused = predicted(network, mode, DTYPE, batch, target)["fused"]
            yield Line(
                network, mode, DTYPE, str(batch), machine_of(target).name, today, str(fused["launches"]),
                f"{fused['least_milliseconds']:.4f}",
            )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS.json", help="files of a session on a GPU")
    parser.add_argument("--only", metavar="NETWORK", help="predict only this one anew")
    parser.add_argument("--log", type=Path, default=LOG, metavar="FILE", help="the log (benchmarks/predictions.md)")
    options = parser.parse_args()
    if options.only is not None and options.only not in NETWORKS:
        print(f"unknown network {options.only!r}; accepted: {', '.join(NETWORKS)}", file=sys.stderr)
        return 2
    log = options.log.read_text() if options.log.exists() else ""
    lines = read(log)
    lines = merged(lines, predictions([options.only] if options.only else NETWORKS, "sm_90"))
    cases = [(network, mode, DTYPE, str(batch)) for network in NETWORKS for mode, batch in WORK]
    order = {case: number for number, case in enumerate(cases)}
    lines.sort(key=lambda line: order.get(line.case[:4], len(order)))
    for path in options.results:
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError("a JSON object was expected")
            lines = with_outcomes(lines, found)
        except (OSError, ValueError) as error:
            print(f"{path}: not the results of a session: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    options.log.write_text(write(lines) + by_hand(log))
    open_ = sum(line.measured == NOT_MEASURED for line in lines)
    print(f"{plural(len(lines), 'prediction')} in {options.log}, {open_} of them not measured")
    return 0


if __name__ == "__main__":
    sys.exit(main())
