"""A graph and its weights from an ONNX file.

The readers of :mod:`tricnn.frontends.onnx_ops` put each node in our words. What does not depend on the images is
computed as the file is read, by onnx's own reference evaluator; the batch is a large prime there, so that shapes that
are computed from it are recognised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.graph import Graph
from ..ir.ops.images import MOST_CHANNELS
from ..system.errors import GraphError, shown
from ..system.paths import user_path
from .assembler import BATCH, UNKNOWN, Assembler, Declared, Site, Stored, Tensor, accepted_name
from .onnx_ops import ONNX

OLDEST, NEWEST = 7, 28
#: numbers in a constant that shape arithmetic may be about
SMALL = 1 << 16


def from_onnx(
    source: Any, *, input_shape: Sequence[int] | None = None, name: str | None = None
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph of an ONNX model, and its weights by name in float32: ``m.load_state_dict(state)``.

    source       the path of a ``.onnx`` file (weights in files beside it are read too), or an ``onnx.ModelProto``.
                 Operator sets 7 to 28; docs/onnx.md lists the operators. An input [N, C, L] comes in as images
                 [N, C, L, 1], one of another rank than 2, 3 or 4 as rows [N, F]. Images of bytes (UINT8) stay bytes;
                 the Cast and the arithmetic that normalise them become one layer.
    input_shape  (C, H, W), for files that leave these open. The batch is open always.
    name         of the graph; the file's otherwise.

    A layer is called after its node, one with weights after these (``conv1`` of ``conv1.weight``). A single output is
    called ``logits``. Batch norm that the exporter has folded into convolutions is gone: train from PyTorch instead.

    Raises GraphError: for a file that is none, and, all at once in ``error.problems``, for operators that are not
    supported.
    """
    onnx = _onnx()
    model, stem = _model(onnx, source)
    sets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    version = sets.get("ai.onnx", 1)
    if not OLDEST <= version <= NEWEST:
        raise GraphError(f"{stem}: operator set {version}; supported are {OLDEST} to {NEWEST} (onnx.version_converter)")
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    reader = _Reader(onnx, model, version, accepted_name(name or stem, "network"))
    reader.read(input_shape)
    graph = reader.graph()
    return graph, reader.state(graph)


def _onnx() -> Any:
    try:
        import onnx
        import onnx.reference
    except ImportError:
        raise GraphError("ONNX files need the package onnx: pip install 'tricnn[onnx]'") from None
    return onnx


def _model(onnx: Any, source: Any) -> tuple[Any, str]:
    """The model, and what its graph is called."""
    if isinstance(source, onnx.ModelProto):
        return source, source.graph.name or "network"
    try:
        path = user_path(source)
    except TypeError:
        raise GraphError(f"from_onnx takes a path or an onnx.ModelProto, not {type(source).__name__}") from None
    if not path.is_file():
        raise GraphError(f"{path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        model = onnx.load(path)
        if not model.graph.output:
            raise ValueError("it has no output")
    except Exception as error:  # whatever a damaged file leads to
        reason = " ".join(str(error).split())[:120]
        raise GraphError(f"{path}: not an ONNX model, or damaged ({reason})") from None
    return model, Path(path).stem


class OnnxAssembler(Assembler):
    """An assembler that owns the weights: what a layer wants under another shape is kept under that."""

    def __init__(self, name: str, version: int):
        super().__init__(name, {})
        self.version = version
        self.batch: int | None = None  # that the file is for, where it says one
        #: values that are an input of bytes times a factor by channel plus a term: the input, the factors, the terms
        self.of_bytes: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}

    def keep(self, numbers: np.ndarray, name: str = "constant", *, trained: bool = True) -> Stored:
        """Numbers as a parameter (or a buffer) under a name that nobody has."""
        name = accepted_name(name, "constant")
        base, count = name, 1
        while name in self.stored or name in self.builder.types:
            count += 1
            name = f"{base}_{count}"
        self.stored[name] = Declared(numbers.shape, trained, lambda: numbers)
        return Stored(name, numbers.shape)

    def numbers(self, x: Any) -> np.ndarray:
        """The numbers of a parameter, or of a constant."""
        if isinstance(x, Stored):
            found = self.stored[x.name].numbers()
            assert found is not None
            return found.reshape(x.shape)
        return np.asarray(x)

    def weight(self, x: Any, name: str = "constant") -> Stored:
        """A parameter, or a constant that becomes one."""
        return x if isinstance(x, Stored) else self.keep(np.asarray(x), name)

    def parameter(self, x: Any, what: str, shape: Sequence[int] | None = None) -> str:
        if isinstance(x, np.ndarray):
            x = self.keep(x)
        if isinstance(x, Stored):
            wanted = tuple(shape) if shape is not None else x.shape
            declared = self.stored[x.name]
            if declared.shape != wanted and prod(declared.shape) == prod(wanted):
                numbers = self.numbers(x).reshape(wanted)
                if x.name in self.builder.types:  # another layer has it as it was
                    x = self.keep(numbers, x.name, trained=declared.trained)
                else:
                    self.stored[x.name] = replace(declared, shape=wanted, numbers=lambda: numbers)
                    x = Stored(x.name, wanted)
        return super().parameter(x, what, shape)

    def rows(self, x: Any) -> str:
        """The name of a value for an output: one that is neither [N], [N, F] nor [N, C, H, W] lies in rows."""
        seen = self.tensor(x)
        if len(seen.shape) in (2, 4) or not seen.view.in_order or seen.shape[:1] != (BATCH,):
            return self.plain(seen)
        return self.add("flatten", seen.value) if len(seen.view.base) == 4 else seen.value

    def untrained(self, x: Stored) -> Stored:
        """A stored tensor as a buffer, which training does not change."""
        self.stored[x.name] = replace(self.stored[x.name], trained=False)
        return x


class _Reader:
    """Goes through the nodes of a model."""

    def __init__(self, onnx: Any, model: Any, version: int, name: str):
        self.onnx, self.model, self.version = onnx, model, version
        self.a = OnnxAssembler(name, version)
        self.values: dict[str, Any] = {"": None}

    def read(self, input_shape: Sequence[int] | None) -> None:
        graph = self.model.graph
        for tensor in graph.initializer:
            self.values[tensor.name] = self.constant(self.onnx.numpy_helper.to_array(tensor), tensor.name)
        inputs = [x for x in graph.input if x.name not in self.values]
        for x in inputs:
            self.values[x.name] = self.input(x, input_shape)
        for node in graph.node:
            self.node(node)

    def constant(self, x: np.ndarray, name: str) -> Any:
        """A weight, or numbers to compute with."""
        if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
            return x
        x = x.astype(np.float32)
        return x if x.size == 1 else self.a.keep(x, name)

    def input(self, x: Any, input_shape: Sequence[int] | None) -> Tensor:
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in x.type.tensor_type.shape.dim]
        if input_shape is not None:
            sizes = [sizes[0] if sizes else None, *input_shape]
        if not sizes or not all(sizes[1:]):
            shape = [d.dim_param or d.dim_value or "?" for d in x.type.tensor_type.shape.dim]
            raise GraphError(f"input {x.name} is {shown(shape)}; give its (C, H, W) as input_shape")
        kind = self.onnx.TensorProto.DataType.Name(x.type.tensor_type.elem_type)
        per_image = [d or 0 for d in sizes[1:]]
        of_bytes = kind == "UINT8" and len(per_image) == 3 and per_image[0] <= MOST_CHANNELS
        if "FLOAT" not in kind and kind != "DOUBLE" and not of_bytes:
            raise GraphError(
                f"input {x.name} holds {kind} {shown(per_image)}; accepted are real numbers, and images [C, H, W] of "
                f"bytes (UINT8) with at most {MOST_CHANNELS} channels"
            )
        self.a.batch = sizes[0]
        signals = len(sizes) == 3  # [N, C, L] are images of one column; any other rank lies in rows
        kept = [*per_image, 1] if signals else per_image if len(sizes) in (2, 4) else [prod(per_image)]
        dtype = "uint8" if of_bytes else "float"
        value = self.a.made(self.a.builder.input(self.a.fresh(accepted_name(x.name, "x")), kept, dtype))
        view = value.view.reshaped((BATCH, *per_image))
        assert view is not None  # rows can be cut anywhere
        return replace(value, view=view)

    def node(self, node: Any) -> None:
        """Read one node: its outputs are among the values then."""
        operands = [self.values.get(name, UNKNOWN) for name in node.input]
        attributes = {x.name: self.attribute(x) for x in node.attribute}
        path = accepted_name((node.name or "").strip("/").replace("/", "."), "")
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        kind = f"{domain}{node.op_type}"
        self.a.site = Site(path, bool(path), kind, "")
        if any(x is UNKNOWN for x in operands):
            return self.give(node, [UNKNOWN] * len(node.output))
        if kind == "Shape" and isinstance(operands[0], Tensor | Stored):
            shape = np.array(operands[0].shape, np.int64)
            return self.give(node, [shape[attributes.get("start", 0) : attributes.get("end", len(shape))]])
        if kind in ("Constant", "ConstantOfShape") or (operands and not any(map(self.depends, operands))):
            return self.give(node, self.computed(node, operands))
        if kind not in ONNX:
            self.a.problem("not supported")
            return self.give(node, [UNKNOWN] * len(node.output))
        result = self.a.attempt(lambda: ONNX[kind](self.a, node, operands, attributes), None)
        return self.give(node, result if isinstance(result, list) else [result])

    def depends(self, x: Any) -> bool:
        """Is it a layer, or a weight too large to compute with here?"""
        return isinstance(x, Tensor) or type(x).__name__ == "Erf" or (isinstance(x, Stored) and prod(x.shape) > SMALL)

    def computed(self, node: Any, operands: Sequence[Any]) -> list[Any]:
        """What a node gives that does not depend on the images, by onnx's reference evaluator."""
        helper = self.onnx.helper
        alone = helper.make_graph(
            [node], "alone", [helper.make_tensor_value_info(n, 1, None) for n in dict.fromkeys(node.input) if n],
            [helper.make_tensor_value_info(n, 1, None) for n in node.output if n],
        )  # fmt: skip
        model = helper.make_model(alone, opset_imports=list(self.model.opset_import), ir_version=10)
        feeds = {n: self.a.numbers(x) for n, x in zip(node.input, operands) if n}
        try:
            found = self.onnx.reference.ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:
            self.a.problem(f"it cannot be computed ({' '.join(str(error).split())[:80]})")
            return [UNKNOWN] * len(node.output)
        names = [n for n in node.output if n]
        return [self.constant(np.asarray(x), n) for n, x in zip(names, found)]

    def give(self, node: Any, values: Sequence[Any]) -> None:
        for name, value in zip(node.output, values):
            self.values[name] = value
        for name in node.output[len(values) :]:
            self.values[name] = UNKNOWN

    def attribute(self, x: Any) -> Any:
        value = self.onnx.helper.get_attribute_value(x)
        return value.decode() if isinstance(value, bytes) else value

    def graph(self) -> Graph:
        """The finished graph; raises GraphError with all that was not understood."""
        outputs = self.model.graph.output
        for x in outputs:
            value = self.values.get(x.name, UNKNOWN)
            name = "logits" if len(outputs) == 1 else accepted_name(x.name, "output")
            self.a.site = Site("", False, f"output {x.name}")
            if value is UNKNOWN and not self.a.problems:
                self.a.problem("nothing computes it here", "leave it out")
            if value is not UNKNOWN:
                found = self.a.attempt(partial(self.a.rows, value), None)
                if isinstance(found, str):
                    self.a.builder.output(found, name)
        self.a.refuse(self.a.builder.name, "docs/onnx.md has the supported operators; simplifying the file may help")
        return self.a.builder.build().pruned()

    def state(self, graph: Graph) -> dict[str, np.ndarray]:
        """The weights that the graph has, in the shapes that it has them in."""
        names = [node.name for node in (*graph.parameters, *graph.buffers)]
        return {name: self.a.numbers(Stored(name, self.a.stored[name].shape)) for name in names}
