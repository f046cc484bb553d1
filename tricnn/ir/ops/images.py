"""Images of bytes, as files and cameras give them, made real numbers.

    y[n,c,h,w] = bytes[n,c,h,w] * scale[c] + shift[c]

What PyTorch has two steps for, division by 255 and ``Normalize(mean, std)``, is one multiply-add with ``scale =
1/(255*std)`` and ``shift = -mean/std``. It is a layer like others: a convolution computes it as it loads the bytes, and
padding, which comes after it, is 0 as ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import scalar, scalar_facts
from ..scalar import Attribute, Value
from ..table import Attr, Kind, number, register, require
from ..types import TensorType

#: of an image of bytes: each has a number of its own in a kernel's text
MOST_CHANNELS = 16
EXPRESSION = Value("bytes") * Attribute("scale") + Attribute("shift")


def _numbers() -> Attr:
    def check(value: Any) -> tuple[float, ...]:
        return tuple(number(low=-1e30, high=1e30).check(x) for x in value)

    return Attr(check, "a list of numbers, one for each channel")


def _shape(a: Any, x: TensorType) -> TensorType:
    require(len(x.shape) == 4, f"bytes must be [N, C, H, W], they are {x}")
    require(x.channels <= MOST_CHANNELS, f"bytes have {x.channels} channels; at most {MOST_CHANNELS} are accepted")
    for name in ("scale", "shift"):
        require(
            len(a[name]) == x.channels, f"{name} has {len(a[name])} numbers, which is not one for each channel of {x}"
        )
    return TensorType(x.shape)


def _real(x: Any) -> Any:
    """Bytes as real numbers; an executor may hold them as such already."""
    return x if x.dtype.kind == "f" else x.astype(np.float64)


def _aten(env: Any, a: Any, x: Any) -> Any:
    """In fp32 at least, as the kernels compute it."""
    y = scalar.evaluate(EXPRESSION, a, {"bytes": x.float() if x.element_size() < 4 else x}, "torch")
    return y.to(x.dtype) if x.is_floating_point() else y


register(
    "from_bytes", Kind.POINTWISE, "bytes",
    attrs={"scale": _numbers(), "shift": _numbers()},
    shape=_shape,
    numpy=lambda env, a, x: scalar.evaluate(EXPRESSION, a, {"bytes": _real(x)}),
    aten=_aten,
    gradient="bytes are whole numbers, which no gradient moves",
    scalar=EXPRESSION, rounding=lambda a, x: scalar_facts.rounding(EXPRESSION, a, {"bytes": _real(x)}),
    operations=scalar.operations(EXPRESSION),
    doc="y = bytes * scale[c] + shift[c], by channel: images of whole numbers 0 to 255, normalised",
)  # fmt: skip
