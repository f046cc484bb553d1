"""One case of the GPU session (gpu_suite.py), in a process of its own: verify, time, profile or tune one network.

    python -m benchmarks.gpu_case --case JSON --part FILE [--rehearse]

What it has found so far is in FILE at any time, so whoever started it loses nothing when it hangs or dies.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from functools import partial
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.kernel_profile import profile
from benchmarks.part import Case, Part, declared

HERE = Path(__file__).resolve().parent
NEEDED = ("torch", "triton", "numpy", "networkx", "rich", "safetensors")


def run_case(case: Case, part: Part, rehearse: bool) -> None:
    part.write(about=about(rehearse))
    kinds = {"verify": verify, "bench": bench, "warm": warm, "profile": profile, "tune": tune, "pytest": run_pytest}
    {**kinds, "fail": fail, "hang": hang}[case["kind"]](case, part, rehearse)


def about(rehearse: bool) -> dict[str, Any]:
    import torch

    versions = {"python": platform.python_version()}
    for package in NEEDED:
        versions[package] = metadata.version(package)
    found: dict[str, Any] = {"versions": versions, "device": platform.processor() or "CPU"}
    if not rehearse:
        if not torch.cuda.is_available():
            raise SystemExit("no GPU that this PyTorch build supports; --rehearse runs on the CPU")
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        found |= {"capability": list(torch.cuda.get_device_capability(0)), "driver": driver()}
    return found


def driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def verify(case: Case, part: Part, rehearse: bool) -> None:
    from tricnn.check.verify import verify as check_all

    graph = declared(case["network"], small=True)
    total, worst, wrong = 0, 0.0, []
    seed = 0
    for dtype in case["dtypes"]:
        for batch in case["batches"]:
            seed += 1
            for fuse in (True, False) if batch == case["batches"][0] and not rehearse else (True,):
                checks = check_all(graph, mode=case["mode"], batch=batch, dtype=dtype, seed=seed, fuse=fuse)
                total += len(checks)
                worst = max([worst, *(c.error / c.tolerance for c in checks if c.ok and c.tolerance)])
                wrong += [
                    f"{dtype}, batch {batch}, {'fused' if fuse else 'unfused'}: {c.kernel} {c.value}: error "
                    f"{c.error:.3g}, accepted {c.tolerance:.3g}"
                    for c in checks if not c.ok
                ]  # fmt: skip
            part.write(checks=total, worst=worst, wrong=wrong[:20], status="failed" if wrong else "passed")
    if wrong:
        part.write(error="\n".join(wrong[:5]))


def bench(case: Case, part: Part, rehearse: bool) -> None:
    """Every contender that is not known yet (an earlier process of this case may have ended after some)."""
    from tricnn.measure.contest import BASELINE, CONTENDERS, Contest

    rows: list[dict[str, Any]] = part.found.get("contenders", [])
    known = {row["name"] for row in rows}
    beside = not any(row["name"] == BASELINE and "error" in row for row in rows)  # it may have ended that process
    if beside:
        part.write(contenders=rows, doing=BASELINE)
    graph = declared(case["network"], rehearse)
    contest = Contest(graph, case["mode"], case["batch"], case["dtype"], rehearse, beside=beside)
    if BASELINE not in known:
        rows.append(contest.first)
    for name in case.get("contenders", CONTENDERS):
        if name not in known:
            part.write(contenders=rows, doing=name)
            rows.append(contest.row(name))
    part.found.pop("doing", None)
    failed = [row for row in rows if "error" in row and row["name"].startswith("tricnn")]
    if failed:
        part.write(error=f"{failed[0]['name']}: {failed[0]['error'][-300:]}")
    part.write(contenders=rows, status="failed" if failed else "passed")


def warm(case: Case, part: Part, rehearse: bool) -> None:
    """Compile the kernels, fused and unfused, on all cores: the cache on disk then has them."""
    import tricnn

    graph = declared(case["network"], rehearse)
    for fuse in (True, False):
        model = tricnn.compile(graph, case["mode"], case["batch"], case["dtype"], "triton", fuse=fuse)
        compiled = part.found.get("compiled", 0) + len(model.program.functions)
        part.write(status="passed", compiled=compiled)


def tune(case: Case, part: Part, rehearse: bool) -> None:
    """What `tricnn tune` does, for a share of the case's time; the file it would write is among what is found."""
    import tricnn
    from tricnn.build.compile import compile_kernels
    from tricnn.cli.screen import Screen
    from tricnn.cli.tune_command import tuned
    from tricnn.lower.from_graph import lowered
    from tricnn.machine import tuned_files as tuning
    from tricnn.measure.clock import CudaClock, wall_clock
    from tricnn.measure.tune import sites
    from tricnn.run.model import device_target

    graph, target = declared(case["network"], rehearse), device_target()
    how = case["mode"], case["batch"], case["dtype"]
    make = partial(tricnn.compile, graph, *how, "triton", target)
    compiler: Any = partial(compile_kernels, target=target, return_errors=True)
    if rehearse:
        compiler = partial(map, lambda spec: SimpleNamespace(spill_bytes=0, hazards=0))
    with tuning.only({}):
        wanted = sites(lowered(graph, *how, target, fuse=True))[: 1 if rehearse else None]
    out = part.path.with_suffix(".toml")
    found = tuned(
        make, wall_clock if rehearse else CudaClock(), compiler, part.found["about"]["device"], wanted,
        case["limit"] / 2, out, {}, Screen(True),
    )  # fmt: skip
    file = out.read_text() if out.exists() else ""
    part.write(tuned=found["problems"], file=file, status="passed")


def run_pytest(case: Case, part: Part, rehearse: bool) -> None:
    if util.find_spec("pytest") is None:
        part.write(status="passed", skipped="pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    status = subprocess.run(command, cwd=HERE.parent).returncode
    part.write(status="passed" if status == 0 else "failed", pytest_status=status)


def fail(case: Case, part: Part, rehearse: bool) -> None:
    raise RuntimeError("this failure was asked for")


def hang(case: Case, part: Part, rehearse: bool) -> None:
    time.sleep(3600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", required=True, help="what to do, as gpu_suite.py has it")
    parser.add_argument("--part", required=True, help="the file for what is found")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, under Triton's interpreter")
    options = parser.parse_args()
    run_case(json.loads(options.case), Part(options.part), options.rehearse)


if __name__ == "__main__":
    main()
