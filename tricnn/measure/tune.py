"""Which tile is fastest, measured on the device at hand.

For each problem of a network, every candidate is timed in turns with the tile of the static rule.

A candidate that spills registers, needs more shared memory than there is, or does not compile does not take part, and
one that gives one wrong number on small integers does not win. The same holds for the rule's own tile: where it takes
no part, the fastest candidate wins. The kernels are timed as the network has them, prologues and epilogues and all,
with whatever adds up the partial results they leave. What wins is held to float64 NumPy within the whole network
before anybody else sees it. All of this happens on a copy of the network, whose running statistics nobody reads.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..build.build import spec
from ..build.compile import CompiledKernel, CompileError, KernelSpec
from ..build.emitted_module import load_module
from ..build.worker_pool import NoPlace
from ..build.workplace import place_at_fault
from ..check.exact import mistakes
from ..check.verify import Check, verify_model
from ..check.verify_inputs import random_batch
from ..compiler.plan import Plan
from ..emit.emit import launched
from ..lower.function_digest import function_digest
from ..lower.lower import lower
from ..lower.predicted_time import least_us
from ..lower.program import Launch, Program, step_numbers
from ..lower.templates import module_text
from ..machine import tuned_files as tuning
from ..machine.candidates import CONTRACTIONS, candidates
from ..machine.tiles import Problem, Tile
from ..run.model import Model
from ..run.one_launch import prepared
from ..run.triton_executor import described
from ..system.errors import TargetError
from .clock import Clock, Work
from .in_turns import times_in_turns

#: a winner must need at most so much of the time of the rule's tile: less than that is noise
WORTH_IT = 0.98
ROUNDS = 7
VERIFIED_BATCH = 3

#: a program's machine code, by function
Code = Mapping[str, CompiledKernel]
Compiler = Callable[[Sequence[KernelSpec]], Sequence[CompiledKernel | CompileError]]


class DeviceLost(TargetError):
    """The GPU reports an error that no later launch in this process survives."""


@dataclass(frozen=True)
class Site:
    """A problem of a network, the kernels that have it, the rule's tile, and the least time that they can take."""

    problem: Problem
    kernels: tuple[str, ...]
    rule: Tile
    launches: int
    least_us: float

    @property
    def tiles(self) -> list[Tile]:
        """The rule's tile, then the candidates."""
        return list(dict.fromkeys([self.rule, *candidates(self.problem)]))


@dataclass
class Outcome:
    """What came of a site.
    It has microseconds by tile, why others did not take part, and the winner, if it is not the rule's tile."""

    site: Site
    us: dict[Tile, float] = field(default_factory=dict)
    refused: dict[Tile, str] = field(default_factory=dict)
    winner: Tile | None = None
    #: digests of the functions that a tile is faster for, or was timed with
    functions: dict[Tile, tuple[str, ...]] = field(default_factory=dict)

    def refuse(self, tile: Tile, reason: str) -> None:
        """A tile takes no part any more, and why."""
        self.refused[tile] = reason
        self.us.pop(tile, None)


def sites(program: Program) -> list[Site]:
    """The problems of a program, each once, those that take longest first."""
    kernels: dict[Problem, dict[str, None]] = {}
    rule = {choice.problem: choice.tile for choice in program.choices}
    for choice in program.choices:
        kernels.setdefault(choice.problem, {})[choice.kernel] = None
    found = []
    for problem, names in kernels.items():
        launches = [launch for launch in program.launches if launch.kernel in names and counts(launch)]
        least = sum(least_us(program, launch) for launch in launches)
        found.append(Site(problem, tuple(names), rule[problem], len(launches), least))
    return sorted(found, key=lambda site: -site.least_us)


def counts(launch: Launch) -> bool:
    """Is this launch's time that of its kernel?"""
    return not launch.finishes_many


def digests(program: Program, kernels: Collection[str]) -> tuple[str, ...]:
    """The digests of the functions of some kernels that were given tiles, each once."""
    functions = {f.name: f for f in program.functions}
    tiled = {choice.function for choice in program.choices}
    launches = [launch for launch in program.launches if launch.kernel in kernels and launch.function in tiled]
    found = {function_digest(functions[launch.function], launch.grid, program.batch) for launch in launches}
    return tuple(sorted(found))


class Contest(ABC):
    """A contest of tiles: how each site's programs are made, compiled and compared.

    How long a tile takes, and whether its numbers are right, subclasses say.

    compile  machine code for kernels, or the reason why there is none (compile_kernels, with ``return_errors``).
    """

    #: a winner must need at most so much of the time of the rule's tile
    worth_it = WORTH_IT

    def __init__(self, plan: Plan, dtype: str, batch: int, target: str, compile: Compiler):
        self.plan, self.dtype, self.batch, self.target, self.compile = plan, dtype, batch, target, compile
        self.lost: DeviceLost | NoPlace | None = None

    def tune(
        self, wanted: Sequence[Site], seconds: float, on_done: Callable[[Outcome], None] = lambda outcome: None
    ) -> list[Outcome]:  # fmt: skip
        """The outcome of every site that is reached within so many seconds (or before Ctrl-C, or ``self.lost``)."""
        until, outcomes = time.monotonic() + seconds, []
        try:
            for site in wanted:
                if time.monotonic() >= until:
                    break
                outcomes.append(self.measure(site))
                on_done(outcomes[-1])
        except KeyboardInterrupt:
            pass  # what has been measured is worth having
        except (DeviceLost, NoPlace) as error:
            self.lost = error
        return outcomes

    @abstractmethod
    def measure(self, site: Site) -> Outcome:
        """A site's tiles, timed, and the fastest one that is right."""

    @abstractmethod
    def wrong_numbers(self, outcome: Outcome, tile: Tile) -> int | None:
        """How many numbers a tile gets wrong on small integers; None where it was refused instead."""

    def check(self, model: Model, kernels: Collection[str]) -> list[Check]:
        """What is checked of a network whose tiles have won, in some of its kernels: all that a step writes."""
        return verify_model(model, VERIFIED_BATCH)

    def lowered(self, site: Site, tile: Tile, kernels: Collection[str] | None = None) -> Program:
        """The site's kernels, or some of them, with this tile for their problem."""
        with tuning.only({site.problem: tile}):
            return lower(self.plan, self.dtype, self.batch, self.target, kernels=kernels or site.kernels)

    def compiled(self, programs: Mapping[Tile, Program]) -> dict[Tile, Code | str]:
        """For each tile its functions' machine code, or why it cannot take part. All are compiled at once."""
        functions = [(tile, function) for tile, program in programs.items() for function in program.functions]
        code: dict[Tile, dict[str, CompiledKernel]] = {tile: {} for tile in programs}
        reasons: dict[Tile, str] = {}
        for (tile, function), result in zip(functions, self.compile([spec(f) for _, f in functions]), strict=True):
            if isinstance(result, CompileError):
                reasons[tile] = result.reason
                continue
            code[tile][function.name] = result
            if result.spill_bytes:
                reasons.setdefault(tile, f"spills {result.spill_bytes} bytes")
            elif result.hazards:
                reasons.setdefault(tile, "refills registers that are still read")
        return {tile: reasons.get(tile, code[tile]) for tile in programs}


class Tuner(Contest):
    """Tunes one model, compiled for the device that will be used, by measuring.

    clock    seconds that a piece of work takes on the device.
    """

    def __init__(self, model: Model, clock: Clock, compile: Compiler, seed: int = 0):
        import numpy as np

        super().__init__(model.plan, model.dtype, model.batch, model.target, compile)
        self.model, self.clock = model, clock
        given = random_batch(model, model.batch, np.random.default_rng(seed))
        model.executor.run(given, model.batch, seed, 0)  # so that memory holds what a step leaves there
        self.tensors: dict[str, Any] = model.executor.bind(model.batch)

    def measure(self, site: Site) -> Outcome:
        """A site's tiles, timed, and the fastest one that is right."""
        outcome = Outcome(site)
        programs = {tile: self.lowered(site, tile) for tile in site.tiles}
        code = self.compiled(programs)
        outcome.refused = {tile: found for tile, found in code.items() if isinstance(found, str)}
        fit = {tile: found for tile, found in code.items() if not isinstance(found, str)}
        self.time_tiles(outcome, programs, fit)
        outcome.functions = {tile: digests(programs[tile], site.kernels) for tile in outcome.us}
        # Only what would win is compiled by itself and checked.
        while (best := fastest(outcome, self.worth_it)) is not None:
            wrong = self.wrong_numbers(outcome, best) if site.problem.kind in CONTRACTIONS else 0
            if wrong:
                outcome.refuse(best, f"{wrong} wrong numbers")
            elif wrong == 0:
                outcome.winner = best
                break
        return outcome

    def time_tiles(self, outcome: Outcome, programs: Mapping[Tile, Program], code: Mapping[Tile, Code]) -> None:
        """Put into ``outcome.us`` the microseconds of each tile that has machine code, or say why it has none."""
        timers: dict[Tile, Callable[[], float]] = {}
        for tile in code:
            work = self.attempt(outcome, tile, partial(self.work, programs[tile]))
            if work is not None:
                self.attempt(outcome, tile, work)
            if tile not in outcome.refused:
                timers[tile] = partial(self.waited, outcome.site, tile, partial(self.clock, work))
        times = times_in_turns(timers, least=ROUNDS, most=ROUNDS, failed=partial(self.failed, outcome))
        outcome.us = {tile: statistics.median(t) * 1e6 for tile, t in times.items()}

    def wrong_numbers(self, outcome: Outcome, tile: Tile) -> int | None:
        wrong: int | None = self.attempt(outcome, tile, partial(mistakes, outcome.site.problem, tile))
        return wrong

    def attempt(self, outcome: Outcome, tile: Tile, action: Callable[[], Any]) -> Any:
        """What an action gives; None if it fails, at once or on the GPU."""
        try:
            return self.waited(outcome.site, tile, action)
        except Exception as error:
            self.failed(outcome, tile, error)

    def failed(self, outcome: Outcome, tile: Tile, error: Exception) -> None:
        """The tile takes no part any more, unless it is the GPU, or the folder, that failed."""
        if isinstance(error, DeviceLost | NoPlace):
            raise error
        self.synchronise(outcome.site, tile)
        if problem := place_at_fault(error, Path(tempfile.gettempdir())):
            raise NoPlace(problem) from error
        outcome.refuse(tile, one_line(error))

    def waited(self, site: Site, tile: Tile, action: Callable[[], Any]) -> Any:
        """What an action gives, once the GPU has done it."""
        result = action()
        self.synchronise(site, tile)
        return result

    def synchronise(self, site: Site, tile: Tile) -> None:
        """Wait for the GPU. Raises DeviceLost if it reports an error: nothing else will run in this process."""
        executor = self.model.executor
        try:
            if executor.device == "cuda":
                executor.torch.cuda.synchronize()
        except Exception as error:
            raise DeviceLost(f"the GPU failed while {site.problem} ran with {tile}: {one_line(error)}") from error

    def work(self, program: Program) -> Work:
        """All of a site's launches, on the model's memory and workspaces of their own."""
        executor, batch = self.model.executor, self.batch
        values: dict[Any, Any] = {**self.tensors, **step_numbers(batch)}
        shared = {*self.plan.graph.types, *program.rounded.values()}
        own = {name: b for name, b in program.buffers.items() if name not in shared}
        for name, buffer in own.items():
            values[name] = executor.torch.zeros(
                buffer.size.at(batch), dtype=executor.dtypes[buffer.dtype], device=executor.device
            )
        values |= described(program.descriptors.values(), values)
        module = load_module(module_text("\n\n".join("\n".join(launched(f)) for f in program.functions)))
        calls = [prepared(module, program, launch, values, batch) for launch in program.launches if counts(launch)]

        def run() -> None:
            for call in calls:
                call()

        return run


def fastest(outcome: Outcome, worth_it: float = WORTH_IT) -> Tile | None:
    """The fastest tile, if it is worth writing.
    It needs at most ``worth_it`` of the time of the rule's, or the rule's takes no part."""
    rule = outcome.us.get(outcome.site.rule, math.inf)
    best = min(outcome.us, key=lambda tile: outcome.us[tile], default=outcome.site.rule)
    return best if best != outcome.site.rule and outcome.us[best] <= worth_it * rule else None


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def winners(outcomes: Sequence[Outcome], device: str, date: str) -> dict[Problem, tuning.Entry]:
    """What a file of tuned tiles says about them. Where the rule's tile takes no part its time is infinite."""
    return {
        o.site.problem: tuning.Entry(
            o.winner, o.us[o.winner], o.us.get(o.site.rule, math.inf), device, date, o.functions.get(o.winner, ())
        )
        for o in outcomes
        if o.winner is not None
    }


def faulty(
    make: Callable[[], Model], chosen: Mapping[Problem, Tile],
    check: Callable[[Model, Collection[str]], Sequence[Check]],
) -> set[Problem]:  # fmt: skip
    """The problems among ``chosen`` whose kernels, as the network has them, leave what float64 NumPy does not accept.

    ``make`` compiles the model, within whose lowering the chosen tiles hold; ``check`` checks its kernels of these.
    """
    with tuning.only(chosen):
        model = make()
        kernels = {c.kernel for c in model.program.choices if c.problem in chosen}
        failed = {c.kernel for c in check(model, kernels) if not c.ok}
    return {c.problem for c in model.program.choices if c.kernel in failed and c.problem in chosen}
