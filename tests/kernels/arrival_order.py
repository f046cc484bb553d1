"""Whether the machine code of a kernel lets its last program read what the others stored. Run by `test_arrivals`, or by
hand, with any Triton:

    TRITON_INTERPRET=0 python -m tests.kernels.arrival_order

PTX's memory model (ISA 8.8) wants, in this order:

    stores of the parts by all threads;  bar.sync;  atom.acq_rel.gpu by one of them;  bar.sync;  loads of the parts

The barriers put the order of one thread's addition on all threads of the program, and the addition, which releases and
acquires for the whole GPU, on all programs. Loads must not come from a cache that no acquisition clears (ld.global.nc).
"""

import re
from collections.abc import Sequence

from tricnn.build.build import spec
from tricnn.build.compile import KernelSpec, compile_kernels, triton_version
from tricnn.ir import Graph, GraphBuilder
from tricnn.lower.from_graph import lowered

STEP = re.compile(
    r"^\s*(?:@!?%p\d+\s+)?(st\.global|ld\.global|bar\.sync|barrier\.sync|atom|red|membar|fence)([\w.:]*)", re.M
)
#: kinds of instructions, in the order that a counted program must have them in
STORE, BARRIER, COUNT, LOAD = "store", "barrier", "count", "load"


def block() -> Graph:
    """A 1x1 convolution of few channels with batch norm: statistics forward, sums of its gradient backward."""
    b = GraphBuilder("block")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (16, 8, 8)), 16, 1, bias=False, name="c1"), name="b1"))
    x = b.relu(b.batch_norm(b.conv2d(x, 16, 1, bias=False, name="c2"), name="b2"))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def images() -> Graph:
    """A first layer, maximum pooling and a 3x3 convolution, whose programs stay on sm_90."""
    b = GraphBuilder("images")
    x = b.conv2d(b.input("x", (3, 32, 32)), 32, 7, stride=2, padding=3, bias=False, name="c1")
    x = b.relu(b.batch_norm(x, name="b1"))
    x = b.max_pool2d(x, 3, 2, padding=1)
    x = b.relu(b.batch_norm(b.conv2d(x, 32, 3, padding=1, bias=False, name="c2"), name="b2"))
    x = b.relu(b.batch_norm(b.conv2d(x, 32, 3, padding=1, bias=False, name="c3"), name="b3"))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def kernels(target: str, dtype: str, batch: int, graph: Graph | None = None) -> list[KernelSpec]:
    """Those of a training step, the block's, whose last programs finish sums: of statistics, of gradients."""
    program = lowered(graph or block(), "train", batch, dtype, target, fuse="all")
    return [spec(f) for f in program.functions if "finish=" in f.call]


def steps(ptx: str) -> list[str]:
    """What a kernel does to memory and at barriers, in the order of its text; loops only come before and behind."""
    found = []
    for name, rest in STEP.findall(ptx):
        if name in ("bar.sync", "barrier.sync"):
            found.append(BARRIER)
        elif name == "atom" and ".add" in rest:
            found.append(COUNT if ".acq_rel" in rest and (".gpu" in rest or ".sys" in rest) else f"weak atom{rest}")
        elif name == "st.global":
            found.append(STORE)
        elif name == "ld.global":
            found.append("load that may be stale" if ".nc" in rest else LOAD)
    return found


def faults(ptx: str) -> list[str]:
    """What is missing of that order, at each addition to a counter; none where there is nothing to find fault with."""
    order = steps(ptx)
    counted = [i for i, step in enumerate(order) if step == COUNT]
    found = [] if counted else ["no program is counted"]
    found += [f"{step} is no order" for step in order if step.startswith("weak")]
    for i in counted:
        before = [step for step in order[:i] if step in (STORE, BARRIER)]
        after = [step for step in order[i + 1 :] if step != STORE]
        if STORE not in before:
            found.append("nothing is stored before a program is counted")
        elif before[-1] != BARRIER:
            found.append("a program is counted before all threads have stored")
        if LOAD not in after:
            found.append("nothing is loaded behind")
        elif after[0] != BARRIER:
            found.append("a thread loads before it knows who is last")
        if "load that may be stale" in after:
            found.append("a load behind may be stale")
    return found


def compiled(specs: Sequence[KernelSpec], target: str) -> list[str]:
    """Their PTX."""
    return [kernel.assembly["ptx"] for kernel in compile_kernels(specs, target)]


def main() -> None:
    for target, dtype in (("sm_90", "bf16"), ("sm_80", "bf16"), ("sm_90", "fp32")):
        for batch in (2, 512):
            specs = [*kernels(target, dtype, batch), *kernels(target, dtype, batch, images())]
            for kernel, ptx in zip(specs, compiled(specs, target), strict=True):
                levels = steps(ptx).count(COUNT)
                print(
                    f"Triton {triton_version()} {target} {dtype} {kernel.name}: {levels} levels",
                    faults(ptx) or "in order",
                )


if __name__ == "__main__":
    main()
