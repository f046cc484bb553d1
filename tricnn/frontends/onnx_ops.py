"""One table: what each ONNX operator is in our words.

``ONNX["Conv"](a, node, inputs, attributes)`` reads one node: inputs are :class:`Tensor`, :class:`Stored`, arrays (what
was computed as the file was read) or None. Where an operator is one of ATen's, its reader is used (torch_ops.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, isclose, prod, sqrt
from typing import Any

import numpy as np

from . import torch_ops as aten
from .assembler import BATCH, Stored, Tensor, Unsupported, described
from .torch_ops import unary, windowed

Reader = Callable[..., Any]
ONNX: dict[str, Reader] = {}


def reads(*names: str) -> Callable[[Reader], Reader]:
    def enter(reader: Reader) -> Reader:
        for name in names:
            ONNX[name] = reader
        return reader

    return enter


def ints(x: Any) -> list[int]:
    return [int(v) for v in np.asarray(x).reshape(-1)]


def given(a: Any, inputs: Sequence[Any], index: int, otherwise: Any = None) -> Any:
    """The numbers of an optional input."""
    return a.numbers(inputs[index]) if len(inputs) > index and inputs[index] is not None else otherwise


def scalar(a: Any, x: Any) -> Any:
    """A number where an array or a parameter has but one; else as it is."""
    if isinstance(x, np.ndarray):
        return x.item() if x.size == 1 else a.untrained(a.keep(x))
    return x


# --- windows --------------------------------------------------------------------------------------------------------


def around(
    x: Any, attributes: Any, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """(top, bottom, left, right), by ``pads`` or ``auto_pad``."""
    auto = attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        before_and_after = attributes.get("pads", [0, 0, 0, 0])
        top, left, bottom, right = before_and_after
        return [top, bottom, left, right]
    result = []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations):
        total = 0 if auto == "VALID" else max((ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        result += [small, total - small] if auto == "SAME_UPPER" else [total - small, small]
    return result


def two_dimensional(x: Any) -> None:
    if isinstance(x, Tensor) and len(x.shape) != 4:
        raise Unsupported(f"it is applied to {described(x.shape)}", "supported is [N, C, H, W]")


@reads("Conv")
def conv(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    two_dimensional(x)
    weight = a.weight(weight, f"{a.site.path or 'conv'}.weight")
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    image, pads = windowed(a, x, around(x, attributes, weight.shape[2:], strides, dilations))
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv2d", image, *operands, owner=owner(weight), stride=tuple(strides), padding=tuple(pads),
                        dilation=tuple(dilations), groups=attributes.get("group", 1)))  # fmt: skip


def owner(weight: Stored) -> str | None:
    """The name that a layer may take from its weight."""
    return weight.name if weight.name.endswith(".weight") else None


@reads("ConvTranspose")
def conv_transpose(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    two_dimensional(x)
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in attributes:
        raise Unsupported("auto_pad and output_shape", "give it pads and output_padding")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    extra = attributes.get("output_padding", [0, 0])
    weight = a.weight(weight, f"{a.site.path or 'conv'}.weight")
    operands = [a.parameter(weight, "weight")] + ([a.parameter(bias, "bias")] if bias is not None else [])
    return a.made(a.add("conv_transpose2d", a.image(x), *operands, owner=owner(weight),
                        stride=tuple(attributes.get("strides", [1, 1])), padding=(top, bottom, left, right),
                        output_padding=tuple(extra), dilation=tuple(attributes.get("dilations", [1, 1])),
                        groups=attributes.get("group", 1)))  # fmt: skip


@reads("MaxPool", "AveragePool")
def pool(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    (x,) = inputs
    two_dimensional(x)
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    if set(attributes.get("dilations", [1])) != {1}:
        raise Unsupported("pooling with dilation", "poolings are supported with dilations of 1")
    pads = around(x, attributes, kernel, strides, [1, 1])
    same = dict(kernel_size=tuple(kernel), stride=tuple(strides), ceil_mode=bool(attributes.get("ceil_mode", 0)))
    if node.op_type == "MaxPool":
        return a.made(a.add("max_pool2d", a.image(x), padding=tuple(pads), **same))
    counted = bool(attributes.get("count_include_pad", 0))
    return a.made(a.add("avg_pool2d", a.image(x), padding=tuple(pads), count_include_pad=counted, **same))


@reads("GlobalAveragePool")
def global_average(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return a.made(a.add("global_avg_pool", a.image(inputs[0])))


@reads("GlobalMaxPool")
def global_max(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.amax(a, inputs[0], (2, 3), True)


@reads("ReduceMean", "ReduceMax", "ReduceSum")
def reduced(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    axes = given(a, inputs, 1, attributes.get("axes"))
    if axes is None:
        raise Unsupported("a reduction over everything", "supported is that over height and width")
    reader = {"ReduceMean": aten.mean, "ReduceMax": aten.amax, "ReduceSum": aten.total}[node.op_type]
    return reader(a, inputs[0], ints(axes), bool(attributes.get("keepdims", 1)))


# --- products and normalisation ---------------------------------------------------------------------------------------


@reads("Gemm")
def gemm(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    if attributes.get("transA", 0) or isinstance(weight, Tensor) or not isinstance(x, Tensor):
        raise Unsupported("a product of two layers", "supported is x * weight")
    factors = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return dense(a, x, weight, bias, transposed=not attributes.get("transB", 0), factors=factors)


@reads("MatMul")
def matmul(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, weight = inputs
    if isinstance(weight, Tensor) or not isinstance(x, Tensor):
        raise Unsupported("a product of two layers", "supported is x * weight")
    return dense(a, x, weight, None, transposed=True)


def dense(a: Any, x: Tensor, weight: Any, bias: Any, *, transposed: bool, factors: tuple[float, float] = (1.0, 1.0)
) -> Tensor:  # fmt: skip
    """x W' + b. A weight [F, O] is kept as [O, F], times a factor."""
    if len(x.shape) != 2 or len(weight.shape) != 2:
        raise Unsupported(f"a dense layer on {described(x.shape)}", "dense layers take [N, F]")
    weight = a.weight(weight, f"{a.site.path or 'linear'}.weight")
    alpha, beta = factors
    if transposed or alpha != 1:
        numbers = a.numbers(weight) * np.float32(alpha)
        weight = changed(a, weight, numbers.T.copy() if transposed else numbers)
    operands = [a.parameter(weight, "weight")]
    if bias is not None:
        bias = a.weight(bias, f"{a.site.path or 'linear'}.bias")
        numbers = np.broadcast_to(a.numbers(bias).reshape(-1) * np.float32(beta), weight.shape[:1])
        if bias.shape != weight.shape[:1] or beta != 1:
            bias = changed(a, bias, numbers.copy())
        operands.append(a.parameter(bias, "bias"))
    return a.made(a.add("linear", a.plain(x), *operands, owner=owner(weight)))


def changed(a: Any, x: Stored, numbers: np.ndarray) -> Stored:
    """A parameter with other numbers: under its own name, if nobody has it yet."""
    if x.name not in a.builder.types:
        del a.stored[x.name]
    return a.keep(numbers, x.name)


@reads("BatchNormalization")
def batch_norm(a: Any, node: Any, inputs: Any, attributes: Any) -> list[Any]:
    x, *vectors = inputs
    names = ("weight", "bias", "running_mean", "running_var")
    stored = [a.weight(v, f"{a.site.path or 'bn'}.{n}") for v, n in zip(vectors, names, strict=True)]
    for v in stored[2:]:
        a.untrained(v)
    operands = [a.parameter(v, n) for v, n in zip(stored, names)]
    value = a.add("batch_norm", a.plain(x), *operands, owner=owner(stored[0]), eps=attributes.get("epsilon", 1e-5),
                  momentum=1 - attributes.get("momentum", 0.9))  # fmt: skip
    return [a.made(value)]


@reads("LRN")
def lrn(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    if attributes["size"] % 2 == 0:
        raise Unsupported(f"size {attributes['size']}", "the size of a normalisation is odd")
    return a.made(a.add("local_response_norm", a.image(inputs[0]), size=attributes["size"],
                        alpha=attributes.get("alpha", 1e-4), beta=attributes.get("beta", 0.75),
                        k=attributes.get("bias", 1.0)))  # fmt: skip


@reads("Softmax")
def softmax(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """Before operator set 13 it is that of everything from ``axis`` on."""
    x, axis = a.tensor(inputs[0]), attributes.get("axis", 1 if a.version < 13 else -1)
    if axis % len(x.shape) == 1 and (a.version < 13 or prod(x.shape[2:]) == 1):
        flat = seen_as(a, x, (x.shape[0], prod(x.shape[1:])))
        return seen_as(a, aten.softmax(a, flat, 1), x.shape)
    return aten.softmax(a, x, axis)


# --- pointwise ------------------------------------------------------------------------------------------------------


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


for _name in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Neg", "Abs", "Sqrt", "Exp", "Log"):
    _enter(_name, _name.lower())


@reads("Swish")
def swish(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    alpha = attributes.get("alpha", 1.0)
    if alpha == 1:
        return unary(a, "silu", inputs[0])
    return aten.multiply(a, unary(a, "sigmoid", aten.multiply(a, inputs[0], alpha)), inputs[0])


@reads("HardSigmoid")
def hard_sigmoid(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """max(0, min(1, alpha*x + beta))."""
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    if isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return unary(a, "hardsigmoid", inputs[0])
    return unary(a, "clamp", aten._by_number(a, inputs[0], alpha, beta), min=0.0, max=1.0)


@reads("Gelu")
def gelu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.gelu(a, inputs[0], approximate=attributes.get("approximate", "none"))


@reads("Elu")
def elu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.elu(a, inputs[0], attributes.get("alpha", 1.0))


@reads("Selu")
def selu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    alpha = attributes.get("alpha", 1.67326319217681884765625)
    return aten.elu(a, inputs[0], alpha, attributes.get("gamma", 1.05070102214813232421875))


@reads("LeakyRelu")
def leaky_relu(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.leaky_relu(a, inputs[0], attributes.get("alpha", 0.01))


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
    """What ``x`` is ``factor`` times, if it is that of a layer."""
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
            total = aten.add(a, total, other)
    return total


@reads("Sub")
def sub(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.subtract(a, *[scalar(a, x) for x in inputs])


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
    return aten.multiply(a, x, y)


def gelu_of(a: Any, part: Erf, other: Any) -> Any:
    """A product with (1 + erf(x/sqrt(2))): of x and 0.5, in any order, it is gelu(x)."""
    if isinstance(other, int | float):
        return Erf(part.x, part.factor * other, part.term)
    half = scaled_by(a, other, 0.5)
    if part.term == 1.0 and half is not None and same(half, part.x) and part.factor == 1.0:
        return unary(a, "gelu", part.x)
    if part.term == 1.0 and same(other, part.x):
        made = unary(a, "gelu", part.x)
        return made if part.factor == 0.5 else aten.multiply(a, made, 2.0 * part.factor)
    raise Unsupported("a product with erf", "supported is its part in gelu")


@reads("Div")
def div(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.divide(a, *[scalar(a, x) for x in inputs])


@reads("Pow")
def power(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.power(a, inputs[0], scalar(a, inputs[1]))


@reads("Max", "Min")
def extreme(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    result, *others = inputs
    for other in others:
        result = aten.binary(a, "maximum" if node.op_type == "Max" else "minimum", result, other)
    return result


@reads("Identity", "Cast", "CastLike")
def identity(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    return inputs[0]


@reads("Dropout")
def dropout(a: Any, node: Any, inputs: Any, attributes: Any) -> list[Any]:
    ratio = float(np.asarray(given(a, inputs, 1, attributes.get("ratio", 0.5))).item())
    return [aten.dropout(a, inputs[0], ratio, True), None]


# --- shapes ---------------------------------------------------------------------------------------------------------


def seen_as(a: Any, x: Any, shape: Sequence[int]) -> Any:
    a.shape = tuple(shape)
    return aten.reshaped(a, x)


@reads("Reshape")
def reshape(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = inputs[0]
    wanted = ints(given(a, inputs, 1, attributes.get("shape")))
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    if isinstance(x, Tensor) and wanted and wanted[0] == a.batch and a.batch is not None:
        wanted[0] = BATCH
    known = prod(d for d in wanted if d != -1)
    if prod(x.shape) % max(known, 1):
        raise Unsupported(f"{described(x.shape)} seen as {wanted}", "the batch must stay open: -1 or 0")
    return seen_as(a, x, [prod(x.shape) // known if d == -1 else d for d in wanted])


@reads("Flatten")
def flatten(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x, axis = inputs[0], attributes.get("axis", 1)
    return seen_as(a, x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@reads("Squeeze")
def squeeze(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = inputs[0]
    axes = given(a, inputs, 1, attributes.get("axes"))
    gone = [d % len(x.shape) for d in ints(axes)] if axes is not None else [i for i, d in enumerate(x.shape) if d == 1]
    return seen_as(a, x, [d for i, d in enumerate(x.shape) if i not in gone])


@reads("Unsqueeze")
def unsqueeze(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = inputs[0]
    axes = ints(given(a, inputs, 1, attributes.get("axes")))
    rank = len(x.shape) + len(axes)
    new, old = {d % rank for d in axes}, iter(x.shape)
    return seen_as(a, x, [1 if i in new else next(old) for i in range(rank)])


@reads("Transpose")
def transpose(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = a.tensor(inputs[0])
    return aten.permuted(a, x, attributes.get("perm", list(range(len(x.shape)))[::-1]))


@reads("Concat")
def concat(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    return aten.concat(a, inputs, attributes["axis"])


@reads("Split")
def split(a: Any, node: Any, inputs: Any, attributes: Any) -> list[Any]:
    x, axis = a.tensor(inputs[0]), attributes.get("axis", 0)
    sizes = given(a, inputs, 1, attributes.get("split"))
    if sizes is None:
        size = -(-x.shape[axis] // len(node.output))
        return aten.split(a, x, size, axis)
    return aten.split_with_sizes(a, x, ints(sizes), axis)


@reads("Slice")
def slice_(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = a.tensor(inputs[0])
    starts, ends = (ints(given(a, inputs, i + 1, attributes.get(n))) for i, n in enumerate(("starts", "ends")))
    axes = ints(given(a, inputs, 3, attributes.get("axes", range(len(starts)))))
    steps = ints(given(a, inputs, 4, [1] * len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps):
        x = aten.sliced(a, x, axis, start, end, step)
    return x


@reads("Pad")
def pad(a: Any, node: Any, inputs: Any, attributes: Any) -> Any:
    x = a.tensor(inputs[0])
    amounts = ints(given(a, inputs, 1, attributes.get("pads")))
    value = given(a, inputs, 2, attributes.get("value", 0.0))
    axes = [d % len(x.shape) for d in ints(given(a, inputs, 3, range(len(x.shape))))]
    by_axis = {axis: (amounts[i], amounts[i + len(axes)]) for i, axis in enumerate(axes)}
    if attributes.get("mode", "constant") != "constant":
        raise Unsupported(f"{attributes['mode']} padding", "supported is padding by a number")
    a.shape = x.shape
    ordered = [v for axis in reversed(range(len(x.shape))) for v in by_axis.get(axis, (0, 0))]
    return aten.pad(a, x, ordered, "constant", float(np.asarray(value).item()))


@reads("Resize", "Upsample")
def resize(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    x, mode = a.tensor(inputs[0]), attributes.get("mode", "nearest")
    two_dimensional(x)
    old = node.op_type == "Upsample" or a.version < 11
    place = 1 if old else 2
    scales = given(a, inputs, place, attributes.get("scales"))
    sizes = None if old else given(a, inputs, 3)
    scales = None if scales is None or not np.size(scales) else [float(s) for s in np.reshape(scales, -1)]
    axes = attributes.get("axes")
    if axes is not None and list(axes) == [2, 3]:
        scales = None if scales is None else [1.0, 1.0, *scales]
        sizes = None if sizes is None else [*x.shape[:2], *ints(sizes)]
    size = [int(np.floor(n * s)) for n, s in zip(x.shape, scales)] if scales is not None else ints(sizes)
    if size[1] != x.shape[1]:
        raise Unsupported("channels are resized", "supported is resizing height and width")
    where = attributes.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounds = attributes.get("nearest_mode", "floor" if old else "round_prefer_floor")
    whole = all(q % p == 0 for p, q in zip(x.shape[2:], size[2:]))
    exact = scales is None or all(n * s == q for n, s, q in zip(x.shape[2:], scales[2:], size[2:]))
    if attributes.get("antialias", 0) or not exact:
        raise Unsupported("antialiasing, or a scale that gives no whole size", "give it sizes")
    if mode == "nearest" and ((where == "asymmetric" and rounds == "floor") or (where == "half_pixel" and whole)):
        return a.made(a.add("upsample_nearest2d", a.image(x), size=tuple(size[2:])))
    if mode in ("linear", "bilinear") and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        corners = where == "align_corners"
        return a.made(a.add("upsample_bilinear2d", a.image(x), size=tuple(size[2:]), align_corners=corners))
    raise Unsupported(f"mode {mode} with {where}, {rounds}", "supported is PyTorch's nearest and bilinear")


@reads("DepthToSpace")
def depth_to_space(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """CRD is PyTorch's order of channels; DCR has the place in the block first."""
    image, r = a.image(inputs[0]), attributes["blocksize"]
    if attributes.get("mode", "DCR") == "DCR":
        image = a.add("channel_shuffle", image, groups=r * r)
    return a.made(a.add("pixel_shuffle", image, upscale_factor=r))


@reads("SpaceToDepth")
def space_to_depth(a: Any, node: Any, inputs: Any, attributes: Any) -> Tensor:
    """The place in the block comes before the channel."""
    image = a.image(inputs[0])
    channels = a.type(image).channels
    apart = a.add("pixel_unshuffle", image, downscale_factor=attributes["blocksize"])
    return a.made(a.add("channel_shuffle", apart, groups=channels))
