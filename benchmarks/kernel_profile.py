"""Every launch of a network by itself: where a step's time goes, how near each kernel is to the device's limits, and
what cuDNN (through ATen, channels-last, its fastest algorithm) needs for the same convolution.

Where fusion is off (``fuse`` of the case is False) only convolutions and dense layers are timed: kernel against kernel,
with nothing fused on either side. A launch is timed within a CUDA graph that repeats it, ours and the library's alike,
so that no time of Python's is counted; its operands are where the launch before left them, in the cache if they fit.
With fusion off a weight gradient's time has the sums that finish it; else those are launches of their own.
"""

from __future__ import annotations

import statistics
from functools import partial
from math import exp, log
from typing import Any

from benchmarks.part import Case, Part, declared
from tricnn.ir import OPS
from tricnn.measure.contest import Ours, Work, captured, fatal, in_turns

REPEATS = 10
#: launches that multiply, by what they are called beside cuDNN
PRODUCTS = {"forward": "fprop", "by_input": "dgrad", "by_weight": "wgrad"}
PASSES = {name: PRODUCTS[row.product] for name, row in OPS.items() if row.product}


def profile(case: Case, part: Part, rehearse: bool) -> None:
    from tricnn.lower.predicted_time import least_us

    fuse, device = case.get("fuse", True), part.found.get("about", {}).get("device", "")
    ours = Ours(declared(case["network"], rehearse), case["mode"], case["batch"], case["dtype"], fuse)
    ours.step()

    def least(launch: Any) -> float:
        return least_us(ours.program, launch, ours.batch, device) / 1e3

    rows: list[dict[str, Any]] = []
    library: dict[str, Any] = {}
    wanted = [launch for launch in ours.program.launches if fuse or launch.kind in PASSES]
    for launch in sorted(wanted, key=least, reverse=True):  # if time is short, the long ones are known
        sums = [s for s in ours.program.launches if not fuse and s.kernel == launch.kernel and s.kind == "split_sum"]
        median = milliseconds(partial(all_of, [ours.launch(each) for each in (launch, *sums)]), rehearse)
        moved, flops = ours.program.launch_bytes(launch, ours.batch), launch.flops * ours.batch
        row = {
            "name": launch.function, "kind": launch.kind, "layers": list(launch.layers), "milliseconds": median,
            "dram_bytes": moved, "flops": flops, "gigabytes_per_second": moved / median * 1e-6,
            "teraflops": flops / median * 1e-9, "least_milliseconds": least(launch),
            "share_of_limit": least(launch) / median,
        }  # fmt: skip
        if launch.kind in PASSES:
            problem = next(str(c.problem) for c in ours.program.choices if c.kernel == launch.kernel)
            if problem not in library:
                library[problem] = {"problem": problem, **cudnn(ours, launch, case["dtype"], rehearse)}
            row |= library[problem]
        rows.append(row)
        total = sum(r["milliseconds"] for r in rows)
        for one in rows:
            one["percent"] = 100 * one["milliseconds"] / total
        part.write(kernels=sorted(rows, key=lambda r: -r["milliseconds"]), against_cudnn=against_cudnn(rows))
    part.write(status="passed")


def all_of(works: list[Work]) -> None:
    for work in works:
        work()


def against_cudnn(rows: list[dict[str, Any]]) -> dict[str, float]:
    """cuDNN's time over ours, the geometric mean over the problems: of each pass, and of all."""
    times: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if "cudnn_milliseconds" in row:
            of = times.setdefault((PASSES[row["kind"]], row["problem"]), [])
            of.append(row["cudnn_milliseconds"] / row["milliseconds"])
    found = {}
    for name in ("fprop", "dgrad", "wgrad", "all"):
        logs = [log(statistics.fmean(ratios)) for (which, _), ratios in times.items() if name in (which, "all")]
        if logs:
            found[name] = exp(statistics.fmean(logs))
    return found


def milliseconds(work: Work, rehearse: bool) -> float:
    """What one call takes, the median, without the time that Python takes to make it."""

    def repeated() -> None:
        for _ in range(1 if rehearse else REPEATS):
            work()

    try:
        timed, calls = captured(repeated, rehearse), 1 if rehearse else REPEATS
    except Exception as error:
        if fatal(error):
            raise
        timed, calls = work, 1
    (samples,) = in_turns([timed], rehearse, 0.05)
    return statistics.median(samples) / calls


def cudnn(ours: Ours, launch: Any, dtype: str, rehearse: bool) -> dict[str, Any]:
    """Milliseconds of the contraction of a launch as the library does it, without what is fused with it; or why not."""
    import torch

    from tricnn.ir import Environment
    from tricnn.measure.pytorch_network import REAL

    plan = ours.model.plan
    node = next(k.anchor for k in plan.kernels if k.name == launch.kernel)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    device = "cpu" if rehearse else "cuda"

    def operand(value: str) -> Any:
        made = torch.randn(plan.type(value).at(ours.batch), device=device).to(REAL[dtype])
        return made.to(memory_format=torch.channels_last) if made.dim() == 4 else made

    try:
        operands = [operand(value) for value in node.inputs[:2]]
        with torch.no_grad():
            work = partial(OPS[node.op].aten, Environment(), node.attrs, *operands)
            return {"cudnn_milliseconds": milliseconds(work, rehearse)}
    except Exception as error:
        if fatal(error):
            raise
        return {"cudnn_error": f"{type(error).__name__}: {str(error)[:100]}"}
