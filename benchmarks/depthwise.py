"""Depthwise and grouped convolutions against their limits, simulated: python -m benchmarks.depthwise [CASE ...]

Each case is a convolution between the layers that its network has around it, in a training step: its three kernels,
fprop, dgrad and wgrad, with what is fused into them, are compiled for sm_90 and simulated on the model of an H100
(docs/simulator.md). The rest of the step is not compiled, so a case takes seconds. Printed is a Markdown table:
simulated microseconds of a kernel and of the launches that finish its sums, what its bytes would take at 3.0 TB/s (or
its operations at 660 TFLOP/s), and what its warps wait for longest. bf16, batch 256, unless said otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tricnn.build.build import spec
from tricnn.build.compile import CompiledKernel, compile_kernels
from tricnn.cli.arguments import whole
from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.compiler.plan import Kernel
from tricnn.ir import Graph, GraphBuilder
from tricnn.ir.objective import Loss
from tricnn.lower.lower import lower
from tricnn.lower.program import Program
from tricnn.measure.simulate import Row, how_launched, kept

TARGET = "sm_90"
#: the convolution whose kernels are looked at
LAYER = "dw"
#: what a product is called in the table
NAMES = {"forward": "fprop", "by_input": "dgrad", "by_weight": "wgrad"}


@dataclass(frozen=True)
class Case:
    """A convolution of ``channels`` in ``groups`` (0: as many as channels) on an image so wide and high.
    Around it are batch norm and an ``activation``, or, where that is ``layer_norm``, the block of ConvNeXt."""

    network: str
    channels: int
    width: int
    size: int
    stride: int = 1
    activation: str = "relu"
    groups: int = 0

    @property
    def name(self) -> str:
        """What it is called on the command line, such as ``72x56k5s2``; of groups with their number behind."""
        groups = f"g{self.groups}" if self.groups else ""
        return f"{self.channels}x{self.width}k{self.size}s{self.stride}{groups}"

    def graph(self) -> Graph:
        """The layers from the product before it to the one behind it, and a classifier."""
        b = GraphBuilder(f"{self.network}_{self.name}")
        x = b.conv2d(b.input("x", (16, self.width, self.width)), self.channels, 1, bias=False, name="before")
        options = {"padding": self.size // 2, "stride": self.stride, "groups": self.groups or self.channels}
        if self.activation == "layer_norm":
            y = b.layer_norm(b.conv2d(x, self.channels, self.size, name=LAYER, **options), name="norm", eps=1e-6)
            y = b.pixel_linear(b.add("gelu", b.pixel_linear(y, 4 * self.channels, name="wide")), self.channels)
            x = b.add_(b.layer_scale(y, name="scale", init="constant(1e-06)"), x)
        else:
            x = b.add(self.activation, b.batch_norm(x, name="norm1"))
            x = b.batch_norm(b.conv2d(x, self.channels, self.size, bias=False, name=LAYER, **options), name="norm2")
            x = b.conv2d(b.add(self.activation, x), 16, 1, bias=False, name="behind")
            x = b.batch_norm(x, name="norm3")
        return b.build(b.linear(b.global_avg_pool(x), 10, name="head"))


V3, V2, NEXT = "mobilenet_v3_large", "mobilenet_v2", "convnext_tiny"
CASES = (
    Case(V3, 16, 112, 3),
    Case(V3, 64, 112, 3, 2),
    Case(V3, 72, 56, 3),
    Case(V3, 72, 56, 5, 2),
    Case(V3, 120, 28, 5),
    Case(V3, 240, 28, 3, 2, "hardswish"),
    Case(V3, 480, 14, 3, 1, "hardswish"),
    Case(V3, 672, 14, 5, 2, "hardswish"),
    Case(V3, 960, 7, 5, 1, "hardswish"),
    Case(V2, 144, 56, 3, 1, "relu6"),
    Case(NEXT, 96, 56, 7, 1, "layer_norm"),
    Case(NEXT, 384, 14, 7, 1, "layer_norm"),
    Case("resnext50_32x4d", 128, 56, 3, groups=32),
    Case("resnext50_32x4d", 256, 56, 3, 2, groups=32),
    Case("resnext50_32x4d", 256, 28, 3, groups=32),
    Case("resnext50_32x4d", 512, 14, 3, groups=32),
    Case("resnext50_32x4d", 1024, 14, 3, 2, groups=32),
    Case("resnext50_32x4d", 1024, 7, 3, groups=32),
    Case("regnet_x_400mf", 160, 14, 3, groups=10),
    Case("regnet_x_1_6gf", 168, 28, 3, groups=7),
    Case("regnet_x_3_2gf", 432, 14, 3, groups=9),
)


@dataclass(frozen=True)
class Figure:
    """What is known of one of the case's kernels: its main launch, all its launches, and its machine code."""

    case: Case
    product: str
    rows: list[Row]
    code: CompiledKernel

    @property
    def us(self) -> float:
        """Simulated microseconds of its launches; one that cannot be simulated stands at its limit."""
        return sum(row.result.us if row.result else row.limit_us for row in self.rows)

    @property
    def limit_us(self) -> float:
        return sum(row.limit_us for row in self.rows)


def products(program: Program) -> Iterator[tuple[str, Kernel]]:
    """The kernels of the layer that is looked at."""
    for kernel in program.plan.kernels:
        product = kernel.anchor.row.product
        of = {kernel.anchor.name, *kernel.anchor.inputs}
        if product and (LAYER in of or of & {f"{LAYER}.weight", f"{LAYER}.grad_weight"}):
            yield NAMES[product], kernel


def figures(case: Case, batch: int, dtype: str) -> Iterator[Figure]:
    """What is simulated of a case's kernels."""
    plan = planned(case.graph(), "train", "auto", Cost(batch, dtype, TARGET), loss=Loss().of_step("train", dtype))
    whole_program = lower(plan, dtype, batch, TARGET)
    found = list(products(whole_program))
    program = lower(plan, dtype, batch, TARGET, kernels={kernel.name for _, kernel in found})
    compiled = compile_kernels([spec(f) for f in program.functions], TARGET)
    codes = dict(zip((f.name for f in program.functions), compiled, strict=True))
    for product, kernel in found:
        rows = []
        for launch in (one for one in program.launches if one.kernel == kernel.name):
            answer = kept(codes[launch.function], how_launched(program, launch))
            known = (None, answer) if isinstance(answer, str) else (answer, "")
            moved, flops = program.launch_bytes(launch, batch), launch.flops * batch
            rows.append(Row(launch.function, launch.kind, moved, flops, *known))
        yield Figure(case, product, rows, codes[rows[0].kernel])


def line(figure: Figure) -> str:
    """A row of the table."""
    case, main = figure.case, figure.rows[0].result
    shape = f"{case.channels}" + (f" in {case.groups} groups" if case.groups else "") + f" at {case.width}x{case.width}"
    kernel = f"{case.size}x{case.size}" + (f" / {case.stride}" if case.stride > 1 else "")
    waits = f"{main.reason} ({main.waits[main.reason]:.0%})" if main else figure.rows[0].problem
    figure_ = f"{figure.us:.1f} | {figure.limit_us:.1f} | {figure.us / figure.limit_us:.2f}"
    return f"| {case.network} | {shape}, {kernel} | {figure.product} | {figure_} | {waits} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"only these of {', '.join(names)}")
    parser.add_argument("--batch", type=whole, default=256)
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32", "tf32"), default="bf16")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(names):
        print(f"unknown case {unknown.pop()!r}; accepted: {', '.join(names)}", file=sys.stderr)
        return 2
    print("| network | convolution | kernel | us | limit | ratio | waits longest for |")
    print("|---|---|---|--:|--:|--:|---|")
    wrong = 0
    for case in CASES:
        if not options.cases or case.name in options.cases:
            for figure in figures(case, options.batch, options.dtype):
                print(line(figure), flush=True)
                code = figure.code
                if code.spill_bytes or code.hazards:
                    wrong = 1
                    print(f"{case.name} {figure.product}: {code.spill_bytes} bytes spilled, {code.hazards} hazards",
                          file=sys.stderr)  # fmt: skip
    return wrong


if __name__ == "__main__":
    sys.exit(main())
