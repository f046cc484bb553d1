"""NVIDIA's machine code (SASS), read: the sections of a cubin, and what each instruction is, waits for and writes.

nvdisasm, of Triton's own package, says the words; the control bits that it does not print stand in the code itself.
From Volta on an instruction has 128 bits, of which bits 105 to 125 tell the hardware's scheduler what the assembler
knows (Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking", 2018, section 2.1):

    105..108  stall   clocks before the same warp may issue again
    109       yield   whether another warp is preferred
    110..112  write   scoreboard that is released when the result is there; 7: none
    113..115  read    scoreboard that is released when the operands have been read; 7: none
    116..121  wait    scoreboards that must be free first, one bit each

Imports the standard library only: compile workers read hazards by it and must start quickly.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: matrix instructions of a warp group, which run beside the program
MATRIX = ("HGMMA", "QGMMA", "IGMMA", "BGMMA")
#: instructions without a result in a register, whatever their first operand is
_NO_RESULT = frozenset([
    *("ST", "STG", "STS", "STL", "STSM", "ATOMS", "RED", "REDG"),
    *("LDGSTS", "UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP", "UBLKRED", "CCTL"),
    *("BRA", "BRX", "JMP", "JMX", "CALL", "RET", "EXIT", "BSSY", "BSYNC", "BREAK", "KILL", "BPT"),
    *("BAR", "WARPSYNC", "WARPGROUP", "ARRIVES", "SYNCS", "DEPBAR", "LDGDEPBAR", "MEMBAR", "ERRBAR", "FENCE"),
    *("NOP", "YIELD", "NANOSLEEP", "USETMAXREG", "PREEXIT", "ACQBULK", "R2UR", "R2P"),
])  # fmt: skip
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;\s*$")
_LABEL = re.compile(r"^\s*(\.L\w+|\.text\.\w+):\s*$")
_GUARD = re.compile(r"@(!?U?P\w+)\s+")
_REGISTER = re.compile(r"R(\d+)(?!\d)")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_EM_CUDA = 190
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
#: an entry of `.nv.info`: format, attribute, and the length of what follows; and the ones we read
_INFO = struct.Struct("<BBH")
_PARAMETER, _PARAMETER_BANK, _SIZED = 0x17, 0x0A, 4


class InspectionError(Exception):
    """A binary or a report that does not look as the tools of this Triton write it."""


@dataclass(frozen=True)
class Control:
    """What an instruction asks of the scheduler; the head of this file says where it stands."""

    stall: int
    write: int  # a scoreboard, 0 to 5; 7: none
    read: int
    wait: int  # one bit for each scoreboard

    @classmethod
    def of(cls, word: bytes) -> Control:
        """The control bits of an instruction's 16 bytes."""
        bits = int.from_bytes(word, "little") >> 105
        return cls(bits & 15, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63)


@dataclass(frozen=True)
class Instruction:
    """One instruction as nvdisasm writes it: ``@P0 HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR8], R24, gsb0``."""

    address: int
    text: str
    guard: str  # !P0, UP1; empty: always
    name: str  # HGMMA.64x64x16.F32.BF16
    operands: tuple[str, ...]
    target: int | None  # where a branch goes: the number of an instruction
    control: Control | None = None  # where the code itself was given

    @property
    def guarded(self) -> bool:
        return bool(self.guard)

    @property
    def base(self) -> str:
        """The name without what is behind its first point."""
        return self.name.partition(".")[0]

    @property
    def suffixes(self) -> list[str]:
        """What is behind the name's first point, part by part."""
        return self.name.split(".")[1:]


def sections(cubin: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each section of a cubin, an ELF file. Raises InspectionError where it is none."""
    try:
        if cubin[:4] != b"\x7fELF" or struct.unpack_from("<H", cubin, 18)[0] != _EM_CUDA:
            raise InspectionError("the cubin is not a CUDA ELF file")
        (table,) = struct.unpack_from("<Q", cubin, 40)
        size, count, names_index = struct.unpack_from("<HHH", cubin, 58)
        headers = [_SECTION_HEADER.unpack_from(cubin, table + size * i) for i in range(count)]
        names = headers[names_index][4]
        for name, kind, _flags, _address, offset, length, *_rest in headers:
            title = cubin[names + name : cubin.index(b"\0", names + name)].decode()
            if title.startswith(".text.") and (length % 16 or offset + length > len(cubin)):
                raise InspectionError("the cubin has a damaged code section")
            yield title, b"" if kind == 8 else cubin[offset : offset + length]  # 8: nothing in the file
    except (struct.error, IndexError, ValueError) as error:
        raise InspectionError("the cubin is damaged") from error


def code_sections(cubin: bytes) -> Iterator[bytes]:
    """The machine code of each function of a cubin (sections `.text.*`)."""
    return (contents for name, contents in sections(cubin) if name.startswith(".text."))


def disassembled(cubin: bytes, nvdisasm: str) -> list[list[Instruction]]:
    """The instructions of each function of a cubin, with their control bits, by the program ``nvdisasm``.

    Raises OSError or subprocess.CalledProcessError where that fails, InspectionError for what is no cubin.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        done = subprocess.run([nvdisasm, "-c", str(file)], capture_output=True, text=True, check=True)
    code = {name: contents for name, contents in sections(cubin) if name.startswith(".text.")}
    found = []
    for part in re.split(r"^//-+ (?=\.text\.)", done.stdout, flags=re.MULTILINE)[1:]:
        found.append(instructions(part, code.get(part.split(maxsplit=1)[0], b"")))
    return found


def instructions(text: str, code: bytes = b"") -> list[Instruction]:
    """The instructions of one function that nvdisasm printed, in order.
    ``code`` are the function's own bytes, for the control bits."""
    rows: list[tuple[int, str]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(rows)
        elif row := _LINE.match(line):
            rows.append((int(row[1], 16), row[2]))
    found = []
    for address, words in rows:
        guard = _GUARD.match(words)
        name, _, rest = words[guard.end() if guard else 0 :].partition(" ")
        operands = tuple(part.strip() for part in re.split(r",(?![^\[]*\])", rest)) if rest.strip() else ()
        goal = _TARGET.search(rest) if name.startswith(("BRA", "CALL", "JMP")) else None
        target = labels.get(goal[1]) if goal else None
        word = code[address : address + 16]
        control = Control.of(word) if len(word) == 16 else None
        found.append(Instruction(address, words, guard[1] if guard else "", name, operands, target, control))
    return found


def written(x: Instruction) -> range:
    """The registers that an instruction writes, of whatever kind it is but a matrix instruction of :data:`MATRIX`."""
    results = x.operands[1:] if x.base in ("ATOM", "ATOMG") and x.operands[:1] == ("PT",) else x.operands
    first = _REGISTER.match(results[0]) if results and x.base not in _NO_RESULT else None
    if first is None:
        return range(0)
    suffixes = x.suffixes
    count = 1
    if x.base in ("HMMA", "IMMA"):
        count = 4
    elif x.base == "LDSM":
        count = int(suffixes[-1]) if suffixes[-1].isdigit() else 1
    elif "128" in suffixes:
        count = 4
    elif "64" in suffixes or "WIDE" in suffixes or (x.base == "CS2R" and "32" not in suffixes):
        count = 2
    return range(int(first[1]), int(first[1]) + count)


@dataclass(frozen=True)
class Parameters:
    """Where a kernel's arguments lie in constant bank 0: ``base``, and for each its offset from there and its bytes."""

    base: int
    places: tuple[tuple[int, int], ...]


def parameters(cubin: bytes) -> Parameters:
    """Where the arguments of a cubin's one kernel lie, from its section `.nv.info.*`.

    Each entry there is a format, an attribute, a length and that many bytes: 0x17 tells of one argument (index,
    ordinal, offset, and its size in the upper 14 bits of a word), 0x0a where in the bank all of them begin. Raises
    InspectionError if there is no such section, or more than one.
    """
    infos = [contents for name, contents in sections(cubin) if name.startswith(".nv.info.")]
    if len(infos) != 1:
        raise InspectionError(f"the cubin tells of {len(infos)} kernels, not of one")
    found: dict[int, tuple[int, int]] = {}
    base, at, info = None, 0, infos[0]
    try:
        while at < len(info):
            form, attribute, length = _INFO.unpack_from(info, at)
            at += _INFO.size
            if form != _SIZED:
                continue  # the value is the length itself
            if attribute == _PARAMETER:
                _, ordinal, offset, size = struct.unpack_from("<IHHI", info, at)
                found[ordinal] = offset, size >> 18
            elif attribute == _PARAMETER_BANK:
                _, base, _ = struct.unpack_from("<IHH", info, at)
            at += length
    except struct.error as error:
        raise InspectionError("the cubin's list of arguments is damaged") from error
    if base is None:
        raise InspectionError("the cubin does not say where its arguments lie")
    return Parameters(base, tuple(found[ordinal] for ordinal in sorted(found)))
