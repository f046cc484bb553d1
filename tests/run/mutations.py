"""What `tricnn verify` catches: kernels that are a little wrong, in every way and type, and what became of each.

    python -m tests.run.mutations    writes docs/verification.md (some minutes)

Results: what a launch wrote is changed before it is compared. Sources: a line of a template, or of a generated
function, is replaced (mutations.toml) before the emitted file is imported. The checker is never touched.
"""

import os
import re
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf, isnan
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

os.environ.setdefault("TRITON_INTERPRET", "1")

from tests.run import mutated_networks as networks
from tricnn.check import verify
from tricnn.check.verify import Check
from tricnn.compiler.plan import Kernel
from tricnn.emit.emit import emit
from tricnn.ir import Graph
from tricnn.ir.graph import Node
from tricnn.ir.objective import Loss
from tricnn.lower.body import Body, Steps
from tricnn.lower.positions import At
from tricnn.lower.program import Program, element
from tricnn.machine.dtypes import DTYPES
from tricnn.run import triton_executor
from tricnn.run.model import Model
from tricnn.run.numpy_executor import round_stored

BATCH = 3
DTYPES_SHOWN = ("fp32", "tf32", "fp16", "bf16")
PAGE = Path(__file__).parents[2] / "docs" / "verification.md"


# --- networks, and how they are compiled ------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network and how it is compiled."""

    graph: Callable[[], Graph]
    fuse: bool = True
    target: str | None = None
    dtypes: tuple[str, ...] = DTYPES_SHOWN
    loss: Loss | str = "cross_entropy"

    def model(self, dtype: str) -> Model:
        return verify.compiled(
            self.graph(), mode="train", batch=BATCH, dtype=dtype, fuse=self.fuse, target=self.target, loss=self.loss
        )  # fmt: skip


CASES = {
    "products": Case(networks.products),
    "deep": Case(networks.deep),
    "norms": Case(networks.norms),
    "pools": Case(networks.pools),
    "pools, apart": Case(networks.pools_apart),
    "heads": Case(networks.heads),
    "long": Case(networks.long, target="sm_90"),
    "norms, unfused": Case(networks.norms, fuse=False),
    "heads, unfused": Case(networks.heads, fuse=False),
    "resized": Case(networks.resized),
    "masked": Case(networks.masked),
    "scaled": Case(networks.scaled, target="sm_90"),
    "standardised": Case(networks.standardised),
    "pixels": Case(networks.pixels, loss=Loss(class_weights=(0.5, 1.0, 2.0, 3.0, 0.25))),
    "pixels, soft": Case(networks.pixels, loss=Loss(mixed=True, label_smoothing=0.1)),
    "pixels, binary": Case(networks.pixels, loss="binary_cross_entropy"),
    "pixels, squared": Case(networks.pixels, loss="mean_squared_error"),
    "boxes": Case(partial(networks.deep, 8), fuse=False, target="sm_90", dtypes=("fp16", "bf16")),
    "strips": Case(networks.strips, target="sm_90"),
    "runs": Case(networks.runs, dtypes=("fp16", "bf16")),
    "packs": Case(networks.packs, dtypes=("fp16", "bf16")),
}


# --- what a launch wrote, changed ------------------------------------------------------------


def _scaled(by: float, x: np.ndarray, stored: str) -> np.ndarray:
    return x * by


def _one_element(x: np.ndarray, stored: str) -> np.ndarray:
    """One of middle size, off by 1 %."""
    order = np.argsort(np.abs(x), axis=None)
    order = order[np.abs(x).reshape(-1)[order] > 0]
    y = x.copy()
    if order.size:
        y.reshape(-1)[order[order.size // 2]] *= 1.01
    return y


def _narrower(x: np.ndarray, stored: str) -> np.ndarray:
    """fp32 and fp16 as bf16 has it (8 bits), bf16 to 5 bits."""
    keep = 5 if stored == "bf16" else 8
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0**keep) / 2.0**keep, exponent)


def _shifted(x: np.ndarray, stored: str) -> np.ndarray:
    return np.roll(x, 1, axis=-1) if x.ndim == 4 and x.shape[-1] > 1 else x


def _swapped(x: np.ndarray, stored: str) -> np.ndarray:
    """Two channels: of images and rows; two filters of a weight."""
    if x.ndim == 0:
        return x
    axis = 1 if x.ndim > 1 and x.shape[1] > 1 else 0
    y = x.copy()
    index = [np.arange(n) for n in x.shape]
    index[axis][:2] = index[axis][:2][::-1]
    return y[np.ix_(*index)]


def _left_out(x: np.ndarray, stored: str) -> np.ndarray:
    """The last rows of memory, an eighth of all, hold 0."""
    y = x.copy()
    y[len(y) - max(len(y) // 8, 1) :] = 0
    return y


def _stale(x: np.ndarray, stored: str) -> np.ndarray:
    """The last rows hold what belongs to the first."""
    y, rows = x.copy(), max(len(x) // 8, 1)
    y[len(y) - rows :] = x[:rows]
    return y


RESULTS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "x 1.001": partial(_scaled, 1.001),
    "x 1.01": partial(_scaled, 1.01),
    "one element x 1.01": _one_element,
    "narrower": _narrower,
    "shifted a pixel": _shifted,
    "two channels swapped": _swapped,
    "last block 0": _left_out,
    "last block stale": _stale,
}


def changed(name: str, x: np.ndarray, stored: str) -> np.ndarray | None:
    """What a launch wrote after a mutation, stored as it was; None where that leaves it as it was."""
    if x.ndim == 0 and name not in ("x 1.001", "x 1.01", "narrower"):
        return None
    if stored == "u8" and name in ("x 1.001", "x 1.01", "one element x 1.01", "narrower"):
        return None
    y = RESULTS[name](x, stored)
    if stored != "u8":
        y = round_stored(y, stored).astype(np.float64)
        y = y.astype(np.float32).astype(np.float64) if stored == "fp32" else y
    return None if np.array_equal(x, y) else y


def wrong_relu(body: Body, node: Node, at: At) -> Steps:
    """ReLU off by one part in a thousand, as an expression that takes the place of relu's in kernels."""
    x = yield body.asked(node, 0, at)
    return f"tl.where({x} < 0.0, 0.0, {x} * 1.001)"


def template(program: Program, function: str) -> str:
    """The template that a function of the emitted file is made of."""
    text = next(f.text for f in program.functions if f.name == function)
    return re.findall(r"^    (\w+)\(", text.split(f"def {function}(")[1], re.MULTILINE)[0]


def writer(model: Model, kernel: Kernel, value: str) -> str:
    """The template whose launch wrote a value last."""
    program = model.program
    buffers = {value, model.plan.place(value).buffer}
    late = [x for x in program.launches if buffers & set(x.writes) and (x.kernel == kernel.name or not x.reads)]
    late += [x for x in program.launches if buffers & set(x.writes) and value in {s.target for s in program.sums}]
    return template(program, late[-1].function)


def ratio(error: float, tolerance: float) -> float:
    return inf if isnan(error) else error / tolerance


#: (template, mutation) -> the share of its tolerance that the error of each value is
Found = dict[tuple[str, str], list[float]]


def results(case: Case, dtype: str) -> Found:
    """Every value of a network with each mutation of what was written, and as it is."""
    found: Found = {}
    model, compare = case.model(dtype), verify._compare

    def compared(model: Model, kernel: Kernel, value: str, values: Any, host: Any) -> tuple[float, float, float]:
        kind, got = writer(model, kernel, value), host(value)
        stored = element(model.plan.type(value), DTYPES[dtype][0])
        for name in RESULTS:
            mutated = changed(name, got, stored)
            if mutated is not None:
                error, tolerance, _ = compare(model, kernel, value, values, lambda v, y=mutated: y)
                found.setdefault((kind, name), []).append(ratio(error, tolerance))
        right = compare(model, kernel, value, values, host)
        found.setdefault((kind, "none"), []).append(ratio(*right[:2]))
        return right

    with patch.object(verify, "_compare", compared), quiet():
        verify.verify_model(model, BATCH)
    return found


# --- a line of what was emitted, changed ------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """A line of the emitted file, and the same with a mistake."""

    kind: str
    what: str
    right: str
    wrong: str
    case: str
    limit: tuple[str, ...] = ()  # the types in which nobody could see it

    @property
    def dtypes(self) -> tuple[str, ...]:
        return CASES[self.case].dtypes


def _read(mistake: dict[str, Any]) -> Mistake:
    return Mistake(**{**mistake, "limit": tuple(mistake.get("limit", ()))})


SOURCES = [_read(m) for m in tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["mistake"]]


class NotThere(Exception):
    """The emitted file has no such line any more, or a kernel of that kind does not use it."""


def with_mistake(mistake: Mistake, dtype: str) -> list[Check]:
    """The checks of its network where every kernel has the mistake."""
    emitted: list[str] = []

    def mistaken(program: Program) -> str:
        emitted.append(emit(program))
        return emitted[-1].replace(mistake.right, mistake.wrong)

    with patch.object(triton_executor, "emit", mistaken), quiet():
        model = CASES[mistake.case].model(dtype)
        if mistake.right not in emitted[0] or f"    {mistake.kind}(" not in emitted[0]:
            raise NotThere(f"{mistake.kind} {mistake.what}: {mistake.right!r} is not in what is emitted")
        return verify.verify_model(model, BATCH)


#: kernels whose products tf32 makes uncertain, and what that hides
UNCERTAIN = ("conv2d_fprop", "conv2d_dgrad", "conv2d_wgrad", "sum_partials", "sum_partials_of_many", "finish_filters")
HIDDEN = ("x 1.001", "one element x 1.01", "narrower")


def limited(kind: str, name: str, dtype: str) -> bool:
    """Is it known that a changed result may pass?"""
    sums_of_sums = kind == "finish_filters" and name == "x 1.01"
    return dtype == "tf32" and kind in UNCERTAIN and (name in HIDDEN or sums_of_sums)


def seen(mistake: Mistake, dtype: str) -> float:
    """The largest share of its tolerance that an error is; more than 1 is caught."""
    return max(ratio(c.error, c.tolerance) for c in with_mistake(mistake, dtype))


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes what masks hide, too
        yield


# --- the page ------------------------------------------------------------


def cell(shares: list[float] | None) -> str:
    """The least share; how many are caught, unless all are."""
    if not shares:
        return ""
    least, caught = min(shares), sum(s > 1 for s in shares)
    figure = "> 1e6" if least > 1e6 else f"{least:.2g}" if least < 100 else f"{least:.0e}"
    return figure if caught == len(shares) else f"**{figure}** ({caught} of {len(shares)})"


def caught_least(found: dict[str, list[float] | None]) -> str:
    """The mutation that is caught least, and its share; if some are not caught, each of these."""
    shares = {name: given for name, given in found.items() if given}
    missed = [name for name, given in shares.items() if min(given) <= 1]
    shown = missed or sorted(shares, key=lambda name: min(shares[name] or [0.0]))[:1]
    return ", ".join(f"{name}: {cell(shares[name])}" for name in shown)


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def every_result(say: Callable[[str], None]) -> dict[str, Found]:
    """By type, of all networks."""
    found: dict[str, Found] = {dtype: {} for dtype in DTYPES_SHOWN}
    for name, case in CASES.items():
        for dtype in case.dtypes:
            say(f"{name}, {dtype}")
            for key, shares in results(case, dtype).items():
                found[dtype].setdefault(key, []).extend(shares)
    return found


def every_mistake(say: Callable[[str], None]) -> dict[tuple[str, str], dict[str, float]]:
    """By kernel and mistake, in each type."""
    found = {}
    for mistake in SOURCES:
        say(f"{mistake.kind} {mistake.what}")
        found[mistake.kind, mistake.what] = {dtype: seen(mistake, dtype) for dtype in mistake.dtypes}
    return found


def page(changed: dict[str, Found], mistaken: dict[tuple[str, str], dict[str, float]]) -> str:
    text = HEAD + "\n" + row(["written by", "right", *changed]) + row(["---"] * (2 + len(changed)))
    for kind in sorted({kind for found in changed.values() for kind, _ in found}):
        right = max(max(found.get((kind, "none"), [0.0])) for found in changed.values())
        cells = [caught_least({name: found.get((kind, name)) for name in RESULTS}) for found in changed.values()]
        text += row([f"`{kind}`", f"{right:.2f}", *cells])
    text += "\n## A line of the source, changed\n\n" + row(["kernel", "mistake", *DTYPES_SHOWN])
    text += row(["---"] * (2 + len(DTYPES_SHOWN)))
    for (kind, what), shares in mistaken.items():
        cells = [cell([shares[dtype]] if dtype in shares else None) for dtype in DTYPES_SHOWN]
        text += row([f"`{kind}`", what, *cells])
    return text


HEAD = """\
# What verification catches

Made by `python -m tests.run.mutations`. Tests hold it: what is caught stays caught, and what is not is named.

`tricnn verify` runs every kernel and holds each number that it writes to float64 NumPy on the inputs the kernel really
got. Every element has a tolerance of its own (`tricnn/check/error_bounds.py`: the equations, and their sources): the
roundings that its own operands and sums may suffer, to first order. In the reference, operands of products are rounded
as the kernel rounds them, and of the result only what rounding to the stored type does not explain counts as an error.
So 16-bit types are checked as closely as fp32: what is accepted is some 10^-6 of a number in each of the three.

Here kernels are made wrong on purpose, by changing [what a launch wrote](#what-a-launch-wrote-changed), or
[a line of the source](#a-line-of-the-source-changed). A figure is an error divided by its tolerance, at the
element where that is largest: more than 1 is caught. Where kernels of a kind write several values, it is the one
that is caught least; **bold** where some are not caught.

## Limits

- **tf32.** Tensor cores may cut 13 bits off each operand of a product: 2^-10 of the sum, and by chance as much as
  4 * 2^-10 of the root of the sum of squared terms. So where products are, a factor of 1.001, rounding to bf16 (2^-9),
  or 1 % at one element may be as good as tf32 itself; so may 1 % of a layer scale's gradient, a sum of such sums. What
  needs no tensor core, such as a depthwise convolution, is held to fp32.
- **The last digits of a constant.** An eps of 1.1e-5 for 1e-5 changes a variance of 1 by a millionth: less than fp32's
  own errors. A dropout probability of 0.3001 for 0.3 drops one more element in 10,000: of the 1,944 there are, none.
- **bf16 weights rounded to bf16** are what is asked for.
- **A number that only rounding makes**, such as the gradient of a bias before a batch norm, which is 0: anything of the
  size of its roundings is accepted.
- **A mask at a kink.** Where a number is 0 but for rounding, ReLU's gradient may be that of either side.
- **What is not looked at.** One step on random numbers of one size: not overflow, not other sizes. The optimiser
  (`update_of_many`) is no kernel of the step; tests of its own hold it to PyTorch's.

## What a launch wrote, changed

There are eight mutations of the numbers that kernels of a kind write: every element *x 1.001* or *x 1.01*; *one element
x 1.01*, of middle size; *narrower*, rounded to 8 bits (as bf16), bf16 to 5; *shifted a pixel*; *two channels swapped*;
*last block 0* or *last block stale*: the last eighth of the rows is 0, or what the first rows are. Shown is the one
that is caught least, or each that is not always caught. *Right* is the largest share of its tolerance that an error of
the right kernel is. A mutation that changes nothing, as 1.001 times a number of bf16, which rounds back to it, is left
out; a factor of 1.001 before rounding is among the lines of the source, below. Blank: not used in this type.
"""


def main() -> None:
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    PAGE.write_text(page(every_result(say), every_mistake(say)))


if __name__ == "__main__":
    main()
