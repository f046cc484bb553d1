"""Random numbers as functions of what they are for: nothing remembers how many were drawn before."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def key(*parts: object) -> int:
    """A number of 128 bits for (seed, epoch, purpose, ...): the same on every machine, another for other parts."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:16], "little")


def generator(*parts: object) -> np.random.Generator:
    """The generator of these parts. Philox is keyed, not stepped: any of them is made without drawing those before."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of ``range(count)`` that epoch ``epoch`` (from 0) of a run with ``seed`` goes through."""
    return generator(seed, epoch, 0).permutation(count)
