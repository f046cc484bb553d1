"""Machine code of the networks people compare: no spills, tensor cores, loads of 16 bytes, bulk copies where planned.

Compiled at full size for GPUs that need not be there. From nothing that takes minutes a case; what was compiled before
is found in the cache.
"""

import re
from collections.abc import Iterator

import pytest

from tricnn.build.build import Build, build
from tricnn.build.compile import CompiledKernel
from tricnn.compiler.plan import Kernel
from tricnn.graphs import ARCHITECTURES
from tricnn.ir.table import Kind
from tricnn.lower.from_graph import lowered

NETWORKS = ("lenet", "alexnet", "resnet18", "resnet50", "googlenet_bn", "vgg16_bn", "inception_v3")
BATCH = 64
BYTES = {"bf16": 2, "fp16": 2, "tf32": 4}
LOAD = re.compile(r"\bld\.global((?:\.[\w:]+)*?)(?:\.v(\d))?\.[bsuf](\d+)\b")
ASYNCHRONOUS = re.compile(r"\bcp\.async\.c[ag]\.shared\.global\b[^;]*?,\s*(0x[0-9a-f]+|\d+)\s*,")


def loads(code: CompiledKernel) -> set[int]:
    """How many bytes the instructions that load from global memory load each."""
    text = str(code.assembly["ptx"])
    plain = {int(vector or 1) * int(bits) // 8 for _, vector, bits in LOAD.findall(text)}
    return plain | {int(size, 0) for size in ASYNCHRONOUS.findall(text)}


def contractions(built: Build) -> Iterator[tuple[Kernel, CompiledKernel]]:
    kernels = {k.name: k for k in built.program.plan.kernels}
    for function in built.program.functions:
        launch = next(x for x in built.program.launches if x.function == function.name)
        kernel = kernels[launch.kernel]
        if kernel.anchor.kind is Kind.CONTRACTION and launch.kind == kernel.anchor.op:
            yield kernel, built.compiled[function.name]


def lines_up(built: Build, kernel: Kernel, size: int) -> bool:
    """Do all pixels and filters that a contraction reads begin at a multiple of 16 bytes?"""
    plan = built.program.plan
    rows = {
        plan.place(v).pitch if plan.type(v).batched else plan.type(v).per_image[1]
        for v in map(plan.storage, (*kernel.reads, *kernel.anchor.inputs))
        if len(plan.type(v).shape) in (2, 4)
    }
    slices = {plan.place(v).offset for v in kernel.reads if plan.type(v).batched}
    return all(n * size % 16 == 0 for n in rows | slices)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("target", ["sm_90", "sm_80", "sm_100"])
@pytest.mark.parametrize("network", NETWORKS)
def test_machine_code(network: str, target: str, dtype: str, mode: str) -> None:
    program = lowered(ARCHITECTURES[network](), mode, BATCH, dtype, target, fuse=True)
    built = build(program.plan, dtype, BATCH, target)
    assert [k["name"] for k in built.kernels if k["spill_bytes"]] == []
    assert [k["name"] for k in built.kernels if k["hazards"]] == []
    described = [f.name for f in built.program.functions if any("tensordesc" in kind for _, kind in f.parameters)]
    assert [k["name"] for k in built.kernels if k["bulk_copy"]] == described
    assert bool(described) == (target != "sm_80" and dtype != "tf32")
    seen = 0
    for kernel, code in contractions(built):
        assert code.tensor_core, (kernel.name, kernel.anchor.op)
        if lines_up(built, kernel, BYTES[dtype]):
            seen += 1
            found = loads(code)
            assert code.bulk_copy or 16 in found, (kernel.name, found)
            assert not found & {1, 2}, (kernel.name, found)
    assert seen or network == "lenet"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("network", NETWORKS)
def test_fp32_products_spill_nothing_and_use_no_tensor_core(network: str, mode: str) -> None:
    """They are IEEE's, which tensor cores do not compute."""
    program = lowered(ARCHITECTURES[network](), mode, BATCH, "fp32", "sm_90", fuse=True)
    built = build(program.plan, "fp32", BATCH, "sm_90")
    assert [k["name"] for k in built.kernels if k["spill_bytes"]] == []
    for kernel, code in contractions(built):
        assert not code.tensor_core, kernel.name
        assert not lines_up(built, kernel, 4) or 16 in loads(code), kernel.name
