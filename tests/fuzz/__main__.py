"""Run cases: ``python -m tests.fuzz SEED`` one, in full; ``python -m tests.fuzz --count 1000`` many.

A network of one's own, such as a smaller one that still fails, goes in the place of a seed's by ``--graph FILE``.
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

from tests.fuzz.cases import Case, case_of, verdict
from tricnn.ir import from_text
from tricnn.run.triton_executor import TritonExecutor


def judged(case: Case) -> tuple[str, list[str]]:
    """The verdict; an exception is one as well."""
    try:
        return verdict(case)
    except Exception:
        return "differs", traceback.format_exc(limit=-6).splitlines()


def report(case: Case, kind: str, found: list[str]) -> str:
    """A case that anybody can run again: its network as text, and the command."""
    return "\n".join([f"{case}: {kind}", *(f"  {line}" for line in found), str(case.graph).rstrip(), case.command, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=0, help="of the case, or of the first one")
    parser.add_argument("--count", type=int, default=1, help="how many, one after another")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--executor", choices=("numpy", "triton", "eager"), default="numpy")
    parser.add_argument("--graph", type=Path, help="a text graph, in the place of the seed's network")
    given = parser.parse_args()
    TritonExecutor.poisons = torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    graph = from_text(given.graph.read_text()) if given.graph else None
    kinds: Counter[str] = Counter()
    start = time.monotonic()
    for seed in range(given.seed, given.seed + given.count):
        if time.monotonic() - start > given.seconds:
            break
        case = case_of(seed, given.executor, graph)
        kind, found = judged(case)
        kinds[kind] += 1
        if found or given.count == 1:
            print(report(case, kind, found), flush=True)
        if kinds.total() % 100 == 0:
            print(f"# {kinds.total()} cases, {time.monotonic() - start:.0f} s: {dict(kinds)}", flush=True)
    print(
        f"{given.executor}, from {given.seed}: {kinds.total()} cases in {time.monotonic() - start:.0f} s: {dict(kinds)}"
    )
    return 1 if kinds["differs"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
