"""What is known of every network's kernels without running them, recorded, and two such records compared:

    python -m benchmarks.static_figures record FILE [--networks resnet18,lenet] [--targets sm_90,sm_80] ...
    python -m benchmarks.static_figures compare OLD NEW

A record has one JSON object a line, for each network, mode, policy and target: launches, dram_bytes, flops and
peak_memory_bytes of the plan, and the sha256 of the emitted file. What a file has already is not computed again, so an
interrupted record goes on; a network that cannot be lowered has its error on its line. A change that is meant to change
no kernel leaves every sha256; no change should make a figure larger. ``compare`` names what is worse, better, and
emitted otherwise, and exits with 1 if anything is worse or failed.

benchmarks/static_figures.jsonl is a short record, without sha256, to which a test holds every change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tricnn.cli.arguments import whole
from tricnn.graphs import ARCHITECTURES
from tricnn.ir import TricnnError
from tricnn.machine.targets import parse_target

#: smaller is better
FIGURES = ("launches", "dram_bytes", "peak_memory_bytes")
MODES = ("infer", "train")
POLICIES = ("auto", "all", "epilogue", "none")

Case = tuple[str, str, str, str]
Record = Mapping[Case, Mapping[str, Any]]


def figures_of(case: Case, batch: int, dtype: str, text: bool = True) -> dict[str, Any]:
    """The figures of one network, mode, policy and target; with ``text``, the sha256 of the emitted file, too.
    Tiles are the rules': a file of tuned ones changes no figure."""
    from tricnn.emit.emit import emit
    from tricnn.lower.from_graph import lowered, static_figures
    from tricnn.machine import tuned_files

    network, mode, policy, target = case
    with tuned_files.only({}):
        program = lowered(ARCHITECTURES[network](), mode, batch, dtype, target, fuse=policy)
    found: dict[str, Any] = {**static_figures(program)}
    return {**found, "sha256": hashlib.sha256(emit(program).encode()).hexdigest()} if text else found


def record(cases: Sequence[Case], path: Path, batch: int, dtype: str, text: bool, tell: Callable[[str], None]) -> None:
    """Write a line for each case that the file does not have yet."""
    known = read(path) if path.exists() else {}
    missing = [case for case in cases if case not in known]
    with path.open("a", encoding="utf-8") as file:
        for number, case in enumerate(missing, 1):
            tell(f"{number}/{len(missing)} {' '.join(case)}")
            try:
                found = figures_of(case, batch, dtype, text)
            except TricnnError as error:
                found = {"error": str(error)}
            file.write(json.dumps({"case": case, "batch": batch, "dtype": dtype, **found}) + "\n")
            file.flush()


def read(path: Path) -> Record:
    """The lines of a record, by case. Raises ValueError, naming the line, for one that is none."""
    lines: dict[Case, Mapping[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found = json.loads(line)
            network, mode, policy, target = found["case"]
            if "error" not in found:
                _ = [int(found[figure]) for figure in FIGURES]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: line {number} is not one that `record` writes") from None
        lines[network, mode, policy, target] = found
    return lines


def compare(old: Record, new: Record) -> Iterator[tuple[str, Case, str]]:
    """(verdict, case, what changed) for each case of both records where anything changed: ``worse``, ``better``,
    ``failed``, or ``source`` where only the emitted file did; a case with larger and smaller figures is worse."""
    for case, after in new.items():
        before = old.get(case)
        if before is None:
            continue
        if "error" in after and "error" not in before:
            yield "failed", case, after["error"]
            continue
        if "error" in before or "error" in after:
            continue
        changed = [name for name in FIGURES if after[name] != before[name]]
        said = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in changed)
        if changed:
            yield "worse" if any(after[n] > before[n] for n in changed) else "better", case, said
        elif before.get("sha256", after.get("sha256")) != after.get("sha256", before.get("sha256")):
            yield "source", case, "emitted otherwise"


def compared(old: Path, new: Path) -> int:
    """Print what changed from one record to another; the exit status."""
    before, after = read(old), read(new)
    counts = dict.fromkeys(("worse", "failed", "better", "source"), 0)
    for verdict, case, said in compare(before, after):
        counts[verdict] += 1
        print(f"{verdict:7} {' '.join(case)}: {said}")
    common = len(before.keys() & after.keys())
    print(
        f"{common} cases in both: {counts['worse']} worse, {counts['failed']} failed, {counts['better']} better, "
        f"{counts['source']} emitted otherwise with the same figures"
    )
    return 1 if counts["worse"] or counts["failed"] or not common else 0


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them, each of which must be known."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; accepted: {', '.join(known)}")
        return names

    return parse


def targets(text: str) -> list[str]:
    """Targets with commas between them, by their canonical names."""
    try:
        return [parse_target(name).name for name in text.split(",")]
    except TricnnError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def status_of(work: Callable[[], int]) -> int:
    """What ``work`` returns, or 2 where a file cannot be read, written or understood, which is said in one line."""
    try:
        return work()
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    except ValueError as error:
        print(error, file=sys.stderr)
    return 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="write a line for every network, mode, policy and target")
    recording.add_argument("file", type=Path, metavar="FILE")
    for name, known in (("networks", tuple(ARCHITECTURES)), ("modes", MODES), ("policies", POLICIES)):
        recording.add_argument(f"--{name}", type=some_of(known), default=list(known), metavar="A,B", help="(all)")
    recording.add_argument("--targets", type=targets, default=["sm_90", "sm_80"], metavar="A,B", help="(sm_90,sm_80)")
    recording.add_argument("--batch", type=whole(1), default=256, help="(256)")
    recording.add_argument("--dtype", choices=("bf16", "fp16", "tf32", "fp32"), default="bf16", help="(bf16)")
    recording.add_argument("--no-text", action="store_true", help="leave the sha256 of the emitted files out")
    comparing = commands.add_parser("compare", help="say what is worse, better, or emitted otherwise")
    comparing.add_argument("old", type=Path, metavar="OLD")
    comparing.add_argument("new", type=Path, metavar="NEW")
    options = parser.parse_args()

    def work() -> int:
        if options.command == "compare":
            return compared(options.old, options.new)
        cases = list(product(options.networks, options.modes, options.policies, options.targets))
        tell = partial(print, file=sys.stderr)
        record(cases, options.file, options.batch, options.dtype, not options.no_text, tell)
        return 0

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
