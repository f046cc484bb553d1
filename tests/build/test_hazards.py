"""Registers refilled while a matrix instruction reads them: seen in machine code, and in none of our kernels."""

import re
import subprocess
from pathlib import Path

import pytest
import triton

from tricnn.build import hazards
from tricnn.build.compile import KernelSpec, compile_kernels
from tricnn.build.inspect_binary import may_be_refilled, multiplies_beside_the_program

REFILLED = Path(__file__).with_name("refilled.ptx")

LOOP = """
//--------------------- .text.kernel              --------------------------
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   {refill} ;
        /*0020*/                   WARPGROUP.ARRIVE ;
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR8].tnspB, R24, gsb0 ;
        /*0040*/                   {wait} ;
        /*0050*/              @!P0 BRA `(.L_x_1) ;
        /*0060*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0070*/                   {after} ;
        /*0080*/                   EXIT ;
"""


def found(refill: str = "LDS.128 R4, [R9]", wait: str = "NOP", after: str = "STG.E [R2.64], R24") -> list[int]:
    """The addresses of the instructions that overwrite what R4 to R7 hold."""
    code = hazards.instructions(LOOP.format(refill=refill, wait=wait, after=after))
    return [x.by.address for x in hazards.overwrites(code)]


@pytest.mark.parametrize(
    "refill",
    ["LDS.128 R4, [R9]", "LDS.64 R6, [R9]", "LDS R7, [R9]", "LDSM.16.M88.4 R4, [R9]", "IMAD.WIDE R6, R1, R2, R8",
     "F2FP.BF16.F32.PACK_AB R5, R10, R11", "HMMA.16816.F32.BF16 R4, R8, R10, R12", "@P1 MOV R4, RZ"],
)  # fmt: skip
def test_a_refill_of_any_width_is_seen(refill: str) -> None:
    assert found(refill) == [0x10]


@pytest.mark.parametrize(
    "other",
    ["LDS.128 R8, [R9]", "LDS.64 R2, [R9]", "STS.128 [R4], R4", "STG.E.128 [R4.64], R4",
     "ISETP.GE.AND P0, PT, R4, R5, PT", "R2UR UR4, R4", "LDSM.16.M88.2 R2, [R4]", "BAR.SYNC 0x0",
     "UTMALDG.2D [UR4], [UR6]"],
)  # fmt: skip
def test_what_writes_other_registers_or_none_is_no_hazard(other: str) -> None:
    assert found(other) == []


def test_a_wait_for_the_group_ends_the_hazard() -> None:
    assert found(wait="WARPGROUP.DEPBAR.LE gsb0, 0x0") == []
    assert found(wait="WARPGROUP.DEPBAR.LE gsb0, 0x1") == [0x10]  # all but the newest, which is the one that reads


def test_a_hazard_behind_the_loop_is_seen_on_the_path_without_a_wait() -> None:
    assert found("NOP", after="MOV R5, RZ") == []
    text = LOOP.format(refill="NOP", wait="@P1 BRA `(.L_x_2)", after="NOP\n.L_x_2:\n /*0078*/ MOV R5, RZ")
    assert [x.by.address for x in hazards.overwrites(hazards.instructions(text))] == [0x78]


def test_operands_in_shared_memory_have_no_hazard() -> None:
    text = LOOP.format(refill="LDS.128 R4, [R9]", wait="NOP", after="NOP").replace("R24, R4, gdesc", "R24, gdesc")
    assert hazards.overwrites(hazards.instructions(text)) == []


TENSOR_MEMORY = """
//--------------------- .text.kernel              --------------------------
.text.kernel:
.L_x_1:
        /*0010*/                   {wait} ;
        /*0020*/                   STTM.x16 tmem[UR17+0x80], R4 ;
        /*0030*/                   UTCHMMA tmem[UR46], gdesc[UR6], tmem[UR20], tmem[UR22], idesc[UR23], UPT ;
        /*0040*/                   UTCBAR [UR29], URZ ;
        /*0050*/                   BRA.U !UP0, `(.L_x_1) ;
        /*0060*/                   EXIT ;
"""


def test_tensor_memory_is_stored_only_after_a_wait() -> None:
    def found(wait: str, text: str = TENSOR_MEMORY) -> list[int]:
        return [x.by.address for x in hazards.of_code(hazards.instructions(text.format(wait=wait)))]

    waits = "SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [UR29], R42"
    assert found("NOP") == [0x20]
    assert found(waits) == []
    assert found(waits, TENSOR_MEMORY.replace("UTCBAR [UR29], URZ", "NOP")) == [0x20]  # nothing tells the barrier
    assert found("NOP", TENSOR_MEMORY.replace("tmem[UR46], gdesc", "gdesc[UR46], gdesc")) == []


def assembled(ptx: str, folder: Path) -> bytes:
    (folder / "kernel.ptx").write_text(ptx)
    ptxas = triton.knobs.nvidia.ptxas.path
    subprocess.run([ptxas, "-arch=sm_90a", folder / "kernel.ptx", "-o", folder / "kernel.cubin"], check=True)
    return (folder / "kernel.cubin").read_bytes()


def test_a_kernel_that_has_the_hazard_is_caught_whatever_assembles_it(tmp_path: Path) -> None:
    """And not once every group is waited for, the only thing that is changed."""
    ptx, nvdisasm = REFILLED.read_text(), triton.knobs.nvidia.nvdisasm.path
    bad = assembled(ptx, tmp_path)
    assert multiplies_beside_the_program(bad) and len(hazards.of_cubin(bad, nvdisasm)) >= 4
    good = assembled(ptx.replace("wait_group.sync.aligned 1", "wait_group.sync.aligned 0"), tmp_path)
    assert multiplies_beside_the_program(good) and hazards.of_cubin(good, nvdisasm) == []


@pytest.mark.parametrize(
    ("architecture", "encoding", "opcodes"),
    [
        pytest.param("SM90", 0x000F_E200_0800_1818_40E0_000C_3C18_7000, (0x9F0, 0xDF0), id="sm_90"),
        pytest.param("SM110", 0x0007_E200_0F80_0017_00FF_240C_0800_7000, (0x5EA, 0x9EA, 0xDEA, 0xFEA), id="sm_110"),
    ],
)
def test_where_a_left_operand_is_can_be_read_off_the_opcode(
    architecture: str, encoding: int, opcodes: tuple[int, ...], tmp_path: Path
) -> None:
    """As nvdisasm prints instructions that differ in nothing else: all but "gdesc", shared memory, may be refilled."""
    file = tmp_path / "instructions"
    file.write_bytes(b"".join((encoding | opcode).to_bytes(16, "little") for opcode in opcodes))
    nvdisasm = triton.knobs.nvidia.nvdisasm.path
    text = subprocess.run([nvdisasm, "-b", architecture, file], capture_output=True, text=True, check=True).stdout
    printed = re.findall(r"(?:HGMMA|UTC\w*MMA)\S* (?:R\d+, )?(\w+?)\d*[\[,.]", text)
    assert [where != "gdesc" for where in printed] == [may_be_refilled(opcode) for opcode in opcodes]
    assert len(printed) == len(opcodes)


SOURCE = """import triton
import triton.language as tl


@triton.jit
def kernel(a, b, scale, out, rows):
    i, j, k = tl.arange(0, 64)[:, None], tl.arange(0, 64)[None, :], tl.arange(0, 32)
    total = tl.zeros((64, 64), tl.float32)
    for start in range(0, 4096, 32):
        left = tl.load(a + i * 4096 + start + k[None, :], mask=i < rows, other=0.0).to(tl.float32)
        left = tl.where(i < rows, tl.maximum(left * tl.load(scale + start + k[None, :]) + 1.0, 0.0), 0.0)
        total = tl.dot(left.to(tl.bfloat16), tl.load(b + (start + k[:, None]) * 64 + j), total)
    tl.store(out + i * 64 + j, total)
"""


def test_the_triton_at_hand_is_what_we_take_it_for(tmp_path: Path) -> None:
    """3.9 and later wait before they refill; older ones do so only where loads are not pipelined."""
    signature = {"a": "*bf16", "b": "*bf16", "scale": "*fp32", "out": "*fp32", "rows": "i32"}
    specs = [KernelSpec("kernel", SOURCE, signature, {}, num_stages=stages) for stages in (1, 2)]
    plain, pipelined = compile_kernels(specs, "sm_90", cache_dir=tmp_path)
    assert multiplies_beside_the_program(plain.binary) and multiplies_beside_the_program(pipelined.binary)
    assert plain.hazards == 0
    older = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
    assert (pipelined.hazards > 0) == older
