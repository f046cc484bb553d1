"""Run the compiled kernels and hold every value that goes through memory to float64 NumPy on the same inputs.
They run on the GPU or under Triton's interpreter; the tolerance is derived from the arithmetic. Without a GPU every
address is looked at, too: no program of a launch may depend on another one."""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from typing import TYPE_CHECKING, Any

from .arguments import (
    add_compilation,
    add_fusion,
    add_model,
    add_target,
    check_memory,
    chosen_target,
    load_graph,
    sizes,
    small_arguments,
    whole,
)

if TYPE_CHECKING:
    from tricnn.check.counting import CountedLaunch
    from tricnn.check.races import Race
    from tricnn.check.verify import Check
    from tricnn.ir import Graph
    from tricnn.lower.program import Moved

    from .screen import Screen

EXAMPLES = """\
examples:
  tricnn verify lenet                          one training step, forward and backward
  tricnn verify resnet18 --dtype bf16          without a GPU: a small member of the same topology
  tricnn verify resnet18 --input 3,224,224 --batch 1
  tricnn verify lenet --target sm_90           without a GPU: the tiles a GPU would have, slowly
  tricnn verify mine.txt --mode infer --no-fuse
  tricnn verify lenet --count-bytes            what every launch loads and stores, beside what the plan states

Columns: the error is that of the element nearest to its tolerance; "of it" is their ratio; "relative" is the largest
tolerance divided by the largest number.

Exit status 1 if any kernel is outside its tolerance, if programs of one launch race (one touches what another one
stores; looked for without a GPU), or if counted bytes are not those of the plan. A value outside its tolerance is a
fault of the kernel that wrote it, unless docs/verification.md names the case: please report it with the command and
`tricnn show MODEL --text`.
"""

#: three images, so that rows rarely fill the last tile: what a mask leaves out must show
BATCH_INTERPRETED, BATCH_ON_GPU = 3, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compilation(parser, mode="train", batch=None)
    add_target(parser)
    add_fusion(parser)
    parser.add_argument(
        "--count-bytes", action="store_true", help="also count the bytes that kernels load and store (no GPU)"
    )
    parser.add_argument(
        "--all", action="store_true", help="every value a row, not only those nearest to their tolerance"
    )
    parser.add_argument("--seed", type=whole(0), default=0, metavar="S", help="of the random images and parameters (0)")


def run(options: argparse.Namespace) -> int:
    from ..report import tables
    from ..report.figures import plural
    from ..report.similar import MOST_ROWS
    from .screen import Screen

    screen = Screen(options.json)
    target = chosen_target(options.target) if options.target is not None else None
    on_gpu = runs_on_gpu()
    batch = options.batch or (BATCH_ON_GPU if on_gpu else BATCH_INTERPRETED)
    sized = options.batch or options.input or options.width
    small = {} if on_gpu or sized else small_arguments(options.model)
    graph = load_graph(options, **small)
    which = sizes(graph, load_graph(options) if small else None)
    if said := sentence(graph.name, which):
        screen.show(said)
    if not on_gpu:
        check_memory(graph, batch, options.mode)
    result = which | verified(
        graph, screen, mode=options.mode, batch=batch, dtype=options.dtype, target=target, fuse=options.fuse,
        seed=options.seed, count=options.count_bytes,
    )  # fmt: skip
    screen.json(result)
    failed = [c for c in result["checks"] if not c["ok"]]
    if options.count_bytes:
        apart = sum(not c["ok"] for c in result["bytes"])
        screen.show(
            tables.counted(result),
            f"{plural(len(result['bytes']), 'launch')}: "
            + (f"{apart} not as planned" if apart else "all load and store just what the plan states"),
        )
    screen.show(
        tables.checks(result, None if options.all else MOST_ROWS),
        f"{'the small member: ' * bool(said)}{plural(result['kernels'], 'kernel')}, "
        f"{plural(result['launches'], 'launch')}, "
        f"{plural(len(result['checks']), 'value')}: "
        + (f"{len(failed)} outside tolerance" if failed else "all within tolerance")
        + ("" if result["races"] is None else f"; {plural(len(result['races']), 'data race')}")
        + f" ({result['seconds']:.1f} s)",
        *(
            f"RACE in {r['launch']}: element {r['element']} of {r['buffer']} is {r['what']}"
            for r in result["races"] or ()
        ),
    )
    return 0 if result["ok"] else 1


def sentence(name: str, which: dict[str, Any]) -> str:
    """What to know before the table, if it is not the whole network that is verified."""
    whole = which["small_member_of"]
    if whole is None:
        return ""
    image, whole_image = ("x".join(map(str, x["inputs"][0])) for x in (which, whole))
    return (
        f"{name}: a small member of the same topology, for there is no GPU: {which['parameters']:,} parameters, images "
        f"{image} (the whole: {whole['parameters']:,}, {whole_image}; --batch, --input or --width choose)"
    )


def runs_on_gpu() -> bool:
    """Whether there is a GPU to run on; if not, Triton's interpreter is turned on, unless the user turned it off.
    That must happen before triton is imported."""
    from tricnn.run.model import gpu_present
    from tricnn.run.triton_executor import interpreting

    if not gpu_present():
        os.environ.setdefault("TRITON_INTERPRET", "1")
        return False
    return not interpreting()


def verified(
    graph: Graph, screen: Screen, *, mode: str, batch: int, dtype: str, target: str | None, fuse: str, seed: int,
    compiled_batch: int | None = None, count: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The object that ``--json`` prints, with bytes if they are to be counted.
    Tiles are those of ``compiled_batch``, if it is not the batch that runs. On a GPU races are not looked for: null."""
    from tricnn.check.counting import BytesCounted
    from tricnn.check.races import RacesFound
    from tricnn.check.verify import both, compiled, verify_model
    from tricnn.machine.dtypes import check_dtype
    from tricnn.run.triton_executor import interpreting

    from ..report.progress import Steps

    began = time.perf_counter()
    check_dtype(dtype)
    model = compiled(
        graph, mode=mode, batch=compiled_batch or batch, dtype=dtype, fuse=fuse, seed=seed, target=target
    )  # fmt: skip
    program = model.program
    counted = BytesCounted(model, batch) if count else None
    raced = RacesFound(model, batch) if interpreting() else None
    watch = both(*(w for w in (counted, raced) if w is not None))
    values = sum(len(kernel.writes) for kernel in program.plan.kernels)
    with Steps(screen.progress, "verifying", values, "values") as steps, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter's NumPy computes what masks hide, too
        checks = verify_model(model, batch, seed, lambda check: steps.done(check.kernel), watch)
    launches = counted.launches if counted else []
    races = raced.races if raced else []
    return {
        "graph": graph.name,
        "mode": mode,
        "batch": batch,
        "dtype": dtype,
        "target": model.target,
        "tiles": "interpreter" if interpreting() and target is None else model.target,
        "fused": program.plan.fused,
        "fuse": program.plan.policy,
        "device": device_name(),
        "ok": all(c.ok for c in checks) and all(c.ok for c in launches) and not races,
        "kernels": len(program.plan.kernels),
        "launches": len(program.launches),
        "seconds": round(time.perf_counter() - began, 3),
        "checks": [as_json(c) for c in checks],
        "races": [race_as_json(r) for r in races] if raced else None,
        **({"bytes": [bytes_as_json(c) for c in launches]} if count else {}),
    }


def as_json(check: Check) -> dict[str, Any]:
    """A check as JSON.
    An error that is not a number (a kernel wrote NaN) has no place in JSON and becomes null."""
    return {
        "kernel": check.kernel,
        "kind": check.kind,
        "layers": list(check.layers),
        "value": check.value,
        "error": check.error if math.isfinite(check.error) else None,
        "tolerance": check.tolerance,
        "relative": check.relative,
        "ok": check.ok,
    }


def race_as_json(race: Race) -> dict[str, Any]:
    """Where a program depends on another one of its launch, as JSON: the first element that shows it."""
    return {
        "kernel": race.launch.kernel,
        "launch": race.launch.function,
        "buffer": race.buffer,
        "element": race.element,
        "what": race.what,
    }


def bytes_as_json(counted: CountedLaunch) -> dict[str, Any]:
    """A launch as JSON: bytes it reads and writes, each once, and those that its programs load, each for itself."""

    def figures(moved: Moved) -> dict[str, int]:
        return {"dram_bytes": moved.once, "read_bytes": moved.read, "loaded_bytes": moved.loaded}

    planned, found = counted.totals()
    return {
        "kernel": counted.launch.kernel,
        "launch": counted.launch.function,
        "kind": counted.launch.kind,
        "planned": figures(planned),
        "counted": figures(found),
        "ok": counted.ok,
    }


def device_name() -> str:
    """The name of what ran the kernels."""
    from tricnn.run.triton_executor import interpreting

    if interpreting():
        return "Triton's interpreter"
    import torch

    return str(torch.cuda.get_device_name())
