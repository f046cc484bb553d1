"""Batches mixed with themselves: mixup and CutMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..run.loss_targets import Mixed
from ..system.errors import TricnnError


@dataclass(frozen=True)
class Mixing:
    """Each image with the one after it in its batch (the last with the first), by one share for the whole batch.

    With ``mixup`` = α above 0 the share λ is Beta(α, α) and the image is ``λ·x + (1 - λ)·x'`` (Zhang et al. 2018). With
    ``cutmix`` = α a rectangle of 1 - λ of the area is the other image's, and λ is what is left of the image in the end
    (Yun et al. 2019, appendix A). Where both are given, each batch takes one of them, as likely.

    Raises TricnnError for an α below 0.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise TricnnError(f"{name} {getattr(self, name)} is not accepted; it is 0 (off) or above")

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, x: Any, labels: Any, rng: np.random.Generator) -> tuple[Any, Mixed]:
        """Images [B, C, H, W], NumPy or torch, and labels [B] as a mixed batch of its own memory, and its labels."""
        cuts = self.cutmix > 0 and (self.mixup <= 0 or rng.random() < 0.5)
        share = float(rng.beta(*(self.cutmix if cuts else self.mixup,) * 2))
        following = (np.arange(len(x)) + 1) % len(x)
        height, width = (int(extent) for extent in x.shape[2:])
        other = x[following]
        if cuts:
            top, bottom, left, right = box(height, width, 1 - share, rng)
            share = 1 - (bottom - top) * (right - left) / (height * width)
            mixed = x + 0
            mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        else:
            mixed = share * x + (1 - share) * other
        return mixed, Mixed(labels, labels[following], share)


def box(height: int, width: int, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, bottom, left, right): ``area`` of the image, of its shape, around a uniform centre, as far as inside."""
    found = []
    for extent in (height, width):
        side, centre = area**0.5 * extent, rng.uniform(0, extent)
        found += [max(0, round(centre - side / 2)), min(extent, round(centre + side / 2))]
    return found[0], found[1], found[2], found[3]
