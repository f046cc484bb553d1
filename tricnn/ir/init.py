"""Initialisers: how a parameter's first value is drawn, as text in the graph and as numbers at run time.

A parameter of shape ``[K, C, R, S]`` (or ``[O, F]``) has ``fan_in = C·R·S`` and ``fan_out = K·R·S``, as PyTorch
counts them: in a grouped convolution C is the channels of one group, K all filters.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..system.errors import GraphError

FANS = ("fan_in", "fan_out")

# name -> (what its argument is, the argument when none is written)
KINDS: dict[str, tuple[str, str | float | None]] = {
    "constant": ("number", None),
    "normal": ("std", None),
    "uniform": ("bound", None),
    "xavier_uniform": ("gain", 1.0),
    "xavier_normal": ("gain", 1.0),
    "he_uniform": ("fan", "fan_in"),
    "he_normal": ("fan", "fan_in"),
    "torch_default": ("gain", 1.0),
}

_CALL = re.compile(r"\s*([a-z_]+)\s*(?:\(\s*([^()\s]*)\s*\))?\s*\Z")


@dataclass(frozen=True)
class Init:
    """One initialiser and its argument; prints as the graph's text form has it and parses back.

    =========================  ==========================================================================
    ``constant(c)``            c everywhere
    ``normal(std)``            N(0, std²)
    ``uniform(bound)``         U(-bound, bound)
    ``xavier_uniform``,        variance gain²·2/(fan_in + fan_out); ``(gain)`` may follow. Glorot and Bengio
    ``xavier_normal``          2010, eq. 16
    ``he_uniform(fan_in)``,    variance 2/fan, for ReLU; ``fan_in`` keeps the forward, ``fan_out`` the
    ``he_normal(fan_out)``     backward variance. He et al. 2015, eq. 10 and 14
    ``torch_default``          U(-1/√fan_in, 1/√fan_in), what PyTorch's Conv2d and Linear draw their weights
                               from (``kaiming_uniform_(a=√5)``); ``(gain)`` may follow
    =========================  ==========================================================================
    """

    kind: str
    argument: str | float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GraphError(f"unknown initialiser {_short(self.kind)}; known are {', '.join(KINDS)}")
        meaning, default = KINDS[self.kind]
        value = default if self.argument is None else self.argument
        if value is None:
            raise GraphError(f"initialiser {self.kind} needs its {meaning}, as in {self.kind}(0.1)")
        if meaning == "fan":
            if value not in FANS:
                raise GraphError(f"initialiser {self.kind} takes fan_in or fan_out, not {_short(value)}")
        else:
            try:
                value = float(value)
            except ValueError:
                raise GraphError(f"initialiser {self.kind} takes a number, not {_short(value)}") from None
            if not math.isfinite(value) or (value < 0 and meaning != "number"):
                raise GraphError(f"initialiser {self.kind}: its {meaning} cannot be {value}")
        object.__setattr__(self, "argument", value)

    def __str__(self) -> str:
        if KINDS[self.kind] == ("gain", self.argument):
            return self.kind
        if isinstance(self.argument, str):
            return f"{self.kind}({self.argument})"
        assert self.argument is not None
        whole = self.argument.is_integer() and abs(self.argument) < 1e15
        return f"{self.kind}({int(self.argument) if whole else repr(self.argument)})"

    @classmethod
    def parse(cls, text: str) -> Init:
        """The initialiser that ``text`` names; :class:`GraphError` if there is none."""
        match = _CALL.match(text)
        if not match:
            raise GraphError(f"not an initialiser: {_short(text)}; write one as he_normal(fan_out) or constant(0)")
        return cls(match[1], match[2] or None)

    def scale(self, shape: Sequence[int], name: str = "parameter") -> float:
        """The standard deviation of a normal draw, half a uniform one's width, or the constant itself."""
        if isinstance(self.argument, float) and KINDS[self.kind][0] != "gain":
            return self.argument
        fan_in, fan_out = fans(shape, name, self.kind)
        if self.kind == "torch_default":
            return self._gain / math.sqrt(fan_in)
        if self.kind.startswith("he_"):
            variance = 2.0 / (fan_in if self.argument == "fan_in" else fan_out)
        else:
            variance = self._gain**2 * 2.0 / (fan_in + fan_out)
        return math.sqrt(3.0 * variance) if self.kind.endswith("_uniform") else math.sqrt(variance)

    @property
    def _gain(self) -> float:
        assert isinstance(self.argument, float)
        return self.argument


def fans(shape: Sequence[int], name: str = "parameter", kind: str = "this initialiser") -> tuple[int, int]:
    """(fan_in, fan_out) of a weight; a parameter with fewer than two axes has neither."""
    if len(shape) < 2:
        raise GraphError(
            f"{name}: {kind} needs a weight of two axes or more, not shape {list(shape)};"
            " use constant(c), normal(std) or uniform(bound)"
        )
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def draw(init: Init | str, shape: Sequence[int], seed: int, name: str) -> NDArray[np.float32]:
    """The first value of parameter ``name``: float32, contiguous, PyTorch's axis order.

    Its numbers come from a Philox generator keyed by (seed, name) alone, so adding, removing or
    reordering layers changes no other parameter's.
    """
    init = Init.parse(init) if isinstance(init, str) else init
    scale, shape = np.float32(init.scale(shape, name)), tuple(shape)
    if init.kind == "constant":
        return np.full(shape, scale, np.float32)
    key = hashlib.sha256(f"{int(seed)}/{name}".encode()).digest()[:16]
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    if init.kind.endswith("normal"):
        return rng.standard_normal(shape, dtype=np.float32) * scale
    return (rng.random(shape, dtype=np.float32) * np.float32(2) - np.float32(1)) * scale


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
