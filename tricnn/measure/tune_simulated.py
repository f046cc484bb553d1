"""Which tile is fastest by the simulator, where there is no GPU: the same sites and candidates as are measured on one.

A tile's time is the sum over the launches of its site, each replayed on the model of an H100 (docs/simulator.md). It
is simulated, not measured, and a file of tiles says so; a measured time wins over it. A winner must need 5 % less than
the rule's tile, for the model's own error is about that. What would win must compute the right numbers on small
integers under Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..check.exact import mistakes
from ..compiler.plan import Plan
from ..lower.program import Program
from ..machine.simulator import VERSION
from ..machine.tiles import Tile
from ..machine.tuned_files import SIMULATED
from ..system.cores import workers
from ..system.errors import TargetError
from .simulate import check_target, how_launched, kept
from .tune import Code, Compiler, Contest, Outcome, counts, one_line

#: what an entry of a file of tuned tiles has in the place of a device
DEVICE = f"{SIMULATED} H100, model {VERSION}"
#: a convolution's batch where a tile's numbers are checked
CHECKED_BATCH = 2


class SimulatedTuner(Contest):
    """Tunes a plan by the simulator. Raises TargetError for other targets than sm_90."""

    worth_it = 0.95

    def __init__(
        self, plan: Plan, dtype: str, batch: int, target: str, compile: Compiler, cache_dir: Path | None = None
    ):
        check_target(target)
        super().__init__(plan, dtype, batch, target, compile)
        self.cache_dir = cache_dir

    def time_tiles(self, outcome: Outcome, programs: Mapping[Tile, Program], code: Mapping[Tile, Code]) -> None:
        jobs = [
            (tile, code[tile][launch.function], how_launched(program, launch))
            for tile, program in programs.items() if tile in code
            for launch in program.launches if counts(launch)
        ]  # fmt: skip
        with ThreadPoolExecutor(workers()) as pool:  # the simulator's loops do not hold the interpreter's lock
            results = pool.map(lambda job: kept(job[1], job[2], cache_dir=self.cache_dir), jobs)
            for (tile, _, _), result in zip(jobs, results, strict=True):
                if isinstance(result, str):
                    outcome.refuse(tile, f"cannot be simulated: {result}")
                elif tile not in outcome.refused:
                    outcome.us[tile] = outcome.us.get(tile, 0.0) + result.us

    def wrong_numbers(self, outcome: Outcome, tile: Tile) -> int | None:
        try:
            return mistakes(outcome.site.problem, tile, CHECKED_BATCH)
        except TargetError as error:
            outcome.refuse(tile, one_line(error))
            return None
