"""Networks from elsewhere: PyTorch modules."""

from .torch_export import from_torch

__all__ = ["from_torch"]
