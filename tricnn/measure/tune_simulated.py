"""Which tile is fastest by the simulator, where there is no GPU: the same sites and candidates as are measured on one.

A tile's time is the sum over the launches of its site, each replayed on the model of an H100 (docs/simulator.md). It
is simulated, not measured, and a file of tiles says so; a measured time wins over it. It takes seconds for a tile, so
only sites are looked at that are far from their limit, those that lose most time first; of the candidates the few that
the quick model of machine/quick_times.py puts first; and of kernels whose code differs only in layers' names, one.

A tile wins for those functions of its site that need 3 % less than with the tile of the rule, as the whole network has
it: made smaller where it spilled. The others keep the rule's. What would win must compute the right numbers on small
integers under Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..build.build import spec
from ..build.settle import settle
from ..check.exact import mistakes
from ..check.verify import Check, verify_model
from ..compiler.plan import Plan
from ..lower.program import Launch, Program
from ..machine import tuned_files as tuning
from ..machine.candidates import CONTRACTIONS
from ..machine.quick_times import quick_clocks
from ..machine.simulator import VERSION
from ..machine.tiles import Tile
from ..machine.tuned_files import SIMULATED
from ..run.model import Model
from ..system.cores import workers
from ..system.errors import TargetError
from .simulate import REACHED_BYTES_PER_US, REACHED_FLOPS_PER_US, check_target, how_launched, kept
from .tune import Code, Compiler, Contest, Outcome, Site, counts, digests, one_line

#: what an entry of a file of tuned tiles has in the place of a device
DEVICE = f"{SIMULATED} H100, model {VERSION}"
#: images where a tile's numbers are checked, in a convolution by itself and in the whole network
CHECKED_BATCH = 2
#: how many candidates of a site are simulated, and how many may be refused until then
FEW, REFUSED = 3, 6
#: sites whose limit is at least this share of their time are left alone
NEAR = 0.8


@dataclass(frozen=True)
class Same:
    """Kernels of a site whose code is the same but for layers' names; the first stands for all of them."""

    kernels: tuple[str, ...]
    rule_us: float
    limit_us: float


class SimulatedTuner(Contest):
    """Tunes a plan by the simulator. Raises TargetError for other targets than sm_90."""

    worth_it = 0.97

    def __init__(
        self, plan: Plan, dtype: str, batch: int, target: str, compile: Compiler, cache_dir: Path | None = None
    ):
        check_target(target)
        super().__init__(plan, dtype, batch, target, compile)
        self.cache_dir = cache_dir
        with tuning.only({}):
            self.rule, self.code = settle(
                plan, dtype, batch, target, lambda _, functions: compile([spec(f) for f in functions]), cache_dir
            )

    def far(self, wanted: Sequence[Site]) -> list[Site]:
        """The sites that are far from their limits by the rule, those that lose most time first."""
        lost = {}
        for site in wanted:
            same = self.same(site)
            us = sum(s.rule_us * len(s.kernels) for s in same)
            limit = sum(s.limit_us * len(s.kernels) for s in same)
            if limit < NEAR * us:
                lost[site] = us - limit
        return sorted(lost, key=lambda site: -lost[site])

    def same(self, site: Site) -> list[Same]:
        """A site's kernels by their code; none where one of them cannot be simulated."""
        found: dict[tuple[str, ...], list[str]] = {}
        for kernel in site.kernels:
            found.setdefault(digests(self.rule, {kernel}), []).append(kernel)
        times = [kernel_us(self.rule, self.code, kernels[0], self.cache_dir) for kernels in found.values()]
        if any(isinstance(us, str) for us in times):
            return []
        return [
            Same(tuple(kernels), us, self.limit_us(kernels[0]))
            for kernels, us in zip(found.values(), times, strict=True) if not isinstance(us, str)
        ]  # fmt: skip

    def limit_us(self, kernel: str) -> float:
        """What a kernel would take at the rates that kernels reach."""
        return sum(
            max(self.rule.launch_bytes(launch, self.batch) / REACHED_BYTES_PER_US,
                launch.flops * self.batch / REACHED_FLOPS_PER_US)
            for launch in own(self.rule, kernel)
        )  # fmt: skip

    def measure(self, site: Site) -> Outcome:
        """The few tiles of a site that may be fastest, simulated, and the fastest one that is right."""
        outcome, same = Outcome(site), self.same(site)
        if not same:
            outcome.refuse(site.rule, "cannot be simulated")
            return outcome
        outcome.us[site.rule] = sum(s.rule_us * len(s.kernels) for s in same)
        # The rule's first tile is compiled again, from the cache: where it did not fit, no larger one does.
        for tile in [site.rule, *sorted(site.tiles[1:], key=lambda tile: (quick_clocks(site.problem, tile), -tile.k))]:
            if len(outcome.us) > FEW or len(outcome.refused) >= REFUSED:
                break
            if any(larger(tile, other) for other in outcome.refused):
                continue
            program = self.lowered(site, tile, [s.kernels[0] for s in same])
            code = self.compiled({tile: program})[tile]
            if isinstance(code, str):
                outcome.refused[tile] = code
            elif tile != site.rule:
                self.compare(outcome, tile, program, code, same)
        outcome.refused.pop(site.rule, None)  # it takes part as the network has it
        better = sorted((t for t in outcome.functions if outcome.functions[t]), key=lambda tile: outcome.us[tile])
        for tile in better:
            wrong = self.wrong_numbers(outcome, tile) if site.problem.kind in CONTRACTIONS else 0
            if wrong == 0:
                outcome.winner = tile
                break
            if wrong:
                outcome.refuse(tile, f"{wrong} wrong numbers")
        return outcome

    def compare(
        self, outcome: Outcome, tile: Tile, program: Program, code: Code, same: Sequence[Same]
    ) -> None:  # fmt: skip
        """Put into ``outcome`` the time of a site with a tile, where it is worth it, and of which functions it is."""
        times = {s: kernel_us(program, code, s.kernels[0], self.cache_dir) for s in same}
        problem = next((us for us in times.values() if isinstance(us, str)), None)
        if problem is not None:
            outcome.refused[tile] = problem
            return
        us = {s: float(us) for s, us in times.items()}
        better = [s for s in same if us[s] <= self.worth_it * s.rule_us]
        outcome.functions[tile] = digests(program, [s.kernels[0] for s in better])
        taken = better or same
        outcome.us[tile] = sum((us[s] if s in taken else s.rule_us) * len(s.kernels) for s in same)

    def check(self, model: Model, kernels: Collection[str]) -> list[Check]:
        """What is checked of some kernels of a network: only these run, for a step takes the interpreter long."""
        return verify_model(model, CHECKED_BATCH, kernels=kernels)

    def wrong_numbers(self, outcome: Outcome, tile: Tile) -> int | None:
        try:
            return mistakes(outcome.site.problem, tile, CHECKED_BATCH)
        except TargetError as error:
            outcome.refuse(tile, one_line(error))
            return None


def kernel_us(program: Program, code: Code, kernel: str, cache_dir: Path | None = None) -> float | str:
    """Simulated microseconds of a kernel's launches, or why there are none.
    Partial sums that one launch adds up for all kernels count by their bytes."""
    launches = own(program, kernel)
    jobs = [(code[launch.function], how_launched(program, launch)) for launch in launches]
    with ThreadPoolExecutor(workers()) as pool:  # the simulator's loops do not hold the interpreter's lock
        results = list(pool.map(lambda job: kept(job[0], job[1], cache_dir=cache_dir), jobs))
    us = 0.0
    for result in results:
        if isinstance(result, str):
            return f"cannot be simulated: {result}"
        us += result.us
    written = {buffer for launch in launches for buffer in launch.writes}
    return us + sum(4 * s.parts * s.length for s in program.sums if s.source in written) / REACHED_BYTES_PER_US


def own(program: Program, kernel: str) -> list[Launch]:
    """The launches of a kernel whose time is its own."""
    return [launch for launch in program.launches if launch.kernel == kernel and counts(launch)]


def larger(tile: Tile, refused: Tile) -> bool:
    """Does a tile need as much of everything as one that had too few registers, or too little shared memory?"""

    def needs(t: Tile) -> tuple[float, ...]:
        return t.m * t.n / t.warps, t.m * t.k / t.warps, t.m * t.n, (t.m + t.n) * t.k * t.stages

    return all(need >= least for need, least in zip(needs(tile), needs(refused), strict=True))
