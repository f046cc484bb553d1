"""Random networks, trained or run by a random policy of fusion, held to PyTorch's own functions and autograd.

One seed makes the whole case: network, mode, policy, batch, dtype, numbers. Two families:

real    every layer. In float64 a plan equals PyTorch to rounding; fp32 kernels, up to what PyTorch's own fp32 loses, or
        PyTorch's fp64 where each layer's result and gradient is rounded to fp32 at random
exact   layers that keep integers whole, on sparse small integers: the numbers must be equal in every bit. Logits are
        then so far apart that softmax gives 0, 1 or 1/2, and gradients are whole numbers of some power of 1/2 as well

Memory that nothing has written is poisoned (tests/conftest.py does so for all tests, ``__main__`` for itself).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from random import Random

import numpy as np
import torch

import tricnn
from tests.compiler import reference
from tests.ir.random_graphs import CLASSES, drawn, values_for
from tricnn.check.verify import verify_model
from tricnn.compiler.policies import RULES
from tricnn.ir import Graph
from tricnn.machine import tiles
from tricnn.run.model import Model
from tricnn.run.quick_interpreter import quick_interpreter
from tricnn.run.triton_executor import interpreting

#: whole policies, each rule alone, all rules but one
POLICIES = ("all", "all", "auto", "none", *RULES, *(",".join(r for r in RULES if r != rule) for rule in RULES))
SEED = 5  # of dropout's masks
#: what is exact in sums of fp32: multiples of STEP below LARGEST
STEP, LARGEST = 2.0**-8, 2.0**15
#: bits of the significand of an integer that a type holds
BITS = {"fp32": 24, "fp16": 11, "bf16": 8}
#: how many times the error of PyTorch in fp32 is accepted, and of the largest value
TIMES, SHARE = 32.0, 2e-5
#: how often rounding is drawn: a sum that cancels may be 0 in one order of its terms, by luck, and in another not
ROUNDINGS = 2


@dataclass(frozen=True)
class Case:
    """What one seed stands for."""

    seed: int
    executor: str
    graph: Graph
    mode: str
    policy: str
    batch: int
    dtype: str
    exact: bool
    gpu_tiles: bool
    by_kernel: bool
    freeze: tuple[str, ...] = ()

    def __str__(self) -> str:
        how = "exact" if self.exact else "each kernel by itself" if self.by_kernel else "close"
        machine = ", tiles of a GPU" if self.gpu_tiles else ""
        still = f", {len(self.freeze)} parameters frozen" if self.freeze else ""
        what = f"{self.executor}, {self.mode}, {self.dtype}, batch {self.batch}, {how}{machine}{still}"
        return f"case {self.seed}: {what}, fuse={self.policy}"

    @property
    def command(self) -> str:
        return f"python -m tests.fuzz {self.seed} --executor {self.executor}"


def case_of(seed: int, executor: str, graph: Graph | None = None) -> Case:
    """The case of a seed; ``graph`` is put in its network's place."""
    pick = Random(f"case {seed}")
    exact, wide, layers = pick.random() < 0.4, pick.random() < 0.1, pick.choice((2, 4, 7, 10))
    mode = pick.choice(("train", "train", "train", "infer"))
    policy, batch = pick.choice(POLICIES), pick.choice((1, 2, 4) if exact else (1, 2, 3, 3))
    gpu_tiles, by_kernel, narrow = pick.random() < 0.3, pick.random() < 0.15, pick.choice(("fp16", "bf16"))
    dtype = "fp64"
    if executor != "numpy":
        by_kernel = by_kernel and executor == "triton" and not exact
        dtype = narrow if by_kernel or (exact and mode == "infer" and executor == "triton") else "fp32"
    gpu_tiles = executor == "triton" and (gpu_tiles or wide)
    by_kernel = by_kernel and executor == "triton"
    if graph is None:
        dense = not exact and Random(f"heads {seed}").random() < 0.2
        graph = drawn(seed, layers, images=mode == "infer", exact=exact, wide=wide, dense=dense)
    if batch == 1 and any(graph.types[node.name].pixels == 1 for node in graph.of("batch_norm")):
        batch = 2  # of one number PyTorch has no statistics
    freeze = _frozen(graph, Random(f"freeze {seed}")) if mode == "train" and not by_kernel else ()
    return Case(seed, executor, graph, mode, policy, batch, dtype, exact, gpu_tiles, by_kernel, freeze)


def _frozen(graph: Graph, pick: Random) -> tuple[str, ...]:
    """Weights that training leaves as they are, in some networks; none of batch norm, which would be frozen whole."""
    norms = {v for node in graph.of("batch_norm") for v in node.inputs}
    names = [p.name for p in graph.parameters if p.name not in norms]
    if len(names) < 2 or pick.random() > 0.25:
        return ()
    return tuple(sorted(pick.sample(names, pick.randint(1, len(names) - 1))))


def differences(case: Case, draw: int = 0) -> list[str]:
    """What is not as PyTorch has it, a line each. ``draw`` chooses other numbers for the same network."""
    graph, rng = case.graph, np.random.default_rng((case.seed, draw))
    values = values_for(graph, case.batch, case.seed + draw, ties=draw % 2 == 1, whole=case.exact)
    if case.exact:  # far apart, so that softmax is exact
        heads = {graph.by_name[o.value].inputs[1] for o in graph.outputs if graph.by_name[o.value].op == "linear"}
        values |= {w: values[w] * 256 for w in heads if w in values and case.mode == "train"}
    labels = rng.integers(0, CLASSES, (case.batch, *case.graph.rows))
    with tiles.chosen_for(tiles.GPU if case.gpu_tiles else tiles.INTERPRETER):
        target = "sm_90" if case.gpu_tiles else None
        model = tricnn.compile(
            graph, case.mode, case.batch, case.dtype, case.executor, target, fuse=case.policy, seed=SEED,
            freeze=case.freeze,
        )  # fmt: skip
    if case.by_kernel:
        return [f"{c.kernel} {c.value}: {c.error} > {c.tolerance}" for c in verify_model(model, case.batch) if not c.ok]
    model.load_state_dict({name: values[name] for name in model.state_dict()})
    expected = _expected(case, values, labels)
    with quick_interpreter() if case.executor == "triton" and interpreting() else nullcontext():
        found = _found(case, model, values, labels)
    if case.mode == "infer" and "" in found:  # the only output has no name
        found = dict.fromkeys(expected, found[""])
    if found.keys() != expected.keys():
        return [f"results are {sorted(found)}, not {sorted(expected)}"]
    whole = case.exact and _fits(_forward(case, values), case.dtype)
    accepted = dict.fromkeys(expected, 0.0)
    if not whole or case.mode == "train":
        accepted = _accepted(case, values, labels, expected)
    lines = []
    for name, want in expected.items():
        equal = whole and name != "loss" and _fits([want], "fp32")
        most = 0.0 if equal and case.executor != "numpy" else accepted[name]
        error = np.abs(found[name] - want).max(initial=0.0)
        if not error <= most:
            lines.append(
                f"{name}: off by {error:.3g}, accepted {most:.3g}, largest {np.abs(want).max(initial=0.0):.3g}"
            )
    return lines


def _found(case: Case, model: Model, values: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
    """The model's results by name, in float64."""
    if case.mode == "infer":
        found = model(values["x"])
        found = found if isinstance(found, dict) else {"": found}
    else:
        loss, grads = model.loss_and_grads(values["x"], labels)
        state = model.state_dict()
        found = {"loss": loss, **{f"grad:{name}": g for name, g in grads.items()}}
        found |= {n.name: state[n.name] for n in case.graph.buffers}
    return {name: np.asarray(x, dtype=np.float64) for name, x in found.items()}


def _forward(case: Case, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The values of all layers of the forward pass by PyTorch, in float64."""
    tensors, training = reference.as_tensors(case.graph, values), case.mode == "train"
    with torch.no_grad():
        reference.run(case.graph, tensors, training=training, seed=SEED)
    softmax = [tensors[o.value].softmax(1).numpy() for o in case.graph.outputs if training]
    return [*(x.numpy() for x in tensors.values()), *softmax]


def _expected(
    case: Case, values: dict[str, np.ndarray], labels: np.ndarray, **rounding: reference.Rounding
) -> dict[str, np.ndarray]:
    """PyTorch's results, in the type of the values."""
    if case.mode == "train":
        found = reference.training_step(case.graph, values, labels, seed=SEED, **rounding)
        still = {f"grad:{name}" for name in case.freeze}
        return {name: x for name, x in found.items() if name not in still}
    return reference.outputs(case.graph, values, **rounding)


def _fits(values: list[np.ndarray], dtype: str) -> bool:
    """Are all of them exact in a type: multiples of STEP, that are not too large?"""
    bits = BITS.get(dtype, 24)
    for x in values:
        significand = np.frexp(x)[0] * 2.0**bits
        if np.abs(x).max(initial=0.0) > LARGEST or (x / STEP % 1).any() or (significand % 1).any():
            return False
    return True


def _accepted(case: Case, values: dict, labels: np.ndarray, expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest error that is accepted: of rounding in float64, or what fp32 costs PyTorch, with a margin."""
    scale = {name: float(np.abs(x).max(initial=0.0)) for name, x in expected.items()}
    if case.executor == "numpy":
        return {name: 1e-9 * max(1.0, s) for name, s in scale.items()}
    narrow = {n: v.astype(np.float32) if v.dtype.kind == "f" else v for n, v in values.items()}
    again = [_expected(case, narrow, labels)]
    for draw in range(ROUNDINGS):
        rounding = reference.rounded_at_random(BITS["fp32"], case.seed + draw)
        again.append(_expected(case, values, labels, rounding=rounding))
    share = {"fp32": SHARE, "fp16": 0.1, "bf16": 0.5}[case.dtype]
    return {
        n: TIMES * max(float(np.abs(other[n] - x).max(initial=0.0)) for other in again) + share * max(scale[n], 0.1)
        for n, x in expected.items()
    }


def verdict(case: Case) -> tuple[str, list[str]]:
    """``same``; ``differs``; or ``unstable``: with these numbers only, and not with three other draws of them. Then a
    maximum or the sign of an activation hangs on the last bit of a sum."""
    found = differences(case)
    if not found:
        return "same", []
    if case.executor != "numpy" and not case.exact and not any(differences(case, draw) for draw in (2, 4, 6)):
        return "unstable", found
    return "differs", found
