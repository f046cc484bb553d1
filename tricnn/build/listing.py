"""Machine code beside its source: of each instruction of a kernel the lines of Triton that it came from.

The kernel is compiled once more, with a table of lines (`ptxas -lineinfo`), and nvdisasm says where each instruction is
from: a line, the line that called that one's function, and so on to the kernel's own.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..emit.emit import kernel_starts
from ..lower.program import Function, Program
from ..lower.templates import module_sources
from ..machine import sass
from ..system.errors import TargetError
from .build import SYMBOL, spec
from .compile import CompiledKernel, compile_kernels

_FRAME = re.compile(r'^\s*//## File "([^"]*)", line (\d+)')
_ROW = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;\s*$|^\s*(\.L\w+):\s*$")

#: the name of a template, or of the function itself, and a line of it, from 0, as emit/emit.py writes it
SourceLine = tuple[str, int]


@dataclass(frozen=True)
class Listing:
    """The instructions of a kernel in order, and labels, each with where it came from: the innermost line first.
    ``same``: whether they are bit for bit those of the kernel that was compiled without a table of lines."""

    rows: tuple[tuple[str, tuple[SourceLine, ...]], ...]
    same: bool


def listings(
    program: Program, functions: Sequence[Function], compiled: dict[str, CompiledKernel], cache_dir: Path | None = None
) -> dict[str, Listing]:
    """The listings of some functions of a program for an NVIDIA GPU, by name.
    Raises TargetError for other targets, or where the machine code cannot be read."""
    if any(compiled[function.name].binary_kind != "cubin" for function in functions):
        raise TargetError(f"machine code is shown for NVIDIA GPUs, not for {program.target}")
    specs = [spec(function) for function in functions]
    kernels = compile_kernels(specs, program.target, cache_dir=cache_dir, lines=True)
    found = {}
    for function, kernel in zip(functions, kernels, strict=True):
        sources = _source_lines(program, function)
        rows = [
            (text, tuple(source for line in lines if (source := sources.get(line)) is not None))
            for text, lines in located(_disassembled(kernel.binary), f"{SYMBOL}.py")
        ]
        same = [*sass.code_sections(kernel.binary)] == [*sass.code_sections(compiled[function.name].binary)]
        found[function.name] = Listing(tuple(rows), same)
    return found


def _source_lines(program: Program, function: Function) -> dict[int, SourceLine]:
    """What each line, from 1, of the module that is compiled for a function is a line of."""
    own = kernel_starts(program, function)
    names = {SYMBOL: function.name}
    found = {}
    for number, (template, line) in enumerate(module_sources(replace(function, name=SYMBOL).text), 1):
        if template:
            found[number] = template, line
        elif line >= 0:
            found[number] = names[SYMBOL], own[line]
    return found


def _disassembled(cubin: bytes) -> str:
    """What nvdisasm prints of a cubin, with its lines."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        try:
            command = [str(triton.knobs.nvidia.nvdisasm.path), "-c", "-gi", str(file)]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise TargetError(f"the machine code cannot be read: {error}") from None


def located(printed: str, file: str) -> list[tuple[str, list[int]]]:
    """The instructions and labels that ``nvdisasm -gi`` printed, each with the lines of ``file`` that it is from.
    The innermost line is first. A comment holds for all instructions up to the next one; NOPs behind the last are left
    out."""
    rows: list[tuple[str, list[int]]] = []
    lines: list[int] = []
    begun = False  # whether the comments being read belong together
    for text in printed.splitlines():
        if frame := _FRAME.match(text):
            if not begun:
                lines, begun = [], True
            if Path(frame[1]).name == file:
                lines.append(int(frame[2]))
        elif row := _ROW.match(text):
            begun = False
            rows.append((row[1], lines) if row[1] else (f"{row[2]}:", []))
    while rows and (rows[-1][0].startswith(("NOP", "BRA")) or rows[-1][0].endswith(":")):
        rows.pop()
    return rows
