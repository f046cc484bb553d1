"""How to train: everything that a run is a function of, beside its network and its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..system.errors import TricnnError
from .optim import LAMB, LARS, SGD, AdamW, Optimiser
from .processes import ALONE, Processes
from .schedules import Schedule

OPTIMISERS = ("sgd", "adamw", "lars", "lamb")
#: settings that came later: a checkpoint names those that are not at their default
LATER = ("optimiser", "betas", "clip", "accumulate", "ema", "mixup", "cutmix")


@dataclass(frozen=True)
class TrainOptions:
    """How to train. ``milestones`` are epochs at which the rate of the ``step`` schedule falls by ``gamma``.

    ``fixed`` names further settings that decide the bits and that only the caller knows (executor, dtype, label
    smoothing): a run is resumed only under the same.
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
    schedule: str = "cosine"
    warmup_epochs: float = 0.5
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    shift: int = 0  # augmentation: move each training image by up to so many pixels
    evaluation_batch: int = 500
    checkpoint_every: int | None = None  # steps
    checkpoint_seconds: float = 30.0
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
        if not 0 <= self.warmup_epochs < math.inf:
            raise TricnnError(f"warm-up of {self.warmup_epochs} epochs is not accepted; it is 0 or more")

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


def on_gpu(model: Any) -> bool:
    return any(getattr(p, "is_cuda", False) for p in model.parameters().values())


def optimiser_for(model: Any, options: TrainOptions, no_decay: frozenset[str]) -> Optimiser:
    """What ``options`` names; of SGD without clipping one launch for all parameters where they are on a GPU."""
    decay, clip = options.weight_decay, options.clip
    if options.optimiser in ("adamw", "lamb"):
        kind = AdamW if options.optimiser == "adamw" else LAMB
        return kind(options.betas, weight_decay=decay, no_decay=no_decay, clip=clip)
    if options.optimiser == "lars":
        return LARS(options.momentum, decay, no_decay, clip=clip)
    if clip is not None or not on_gpu(model):
        return SGD(options.momentum, options.nesterov, decay, no_decay, clip=clip)
    from .one_launch_sgd import OneLaunchSGD  # imports triton

    rounded = model.rounded_weights()
    return OneLaunchSGD(options.momentum, options.nesterov, options.weight_decay, no_decay, rounded=rounded)
