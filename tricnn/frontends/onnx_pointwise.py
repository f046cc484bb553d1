"""ONNX operators in our words: activations and arithmetic.

A reader takes the assembler, the node, its inputs and its attributes (onnx_ops.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, sqrt
from typing import Any

import numpy as np

from . import onnx_bytes, torch_pointwise
from .assembler import Tensor, Unsupported
from .onnx_bytes import normalised
from .onnx_inputs import given, scalar
from .readers import Reader, entering
from .torch_pointwise import unary

READERS: dict[str, Reader] = {}
reads = entering(READERS)


@dataclass(frozen=True)
class Erf:
    """factor * (erf(x / sqrt(2)) + term): what gelu(x) is made of in files."""

    x: Tensor
    factor: float = 1.0
    term: float = 0.0


def _enter(name: str, op: str) -> None:
    @reads(name)
    def read(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
        return unary(a, op, inputs[0])


for _name in (
    "Relu", "Sigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log",
):  # fmt: skip
    _enter(_name, _name.lower())


@reads("Swish")
def swish(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    alpha = attributes.get("alpha", 1.0)
    if alpha == 1:
        return unary(a, "silu", inputs[0])
    return torch_pointwise.multiply(a, unary(a, "sigmoid", torch_pointwise.multiply(a, inputs[0], alpha)), inputs[0])


@reads("HardSigmoid")
def hard_sigmoid(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """max(0, min(1, alpha*x + beta))."""
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    if isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return unary(a, "hardsigmoid", inputs[0])
    return unary(a, "clamp", torch_pointwise.by_number(a, inputs[0], alpha, beta), min=0.0, max=1.0)


@reads("Gelu")
def gelu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return torch_pointwise.gelu(a, inputs[0], approximate=attributes.get("approximate", "none"))


@reads("Elu")
def elu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return torch_pointwise.elu(a, inputs[0], attributes.get("alpha", 1.0))


@reads("Selu")
def selu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    alpha = attributes.get("alpha", 1.67326319217681884765625)
    return torch_pointwise.elu(a, inputs[0], alpha, attributes.get("gamma", 1.05070102214813232421875))


@reads("LeakyRelu")
def leaky_relu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return torch_pointwise.leaky_relu(a, inputs[0], attributes.get("alpha", 0.01))


@reads("PRelu")
def prelu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, slope = inputs
    channels = a.tensor(x).shape[1]
    numbers = a.numbers(slope)
    if numbers.size not in (1, channels):
        raise Unsupported(f"slopes {list(numbers.shape)}", "supported is one for each channel, or one")
    if numbers.size == 1:
        slope = a.keep(np.broadcast_to(numbers.reshape(-1), (channels,)).copy(), "slope")
    return a.made(a.add("prelu", a.plain(x), a.parameter(slope, "slope", (channels,))))


@reads("Clip")
def clip(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    low, high = given(a, inputs, 1, attributes.get("min")), given(a, inputs, 2, attributes.get("max"))
    low, high = (None if v is None else float(np.asarray(v).item()) for v in (low, high))
    if (low, high) == (0.0, 6.0):
        return unary(a, "relu6", inputs[0])
    return unary(a, "clamp", inputs[0], **{k: v for k, v in (("min", low), ("max", high)) if v is not None})


@reads("Erf")
def erf(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    made = scaled_by(a, inputs[0], sqrt(0.5))
    if made is None:
        raise Unsupported("erf", "supported is its part in gelu")
    return Erf(made)


def scaled_by(a: Any, x: Any, factor: float) -> Tensor | None:
    """The value that ``x`` is ``factor`` times, if a layer computes it so; else None."""
    node = a.builder.nodes[-1] if isinstance(x, Tensor) else None
    node = next((n for n in reversed(a.builder.nodes) if isinstance(x, Tensor) and n.name == x.value), node)
    if node is None or node.op != "scale" or not isclose(node.attrs["factor"], factor, rel_tol=1e-5):
        return None
    return Tensor(node.inputs[0], x.view, site=x.site)


def same(x: Any, y: Any) -> bool:
    return isinstance(x, Tensor) and isinstance(y, Tensor) and (x.value, x.view) == (y.value, y.view)


@reads("Add", "Sum")
def add(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    total, *others = [scalar(a, x) for x in inputs]
    for other in others:
        part, number = (total, other) if isinstance(total, Erf) else (other, total)
        if isinstance(part, Erf):
            if number != part.factor:
                raise Unsupported("a sum with erf", "supported is its part in gelu")
            total = Erf(part.x, part.factor, 1.0)
        else:
            total = normalised(a, "Add", total, other) or torch_pointwise.add(a, total, other)
    return total


@reads("Sub")
def sub(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, y = [scalar(a, v) for v in inputs]
    return normalised(a, "Sub", x, y) or torch_pointwise.subtract(a, x, y)


@reads("Mul")
def mul(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x, y = [scalar(a, v) for v in inputs]
    for part, other in ((x, y), (y, x)):
        if isinstance(part, Erf):
            return gelu_of(a, part, other)
        if isinstance(part, Tensor) and isinstance(other, Tensor):
            last = a.builder.nodes[-1]
            gated = last.name == part.value and last.op == "sigmoid" and last.inputs[0] == other.value
            if gated and part.view == other.view:
                return unary(a, "silu", other)
        last = a.builder.nodes[-1]
        undone = isinstance(part, Tensor) and last.name == part.value and last.op == "scale" and not part.padded
        if undone and isinstance(other, int | float) and isclose(last.attrs["factor"] * other, 1.0):
            return a.made(last.inputs[0], part.view)
    return normalised(a, "Mul", x, y) or torch_pointwise.multiply(a, x, y)


def gelu_of(a: Any, part: Erf, other: Any) -> Any:
    """A product with (1 + erf(x/sqrt(2))): that of x and 0.5, in any order, is gelu(x)."""
    if isinstance(other, int | float):
        return Erf(part.x, part.factor * other, part.term)
    half = scaled_by(a, other, 0.5)
    if part.term == 1.0 and half is not None and same(half, part.x) and part.factor == 1.0:
        return unary(a, "gelu", part.x)
    if part.term == 1.0 and same(other, part.x):
        made = unary(a, "gelu", part.x)
        return made if part.factor == 0.5 else torch_pointwise.multiply(a, made, 2.0 * part.factor)
    raise Unsupported("a product with erf", "supported is its part in gelu")


@reads("Div")
def div(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, y = [scalar(a, v) for v in inputs]
    return normalised(a, "Div", x, y) or torch_pointwise.divide(a, x, y)


@reads("Pow")
def power(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return torch_pointwise.power(a, inputs[0], scalar(a, inputs[1]))


@reads("Max", "Min")
def extreme(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    op, bound = ("maximum", "min") if node.op_type == "Max" else ("minimum", "max")
    result, *others = sorted((scalar(a, x) for x in inputs), key=lambda x: isinstance(x, int | float))
    for other in others:
        number = isinstance(other, int | float)
        result = unary(a, "clamp", result, **{bound: float(other)}) if number else (
            torch_pointwise.binary(a, op, result, other))  # fmt: skip
    return result


@reads("Identity")
def identity(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    return inputs[0]


@reads("Cast", "CastLike")
def cast(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    """The value itself, if it is of real numbers: types are chosen when a network is compiled."""
    from onnx import helper

    like = inputs[1].dtype if len(inputs) > 1 and isinstance(inputs[1], np.ndarray) else np.dtype(np.float32)
    return onnx_bytes.cast(a, inputs[0], attributes.get("to", helper.np_dtype_to_tensor_dtype(like)))


@reads("Dropout")
def dropout(a: Any, node: Any, inputs: Any, attributes: Any) -> list[Any]:
    ratio = float(np.asarray(given(a, inputs, 1, attributes.get("ratio", 0.5))).item())
    return [torch_pointwise.dropout(a, inputs[0], ratio, True), None]
