"""Values that exist before a step: inputs, parameters, running statistics, constants."""

from __future__ import annotations

from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from ...system.limits import MOST_AXES
from ..init import Init
from ..table import Attr, Kind, Source, number, register, require, text
from ..types import DTYPES, N, TensorType


def _shape_attr(*, batch: bool) -> Attr:
    def check(value: Any) -> tuple[Any, ...]:
        dims = tuple(value)
        if len(dims) > MOST_AXES:
            raise ValueError
        for i, dim in enumerate(dims):
            if batch and dim is N and i == 0:
                continue
            if isinstance(dim, bool) or not isinstance(dim, Integral) or dim < 1:
                raise ValueError
        if batch and dims[:1] == (N,) and len(dims) not in (1, 2, 4):
            raise ValueError
        return tuple(dim if dim is N else int(dim) for dim in dims)

    if batch:
        return Attr(check, "[N], [N, F] or [N, C, H, W] with N the batch size and the others positive integers")
    return Attr(check, f"a list of at most {MOST_AXES} positive integers")


@lru_cache(maxsize=1024)
def _canonical(text: str) -> str:
    """An initialiser as it prints; raises GraphError."""
    return str(Init.parse(text))


def _init_attr() -> Attr:
    return Attr(lambda v: _canonical(str(v)), "an initialiser such as he_normal or constant(0)", "constant(0)")


def _given(*_: Any) -> Any:
    raise AssertionError("a source is given its value, not computed")


_NO_GRADIENT = "a source has no inputs to pass a gradient to"


def _numbers_attr() -> Attr:
    def check(value: Any) -> tuple[float, ...]:
        return tuple(number().check(x) for x in value)

    return Attr(check, "a list of finite numbers, one for each channel", ())


def _input_shape(a: Any) -> TensorType:
    type_ = TensorType(a["shape"], a["dtype"])
    for name in ("scale", "shift"):
        fits = len(a["shape"]) > 1 and a["dtype"] == "float" and len(a[name]) == type_.channels
        require(not a[name] or fits, f"{name} has {len(a[name])} numbers, which is not one for each channel of {type_}")
    return type_


register(
    "input", Kind.SOURCE,
    attrs={"shape": _shape_attr(batch=True), "dtype": text("float", DTYPES), "scale": _numbers_attr(),
           "shift": _numbers_attr(), "tangent": text("")},
    shape=_input_shape,
    numpy=_given, aten=_given, gradient=_NO_GRADIENT,
    source=Source.INPUT,
    doc="a tensor the caller gives at every step; a model multiplies it by scale and adds shift, by channel. With a "
    "tangent it is the gradient of the output of that name",
)  # fmt: skip
register(
    "parameter", Kind.SOURCE,
    attrs={"shape": _shape_attr(batch=False), "init": _init_attr()},
    shape=lambda a: TensorType(a["shape"], "float32"),
    numpy=_given, aten=_given, gradient=_NO_GRADIENT,
    source=Source.PARAMETER,
    doc="a trainable tensor, kept in fp32",
)  # fmt: skip
register(
    "buffer", Kind.SOURCE,
    attrs={"shape": _shape_attr(batch=False), "init": _init_attr()},
    shape=lambda a: TensorType(a["shape"], "float32"),
    numpy=_given, aten=_given, gradient=_NO_GRADIENT,
    source=Source.BUFFER,
    doc="a tensor that training updates without a gradient: running statistics",
)  # fmt: skip


def _fill_aten(env: Any, a: Any) -> Any:
    import torch

    return torch.full((), a["value"])


register(
    "fill", Kind.SOURCE,
    attrs={"value": number()},
    shape=lambda a: TensorType((), "float32"),
    numpy=lambda env, a: np.float32(a["value"]), aten=_fill_aten, gradient=_NO_GRADIENT,
    source=Source.CONSTANT,
    doc="a constant scalar",
)  # fmt: skip
