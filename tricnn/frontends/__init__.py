"""Networks from elsewhere, and to there: PyTorch modules and ONNX files."""

from .onnx_export import to_onnx
from .onnx_import import from_onnx
from .torch_export import from_torch

__all__ = ["from_onnx", "from_torch", "to_onnx"]
