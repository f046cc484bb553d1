"""How good a network's answers are: loss and accuracy, of each pixel mean intersection over union as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..ir.numpy_ops.loss import as_rows


class Scores:
    """Sums over the images (or pixels) of a test set, those with the label ``ignored`` left out.
    With ``classes`` the counts of every pair of true and given class are kept, for the mean intersection over union."""

    def __init__(self, classes: int | None = None, ignored: int | None = None):
        self.ignored = ignored
        self.right = self.loss = self.count = 0.0
        self.pairs = np.zeros((classes or 0, classes or 0))

    def add(self, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        """Take in logits [N, K] and labels [N], or [N, K, H, W] and [N, H, W]."""
        rows, labels = as_rows(logits), labels.reshape(-1)
        if self.ignored is not None:
            rows, labels = rows[labels != self.ignored], labels[labels != self.ignored]
        given = rows.argmax(axis=1)
        self.right += int((given == labels).sum())
        self.loss += cross_entropy(rows, labels)
        self.count += len(labels)
        if self.pairs.size:
            np.add.at(self.pairs, (labels, given), 1)

    @property
    def sums(self) -> list[float]:
        """All sums in a row, for several processes to add up; :meth:`set` takes them back."""
        return [self.right, self.loss, self.count, *self.pairs.reshape(-1).tolist()]

    def set(self, sums: Sequence[float]) -> None:
        """Take the place of these sums by those of all processes."""
        self.right, self.loss, self.count = sums[:3]
        self.pairs = np.array(sums[3:]).reshape(self.pairs.shape)

    @property
    def figures(self) -> dict[str, float]:
        """``test_loss``, ``test_accuracy`` and, where classes are counted, ``test_mean_iou``.
        That is the mean, over the classes that are in the labels or the answers, of TP / (TP + FP + FN)."""
        found = {"test_loss": self.loss / self.count, "test_accuracy": self.right / self.count}
        if self.pairs.size:
            both = np.diag(self.pairs)
            either = self.pairs.sum(axis=0) + self.pairs.sum(axis=1) - both
            found["test_mean_iou"] = float((both[either > 0] / either[either > 0]).mean())
        return found


def cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The sum over rows of ``log Σ exp(logits) - logits[label]``."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).sum())
