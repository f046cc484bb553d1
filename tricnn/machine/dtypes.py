"""Types of activations and products, by the names that users and kernels give them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..system.errors import TargetError

#: dtype -> how activations are stored, and the precision of products
DTYPES = {"fp32": ("fp32", "ieee"), "tf32": ("fp32", "tf32"), "fp16": ("fp16", "ieee"), "bf16": ("bf16", "ieee")}
#: the same under other names: PyTorch's, NumPy's
DTYPE_NAMES = {"float32": "fp32", "float": "fp32", "single": "fp32", "f32": "fp32", "float64": "fp64", "double": "fp64",
               "f64": "fp64", "float16": "fp16", "half": "fp16", "f16": "fp16", "bfloat16": "bf16",
               "tensorfloat32": "tf32"}  # fmt: skip
#: bytes of a stored element
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "u8": 1, "i64": 8, "i32": 4}


def dtype_named(value: Any) -> str:
    """``fp32``, ``bf16``, ... for what PyTorch and NumPy call it; anything else in words as it is.
    That may be in words (``"float32"``) or an object of theirs (``torch.bfloat16``, ``np.float16``)."""
    if isinstance(value, type | np.dtype):
        try:
            value = np.dtype(value).name
        except TypeError:
            return repr(value)
    name = str(value).removeprefix("torch.")
    return DTYPE_NAMES.get(name, name)


def check_dtype(dtype: str) -> None:
    """Raise TargetError unless there are Triton kernels for a dtype."""
    if dtype not in DTYPES:
        raise TargetError(f"dtype {dtype!r} has no Triton kernels; accepted: {', '.join(DTYPES)}")
