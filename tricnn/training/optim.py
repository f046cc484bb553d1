"""Optimisers, on NumPy arrays and torch tensors alike: what they compute, parameter by parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..system.errors import TricnnError


def norm(x: Any) -> float:
    """The square root of the sum of squares, summed in float64."""
    if hasattr(x, "detach"):
        return float(x.double().square().sum().sqrt())
    return float(np.sqrt(np.square(x, dtype=np.float64).sum()))


class Decaying:
    """What has weight decay, but for some parameters. ``decays`` has that of those which have their own."""

    weight_decay: float
    no_decay: frozenset[str]
    decays: Mapping[str, float]

    def decay_of(self, name: str) -> float:
        """The weight decay of a parameter."""
        return self.decays.get(name, 0.0 if name in self.no_decay else self.weight_decay)


@dataclass(kw_only=True)
class Optimiser(Decaying, ABC):
    """Changes parameters in place by their gradients, which it leaves as they are.

    ``clip``, if given, is the most that the norm of all gradients together may be: with a larger one they count times
    ``clip/(norm + 1e-6)``, as ``torch.nn.utils.clip_grad_norm_`` has it (Pascanu et al. 2013, algorithm 1). ``slots``
    holds what is remembered, by PyTorch's name for it and by parameter, in the parameters' own layout; ``steps`` counts
    updates. ``rates`` has a factor of the learning rate for parameters that have their own.
    """

    clip: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    decays: Mapping[str, float] = field(default_factory=dict)
    slots: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    steps: int = 0

    def __post_init__(self) -> None:
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise TricnnError(f"clip {self.clip} is not accepted; it is a positive number")

    def step(self, parameters: Mapping[str, Any], gradients: Mapping[str, Any], lr: float, scale: float = 1.0) -> None:
        """One update of every parameter that has a gradient, which is ``scale`` times too large."""
        self.steps += 1
        share = 1.0 / scale
        if self.clip is not None:
            total = share * sum(norm(gradients[name]) ** 2 for name in gradients) ** 0.5
            share *= min(1.0, self.clip / (total + 1e-6))
        for name, gradient in gradients.items():
            rate = lr * self.rates.get(name, 1.0)
            self.update(name, parameters[name], gradient if share == 1.0 else gradient * share, rate)

    @abstractmethod
    def update(self, name: str, p: Any, g: Any, lr: float) -> None:
        """Change parameter ``p`` called ``name`` by its gradient ``g``."""

    def slot(self, kind: str, name: str, like: Any) -> Any:
        """What is remembered of a parameter: zeros at first."""
        values = self.slots.setdefault(kind, {})
        if name not in values:
            values[name] = like * 0
        return values[name]


def _check_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < float("inf"):
        raise TricnnError(f"weight decay {weight_decay} is not accepted; it is 0 or a positive number")


def _check_momentum(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise TricnnError(f"{name} {value} is not accepted; it is at least 0 and less than 1")


@dataclass
class SGD(Optimiser):
    """PyTorch's definition (torch.optim.SGD, dampening 0), with ``d = g + weight_decay·p``:

        v = d at a parameter's first step, then v = momentum·v + d
        p = p - lr·v,   with Nesterov's momentum   p = p - lr·(d + momentum·v)

    Parameters in ``no_decay`` get no weight decay. ``velocity`` holds v by parameter.
    """

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    no_decay: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum(momentum=self.momentum)
        _check_decay(self.weight_decay)
        if self.nesterov and not self.momentum:
            raise TricnnError("nesterov needs a momentum greater than 0")

    @property
    def velocity(self) -> dict[str, Any]:
        return self.slots.setdefault("momentum", {})

    def update(self, name: str, p: Any, g: Any, lr: float) -> None:
        decay = self.decay_of(name)
        d = g + decay * p if decay else g
        if self.momentum:
            v = self.velocity.get(name)
            if v is None:
                v = self.velocity[name] = d + 0  # its own memory, whatever becomes of the gradient's
            else:
                v *= self.momentum
                v += d
            d = d + self.momentum * v if self.nesterov else v
        p -= lr * d


@dataclass
class AdamW(Optimiser):
    """PyTorch's definition (torch.optim.AdamW; Loshchilov and Hutter 2019, algorithm 2), at update t:

    p = p - lr·weight_decay·p
    m = β1·m + (1 - β1)·g,   v = β2·v + (1 - β2)·g²
    p = p - lr·(m/(1 - β1^t)) / (sqrt(v/(1 - β2^t)) + eps)
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    no_decay: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum(beta1=self.betas[0], beta2=self.betas[1])
        _check_decay(self.weight_decay)

    def direction(self, name: str, g: Any) -> Any:
        """m and v moved by g, and (m/(1 - β1^t)) / (sqrt(v/(1 - β2^t)) + eps)."""
        (beta1, beta2), t = self.betas, self.steps
        m, v = self.slot("exp_avg", name, g), self.slot("exp_avg_sq", name, g)
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * g * g
        return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)) ** 0.5 + self.eps)

    def update(self, name: str, p: Any, g: Any, lr: float) -> None:
        if decay := self.decay_of(name):
            p *= 1 - lr * decay
        p -= lr * self.direction(name, g)


@dataclass
class LAMB(AdamW):
    """Layerwise adaptive large batches (You et al. 2020, algorithm 2, φ the identity), with AdamW's r for a direction:

        u = r + weight_decay·p,   p = p - lr·(‖p‖/‖u‖)·u

    The ratio is 1 where either norm is 0. Parameters in ``no_decay`` have neither decay nor ratio, as usual for biases
    and batch norm.
    """

    eps: float = 1e-6

    def update(self, name: str, p: Any, g: Any, lr: float) -> None:
        u = self.direction(name, g)
        if name not in self.no_decay:
            u = u + self.decay_of(name) * p
            size, step = norm(p), norm(u)
            if size and step:
                lr *= size / step
        p -= lr * u


@dataclass
class LARS(Optimiser):
    """Layerwise adaptive rate scaling (You et al. 2017, equation 6 and algorithm 1), with d = g + weight_decay·p:

        λ = trust·‖p‖ / (‖g‖ + weight_decay·‖p‖),   v = momentum·v + lr·λ·d,   p = p - v

    λ is 1 where either norm is 0, and for parameters in ``no_decay``, which have no decay either.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0
    no_decay: frozenset[str] = frozenset()
    trust: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_momentum(momentum=self.momentum)
        _check_decay(self.weight_decay)
        if not 0 < self.trust < float("inf"):
            raise TricnnError(f"trust {self.trust} is not accepted; it is a positive number")

    def update(self, name: str, p: Any, g: Any, lr: float) -> None:
        v, d = self.slot("momentum", name, g), g
        if name not in self.no_decay:
            size, slope = norm(p), norm(g)
            if size and slope:
                lr *= self.trust * size / (slope + self.decay_of(name) * size)
            d = g + self.decay_of(name) * p
        v *= self.momentum
        v += lr * d
        p -= v


@dataclass
class Average:
    """The running average of a network's state, ``a = decay·a + (1 - decay)·x`` after each update.
    It begins with the state at the start, and is of parameters and running statistics alike (as
    torch.optim.swa_utils.AveragedModel with get_ema_avg_fn and use_buffers)."""

    decay: float
    values: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_momentum(ema=self.decay)

    def update(self, state: Mapping[str, Any]) -> None:
        for name, x in state.items():
            a = self.values.get(name)
            if a is None:
                self.values[name] = x + 0
            else:
                a += (1 - self.decay) * (x - a)
