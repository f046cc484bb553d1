"""tricnn: convolutional networks compiled to few, readable Triton kernels, for training as well as inference.

import tricnn
g = tricnn.graphs.lenet()
m = tricnn.compile(g, mode="train", batch=64)
loss, grads = m.loss_and_grads(images, labels)
print(m.plan)       # the kernels as a short program
print(m.source)     # the Triton file that runs
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import graphs, ir
    from .frontends import from_onnx, from_torch, to_onnx
    from .frontends.torch_backend import explain
    from .frontends.torch_module import Module
    from .ir import Graph, GraphBuilder, Loss, TricnnError, from_text, of_bytes
    from .run import Mixed, Model, compile
    from .training import Trainer

# Multiply-adds are one instruction, as every Triton until 3.9 makes them unless told otherwise. 3.10 will not by
# default, and 3.9 warns of it.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

__version__ = "0.1.0"
__all__ = [
    "Graph", "GraphBuilder", "Loss", "Mixed", "Model", "Module", "Trainer", "TricnnError", "compile", "explain",
    "from_onnx", "from_text", "from_torch", "graphs", "ir", "of_bytes", "to_onnx",
]  # fmt: skip

_HOME = {"compile": "run", "Model": "run", "Mixed": "run", "Loss": "ir", "Graph": "ir", "GraphBuilder": "ir",
         "TricnnError": "ir", "from_text": "ir", "of_bytes": "ir", "from_torch": "frontends", "from_onnx": "frontends",
         "to_onnx": "frontends", "Trainer": "training", "Module": "frontends.torch_module",
         "explain": "frontends.torch_backend"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import tricnn`` (and each compiler process) stays light."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in ("graphs", "ir", "kernels"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'tricnn' has no attribute {name!r}")
