"""What the training loop asks of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Trainable(Protocol):
    """What the loop asks of a model (:class:`tricnn.run.model.Model`, compiled for training)."""

    graph: Any  # its name and, by ``str``, its text
    step: int

    loss: Any  # what it minimises (:class:`tricnn.Loss`)

    @property
    def loss_scale(self) -> float | None: ...  # what gradients are too large by, if there is such a factor

    @loss_scale.setter
    def loss_scale(self, scale: float) -> None: ...  # set only where there is one

    @property
    def frozen(self) -> tuple[str, ...]: ...  # the parameters that have no gradient

    @property
    def device(self) -> str: ...  # cpu or cuda: where it is

    @property
    def threads(self) -> int | None: ...  # that add up its products, if their number decides the bits

    def loss_and_storage_grads(self, x: Any, labels: Any, watch: Any = None) -> tuple[float, dict[str, Any]]: ...
    def running_statistics(self) -> dict[str, Any]: ...  # asked only of one of several processes
    def parameters(self) -> dict[str, Any]: ...
    def live_state(self) -> dict[str, Any]: ...  # asked only for a running average
    def rounded_weights(self) -> Any: ...  # asked only of parameters on a GPU
    def to_logical(self, name: str, x: Any) -> Any: ...
    def to_storage(self, name: str, x: Any) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> Any: ...


class Evaluable(Protocol):
    """What the training loop asks of the network that it trains, compiled for inference."""

    def __call__(self, x: Any) -> Any: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> Any: ...
