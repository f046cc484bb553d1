"""The graph language: nodes, the table of operations, shapes, text form, errors."""

from ..system.errors import (
    CheckpointError,
    DataError,
    GraphError,
    ShapeError,
    TargetError,
    TextError,
    TricnnError,
)
from . import ops
from .builder import GraphBuilder
from .byte_images import of_bytes
from .graph import Graph, Node, Output, topological
from .objective import Loss
from .table import OPS, Environment, Kind, Op
from .text import from_text, to_text
from .types import N, TensorType

__all__ = [
    "OPS", "CheckpointError", "DataError", "Environment", "Graph", "GraphBuilder", "GraphError", "Kind", "Loss", "N",
    "Node", "Op", "Output", "ShapeError", "TargetError", "TensorType", "TextError", "TricnnError", "from_text",
    "of_bytes", "ops", "to_text", "topological",
]  # fmt: skip
