"""Every launch of a network by itself: where a step's time goes, how near each kernel is to the device's limits, and
what cuDNN (through ATen, channels-last, its fastest algorithm) needs for the same convolution."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from benchmarks.part import Case, Part, declared
from tricnn.cli.contest import Ours, fatal, in_turns


def profile(case: Case, part: Part, rehearse: bool) -> None:
    from tricnn.codegen.candidates import CONTRACTIONS
    from tricnn.compiler.machines import least_us

    ours = Ours(declared(case["network"], rehearse), case["mode"], case["batch"], case["dtype"])
    ours.step()
    rows: list[dict[str, Any]] = []
    library: dict[str, Any] = {}
    for launch in ours.program.launches:
        (samples,) = in_turns([partial(ours.launch, launch)], rehearse, 0.05)
        median = statistics.median(samples)
        moved, flops = ours.program.launch_bytes(launch, ours.batch), launch.flops * ours.batch
        products = flops if launch.kind in CONTRACTIONS else 0
        least = least_us(ours.model.target, case["dtype"], moved, products) / 1e3
        row = {
            "name": launch.function, "kind": launch.kind, "layers": list(launch.layers), "milliseconds": median,
            "dram_bytes": moved, "flops": flops, "gigabytes_per_second": moved / median * 1e-6,
            "teraflops": flops / median * 1e-9, "least_milliseconds": least, "share_of_limit": least / median,
        }  # fmt: skip
        if launch.kind in CONTRACTIONS:
            problem = next(str(c.problem) for c in ours.program.choices if c.kernel == launch.kernel)
            if problem not in library:
                library[problem] = cudnn(ours, launch, case["dtype"], rehearse)
            row |= library[problem]
        rows.append(row)
        total = sum(r["milliseconds"] for r in rows)
        for one in rows:
            one["percent"] = 100 * one["milliseconds"] / total
        part.write(kernels=sorted(rows, key=lambda r: -r["milliseconds"]))
    part.write(status="passed")


def cudnn(ours: Ours, launch: Any, dtype: str, rehearse: bool) -> dict[str, Any]:
    """Milliseconds of the contraction of a launch as the library does it, without what is fused with it; or why not."""
    import torch

    from tricnn.cli.pytorch_network import REAL
    from tricnn.ir import OPS, Environment

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
            (samples,) = in_turns([work], rehearse, 0.05)
        return {"cudnn_milliseconds": statistics.median(samples)}
    except Exception as error:
        if fatal(error):
            raise
        return {"cudnn_error": f"{type(error).__name__}: {str(error)[:100]}"}
