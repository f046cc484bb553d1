"""Weights rounded to the type in which products read them, and whether they are up to date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class RoundedWeights:
    """By parameter, the fp32 tensor that is trained or was loaded, and its copy in 16 bits: flat torch tensors.

    Copies are written by whoever changes parameters (:class:`~tricnn.training.few_launches.FewLaunches` does both at
    once) and says so with :meth:`written`. They are no longer :attr:`current` once a parameter was changed in place.
    """

    def __init__(self, weights: Mapping[str, Any], copies: Mapping[str, Any]):
        self.weights, self.copies = weights, copies
        self._versions: dict[str, int] = {}

    @property
    def current(self) -> bool:
        return all(_version(w) == self._versions.get(name, -1) >= 0 for name, w in self.weights.items())

    def written(self, names: Iterable[str]) -> None:
        """Note that the copies of these parameters are what the parameters are now."""
        self._versions.update({name: _version(self.weights[name]) for name in names if name in self.weights})

    def forget(self) -> None:
        """Take no copy to be up to date until :meth:`written` is called again."""
        self._versions.clear()

    def write(self) -> None:
        """Round all parameters into their copies."""
        for name, weight in self.weights.items():
            self.copies[name].copy_(weight)
        self.written(self.weights)


def _version(x: Any) -> int:
    """PyTorch's count of changes in place; tensors made in inference mode have none, and count as changed always."""
    return -1 if x.is_inference() else int(x._version)
