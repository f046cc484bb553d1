"""How an optimiser's updates are made: parameter by parameter, or in a few launches for all of them on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .loss_scaling import finite
from .optim import Average, Optimiser

#: parameters and running statistics by name, in storage layout
State = Callable[[], Mapping[str, Any]]


class Update(Protocol):
    """A function that updates every parameter that has a gradient, and the running average.

    The rate is ``lr``, and gradients are ``scale`` times too large. With ``check`` nothing is changed if a gradient is
    not finite. It returns whether the update was made.
    """

    def __call__(
        self,
        parameters: Mapping[str, Any],
        gradients: Mapping[str, Any],
        lr: float,
        scale: float = 1.0,
        check: bool = False,
    ) -> bool: ...


class ByParameter:
    """An :class:`Update` as ``optimiser`` and ``average`` define it, on NumPy arrays or torch tensors."""

    def __init__(self, optimiser: Optimiser, average: Average | None, state: State):
        self.optimiser, self.average, self.state = optimiser, average, state

    def __call__(
        self,
        parameters: Mapping[str, Any],
        gradients: Mapping[str, Any],
        lr: float,
        scale: float = 1.0,
        check: bool = False,
    ) -> bool:
        if check and not finite(gradients):
            return False
        self.optimiser.step(parameters, gradients, lr, scale)
        if self.average is not None:
            self.average.update(self.state())
        return True


def on_gpu(model: Any) -> bool:
    """Whether the parameters of a model lie on a GPU."""
    return any(getattr(p, "is_cuda", False) for p in model.parameters().values())


def updates_of(model: Any, optimiser: Optimiser, average: Average | None) -> Update:
    """The way in which the parameters of ``model`` are updated: few launches where Triton's kernels run on a GPU."""

    def state() -> Mapping[str, Any]:
        return model.live_state()  # asked only for a running average

    if on_gpu(model):
        rounded = model.rounded_weights()
        if rounded is not None:
            from .few_launches import FewLaunches  # imports triton

            return FewLaunches(optimiser, average, state, rounded)
    return ByParameter(optimiser, average, state)


def gather(total: dict[str, Any], gradients: Mapping[str, Any], anew: bool) -> None:
    """Add gradients to those that were gathered before, or put them in their place, in the same memory."""
    for name, g in gradients.items():
        if name not in total:
            total[name] = g + 0  # its own memory: the next step overwrites the model's
        elif anew:
            total[name][...] = g
        else:
            total[name] += g
