"""One table: what each ONNX operator is in our words.

``ONNX["Conv"](a, node, inputs, attributes)`` reads one node: inputs are :class:`Tensor`, :class:`Stored`, arrays (what
was computed as the file was read) or None. Where an operator is one of ATen's, its reader is used (torch_ops.py).
"""

from __future__ import annotations

from . import onnx_layers, onnx_pointwise, onnx_shapes
from .readers import Reader

ONNX: dict[str, Reader] = {**onnx_layers.READERS, **onnx_pointwise.READERS, **onnx_shapes.READERS}
