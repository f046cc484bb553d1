"""How many instructions a step's products take to issue: python -m benchmarks.instructions resnet50 [--mode train]
[--batch 256] [--dtype bf16] [--target sm_90] [--top 20]

A kernel may be far from both limits, bytes and operations, because its processors issue too many instructions for each
product: to find addresses, to normalise what was loaded, to reduce what is stored. Their number needs no GPU: it is
read off the machine code. A kernel's innermost loop with products is run as often as its operations divided by those of
one turn; all other instructions count once for each program. Issuing them takes

    time = instructions of all warps / (processors * 4 schedulers * clock)

or more, since schedulers do not issue at every clock; of programs that compute tile after tile the epilogue lies in the
loop, and is counted too often if a tile takes several turns. NVIDIA targets only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import triton
from rich.console import Console

from benchmarks.kernel_profile import PASSES
from tricnn.build.build import Build, build
from tricnn.cli.arguments import whole
from tricnn.graphs import ARCHITECTURES
from tricnn.ir.wording import plural
from tricnn.lower.from_graph import lowered
from tricnn.lower.predicted_time import least_us
from tricnn.lower.program import Function, Launch
from tricnn.machine.machines import machine_of
from tricnn.report.tables import row, table

SCHEDULERS = 4
TARGETS = ("sm_80", "sm_90")
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Za-z0-9_.]+)(.*?);", re.MULTILINE)
SHAPE = re.compile(r"\.(?:64x(\d+)x(\d+)|(16)(8)(\d+))\.")


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str

    def products(self, warps: int) -> int:
        """Multiply-adds that it does for a program."""
        shape = SHAPE.search(self.name)
        if shape is None or not self.name.startswith(("HGMMA", "HMMA")):
            return 0
        if self.name.startswith("HGMMA"):
            return 64 * int(shape[1]) * int(shape[2]) * (warps // 4)
        return 16 * 8 * int(shape[5]) * warps


def instructions(binary: bytes) -> list[Instruction]:
    """The machine code of a cubin, without what pads it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [Instruction(int(a, 16), name, operands) for a, name, operands in INSTRUCTION.findall(text)]
    return [i for i in found if i.name != "NOP"]


def loops(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """What lies between a branch backwards and where it leads."""
    for branch in code:
        target = re.search(r"0x([0-9a-f]+)", branch.operands) if branch.name.startswith("BRA") else None
        if target and int(target[1], 16) < branch.address:
            yield [i for i in code if int(target[1], 16) <= i.address <= branch.address]


class Issue(NamedTuple):
    """A launch: instructions of its loop and in all, microseconds that issuing them takes, and its limit by bytes and
    operations."""

    launch: Launch
    loop: int
    length: int
    issue_us: float
    least_us: float


def issue(built: Build, function: Function, launch: Launch, code: list[Instruction]) -> Issue:
    program, warps = built.program, function.num_warps
    inner = min(
        (loop for loop in loops(code) if any(i.products(warps) for i in loop)), key=len, default=code
    )  # fmt: skip
    each = sum(i.products(warps) for i in inner)
    turns = launch.flops * program.batch / 2 / each
    programs = 1
    for axis in launch.grid:
        programs *= axis.at(program.batch)
    once = len(code) - len(inner)
    every = warps * (turns * len(inner) + programs * once)
    machine = machine_of(program.target)
    rate = machine.multiprocessors * SCHEDULERS * machine.clock * 1e9
    return Issue(launch, len(inner), len(code), 1e6 * every / rate, least_us(program, launch))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(ARCHITECTURES), metavar="MODEL")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--batch", type=whole(1), default=256)
    parser.add_argument("--dtype", choices=("bf16", "fp16"), default="bf16")
    parser.add_argument("--target", choices=TARGETS, default="sm_90")
    parser.add_argument("--top", type=whole(1), default=20, help="how many launches to show, the longest first")
    o = parser.parse_args()
    program = lowered(ARCHITECTURES[o.model](), o.mode, o.batch, o.dtype, o.target, fuse=True)
    built = build(program.plan, o.dtype, o.batch, o.target)
    functions = {f.name: f for f in built.program.functions}
    code = {name: instructions(kernel.binary) for name, kernel in built.compiled.items()}
    found = [
        issue(built, functions[launch.function], launch, code[launch.function])
        for launch in built.program.launches
        if launch.kind in PASSES
    ]
    found.sort(key=lambda i: -i.issue_us)
    made = table(
        f"{o.model}: {o.mode}, {o.dtype}, batch {o.batch}, {o.target}: instructions of products",
        "launch", "kind", ">in its loop", ">in all", ">to issue, us", ">limit, us", ">times",
    )  # fmt: skip
    for i in found[: o.top]:
        times = f"{i.issue_us / i.least_us:.1f}"
        row(
            made,
            i.launch.function,
            i.launch.kind,
            str(i.loop),
            str(i.length),
            f"{i.issue_us:.0f}",
            f"{i.least_us:.0f}",
            times,
        )
    Console(width=140 if not sys.stdout.isatty() else None).print(made)
    total, limit = (sum(getattr(i, name) for i in found) / 1e3 for name in ("issue_us", "least_us"))
    print(f"{plural(len(found), 'launch')} with products: {total:.1f} ms to issue, limit {limit:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
