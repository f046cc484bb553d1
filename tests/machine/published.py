"""Simulated beside published rates of Triton kernels on an H100: `python -m tests.machine.published [--fit]`.

The kernels of published_kernels.py are compiled by the Triton at hand, the published ones were by that of their day.
``fitted`` points chose the parameters of :data:`GRID`; the others say how large the error is (docs/simulator.md).
"""

import argparse
import itertools
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tricnn.build.compile import KernelSpec, SourceName, compile_kernels
from tricnn.machine.simulator import Hopper, Traced, simulate, traced
from tricnn.measure.simulate import How, launch_of

SOURCE = Path(__file__).with_name("published_kernels.py").read_text()
BM, BN = 128, 256
#: shares of loads that L2 serves, as tutorial 07 prints them of its profiler
HITS, HITS_PERSISTENT = 0.89, 0.86


@dataclass(frozen=True)
class Form:
    """One way to compile and launch a kernel; ``work``: 10**12 operations, or bytes, of a launch."""

    spec: KernelSpec
    how: How
    work: float


@dataclass(frozen=True)
class Point:
    """A published rate, in 10**12 operations or bytes a second, and the forms of the kernel of which the best counts,
    as for an autotuner. ``memory``: the published GPU's TB/s."""

    name: str
    published: float
    source: str
    fitted: bool
    kind: str
    arguments: tuple
    memory: float = 3.35

    @property
    def forms(self) -> list[Form]:
        return {"product": product, "attention": attention, "copy": copy}[self.kind](*self.arguments)


def product(kernel: str, size: int, k: int, element: str = "fp16", bk: int = 64, stages: int = 3) -> list[Form]:
    """size x size x k, in tiles of 128 x 256 x bk."""
    narrow = element != "fp16"
    a, c = f"tensordesc<{element}[{BM}, {bk}]>", f"tensordesc<{element}[{BM}, {BN}]>"
    b = f"tensordesc<{element}[{BN}, {bk}]>" if narrow else f"tensordesc<{element}[{bk}, {BN}]>"
    constants: dict[str, object] = {"BM": BM, "BN": BN, "BK": bk}
    tiles, numbers = (size // BM) * (size // BN), {"M": size, "N": size, "K": k}
    grid = (tiles, 1, 1)
    if kernel == "product":
        numbers, grid = {"K": k}, (size // BM, size // BN, 1)
    elif kernel == "persistent_product":
        constants["SIDEWAYS"], grid = narrow, (132, 1, 1)
    else:
        a = b = c = f"*{element}"
        constants |= numbers
        numbers = {}
        constants["T"] = SourceName("tl.float8e4nv" if narrow else "tl.float16")
    signature = {"a": a, "b": b, "c": c, **dict.fromkeys(numbers, "i32")}
    missed = 1 - (HITS_PERSISTENT if kernel == "persistent_product" else HITS)
    read = missed * tiles * k * (BM + BN) * (1 if narrow else 2)
    spec = KernelSpec(kernel, SOURCE, signature, constants, 8, stages)
    return [Form(spec, How(grid, signature, numbers, read), 2 * size * size * k / 1e12)]


def attention(length: int, d: int, heads: int = 128) -> list[Form]:
    found = []
    for bm, bn, warps, stages in ((128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3), (128, 64, 4, 3)):
        q, k = f"tensordesc<fp16[{bm}, {d}]>", f"tensordesc<fp16[{bn}, {d}]>"
        signature = {"q": q, "k": k, "v": k, "o": q, "scale": "fp32", "L": "i32"}
        spec = KernelSpec("attention", SOURCE, signature, {"BM": bm, "BN": bn, "D": d}, warps, stages)
        how = How((length // bm, heads, 1), signature, {"L": length}, 3.0 * heads * length * d * 2)
        found.append(Form(spec, how, 4 * heads * length * length * d / 1e12))
    return found


def copy(element: str, rows: int, columns: int, block_rows: int, warps: int) -> list[Form]:
    size = {"fp32": 4, "bf16": 2}[element]
    signature = {"x": f"*{element}", "y": f"*{element}"}
    constants = {"COLUMNS": columns, "ROWS": block_rows, "BLOCK": 512}
    spec = KernelSpec("copy_rows", SOURCE, signature, constants, warps, 1)
    grid = (rows // block_rows, math.ceil(columns / 512), 1)
    how = How(grid, signature, {}, float(rows * columns * size))
    return [Form(spec, how, 2 * rows * columns * size / 1e12)]


T07 = "triton, python/tutorials/gluon/07-persistence.py, Hopper"
P5461, P3546 = "triton PR 5461", "triton PR 3546"
R4634, R4637 = "meta-pytorch/torchrec PR 4634, H100 PCIe", "meta-pytorch/torchrec PR 4637, H100 PCIe"
X205 = "facebookexperimental/triton PR 205, tutorial 06"
FP8 = ("fp8e4nv", 128)


def _products(kernel: str, label: str, rates: dict[int, float], fitted: tuple[int, ...]) -> list[Point]:
    return [
        Point(f"{label} fp16, K = {k}", rate, T07, k in fitted, "product", (kernel, 8192, k))
        for k, rate in rates.items()
    ]


POINTS = [
    *_products("product", "product", {512: 491.74, 1024: 554.24, 2048: 573.87, 4096: 609.36, 8192: 629.44,
                                      16384: 653.79}, (512, 2048, 16384)),
    *_products("persistent_product", "persistent product", {512: 539.88, 1024: 602.52, 2048: 625.91, 4096: 640.48,
                                                            8192: 661.57, 16384: 670.00}, (2048,)),
    Point("product fp16, 2 stages of 128", 489.26, T07, False, "product", ("product", 8192, 16384, "fp16", 128, 2)),
    Point("product by threads fp8, K = 4096", 1208.86, P5461, True, "product",
          ("product_by_threads", 8192, 4096, *FP8, 4)),
    Point("product by threads fp8, 3584 cubed", 1279.93, P3546, False, "product",
          ("product_by_threads", 3584, 3584, *FP8, 4)),
    Point("persistent product fp8, K = 4096", 1347.25, P5461, False, "product",
          ("persistent_product", 8192, 4096, *FP8, 3)),
    Point("attention d 128, L = 1024", 406.80, X205, True, "attention", (1024, 128)),
    Point("attention d 128, L = 4096", 459.61, X205, False, "attention", (4096, 128)),
    Point("attention d 128, L = 16384", 486.99, X205, False, "attention", (16384, 128)),
    Point("copy fp32, 2 rows a program", 2.179, R4634, False, "copy", ("fp32", 4096, 32320, 2, 2), 2.4),
    Point("copy bf16, 8 rows a program", 2.109, R4637, False, "copy", ("bf16", 4096, 32320, 8, 2), 2.4),
]  # fmt: skip
#: what is fitted, and what was tried: the fit is coarse on purpose
GRID = {
    "matrix_slowdown": (1.3, 1.375, 1.45, 1.525),
    "l2_bytes_per_clock": (35.0, 38.8, 46.0),
    "copy_clocks": (1.0, 1.5),
}


@cache
def traces(point: Point) -> list[tuple[Traced, float]]:
    """A point's forms, traced, and the work of each."""
    forms = point.forms
    compiled = compile_kernels([form.spec for form in forms], "sm_90", return_errors=False)
    return [
        (traced(launch_of(code.binary, form.how, code.num_warps, code.registers, code.shared_bytes)), form.work)
        for form, code in zip(forms, compiled, strict=True)
        if code.spill_bytes == 0 or len(forms) == 1
    ]


def rate(point: Point, gpu: Hopper) -> float:
    """The simulated rate of the best form."""
    gpu = gpu.scaled(dram_bytes_per_us=point.memory / 3.35)
    return max(work / simulate(trace, gpu).us * 1e6 for trace, work in traces(point))


def error(pairs: list[tuple[float, float]]) -> float:
    """How far simulated and published rates are apart on average, as a factor less one: exp(mean |log ratio|) - 1."""
    return math.exp(sum(abs(math.log(s / p)) for s, p in pairs) / len(pairs)) - 1


def compared(points: list[Point], gpu: Hopper | None = None) -> list[tuple[float, float]]:
    return [(rate(point, gpu or Hopper()), point.published) for point in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="try every combination of the fitted parameters")
    options = parser.parse_args()
    fitted = [point for point in POINTS if point.fitted]
    if options.fit:
        for values in itertools.product(*GRID.values()):
            chosen = dict(zip(GRID, values, strict=True))
            pairs = compared(fitted, Hopper(**chosen, clocks=40_000))  # a quarter as long: it is a coarse fit
            print(f"{error(pairs):.3f}", chosen, *(f"{s / p:.2f}" for s, p in pairs), flush=True)
        return
    print("| kernel | published | simulated | ratio | | source |\n|---|--:|--:|--:|---|---|")
    pairs = []
    for point in POINTS:
        pairs += compared([point])
        simulated, published = pairs[-1]
        mark = "fitted" if point.fitted else ""
        print(f"| {point.name} | {published:,.4g} | {simulated:,.4g} | {simulated / published:.2f} | {mark} | "
              f"{point.source} |", flush=True)  # fmt: skip
    for flag, words in ((True, "fitted"), (False, "the others")):
        own = [pair for pair, point in zip(pairs, POINTS, strict=True) if point.fitted is flag]
        worst = max(own, key=lambda pair: abs(math.log(pair[0] / pair[1])))
        print(f"{words}: mean error {error(own):.1%} of {len(own)}, at worst a ratio of {worst[0] / worst[1]:.2f}")


if __name__ == "__main__":
    main()
