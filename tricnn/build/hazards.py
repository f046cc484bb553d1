"""Operands that a loop refills while a matrix instruction still reads them, found in NVIDIA's machine code.

A Hopper matrix product (``HGMMA``, PTX's ``wgmma.mma_async``) runs beside the program. One whose left operand is in
registers reads them until ``WARPGROUP.DEPBAR`` has waited for its group (PTX ISA, "Asynchronous warpgroup level matrix
operations": accessing them before is undefined). Triton before 3.9 pipelined such loops without that wait (triton
issue 9433, mended by pull request 9514): the result is wrong only where timing has it so, and never under the
interpreter. So the machine code itself is read.

:func:`overwrites` follows every path of a kernel and keeps what is in flight at each instruction:

    HGMMA ... R24, R4, ...          R4 to R7 join the open group; `gsb0` among its operands closes the group
    WARPGROUP.DEPBAR.LE gsb0, n     all groups but the newest n have ended
    anything else                   writes its destination: a hazard if that is in a group in flight

Where paths meet, groups are united from the newest on, so that every path is accounted for. On Blackwell the left
operand of a matrix instruction may be in tensor memory; :func:`tensor_memory_overwrites` does the same there.

Imports the standard library and machine/sass.py only: the compile workers load this file by its path, and must be
quick to start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tricnn.machine.sass import MATRIX, Instruction, disassembled, instructions, written

__all__ = ["Overwrite", "instructions", "of_code", "of_cubin", "overwrites", "tensor_memory_overwrites"]
_REGISTER = re.compile(r"R(\d+)(?!\d)")


@dataclass(frozen=True)
class Overwrite:
    """An instruction that writes registers which a matrix instruction in flight reads."""

    matrix: Instruction
    by: Instruction

    def __str__(self) -> str:
        return (
            f"`{self.by.text}` at {self.by.address:#x} writes what `{self.matrix.text}` at {self.matrix.address:#x} "
            "may still read"
        )


def of_cubin(cubin: bytes, nvdisasm: str) -> list[Overwrite]:
    """The hazards of a cubin, disassembled by the program ``nvdisasm``.
    Raises OSError or subprocess.CalledProcessError where that fails."""
    return [found for code in disassembled(cubin, nvdisasm) for found in of_code(code)]


def left_operand(matrix: Instruction) -> frozenset[int]:
    """The registers of a matrix instruction's left operand, four of 32 bits in each thread.
    There are none if it is in shared memory (``gdesc[...]``)."""
    first = _REGISTER.match(matrix.operands[1]) if len(matrix.operands) > 1 else None
    return frozenset(range(int(first[1]), int(first[1]) + 4)) if first else frozenset()


#: what is in flight: closed groups, oldest first, and the open one; each a set of matrix instructions
_Group = frozenset[int]
_Flight = tuple[tuple[_Group, ...], _Group]
_MOST = 16  # groups told apart; older ones are one group
State = TypeVar("State")


def of_code(code: list[Instruction]) -> list[Overwrite]:
    """The hazards of a function's instructions, by address: registers on Hopper, tensor memory on Blackwell."""
    return [*overwrites(code), *tensor_memory_overwrites(code)]


def _flow(
    code: list[Instruction], start: State, after: Callable[[int, State], State], met: Callable[[State, State], State]
) -> dict[int, State]:
    """What may hold before each instruction that can be reached.
    It is ``start`` before the first, changed by each as ``after`` says, and united by ``met`` where paths meet."""
    before, waiting = {0: start}, [0]
    while waiting:
        at = waiting.pop()
        state = after(at, before[at])
        for follower in _next(code, at):
            known = before.get(follower)
            united = state if known is None else met(known, state)
            if united != known:
                before[follower] = united
                waiting.append(follower)
    return before


def _next(code: list[Instruction], at: int) -> Iterator[int]:
    """The instructions that may follow one."""
    x = code[at]
    # BRA P0, `(.L_x_1) and BRA.U UP0, ... carry their condition among the operands.
    conditional = x.guarded or any(re.match(r"!?U?P\d", operand) for operand in x.operands)
    if (conditional or x.base not in ("BRA", "JMP", "BRX", "JMX", "EXIT", "RET")) and at + 1 < len(code):
        yield at + 1
    if x.target is not None:
        yield x.target


def overwrites(code: list[Instruction]) -> list[Overwrite]:
    """Every pair of a Hopper matrix instruction and one that overwrites its left operand before it was waited for."""
    operands = {i: left_operand(x) for i, x in enumerate(code) if x.base in MATRIX}
    if not any(operands.values()):
        return []

    def met(a: _Flight, b: _Flight) -> _Flight:
        length = max(len(a[0]), len(b[0]))
        none: _Group = frozenset()
        pad = [(none,) * (length - len(x[0])) + x[0] for x in (a, b)]
        return tuple(x | y for x, y in zip(*pad, strict=True)), a[1] | b[1]

    def after(at: int, flight: _Flight) -> _Flight:
        x, (closed, opened) = code[at], flight
        if x.base in MATRIX:
            opened = opened | {at}
            if any("gsb0" in operand for operand in x.operands):
                closed, opened = (*closed, opened), frozenset()
                if len(closed) > _MOST:
                    closed = (closed[0] | closed[1], *closed[2:])
        elif x.base == "WARPGROUP" and "DEPBAR" in x.name:
            left = int(x.operands[-1], 0)
            closed = closed[-left:] if left else ()
        return closed, opened

    start: _Flight = ((), frozenset())
    found = set()
    for at, (closed, opened) in _flow(code, start, after, met).items():
        if code[at].base not in MATRIX and (registers := frozenset(written(code[at]))):
            found |= {(m, at) for group in (*closed, opened) for m in group if operands[m] & registers}
    return [Overwrite(code[m], code[by]) for m, by in sorted(found)]


def tensor_memory_overwrites(code: list[Instruction]) -> list[Overwrite]:
    """Every pair of a Blackwell matrix instruction and a store to its left operand that nothing waits before.

    The operand is in tensor memory, the store is ``STTM``.

    ``UTCBAR`` has a barrier told when all matrix instructions before it have ended, and ``SYNCS.PHASECHK`` waits for a
    barrier. Which one, and which part of tensor memory is stored, is not followed: any wait after a ``UTCBAR`` counts,
    and any store. So what is found is wrong, but a wait for another barrier in the same place would hide it.
    """
    if not any(_from_tensor_memory(x) for x in code):
        return []
    flying = frozenset[tuple[int, bool]]  # (matrix instruction, whether a barrier will be told of its end)

    def after(at: int, flight: flying) -> flying:
        x = code[at]
        if _from_tensor_memory(x):
            return flight | {(at, False)}
        if x.base == "UTCBAR":
            return frozenset((m, True) for m, _ in flight)
        if x.base == "SYNCS" and "PHASECHK" in x.name:
            return frozenset((m, told) for m, told in flight if not told)
        return flight

    start: flying = frozenset()
    reached = _flow(code, start, after, lambda a, b: a | b)
    pairs = sorted((m, at) for at, flight in reached.items() if code[at].base == "STTM" for m, _ in flight)
    return [Overwrite(code[m], code[by]) for m, by in pairs]


def _from_tensor_memory(x: Instruction) -> bool:
    return re.fullmatch(r"UTC\w*MMA", x.base) is not None and x.operands[0].startswith("tmem")
