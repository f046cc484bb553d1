"""Images of bytes in ONNX files: their Cast to real numbers, and the arithmetic that normalises these."""

from __future__ import annotations

from typing import Any

import numpy as np

from .assembler import Stored, Tensor, Unsupported

#: ONNX's numbers for its types of real numbers
REAL = {1: "FLOAT", 10: "FLOAT16", 11: "DOUBLE", 16: "BFLOAT16"}


def cast(a: Any, x: Any, to: int) -> Any:
    """``x`` as real numbers: bytes by a layer of their own, all else as it is; ``to`` is ONNX's number of the type.
    Raises Unsupported for any other type, for what would be rounded or cut off is not."""
    from onnx import TensorProto

    if isinstance(x, Tensor) and to not in REAL:
        raise Unsupported(f"a cast to {TensorProto.DataType.Name(to)}", f"supported are {', '.join(REAL.values())}")
    if not isinstance(x, Tensor) or a.type(x.value).dtype != "uint8":
        return x
    channels = a.type(x.value).channels
    return real(a, x.value, np.ones(channels), np.zeros(channels), x.view)


def real(a: Any, source: str, scale: np.ndarray, shift: np.ndarray, view: Any = None) -> Tensor:
    """``bytes * scale[c] + shift[c]``, of an input of bytes."""
    value = a.add("from_bytes", source, stem="real", scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))
    a.of_bytes[value] = source, scale, shift
    found: Tensor = a.made(value, view)
    return found


def normalised(a: Any, operator: str, x: Any, y: Any) -> Tensor | None:
    """``x operator y`` as the same bytes by other factors; None unless one is bytes, and the other numbers by channel.
    So ``(x / 255 - mean) / std`` is one layer, which a convolution computes as it loads the bytes."""
    for part, other, turned in ((x, y, False), (y, x, True)):
        if not isinstance(part, Tensor) or part.value not in a.of_bytes or not part.view.plain or part.padded:
            continue
        source, scale, shift = a.of_bytes[part.value]
        numbers = by_channel(a, other, len(scale))
        if numbers is None or (turned and operator == "Div"):
            return None
        if operator == "Mul":
            return real(a, source, scale * numbers, shift * numbers)
        if operator == "Div":
            return real(a, source, scale / numbers, shift / numbers)
        if operator == "Add":
            return real(a, source, scale, shift + numbers)
        return real(a, source, -scale, numbers - shift) if turned else real(a, source, scale, shift - numbers)
    return None


def by_channel(a: Any, x: Any, channels: int) -> np.ndarray | None:
    """A number, or one for each channel beside images, as float64 [C]; None for anything else."""
    if isinstance(x, int | float):
        return np.full(channels, float(x))
    if not isinstance(x, Stored | np.ndarray) or tuple(x.shape) not in ((channels, 1, 1), (1, channels, 1, 1)):
        return None
    numbers: np.ndarray = a.numbers(x).astype(np.float64).reshape(-1)
    return numbers
