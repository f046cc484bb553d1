"""What readers of ONNX operators ask of a node's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .assembler import Tensor, Unsupported, described


def ints(x: Any) -> list[int]:
    return [int(v) for v in np.asarray(x).reshape(-1)]


def given(a: Any, inputs: Sequence[Any], index: int, otherwise: Any = None) -> Any:
    """The numbers of an optional input."""
    return a.numbers(inputs[index]) if len(inputs) > index and inputs[index] is not None else otherwise


def scalar(a: Any, x: Any) -> Any:
    """A number where an array or a parameter has but one; else as it is."""
    if isinstance(x, np.ndarray):
        return x.item() if x.size == 1 else a.untrained(a.keep(x))
    return x


def two_dimensional(x: Any) -> None:
    if isinstance(x, Tensor) and len(x.shape) != 4:
        raise Unsupported(f"it is applied to {described(x.shape)}", "supported is [N, C, H, W]")
