"""What training minimises: a loss by its name, and how labels become the targets that it is taken to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..system.errors import TricnnError, shown

#: what a loss is called -> its row, over targets that are numbers
ROWS = {
    "cross_entropy": "soft_cross_entropy",
    "binary_cross_entropy": "binary_cross_entropy",
    "mean_squared_error": "squared_error",
}


@dataclass(frozen=True)
class Loss:
    """A loss of outputs ``x`` and what they ought to be, as PyTorch's functional losses define it (mean).

    The outputs are ``[N, K]`` or, a row for each pixel, ``[N, K, H, W]``.

    kind             ``cross_entropy``; ``binary_cross_entropy``, of the sigmoid of each output; ``mean_squared_error``
    label_smoothing  this share of a label's target is spread over all classes (not for mean_squared_error)
    class_weights    of cross entropy: a number for each class
    ignore_index     of cross entropy: images, or pixels, with this label add nothing
    mixed            labels may be more than one class number an image: :class:`tricnn.run.loss_targets.Mixed`, or a
                     probability for each class. The other losses take those always.
    scaled           gradients are of the loss times a number that each step is given
                     (:attr:`tricnn.run.model.Model.loss_scale`), so that small ones are not lost in fp16; always so
                     with a model of that type

    Raises TricnnError for values that make no sense together.
    """

    kind: str = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    ignore_index: int | None = None
    mixed: bool = False
    scaled: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ROWS:
            raise TricnnError(f"loss {shown(self.kind)} is unknown; known are {', '.join(ROWS)}")
        if not 0 <= self.label_smoothing <= 1:
            raise TricnnError(f"label smoothing {self.label_smoothing} is not accepted; it is 0 to 1")
        if self.label_smoothing and self.kind == "mean_squared_error":
            raise TricnnError("label smoothing is for cross entropies; mean_squared_error takes targets as they are")
        if self.class_weights is not None:
            weights = tuple(float(w) for w in self.class_weights)
            if not all(0 <= w < float("inf") for w in weights) or not any(weights):
                raise TricnnError("class weights must be numbers of at least 0, and not all 0")
            object.__setattr__(self, "class_weights", weights)
        if self.kind != "cross_entropy" and (self.class_weights is not None or self.ignore_index is not None):
            raise TricnnError(f"class weights and an ignored label are for cross_entropy; {self.kind} has neither")

    @classmethod
    def named(cls, loss: Loss | str) -> Loss:
        """A loss as it is, or the one of this name."""
        return loss if isinstance(loss, Loss) else cls(loss)

    def of_step(self, mode: str, dtype: str) -> Loss:
        """This loss as the step of a mode and a type has it: scaled where that is training in fp16."""
        return replace(self, scaled=self.scaled or (mode == "train" and dtype == "fp16"))

    @property
    def settings(self) -> dict[str, Any]:
        """What of it decides the bits of a run and is not at its default, in words, as JSON has it."""
        found = {
            "loss": self.kind,
            "label smoothing": self.label_smoothing,
            "class weights": self.class_weights and list(self.class_weights),
            "ignored class": self.ignore_index,
        }
        default = {"loss": Loss.kind, "label smoothing": 0.0, "class weights": None, "ignored class": None}
        return {name: value for name, value in found.items() if value != default[name]}

    @property
    def takes_labels(self) -> bool:
        """Does the kernel read class numbers, one for each image or pixel (True), or targets like the outputs?"""
        return self.kind == "cross_entropy" and not self.mixed

    @property
    def weighs(self) -> bool:
        """Does the kernel read a weight for each class beside the labels, of which negative ones count nothing?"""
        return self.takes_labels and self.weighs_rows

    @property
    def weighs_rows(self) -> bool:
        """Do some images, or pixels, count more than others?"""
        return self.class_weights is not None or self.ignore_index is not None

    @property
    def of_logits(self) -> bool:
        """Does it take logits, and so of an output that is a softmax what the softmax takes?"""
        return self.kind == "cross_entropy"

    def of_guessing(self, classes: int) -> float:
        """The loss where all classes are as likely: log K; of each class by itself, log 2.
        A squared error has no such value (infinite)."""
        if self.kind == "cross_entropy":
            return math.log(max(classes, 2))
        return math.log(2) if self.kind == "binary_cross_entropy" else math.inf

    @property
    def row(self) -> str:
        """The operation that computes it."""
        return self.kind if self.takes_labels else ROWS[self.kind]

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the operation must know; the rest is in the targets."""
        return {"label_smoothing": self.label_smoothing} if self.takes_labels else {}
