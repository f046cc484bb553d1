"""tricnn in onnx's own terms: a backend, ``onnx.backend.base.Backend``, for programs and tests that take any.

    from tricnn.frontends.onnx_backend import TricnnBackend

    rep = TricnnBackend.prepare(onnx.load("net.onnx"))
    (logits,) = rep.run([images])

The first input is a batch; others, which onnx's tests of operators have where networks have weights, are taken as
constants, and a model is compiled anew when they change.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ..run.model import Model, compile, gpu_present
from ..system.errors import ShapeError, TricnnError
from .onnx_import import from_onnx


class TricnnRep(BackendRep):
    """A model that is ready to run. ``options`` are those of ``tricnn.compile``."""

    def __init__(self, model: ModelProto, options: dict[str, Any]):
        stored = {x.name for x in model.graph.initializer}
        self.names = [x.name for x in model.graph.input if x.name not in stored]
        self.model, self.options = model, options
        self._constants: list[np.ndarray] | None = None
        self._compiled: Model | None = None
        if len(self.names) == 1:
            self._compiled = self._compile([])

    def _compile(self, constants: Sequence[np.ndarray]) -> Model:
        """The model compiled with these constants in the place of its inputs after the first."""
        bound = ModelProto()
        bound.CopyFrom(self.model)
        tensors = [numpy_helper.from_array(x, name) for x, name in zip(constants, self.names[1:])]
        bound.graph.initializer.extend(tensors)
        graph, state = from_onnx(bound)
        compiled = compile(graph, "infer", **self.options)
        compiled.load_state_dict(state)
        self._constants = list(constants)
        return compiled

    def run(self, inputs: Sequence[np.ndarray], **_: Any) -> tuple[Any, ...]:
        """The outputs in the model's order, arrays of the shapes that it says.
        Raises TricnnError for a model that is not supported, ShapeError for another number of inputs."""
        if len(inputs) != len(self.names):
            raise ShapeError(f"{self.model.graph.name}: {len(inputs)} inputs given, it takes {', '.join(self.names)}")
        arrays = all(isinstance(value, np.ndarray | np.generic) for value in inputs)
        if not inputs or not arrays or not inputs[0].ndim:
            raise ShapeError(f"{self.model.graph.name}: its inputs are arrays, the first of them a batch")
        x, *constants = map(np.asarray, inputs)
        known = self._constants is not None and all(map(np.array_equal, constants, self._constants))
        if self._compiled is None or not known:
            self._compiled = self._compile(constants)
        found = self._compiled(x[..., None] if x.ndim == 3 else x if x.ndim in (2, 4) else x.reshape(len(x), -1))
        values = list(found.values()) if isinstance(found, dict) else [found]
        names = [output.name for output in self.model.graph.output]
        shaped = [self._shaped(y, output) for y, output in zip(values, self.model.graph.output, strict=True)]
        return tuple(namedtupledict("Outputs", names)(*shaped))

    @staticmethod
    def _shaped(y: np.ndarray, output: Any) -> np.ndarray:
        """A result as its model says it is: what is neither [N, F] nor [N, C, H, W] was computed in rows."""
        per_image = [d.dim_value for d in output.type.tensor_type.shape.dim][1:]
        fits = all(per_image) and prod(per_image) == prod(y.shape[1:])
        stored = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
        return (y.reshape(len(y), *per_image) if fits else y).astype(stored, copy=False)


class TricnnBackend(Backend):
    """onnx's interface to tricnn."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **_: Any) -> bool:
        """Whether a model of one input can be imported; of others only a run can tell."""
        stored = {x.name for x in model.graph.initializer}
        try:
            if len([x for x in model.graph.input if x.name not in stored]) == 1:
                from_onnx(model)
        except TricnnError:
            return False
        return True

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **options: Any) -> TricnnRep:
        """The model compiled, on the CPU by the NumPy executor and on CUDA by Triton.
        ``executor`` among the options of ``tricnn.compile`` chooses another one. Raises TricnnError for what is not
        supported."""
        executor = "numpy" if device.startswith("CPU") else "triton"
        return TricnnRep(model, {"dtype": "fp32", "executor": executor, **options})

    @classmethod
    def run_node(
        cls, node: NodeProto, inputs: Sequence[Any], device: str = "CPU", outputs_info: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        """The outputs of one operator, as a model of its own."""
        arrays = [np.asarray(x) for x in inputs]
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in zip(filter(None, node.input), arrays, strict=True)
        ]
        results = [helper.make_tensor_value_info(name, 1, None) for name in node.output]
        versions = [helper.make_opsetid("", options.pop("opset_version", 17))]
        model = helper.make_model(helper.make_graph([node], "node", given, results), opset_imports=versions)
        return cls.prepare(model, device, **options).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether there is such a device: ``CPU``, and ``CUDA`` where there is a GPU."""
        return device.startswith("CPU") or (device.startswith("CUDA") and gpu_present())
