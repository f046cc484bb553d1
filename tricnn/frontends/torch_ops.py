"""One table: what each ATen operation is in our words.

``ATEN["aten.relu.default"](a, x)`` reads one call: ``a`` is the :class:`~tricnn.frontends.assembler.Assembler`, the
others are the call's arguments as its schema has them, each a :class:`Tensor`, a :class:`Stored` parameter, a number, a
list of those, or None. ``a.shape`` is the shape of what PyTorch computes there. A reader raises
:class:`~tricnn.frontends.assembler.Unsupported` where tricnn has no words.

To teach the importer an operation, add a name to ``SAME_NAME`` (torch_pointwise.py), or a function under
``@reads(...)`` in the file of its kind.
"""

from __future__ import annotations

from typing import Any

from . import torch_layers, torch_pointwise, torch_reductions, torch_shapes
from .readers import Reader


def getitem(a: Any, xs: Any, index: int) -> Any:
    """One of an operation's results."""
    return xs[index]


ATEN: dict[str, Reader] = {
    "aten.getitem": getitem,
    **torch_layers.READERS,
    **torch_pointwise.READERS,
    **torch_reductions.READERS,
    **torch_shapes.READERS,
}
