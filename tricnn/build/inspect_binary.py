"""Facts about a compiled kernel, read off the machine code and the assembler's own report.

Imports the standard library and machine/sass.py only: the compile workers load this file by its path, and must be
quick to start.

Where each fact comes from:

============  ==========================================  ===================================================
fact          NVIDIA                                      AMD
============  ==========================================  ===================================================
registers     ptxas -v, per thread                        `.vgpr_count`, per lane; accumulation registers included
spill_bytes   ptxas -v: the larger of spill stores and    4 * (`.vgpr_spill_count` + `.sgpr_spill_count`)
              spill loads, bytes per thread
shared_bytes  what the launch asks for, as Triton         the same + `.group_segment_fixed_size`
              allocated it, + static from ptxas -v
tensor_core   matrix instructions in the cubin's code     `v_mfma*`, `v_smfmac*`, `v_wmma*`, `v_swmmac*`
bulk_copy     TMA and bulk copies in the cubin's code     false: there is no such instruction on these targets
hazards       registers refilled too early (hazards.py)   0: matrix instructions there are waited for in hardware
============  ==========================================  ===================================================

ptxas's report is of the very run that made the cubin. A kernel with local arrays, or one that puts an argument on the
stack before a trap (ptxas 12.9's checks of TMA addresses do), has a stack frame and STL instructions, yet no spill; a
scalar register spilt to a lane of a vector register (AMD) counts as a spill although it never reaches memory, so that
`spill_bytes == 0` always means that nothing was spilt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tricnn.machine.sass import InspectionError, code_sections

# The low 12 bits of NVIDIA's 16-byte instructions name the operation. nvdisasm takes 0.4 s to start, as long as a
# compilation, so the few operations we look for are listed here. The list was found by giving nvdisasm every opcode
# with random operands, for sm_80 to sm_121: each opcode below is either of the one kind or no instruction at all, on
# every one of these architectures. (Not so before: 0x236 is HMMA on sm_75 and VIADD on sm_90.)
_CUDA_MATRIX = {
    **dict.fromkeys([0x237], "IMMA"),
    **dict.fromkeys([0x23C], "HMMA"),
    **dict.fromkeys([0x23D], "BMMA"),
    **dict.fromkeys([0x23F], "DMMA"),
    **dict.fromkeys([0x27A, 0x47A], "QMMA"),  # 8-bit floats, sm_89 and sm_120
    **dict.fromkeys([0x47F], "OMMA"),  # 4-bit floats, sm_120
    **dict.fromkeys([0x9F0, 0xDF0], "HGMMA"),  # wgmma, sm_90
    **dict.fromkeys([0x9F1, 0xDF1], "IGMMA"),
    **dict.fromkeys([0x9F2, 0xDF2], "BGMMA"),
    **dict.fromkeys([0x9F3, 0xDF3], "QGMMA"),
    **dict.fromkeys([0x5EA, 0x9EA, 0xDEA, 0xFEA], "UTCMMA"),  # tcgen05.mma, sm_100: UTCHMMA, UTCIMMA, UTCQMMA, UTCOMMA
}
#: of these, the ones whose left operand is in registers, not in shared memory
_CUDA_FROM_REGISTERS = frozenset([0xDF0, 0xDF1, 0xDF2, 0xDF3])
#: and those whose left operand is in tensor memory, by nvdisasm of these with random operands, for sm_100 to sm_110
_CUDA_FROM_TENSOR_MEMORY = frozenset([0x9EA, 0xFEA])
_CUDA_BULK = {
    **dict.fromkeys([0x3B4, 0x5B4], "UTMALDG"),
    **dict.fromkeys([0x3B5], "UTMASTG"),
    **dict.fromkeys([0x3B6], "UTMAREDG"),
    **dict.fromkeys([0x3BA], "UBLKCP"),
    **dict.fromkeys([0x3BB], "UBLKRED"),
}
_CUDA_LOCAL = {0x387: "STL", 0x987: "STL", 0x983: "LDL"}
_CUDA_NAMED = {**_CUDA_MATRIX, **_CUDA_BULK, **_CUDA_LOCAL}


def named_instructions(cubin: bytes) -> dict[str, int]:
    """How often each matrix, bulk-copy and local-memory instruction stands in a cubin, by its name in SASS."""
    counts: dict[str, int] = {}
    for opcode in _opcodes(cubin):
        if (name := _CUDA_NAMED.get(opcode)) is not None:
            counts[name] = counts.get(name, 0) + 1
    return counts


def multiplies_beside_the_program(cubin: bytes) -> bool:
    """Whether a cubin may refill what a matrix instruction in flight reads: its registers, or tensor memory."""
    return any(map(may_be_refilled, _opcodes(cubin)))


def may_be_refilled(opcode: int) -> bool:
    """Whether a matrix instruction, by the low 12 bits of its encoding, reads registers or tensor memory as it runs."""
    return opcode in _CUDA_FROM_REGISTERS or opcode in _CUDA_FROM_TENSOR_MEMORY


def _opcodes(cubin: bytes) -> Iterator[int]:
    """The operation of each instruction, as a number."""
    sections = list(code_sections(cubin))
    if not any(sections):
        raise InspectionError("the cubin has no code")
    for code in sections:
        for offset in range(0, len(code), 16):
            yield (code[offset] | code[offset + 1] << 8) & 0xFFF


def cuda_facts(
    cubin: bytes, ptxas_report: str, dynamic_shared: int, hazards: Callable[[bytes], int]
) -> dict[str, int | bool]:
    """Facts of a cubin: registers, spills, shared memory, matrix instructions, hazards.
    `ptxas_report` is what `ptxas -v` printed when it made the cubin. `hazards` counts the registers refilled too early
    in a cubin; it is asked only where a matrix instruction reads registers."""
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", ptxas_report)]
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", ptxas_report)
    if not registers or not spills:
        raise InspectionError("ptxas reported no registers and spills")
    spill_bytes = max(sum(int(stores) for stores, _ in spills), sum(int(loads) for _, loads in spills))
    frames = sum(int(n) for n in re.findall(r"(\d+) bytes stack frame", ptxas_report))
    static_shared = sum(int(n) for n in re.findall(r"(\d+) bytes smem", ptxas_report))
    counts = named_instructions(cubin)
    if spill_bytes == 0 and frames == 0 and (counts.get("STL") or counts.get("LDL")):
        raise InspectionError("ptxas reported no stack, yet the code uses local memory")
    return {
        "registers": max(registers),
        "spill_bytes": spill_bytes,
        "shared_bytes": dynamic_shared + static_shared,
        "tensor_core": any(name in counts for name in _CUDA_MATRIX.values()),
        "bulk_copy": any(name in counts for name in _CUDA_BULK.values()),
        "hazards": hazards(cubin) if multiplies_beside_the_program(cubin) else 0,
    }


def hip_facts(assembly: str, dynamic_shared: int) -> dict[str, int | bool]:
    """Facts of AMD assembly, from the metadata and the instructions the binary is assembled from."""

    def metadata(key: str) -> int:
        values = re.findall(rf"^\s+(?:- )?\.{key}:\s+(\d+)\s*$", assembly, re.MULTILINE)
        if len(values) != 1:
            raise InspectionError(f"the assembly has {len(values)} entries .{key}, not one")
        return int(values[0])

    return {
        "registers": metadata("vgpr_count"),
        "spill_bytes": 4 * (metadata("vgpr_spill_count") + metadata("sgpr_spill_count")),
        "shared_bytes": dynamic_shared + metadata("group_segment_fixed_size"),
        "tensor_core": re.search(r"^\s+v_(mfma|smfmac|wmma|swmmac)", assembly, re.MULTILINE) is not None,
        "bulk_copy": False,
        "hazards": 0,
    }
