"""Updates of all parameters of a network on a GPU by one launch; a launch more for each pass of sums that comes first.

| optimiser | launches | bytes of a parameter |
|---|--:|--:|
| SGD, with and without groups | 1 | 20 (12 without momentum) |
| AdamW | 1 | 28 |
| LARS | 2 | 28 |
| LAMB | 2 | 40 |
| clipping by norm, or looking for what is not finite | 1 more (none for LARS) | 8 more |
| running average | none | 8 more |
| copy in 16 bits of what products multiply | none | 2 more |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..run.rounded_weights import RoundedWeights
from ..run.triton_executor import launching
from .optim import LAMB, LARS, SGD, AdamW, Average, Optimiser
from .updates import State

BLOCK = 1024  # elements that a program updates
SUMMED, MOVED = 4096, 2048  # of a pass over longer pieces: elements that a program looks at together
LENGTH, MOST = 2**16, 1024  # elements of such a piece, unless there would be about so many of them: then longer ones
WIDTH = 1024  # sums that are read at once


@dataclass(frozen=True)
class Tables:
    """The tables that ``kernels/optimisers.py`` reads.

    They are pieces to update, longer ones to sum over, settings by parameter, and where sums are left.
    """

    pieces: Any
    long: Any
    settings: Any
    sums: Any


class FewLaunches:
    """An :class:`~tricnn.training.updates.Update` of contiguous fp32 torch tensors, by ``kernels/optimisers.py``.

    It has the equations of ``optimiser`` and ``average``, and all sums in fp32, in an order that the sizes of
    parameters decide. What is remembered starts as zeros. Addresses are written down once, and again when a tensor is
    another one. ``rounded`` (:meth:`tricnn.run.model.Model.rounded_weights`) has the copies to write.
    """

    def __init__(
        self,
        optimiser: Optimiser,
        average: Average | None = None,
        state: State = dict,
        rounded: RoundedWeights | None = None,
    ):
        self.optimiser, self.average, self.state, self.rounded = optimiser, average, state, rounded
        self._addresses: list[tuple[int, ...]] = []
        self._tables: Tables

    def __call__(
        self,
        parameters: Mapping[str, Any],
        gradients: Mapping[str, Any],
        lr: float,
        scale: float = 1.0,
        check: bool = False,
    ) -> bool:
        with launching():
            return self._launched(self._pointing(parameters, gradients), gradients, lr, scale, check)

    def _launched(self, tables: Tables, gradients: Mapping[str, Any], lr: float, scale: float, check: bool) -> bool:
        """Whether an update was made, after its launches."""
        from ..kernels.optimisers import moments_of_many, sums_of_many, update_of_many

        rule = self.optimiser
        many = len(tables.long)
        if check or rule.clip is not None or isinstance(rule, LARS):
            sums_of_many[(many,)](tables.long, tables.sums, BLOCK=SUMMED, num_warps=8)
        if check and bool(tables.sums[3].any()):
            return False
        rule.steps += 1
        numbers = self._numbers(lr, scale)
        clips = rule.clip is not None
        if isinstance(rule, LAMB):
            names = ("share", "clip", "beta1", "new1", "beta2", "new2", "left1", "left2", "eps")
            moments_of_many[(many,)](
                tables.long,
                tables.settings,
                tables.sums,
                many,
                *(numbers[name] for name in names),
                CLIPS=clips,
                BLOCK=MOVED,
                WIDTH=WIDTH,
            )
        update_of_many[(len(tables.pieces),)](
            tables.pieces,
            tables.settings,
            tables.sums,
            many,
            *numbers.values(),
            RULE=self._rule(),
            REMEMBERS=bool(self._kinds()),
            CLIPS=clips,
            AVERAGES=self.average is not None,
            ROUNDED=self._type_of_copies(),
            BLOCK=BLOCK,
            WIDTH=WIDTH,
        )
        if self.rounded is not None:
            self.rounded.written(gradients)
        return True

    def _rule(self) -> str:
        """The name by which the kernel knows the optimiser."""
        rule = self.optimiser
        if isinstance(rule, SGD):
            return "nesterov" if rule.nesterov else "sgd"
        return {LARS: "lars", AdamW: "adamw", LAMB: "lamb"}[type(rule)]

    def _kinds(self) -> tuple[str, ...]:
        """The kinds of tensors that are remembered of each parameter, by PyTorch's names."""
        rule = self.optimiser
        if isinstance(rule, AdamW):
            return "exp_avg", "exp_avg_sq"
        return () if isinstance(rule, SGD) and not rule.momentum else ("momentum",)

    def _numbers(self, lr: float, scale: float) -> dict[str, float]:
        """The numbers of a step, in the order of the kernel's arguments."""
        rule, moments = self.optimiser, (0.0, 0.0)
        if isinstance(rule, AdamW):
            moments = rule.betas
        elif isinstance(rule, SGD | LARS):
            moments = (rule.momentum, 0.0)
        (beta1, beta2), t = moments, rule.steps
        return {
            "rate": float(lr),
            "share": 1.0 / scale,
            "clip": float(rule.clip or 0.0),
            "beta1": beta1,
            "new1": 1.0 - beta1,
            "beta2": beta2,
            "new2": 1.0 - beta2,
            "left1": 1.0 - beta1**t,
            "left2": 1.0 - beta2**t,
            "eps": rule.eps if isinstance(rule, AdamW) else 0.0,
            "trust": rule.trust if isinstance(rule, LARS) else 0.0,
            "forgotten": 1.0 - self.average.decay if self.average is not None else 0.0,
        }

    def _type_of_copies(self) -> Any:
        """Triton's name for the type of the copies in 16 bits, if there are any."""
        import triton.language as tl

        copies = self.rounded.copies.values() if self.rounded is not None else ()
        return next((getattr(tl, str(copy.dtype).removeprefix("torch.")) for copy in copies), None)

    def _pointing(self, parameters: Mapping[str, Any], gradients: Mapping[str, Any]) -> Tables:
        """The tables for these tensors, which are those of the last step if the tensors are the same."""
        import torch

        rule, copies = self.optimiser, self.rounded.copies if self.rounded is not None else {}
        kinds = self._kinds()
        for kind in kinds:
            values = rule.slots.setdefault(kind, {})
            values.update({n: torch.zeros_like(parameters[n]) for n in gradients if n not in values})
        averages = self.average.values if self.average is not None else {}
        tensors = {name: parameters[name] for name in gradients}
        if self.average is not None:
            tensors |= {name: x for name, x in self.state().items() if name not in tensors}
        remembered = [rule.slots[kind] for kind in kinds] + [{}] * (2 - len(kinds))
        places = (tensors, gradients, *remembered, averages, copies)
        addresses = [
            (*(of[name].data_ptr() if name in of else 0 for of in places), x.numel()) for name, x in tensors.items()
        ]
        if addresses != self._addresses:
            self._tables = self._made(
                list(tensors), gradients, np.array(addresses, np.int64), next(iter(tensors.values()))
            )
            self._addresses = addresses
        return self._tables

    def _made(self, names: list[str], gradients: Mapping[str, Any], addresses: np.ndarray, like: Any) -> Tables:
        """Tables of parameters with the ``addresses`` that :func:`cut` takes, on the device of ``like``."""
        import torch

        total = int(addresses[: len(gradients), 6].sum())
        length = max(LENGTH, -(-total // (MOST * BLOCK)) * BLOCK)
        long = cut(addresses[: len(gradients)], length)
        ends = np.searchsorted(long[:, 7], np.arange(len(names)), side="right")
        starts = np.searchsorted(long[:, 7], np.arange(len(names)), side="left")
        settings = [
            (*self._settings(name), start, end) if name in gradients else (0.0, 0.0, 0.0, start, end)
            for name, start, end in zip(names, starts, ends, strict=True)
        ]
        return Tables(
            torch.tensor(cut(addresses, BLOCK), device=like.device),
            torch.tensor(long, device=like.device),
            torch.tensor(settings, dtype=torch.float32, device=like.device),
            torch.zeros((4, len(long)), device=like.device),
        )

    def _settings(self, name: str) -> tuple[float, float, float]:
        """A parameter's share of the rate, its decay, and whether norms rescale its step."""
        rule = self.optimiser
        share, decay = rule.rates.get(name, 1.0), rule.decay_of(name)
        if isinstance(rule, LARS | LAMB) and name in rule.no_decay:
            return share, 0.0, 0.0
        return share, decay, 1.0


def cut(addresses: np.ndarray, length: int) -> np.ndarray:
    """The table of pieces of at most ``length`` elements, [pieces, 8], of a table of parameters.

    That table is [parameters, 7]: addresses of five fp32 tensors and of a copy in 16 bits, and how many elements each
    of them has.
    """
    counts = addresses[:, 6]
    pieces = -(-counts // length)
    which = np.repeat(np.arange(len(counts)), pieces)
    begin = (np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * length
    rows = addresses[which, :6]
    rows += np.where(rows != 0, begin[:, None] * np.array([4, 4, 4, 4, 4, 2]), 0)
    return np.column_stack([rows, np.minimum(length, counts[which] - begin), which])
