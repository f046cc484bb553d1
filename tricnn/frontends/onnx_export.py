"""An ONNX file of a graph and its weights, for inference.

Operator set 17, which everything that runs ONNX today reads. The batch is open (``N``). Each layer is the operator of
the same meaning, or the few that have it; names of weights stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import pi, sqrt
from typing import Any

import numpy as np

from ..compiler.specialise import for_inference
from ..ir.graph import Graph, Node
from ..ir.table import Environment
from ..ir.types import TensorType
from ..ir.wording import plural
from ..system.errors import GraphError
from ..system.paths import user_path
from .onnx_import import _onnx

OPSET = 17


def to_onnx(graph: Graph, state: Mapping[str, Any], path: Any = None, *, fold: bool = False) -> Any:
    """The ``onnx.ModelProto`` of a graph with weights, written to ``path`` if one is given.

    state  parameters and running statistics by name, as ``m.state_dict()`` and ``module.state_dict()`` give them.
    fold   batch norm becomes part of the convolution before it, where nobody else reads that.

    What only training wants (dropout, auxiliary heads) is left out. Raises GraphError for weights that are missing or
    of another shape, and, naming all of them, for layers that operator set 17 has no words for.
    """
    onnx = _onnx()
    writer = _Writer(onnx, for_inference(graph), state)
    model = writer.model(fold)
    if path is not None:
        try:
            onnx.save(model, user_path(path))
        except OSError as error:
            raise GraphError(f"{path}: cannot be written ({error.strerror or error})") from None
    return model


Layer = Callable[["_Writer", Node, list[str]], None]
LAYERS: dict[str, Layer] = {}


def writes(*ops: str) -> Callable[[Layer], Layer]:
    def enter(layer: Layer) -> Layer:
        for op in ops:
            LAYERS[op] = layer
        return layer

    return enter


class Unwritable(Exception):
    """A layer that the operator set has no words for, and why."""


class _Writer:
    """Collects nodes and tensors. The value of a layer has the layer's name."""

    def __init__(self, onnx: Any, graph: Graph, state: Mapping[str, Any]):
        self.onnx, self.graph = onnx, graph
        self.nodes: list[Any] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.count = Counter[str]()
        for node in (*graph.parameters, *graph.buffers):
            if node.name not in state:
                raise GraphError(f"weights do not fit {graph.name}: missing {node.name}")
            x = state[node.name]
            x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float32)
            if x.shape != (wanted := graph.types[node.name].per_image):
                raise GraphError(f"weights do not fit {graph.name}: {node.name} has shape {x.shape}, needs {wanted}")
            self.tensors[node.name] = x

    def type(self, value: str) -> TensorType:
        return self.graph.types[value]

    def put(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Append an operator; its result has the name of the layer, or one of its own."""
        if not output:
            output = self.fresh(self.layer)
        name = f"{output}.{op}" if output == self.layer else output
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [output], name, **attributes))
        return output

    def fresh(self, stem: str) -> str:
        self.count[stem] += 1
        return f"{stem}/{self.count[stem]}"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = self.fresh(f"{self.layer}/constant")
        self.tensors[name] = np.asarray(value, dtype)
        return name

    def model(self, fold: bool) -> Any:
        folded = self.folded() if fold else set()
        missing: dict[str, str] = {}
        for node in self.graph.nodes:
            self.layer = node.name
            if node.op in LAYERS and node.inputs:
                if node.name in folded:
                    self.put("Identity", [node.inputs[0]], node.name)
                    continue
                try:
                    LAYERS[node.op](self, node, self.operands(node))
                except Unwritable as why:
                    missing[node.name] = f"{node.op} {why}"
            elif node.inputs:
                missing[node.name] = node.op
        if missing:
            shown = "; ".join(f"{layer} ({why})" for layer, why in missing.items())
            raise GraphError(f"{self.graph.name}: {plural(len(missing), 'layer')} not in operator set {OPSET}: {shown}")
        return self.packed()

    def operands(self, node: Node) -> list[str]:
        """A layer's operands; vectors beside images as [C, 1, 1]; an input as it is normalised."""
        return [self.given(value) for value in node.inputs]

    def given(self, value: str) -> str:
        source = self.graph.by_name[value]
        if not source.inputs and (source.attrs.get("scale") or source.attrs.get("shift")):
            normalised = f"{value}/normalised"
            if not any(normalised in n.output for n in self.nodes):
                ones = [1] * (len(self.type(value).shape) - 2)
                scale = self.constant(np.reshape(source.attrs["scale"] or 1.0, (-1, *ones)))
                shift = self.constant(np.reshape(source.attrs["shift"] or 0.0, (-1, *ones)))
                self.put("Add", [self.put("Mul", [value, scale]), shift], normalised)
            return normalised
        return value

    def beside(self, node: Node, operands: Sequence[str]) -> list[str]:
        """Operands of a pointwise layer: a vector beside images is [C, 1, 1]."""
        images = len(self.type(node.name).shape) == 4
        return [
            self.put("Reshape", [x, self.constant([-1, 1, 1], np.int64)])
            if images and len(self.type(v).shape) == 1
            else x
            for x, v in zip(operands, node.inputs)
        ]

    def folded(self) -> set[str]:
        """Batch norms that are part of a convolution or dense layer now, whose weights are changed."""
        done = set()
        results = {o.value for o in self.graph.outputs}
        for norm in self.graph.nodes:
            if not norm.inputs or LAYERS.get(norm.op) is not batch_norm:
                continue
            before = self.graph.by_name[norm.inputs[0]]
            takes = LAYERS.get(before.op) in (conv2d, linear) and len(self.graph.consumers[before.name]) == 1
            takes = takes and before.inputs[1] in self.tensors
            if not takes or before.name in results or len(self.graph.consumers[before.inputs[1]]) > 1:
                continue
            weight, bias, mean, var = (self.tensors[v].astype(np.float64) for v in norm.inputs[1:])
            w = self.tensors[before.inputs[1]]
            factor = weight / np.sqrt(var + norm.attrs["eps"])
            old = self.tensors[before.inputs[2]] if len(before.inputs) > 2 else np.zeros(len(w))
            self.tensors[before.inputs[1]] = (w * factor.reshape(-1, *[1] * (w.ndim - 1))).astype(np.float32)
            self.tensors[f"{before.name}/bias"] = ((old - mean) * factor + bias).astype(np.float32)
            done.add(norm.name)
        return done

    def bias(self, node: Node, operands: list[str]) -> list[str]:
        """Weight and bias of a product, that of a folded batch norm if there is one."""
        own = f"{node.name}/bias"
        return [*operands[:2], own] if own in self.tensors else operands

    def packed(self) -> Any:
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper

        def info(name: str, type_: TensorType) -> Any:
            shape = ["N" if not isinstance(d, int) else d for d in type_.shape]
            kinds = self.onnx.TensorProto
            return helper.make_tensor_value_info(name, kinds.UINT8 if type_.dtype == "uint8" else kinds.FLOAT, shape)

        for output in self.graph.outputs:
            self.nodes.append(helper.make_node("Identity", [output.value], [f"output.{output.name}"]))
        read = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes, self.graph.name, [info(n.name, self.type(n.name)) for n in self.graph.inputs],
            [info(f"output.{o.name}", self.type(o.value)) for o in self.graph.outputs],
            [numpy_helper.from_array(x, name) for name, x in self.tensors.items() if name in read],
        )  # fmt: skip
        model = helper.make_model(
            graph, producer_name="tricnn", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        self.onnx.checker.check_model(model, full_check=True)
        return model


# --- layers ---------------------------------------------------------------------------------------------------------


def sides(padding: Sequence[int]) -> list[int]:
    """(top, bottom, left, right) in ONNX's order: both befores, both afters."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]


@writes("conv2d")
def conv2d(w: _Writer, node: Node, x: list[str]) -> None:
    a = node.attrs
    w.put("Conv", w.bias(node, x), node.name, strides=a["stride"], pads=sides(a["padding"]), dilations=a["dilation"],
          group=a["groups"])  # fmt: skip


@writes("conv_transpose2d")
def conv_transpose2d(w: _Writer, node: Node, x: list[str]) -> None:
    a = node.attrs
    w.put("ConvTranspose", x, node.name, strides=a["stride"], pads=sides(a["padding"]), dilations=a["dilation"],
          group=a["groups"], output_padding=a["output_padding"])  # fmt: skip


@writes("linear")
def linear(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Gemm", w.bias(node, x), node.name, transB=1)


@writes("batch_norm")
def batch_norm(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("BatchNormalization", x, node.name, epsilon=node.attrs["eps"], momentum=1 - node.attrs["momentum"])


@writes("pixel_stats")
def pixel_stats(w: _Writer, node: Node, x: list[str]) -> None:
    """Write nothing: it is a part of what ``layer_normalize`` is written as."""


@writes("layer_normalize")
def layer_normalize(w: _Writer, node: Node, x: list[str]) -> None:
    """Write the normalisation as LayerNormalization over the last axis of [N, H, W, C], between two transpositions."""
    image, _, weight, bias = x
    y = w.put("Transpose", [image], perm=[0, 2, 3, 1])
    y = w.put("LayerNormalization", [y, weight, bias], axis=-1, epsilon=node.attrs["eps"])
    w.put("Transpose", [y], node.name, perm=[0, 3, 1, 2])


@writes("view_weight", "standardize_filters", "scale_filters", "repeat_number")
def computed_weight(w: _Writer, node: Node, x: list[str]) -> None:
    """Write a weight that is made of parameters as what it is with these."""
    operands = [w.tensors[value] for value in node.inputs]
    w.tensors[node.name] = np.asarray(node.row.numpy(Environment(), node.attrs, *operands), np.float32)


@writes("max_pool2d", "avg_pool2d")
def pool(w: _Writer, node: Node, x: list[str]) -> None:
    a = node.attrs
    same = dict(kernel_shape=a["kernel_size"], strides=a["stride"], pads=sides(a["padding"]))
    p, q = w.type(node.name).spatial
    (h, v), (r, s), (sh, sw) = w.type(node.inputs[0]).spatial, a["kernel_size"], a["stride"]
    reach = (p - 1) * sh + r - h - a["padding"][0], (q - 1) * sw + s - v - a["padding"][2]
    if a["ceil_mode"] and (reach[0] > a["padding"][1] or reach[1] > a["padding"][3]):
        same["ceil_mode"] = 1
    if "count_include_pad" in a:
        if same.get("ceil_mode") and a["count_include_pad"] and any(a["padding"]):
            raise Unwritable("with ceil_mode and counted padding")
        w.put("AveragePool", x, node.name, count_include_pad=int(a["count_include_pad"]), **same)
    else:
        w.put("MaxPool", x, node.name, **same)


@writes("adaptive_avg_pool2d")
def adaptive_avg_pool2d(w: _Writer, node: Node, x: list[str]) -> None:
    (h, v), (p, q) = w.type(node.inputs[0]).spatial, node.attrs["output_size"]
    if h % p or v % q:
        raise Unwritable(f"of {h}x{v} to {p}x{q}")
    w.put("AveragePool", x, node.name, kernel_shape=[h // p, v // q], strides=[h // p, v // q])


@writes("mean_channels")
def mean_channels(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("ReduceMean", x, node.name, axes=[1])


@writes("max_channels")
def max_channels(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("ReduceMax", x, node.name, axes=[1])


@writes("sum_channels")
def sum_channels(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("ReduceSum", [*x, w.constant([1], np.int64)], node.name)


@writes("local_response_norm")
def local_response_norm(w: _Writer, node: Node, x: list[str]) -> None:
    a = node.attrs
    if a["size"] % 2 == 0:
        raise Unwritable(f"of size {a['size']}")
    w.put("LRN", x, node.name, size=a["size"], alpha=a["alpha"], beta=a["beta"], bias=a["k"])


#: layers that are an operator, with the attributes that it has there
ALIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "global_avg_pool": ("GlobalAveragePool", {}), "flatten": ("Flatten", {"axis": 1}),
    "softmax": ("Softmax", {"axis": 1}), "concat": ("Concat", {"axis": 1}), "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}), "tanh": ("Tanh", {}), "hardswish": ("HardSwish", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}), "neg": ("Neg", {}), "abs": ("Abs", {}),
    "sqrt": ("Sqrt", {}), "reciprocal": ("Reciprocal", {}), "exp": ("Exp", {}), "log": ("Log", {}),
    "add": ("Add", {}), "sub": ("Sub", {}), "mul": ("Mul", {}),
    "div": ("Div", {}), "maximum": ("Max", {}), "minimum": ("Min", {}), "prelu": ("PRelu", {}),
}  # fmt: skip


@writes(*ALIKE)
def alike(w: _Writer, node: Node, x: list[str]) -> None:
    op, attributes = ALIKE[node.op]
    w.put(op, w.beside(node, x), node.name, **attributes)


@writes("from_bytes")
def from_bytes(w: _Writer, node: Node, x: list[str]) -> None:
    factor = w.constant(np.reshape(node.attrs["scale"], (-1, 1, 1)))
    term = w.constant(np.reshape(node.attrs["shift"], (-1, 1, 1)))
    image = w.put("Cast", x, to=w.onnx.TensorProto.FLOAT)
    w.put("Add", [w.put("Mul", [image, factor]), term], node.name)


@writes("scale")
def scale(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Mul", [*x, w.constant(node.attrs["factor"])], node.name)


@writes("shift")
def shift(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Add", [*x, w.constant(node.attrs["amount"])], node.name)


@writes("square")
def square(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Mul", [x[0], x[0]], node.name)


@writes("silu")
def silu(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Mul", [x[0], w.put("Sigmoid", x)], node.name)


@writes("relu6")
def relu6(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Clip", [*x, w.constant(0.0), w.constant(6.0)], node.name)


@writes("clamp")
def clamp(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Clip", [*x, w.constant(node.attrs["min"]), w.constant(node.attrs["max"])], node.name)


@writes("leaky_relu")
def leaky_relu(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("LeakyRelu", x, node.name, alpha=node.attrs["negative_slope"])


@writes("elu")
def elu(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Elu", x, node.name, alpha=node.attrs["alpha"])


@writes("mish")
def mish(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Mul", [x[0], w.put("Tanh", [w.put("Softplus", x)])], node.name)


@writes("softplus")
def softplus(w: _Writer, node: Node, x: list[str]) -> None:
    beta = w.constant(node.attrs["beta"])
    w.put("Div", [w.put("Softplus", [w.put("Mul", [x[0], beta])]), beta], node.name)


@writes("gelu")
def gelu(w: _Writer, node: Node, x: list[str]) -> None:
    """Write x * (1 + erf(x / sqrt(2))) * 0.5, as exporters do."""
    erf = w.put("Erf", [w.put("Div", [x[0], w.constant(sqrt(2))])])
    w.put("Mul", [w.put("Mul", [x[0], w.put("Add", [erf, w.constant(1.0)])]), w.constant(0.5)], node.name)


@writes("gelu_tanh")
def gelu_tanh(w: _Writer, node: Node, x: list[str]) -> None:
    cube = w.put("Mul", [w.put("Mul", [x[0], x[0]]), x[0]])
    inner = w.put("Add", [x[0], w.put("Mul", [cube, w.constant(0.044715)])])
    tanh = w.put("Tanh", [w.put("Mul", [inner, w.constant(sqrt(2 / pi))])])
    w.put("Mul", [w.put("Mul", [x[0], w.put("Add", [tanh, w.constant(1.0)])]), w.constant(0.5)], node.name)


@writes("unflatten")
def unflatten(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("Reshape", [*x, w.constant([-1, *node.attrs["shape"]], np.int64)], node.name)


@writes("slice_channels")
def slice_channels(w: _Writer, node: Node, x: list[str]) -> None:
    bounds = ([node.attrs["start"]], [node.attrs["stop"]], [1])
    w.put("Slice", [*x, *(w.constant(v, np.int64) for v in bounds)], node.name)


@writes("pad_channels")
def pad_channels(w: _Writer, node: Node, x: list[str]) -> None:
    rest = [0] * (len(w.type(node.name).shape) - 2)
    pads = [0, node.attrs["before"], *rest, 0, node.attrs["after"], *rest]
    w.put("Pad", [*x, w.constant(pads, np.int64)], node.name)


@writes("zero_pad2d")
def zero_pad2d(w: _Writer, node: Node, x: list[str]) -> None:
    """Write what is cut off as Slice, and what is added as Pad."""
    top, left, bottom, right = sides(node.attrs["padding"])
    (h, v), added = w.type(node.inputs[0]).spatial, [max(side, 0) for side in (top, left, bottom, right)]
    if min(top, left, bottom, right) < 0:
        bounds = [max(-top, 0), max(-left, 0)], [h + min(bottom, 0), v + min(right, 0)], [2, 3]
        cut = [*x, *(w.constant(numbers, np.int64) for numbers in bounds)]
        x = [w.put("Slice", cut, "" if any(added) else node.name)]
    if any(added) or min(top, left, bottom, right) == 0:
        w.put("Pad", [*x, w.constant([0, 0, *added[:2], 0, 0, *added[2:]], np.int64)], node.name)


@writes("upsample_nearest2d", "upsample_bilinear2d")
def upsample(w: _Writer, node: Node, x: list[str]) -> None:
    """Write Resize to a size, with images and channels as many as they are."""
    bounds = [w.constant(v, np.int64) for v in ([0], [2])]
    sizes = w.put(
        "Concat", [w.put("Slice", [w.put("Shape", x), *bounds]), w.constant(node.attrs["size"], np.int64)], axis=0
    )
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if "align_corners" in node.attrs:
        corners = "align_corners" if node.attrs["align_corners"] else "half_pixel"
        how = {"mode": "linear", "coordinate_transformation_mode": corners}
    w.put("Resize", [x[0], "", "", sizes], node.name, **how)


@writes("channel_shuffle", "pixel_unshuffle")
def shuffle(w: _Writer, node: Node, x: list[str]) -> None:
    c, h, v = w.type(node.inputs[0]).per_image
    if "groups" in node.attrs:
        g = node.attrs["groups"]
        split, order = [-1, g, c // g, h, v], [0, 2, 1, 3, 4]
    else:
        r = node.attrs["downscale_factor"]
        split, order = [-1, c, h // r, r, v // r, r], [0, 1, 3, 5, 2, 4]
    moved = w.put("Transpose", [w.put("Reshape", [*x, w.constant(split, np.int64)])], perm=order)
    w.put("Reshape", [moved, w.constant([-1, *w.type(node.name).per_image], np.int64)], node.name)


@writes("pixel_shuffle")
def pixel_shuffle(w: _Writer, node: Node, x: list[str]) -> None:
    w.put("DepthToSpace", x, node.name, blocksize=node.attrs["upscale_factor"], mode="CRD")
