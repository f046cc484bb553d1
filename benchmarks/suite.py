"""How fast it is beside PyTorch: python -m benchmarks.suite [--rehearse] [--budget SECONDS] [--out DIR]   (make bench)

On a CUDA GPU: the networks of the lecture, training at batch 64 and 256 and inference at 1, 32 and 256, in bf16, each
held to PyTorch's result and then timed in turns with it; and every kernel of ResNet-50 beside its limit and cuDNN. The
most important come first, within a budget (540 s). A case is a process of its own: one that fails, hangs or runs out
of memory is reported, the rest go on. JSON, Markdown and plots are in --out ($OUT, or benchmarks/results), written
anew after every case.

Without a GPU it says so, and writes what is known without one: exact launches, bytes and operations, and the time
that is predicted from them (tricnn/compiler/cost.py) for one GPU of tricnn/machine/machines.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Any

from benchmarks.gpu_case import NEEDED
from benchmarks.gpu_suite import Session, commit, refusal, results_folder, timed_case, verify_case, warm_case
from benchmarks.part import Case
from tricnn.measure.contest import CONTENDERS, SLOW_TO_START

DTYPE = "bf16"
#: in order of importance
NETWORKS = ("resnet50", "resnet18", "vgg16_bn", "inception_v3", "googlenet_bn", "lenet", "alexnet", "vgg16")
WORK = (("train", 256), ("train", 64), ("infer", 256), ("infer", 32), ("infer", 1))


def the_cases(rehearse: bool) -> list[Case]:
    """What is timed, most important first."""
    return list(_rehearsal() if rehearse else _session())


def _session() -> Iterator[Case]:
    first = ("resnet50", "train", DTYPE, 256)
    yield verify_case("resnet50", "train", (DTYPE,), (3,))
    yield warm_case(*first)
    yield timed_case("bench", *first, 150)
    yield timed_case("profile", *first, 60, fuse=False)
    yield timed_case("profile", *first, 60)
    yield warm_case("resnet50", "infer", DTYPE, 256)
    yield timed_case("bench", "resnet50", "infer", DTYPE, 256, 150, contenders=(*CONTENDERS, *SLOW_TO_START))
    for mode, batch in (("infer", 1), ("train", 64), ("infer", 32)):
        yield timed_case("bench", "resnet50", mode, DTYPE, batch, 100)
    for mode, batch in WORK:
        for network in NETWORKS[1:]:
            yield timed_case("bench", network, mode, DTYPE, batch, 100)
    # It tries hundreds of kernels before it runs: minutes for one network
    for network in ("lenet", "resnet50"):
        yield timed_case("bench", network, "train", DTYPE, 256, 300, contenders=SLOW_TO_START)


def _rehearsal() -> Iterator[Case]:
    everything = ("tricnn fused", "tricnn fused, CUDA graph", "torch.compile", "tricnn unfused",
                  "torch.compile max-autotune")  # fmt: skip
    yield timed_case("bench", "rehearsal", "infer", "fp32", 1, 90, contenders=everything)
    yield timed_case("profile", "rehearsal", "infer", "fp32", 1, 60, fuse=False)
    yield timed_case("profile", "rehearsal", "infer", "fp32", 1, 60)
    yield dict(name="a case that fails", kind="fail", limit=60, expected="failed")
    yield timed_case("bench", "rehearsal", "train", DTYPE, 1, 90)


def without_a_gpu(out: Path, networks: tuple[str, ...] = NETWORKS) -> int:
    """The exact figures and the predicted times, as a table, JSON, Markdown and a plot."""
    from benchmarks.pages import write_pages
    from tricnn.cli.screen import Screen
    from tricnn.machine.machines import machine_of
    from tricnn.report import tables

    screen, target = Screen(False), "sm_90"
    screen.show(
        "There is no GPU here, so nothing is timed. Launches, bytes and operations are exact; the time, on one "
        f"{machine_of(target).name}, is predicted from them."
    )
    found: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y%m%d-%H%M%S"), "commit": commit(), "device": "none", "target": target,
        "predictions": [],
    }  # fmt: skip
    path = out / "predicted.json"
    for network in networks:
        for mode, batch in WORK:
            found["predictions"].append(predicted(network, mode, DTYPE, batch, target))
        write_pages(found, path)
    screen.show(tables.predictions(found["predictions"]), f"in {out}: predicted.json, predicted.md, plots")
    return 0


def predicted(network: str, mode: str, dtype: str, batch: int, target: str) -> dict[str, Any]:
    """One network's static figures, fused and unfused, with the predicted time of each of its kernels; and the least
    time that bytes and operations alone allow, to which the log of predictions holds measured ones."""
    from benchmarks.part import declared
    from tricnn.lower.from_graph import lowered, static_figures
    from tricnn.lower.predicted_time import least_us, microseconds, predicted_seconds
    from tricnn.report.kernel_times import predicted_kernels

    row: dict[str, Any] = {"network": network, "mode": mode, "dtype": dtype, "batch": batch, "target": target}
    for name, fuse in (("fused", True), ("unfused", False)):
        program = lowered(declared(network, small=False), mode, batch, dtype, target, fuse=fuse)
        row[name] = {
            **static_figures(program), "predicted_us": microseconds(predicted_seconds(program)),
            "least_milliseconds": sum(least_us(program, launch) for launch in program.launches) / 1e3,
        }  # fmt: skip
        if fuse:
            row["kernels"] = predicted_kernels(program)
    return row


def gpu_there() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, under Triton's interpreter")
    parser.add_argument("--budget", type=float, help="seconds in all (540; 240 to rehearse)")
    parser.add_argument("--out", metavar="DIR", help="where results go ($OUT, or benchmarks/results)")
    parser.add_argument("--jobs", type=int, default=8, help="untimed cases at once (8)")
    parser.add_argument("--only", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    options = parser.parse_args()
    missing = [package for package in NEEDED if util.find_spec(package) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; try: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    cases = [c for c in the_cases(options.rehearse) if not options.only or options.only in c["name"]]
    if options.list:
        print("\n".join(c["name"] for c in cases))
        return 0
    out = results_folder(options)
    if wrong := refusal(options, cases, out):
        print(wrong, file=sys.stderr)
        return 2
    if not options.rehearse and not gpu_there():
        return without_a_gpu(out, tuple(n for n in NETWORKS if any(c.get("network") == n for c in cases)))
    from benchmarks.pages import write_pages

    options.budget = options.budget or (240.0 if options.rehearse else 540.0)
    return Session(options, cases, "bench", write_pages).run()


if __name__ == "__main__":
    sys.exit(main())
