"""How to train: everything that a run is a function of, beside its network and its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ir.patterns import check_patterns, chosen
from ..system.errors import TricnnError
from .image_sizes import check_sizes
from .loss_scaling import LossScaling
from .optim import LAMB, LARS, SGD, AdamW, Optimiser
from .processes import ALONE, Processes
from .schedules import Schedule

OPTIMISERS = ("sgd", "adamw", "lars", "lamb")
#: settings that came later: a checkpoint names those that are not at their default
LATER = ("optimiser", "betas", "clip", "accumulate", "ema", "mixup", "cutmix", "groups", "sync_batch_norm", "sizes")


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a learning rate or a weight decay of their own.
    Their rate is ``lr`` times everybody's, their decay ``weight_decay`` (that of all others if None). ``pattern``
    chooses them (:func:`tricnn.ir.patterns.chosen`): ``fc``, ``layer1.*.weight``."""

    pattern: str
    lr: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.lr < math.inf or (self.weight_decay is not None and not 0 <= self.weight_decay < math.inf):
            raise TricnnError(
                f"group {self.pattern}: lr {self.lr:g}, weight decay {self.weight_decay}: not accepted; 0 or more"
            )


@dataclass(frozen=True)
class TrainOptions:
    """How to train: everything that a run is a function of, beside its network and its data.

    ``milestones`` are epochs at which the rate of the ``step`` schedule falls by ``gamma``; of several ``groups`` that
    choose a parameter the last one counts.

    ``fixed`` names further settings that decide the bits and that only the caller knows (executor, dtype): a run is
    resumed only under the same, and under the same loss.
    """

    epochs: int = 10
    batch: int = 64
    seed: int = 0
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    optimiser: str = "sgd"  # sgd, adamw, lars, lamb
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw and lamb
    clip: float | None = None  # the most that the norm of all gradients may be
    accumulate: int = 1  # batches whose gradients are averaged for one update
    ema: float | None = None  # decay of the running average, which is what is evaluated
    mixup: float = 0.0
    cutmix: float = 0.0
    weight_decay: float = 0.0
    decay_vectors: bool = True  # False: biases and batch-norm parameters get no weight decay
    sizes: tuple[tuple[int, int], ...] = ()  # (epoch, from 1, side): of training images, from that epoch on
    groups: tuple[ParameterGroup, ...] = ()  # of parameters with a rate or a decay of their own
    loss_scaling: LossScaling = field(default_factory=LossScaling)  # of a model with a loss scale (fp16)
    schedule: str = "cosine"
    warmup_epochs: float = 0.5
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    shift: int = 0  # augmentation: move each training image by up to so many pixels
    evaluation_batch: int = 500
    checkpoint_every: int | None = None  # steps
    checkpoint_seconds: float = 30.0
    sync_batch_norm: bool = False  # several processes normalise by the statistics of all their images
    fixed: Mapping[str, Any] = field(default_factory=dict)
    processes: Processes = ALONE  # that train together; ``batch`` is that of all of them

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch", 1),
            ("shift", 0),
            ("evaluation_batch", 1),
            ("seed", 0),
            ("accumulate", 1),
        ):
            if getattr(self, name) < least:
                raise TricnnError(f"{name} {getattr(self, name)} is not accepted; it is at least {least}")
        if self.batch < self.processes.world:
            raise TricnnError(
                f"a batch of {self.batch} is too small for {self.processes.world} processes; each needs an image of it"
            )
        if self.optimiser not in OPTIMISERS:
            raise TricnnError(f"optimiser {self.optimiser!r} is unknown; known are {', '.join(OPTIMISERS)}")
        check_sizes(self.sizes)
        if not 0 <= self.warmup_epochs < math.inf:
            raise TricnnError(f"warm-up of {self.warmup_epochs} epochs is not accepted; it is 0 or more")

    def later(self) -> dict[str, Any]:
        """Those of the settings that came later which are not at their default, as JSON has them."""
        changed = {name: getattr(self, name) for name in LATER if getattr(self, name) != getattr(TrainOptions, name)}
        if self.groups:
            changed["groups"] = [asdict(group) for group in self.groups]
        return changed

    def rates(self, steps_per_epoch: int) -> Schedule:
        total = self.epochs * steps_per_epoch
        return Schedule(
            self.schedule,
            self.lr,
            warmup=min(round(self.warmup_epochs * steps_per_epoch), total - 1),
            total=total if self.schedule == "cosine" else None,
            milestones=tuple(m * steps_per_epoch for m in self.milestones) if self.schedule == "step" else (),
            gamma=self.gamma,
        )


def optimiser_for(model: Any, options: TrainOptions, no_decay: frozenset[str]) -> Optimiser:
    """The optimiser that ``options`` names. Raises GraphError for a group that chooses no parameter."""
    decay, clip = options.weight_decay, options.clip
    rates, decays = grouped(list(model.parameters()), options.groups)
    if options.optimiser in ("adamw", "lamb"):
        kind = AdamW if options.optimiser == "adamw" else LAMB
        return kind(options.betas, weight_decay=decay, no_decay=no_decay, clip=clip, rates=rates, decays=decays)
    if options.optimiser == "lars":
        return LARS(options.momentum, decay, no_decay, clip=clip, rates=rates, decays=decays)
    return SGD(options.momentum, options.nesterov, decay, no_decay, clip=clip, rates=rates, decays=decays)


def grouped(parameters: Sequence[str], groups: Sequence[ParameterGroup]) -> tuple[dict[str, float], dict[str, float]]:
    """``rates`` and ``decays`` of an optimiser, each by parameter."""
    rates: dict[str, float] = {}
    decays: dict[str, float] = {}
    check_patterns("groups", [group.pattern for group in groups], parameters)
    for group in groups:
        for name in parameters:
            if chosen(name, group.pattern):
                rates[name] = group.lr
                if group.weight_decay is not None:
                    decays[name] = group.weight_decay
    return rates, decays
