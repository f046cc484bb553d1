"""What operations of an exported program are called in our tables, and what is said of those that are in none."""

from __future__ import annotations

import operator
from typing import Any


def aten_name(target: str) -> str:
    """The whole name of an operation: of ``aten``, unless it says another namespace."""
    return target if target.count(".") > 1 else f"aten.{target}"


def target_name(target: Any) -> str:
    """The table's name of what an exported node calls: of a call in place, that of the one that returns the result."""
    if target is operator.getitem:
        return "aten.getitem"
    namespace, _, called = (name := str(target)).partition(".")
    operation, _, overload = called.partition(".")
    return f"{namespace}.{operation[:-1]}.{overload}" if namespace == "aten" and operation.endswith("_") else name


#: what to do about operations that have no row, by the beginning of their name
ADVICE = {
    "higher_order.wrap_with_autocast": "take autocast out of forward: the type is chosen by tricnn.compile(dtype=)",
    "higher_order.wrap_with_set_grad": "take torch.no_grad out of forward; freeze parameters by requires_grad_(False)",
    "higher_order": "control flow and checkpointing cannot be in forward",
    "aten.conv3d": "networks are of 2-d convolutions",
    "aten.scaled_dot_product_attention": "attention is not supported",
    "aten.lstm": "recurrent layers are not supported",
    "aten.embedding": "embeddings are not supported",
    "aten.bernoulli": "random numbers are drawn by nn.Dropout and by stochastic depth, a number for each image",
    "aten.rand": "random numbers are drawn by nn.Dropout only",
}
#: the end of an error
OTHERWISE = "docs/pytorch.md has the supported operations: write forward with those, or import a part of the module"


def advice(target: str) -> str:
    return next((text for start, text in ADVICE.items() if target.startswith(start)), "")
