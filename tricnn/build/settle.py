"""The forms in which a plan's kernels compile as they must.
Their tiles fit and do not spill, and no loads overtake a matrix instruction. Whoever compiles a plan, for files or for
launching, goes by the same search."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..compiler.plan import Plan
from ..lower.lower import lower
from ..lower.program import Function, Program
from ..machine import tuned_files as tuning
from ..machine.targets import Target
from ..machine.tiles import Form
from ..system.paths import cache_folder
from .cache import Entry, KernelCache
from .compile import CompileError, CompilerFailed, toolchain, triton_version

ATTEMPTS = 8  # how many times a kernel's tiles may be made smaller


class Inspected(Protocol):
    """What is known of a compiled kernel, at least."""

    @property
    def spill_bytes(self) -> int: ...

    @property
    def hazards(self) -> int: ...


Compiled = TypeVar("Compiled", bound=Inspected)


def settle(
    plan: Plan, dtype: str, batch: int, target: str,
    compile: Callable[[Program, list[Function]], Sequence[Compiled | CompileError]], cache_dir: Path | None = None,
) -> tuple[Program, dict[str, Compiled]]:  # fmt: skip
    """A plan's program in forms that compile as they must, and what ``compile`` says of each function.

    A kernel that spills registers or needs too much shared memory gets smaller tiles; one whose machine code refills
    registers that are still read (hazards.py), or on whose loop Triton's compiler fails (3.6.0 does for sm_100 on loops
    of a few taps each), is no longer pipelined. Which forms those are is remembered, so that whoever settles the plan
    again begins with them.

    Raises CompileError for a kernel that no form makes right.
    """
    known = remembered(plan, dtype, batch, target, cache_dir)
    forms = dict(known or {})
    done: dict[str, tuple[Function, Compiled]] = {}
    for _ in range(ATTEMPTS + 2):
        program = lower(plan, dtype, batch, target, forms)
        functions = {f.name: f for f in program.functions}
        missing = {name: f for name, f in functions.items() if name not in done or done[name][0] != f}
        results = compile(program, list(missing.values()))
        # A step to smaller tiles may change nothing for a kernel that is small already; then the next one is taken.
        stuck = [
            n for n in functions if n not in missing and done[n][1].spill_bytes and _form(forms, n).smaller < ATTEMPTS
        ]
        for name in stuck:
            _smaller(program, name, forms)
        again = bool(stuck)
        for (name, one), result in zip(missing.items(), results, strict=True):
            form = _form(forms, name)
            if isinstance(result, CompileError):
                if form.smaller < ATTEMPTS and "shared memory" in result.reason:
                    again = _smaller(program, name, forms)
                elif form.pipelined and isinstance(result, CompilerFailed):
                    again = _reform(program, name, forms, replace(form, pipelined=False))
                else:
                    raise CompileError(name, target, result.reason, result.detail)
                continue
            done[name] = (one, result)
            if result.hazards and form.pipelined:
                again = _reform(program, name, forms, replace(form, pipelined=False))
            elif result.spill_bytes and form.smaller < ATTEMPTS:
                again = _smaller(program, name, forms)
        if not again:
            break
    for name in functions:
        if hazards := done[name][1].hazards:
            raise CompileError(name, target, refilled(hazards))
    if known is None:
        memory = KernelCache(cache_folder() if cache_dir is None else cache_dir)
        facts = {name: [form.smaller, form.pipelined] for name, form in forms.items()}
        memory.put(plan_digest(plan, dtype, batch, target), Entry(facts, {}))
    return program, {name: done[name][1] for name in functions}


def may_refill_early(gpu: Target) -> bool:
    """Whether the Triton at hand refills the registers of a pipelined product before the product has read them.
    Triton before 3.9 does on Hopper, whose matrix instructions run beside the program, where the left operand is in
    registers."""
    version = tuple(int(part) for part in re.findall(r"\d+", triton_version())[:2])
    return gpu.name.startswith("sm_90") and version < (3, 9)


def refilled(count: int) -> str:
    """Why a kernel whose machine code has so many hazards is refused."""
    return (
        f"Triton {triton_version()} overwrites registers in {count} places before a matrix instruction has read them; "
        "triton >= 3.9 does not"
    )


def remembered(
    plan: Plan, dtype: str, batch: int, target: str, cache_dir: Path | None = None
) -> dict[str, Form] | None:
    """The forms of a plan's functions that are not the first ones, if it was settled before."""
    memory = KernelCache(cache_folder() if cache_dir is None else cache_dir)
    known = memory.get(plan_digest(plan, dtype, batch, target))
    return None if known is None else _forms(known.facts)


def _forms(facts: Mapping[str, Any]) -> dict[str, Form] | None:
    """What an entry of the cache says, if that is what :func:`settle` writes."""
    forms = {}
    for name, fact in facts.items():
        match fact:
            case [int(smaller), bool(pipelined)] if 0 <= smaller <= ATTEMPTS:
                forms[name] = Form(smaller, pipelined)
            case _:
                return None
    return forms


def plan_digest(plan: Plan, dtype: str, batch: int, target: str) -> str:
    """The key under which a plan's settled forms are remembered: a digest of all that decides them."""
    known = [str(plan), dtype, batch, target, toolchain(), _lowering(), tuning.digest(target)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@cache
def _lowering() -> str:
    """The code that writes kernels."""
    root = Path(__file__).parents[1]
    files = [path for room in ("build", "emit", "lower", "machine", "kernels") for path in (root / room).glob("*.py")]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()


def _form(forms: dict[str, Form], name: str) -> Form:
    return forms.get(name, Form())


def _smaller(program: Program, name: str, forms: dict[str, Form]) -> bool:
    """Make the tiles of a function smaller."""
    form = _form(forms, name)
    return _reform(program, name, forms, replace(form, smaller=form.smaller + 1))


def _reform(program: Program, name: str, forms: dict[str, Form], form: Form) -> bool:
    """Give a function another form, and with it those of every kernel that shares it. True: compile again."""
    sharing = [launch.kernel for launch in program.launches if launch.function == name]
    suffix = name[len(sharing[0]) :]
    forms.update({kernel + suffix: form for kernel in sharing})
    return True
