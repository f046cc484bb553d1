"""Sample operands for every row of the table of operations: small, odd-shaped, away from kinks and ties.

All float operands hold distinct values that differ from each other and from zero by at least a tenth of ``1 / count``:
a step of 1e-6 crosses no kink of a ReLU and changes no maximum, so finite differences are derivatives.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tricnn.ir import OPS, Environment, Graph, N, Node, Output, TensorType

BATCH = 3
ENV = Environment(seed=7, step=2)

#: the dropout rows must not draw the same mask as each other, nor layer 0's
Values = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def apart(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Distinct values in (-1, 1), none of them near zero."""
    count = int(np.prod(shape, dtype=int))
    grid = (np.arange(count) - count // 2 + 0.4) / (count / 2 + 1)
    return rng.permutation(grid).reshape(shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.5, 2.0, shape)


def bytes_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers 0 to 255, as executors hold bytes: as real numbers."""
    return rng.integers(0, 256, shape).astype(np.float64)


def statistics(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """[mean, variance]."""
    return np.stack([rng.normal(size=shape[1]), rng.uniform(0.5, 2.0, shape[1])])


@dataclass(frozen=True)
class Operand:
    """One input of a sample. ``op`` says what it is in a graph: a batched input, or a parameter or buffer."""

    shape: tuple[Any, ...]
    dtype: str = "float"
    values: Values = apart
    constant: bool = False  # takes no gradient

    @property
    def type(self) -> TensorType:
        return TensorType(self.shape, self.dtype)

    @property
    def op(self) -> str:
        return "input" if self.shape[:1] == (N,) or not self.shape else "buffer" if self.constant else "parameter"

    def draw(self, rng: np.random.Generator, batch: int = BATCH) -> np.ndarray:
        return np.asarray(self.values(rng, self.type.at(batch)))


@dataclass(frozen=True)
class Sample:
    op: str
    operands: tuple[Operand, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs.items()).replace(" ", "")
        return f"{self.op}-{'_'.join('x'.join(map(str, o.shape)) for o in self.operands)}-{attrs}"

    def graph(self) -> Graph:
        """``y = op(x0, x1, ...)`` with every operand a source."""
        return self._graph

    @cached_property
    def _graph(self) -> Graph:
        sources = []
        for i, operand in enumerate(self.operands):
            attrs: dict[str, Any] = {"shape": operand.shape}
            if operand.op == "input":
                attrs["dtype"] = operand.dtype
            sources.append(Node(f"x{i}", operand.op, (), attrs))
        node = Node("y", self.op, tuple(s.name for s in sources), self.attrs)
        return Graph("sample", (*sources, node), (Output("result", "y"),))

    def node(self) -> Node:
        return self.graph().by_name["y"]

    def draw(self, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [operand.draw(rng) for operand in self.operands]

    def wrt(self) -> list[str]:
        """The operands that take a gradient."""
        return [f"x{i}" for i, o in enumerate(self.operands) if not o.constant and o.dtype in ("float", "float32")]


def batched(*dims: int, **options: Any) -> Operand:
    return Operand((N, *dims), **options)


def fixed(*dims: int, **options: Any) -> Operand:
    return Operand(dims, "float32", **options)


def window_index(x: Operand, **attrs: Any) -> Operand:
    """Positions that exist in their windows: those of the maxima of some image."""
    row = OPS["max_pool2d_index"]
    node = Sample("max_pool2d_index", (x,), attrs).node()
    shape = row.shape(node.attrs, x.type).shape

    def values(rng: np.random.Generator, _: tuple[int, ...]) -> np.ndarray:
        return row.numpy(ENV, node.attrs, x.draw(rng))

    return Operand(shape, "uint8", values, constant=True)


def labels(classes: int, *pixels: int, least: int = 0) -> Operand:
    shape = (N, *((1, *pixels) if pixels else ()))
    return Operand(shape, "int64", lambda rng, shape: rng.integers(least, classes, shape), constant=True)


def targets(*dims: int) -> Operand:
    return batched(*dims, dtype="float32", values=shares, constant=True)


def shares(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of 0 to 1, some of them 0, whose rows do not add up to 1."""
    return np.maximum(rng.random(shape) - 0.2, 0)


IMAGE = batched(4, 7, 6)
STATS = fixed(2, 4, values=statistics, constant=True)

#: every way of sliding a window that a user can ask of a convolution: (x, weight, attributes, size of the result)
CONVOLUTIONS = (
    (batched(4, 7, 6), fixed(5, 4, 3, 3), {}, (5, 4)),
    (batched(4, 7, 6), fixed(5, 4, 1, 1), {"stride": (2, 2)}, (4, 3)),
    (batched(2, 6, 6), fixed(3, 2, 1, 1), {"stride": (2, 1)}, (3, 6)),
    (batched(4, 7, 6), fixed(6, 2, 3, 2), {"stride": (2, 1), "padding": (1, 2, 0, 1), "groups": 2}, (4, 6)),
    (batched(4, 7, 6), fixed(4, 1, 3, 3), {"groups": 4, "padding": (1, 1, 1, 1), "stride": (1, 3)}, (7, 2)),
    (batched(3, 8, 9), fixed(2, 3, 3, 2), {"dilation": (2, 3), "padding": (2, 1, 3, 0)}, (7, 9)),
    (batched(1, 5, 5), fixed(2, 1, 2, 2), {"padding": (1, 0, 1, 0)}, (5, 5)),
    (batched(2, 3, 3), fixed(3, 2, 3, 3), {"stride": (4, 5)}, (1, 1)),
    (batched(2, 3, 5), fixed(3, 2, 3, 1), {"stride": (3, 2)}, (1, 3)),  # one row of results per image
)

#: transposed convolutions: (x, weight, attributes)
TRANSPOSED = (
    (batched(3, 4, 5), fixed(3, 2, 2, 2), {"stride": (2, 2)}),
    (batched(3, 4, 3), fixed(3, 2, 3, 3), {"stride": (2, 3), "padding": (1, 1, 1, 1), "output_padding": (1, 2)}),
    (batched(4, 3, 4), fixed(4, 1, 3, 2), {"groups": 2, "dilation": (2, 1), "padding": (2, 0, 1, 0)}),
    (batched(3, 3, 4), fixed(3, 2, 1, 1), {"stride": (2, 2)}),  # a bias alone, between the pixels
)

POOLS = (
    {"kernel_size": (2, 2), "stride": (2, 2)},
    {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)},
    {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0, 0, 1)},
    {"kernel_size": (3, 3), "stride": (2, 2), "ceil_mode": True},
    {"kernel_size": (2, 3), "stride": (3, 1), "ceil_mode": True, "padding": (1, 1, 1, 1)},
    {"kernel_size": (1, 2), "stride": (2, 2)},
)


def wide(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Both sides of every kink of a clipped activation."""
    return 8 * apart(rng, shape)


#: activations with one operand: their attributes, and what their gradient reads
ACTIVATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "relu6": ({}, "y"), "leaky_relu": ({"negative_slope": 0.2}, "y"), "elu": ({"alpha": 0.7}, "y"), "silu": ({}, "x"),
    "hardsigmoid": ({}, "x"), "hardswish": ({}, "x"), "gelu": ({}, "x"), "gelu_tanh": ({}, "x"), "mish": ({}, "x"),
    "softplus": ({"beta": 1.5}, "y"), "abs": ({}, "x"), "square": ({}, "x"), "clamp": ({"min": -2.0, "max": 3.0}, "x"),
}  # fmt: skip


def _pointwise(sample: Callable[..., None]) -> None:
    image = batched(4, 7, 6, values=wide)
    for op, (attrs, _) in ACTIVATIONS.items():
        sample(op, image, **attrs)
        sample(f"{op}_grad", image, image, **attrs)
    sample("neg", image)
    sample("detach", batched(5, 4, 6, constant=True))
    sample("shift", image, amount=0.3)
    sample("exp", IMAGE)
    for op in ("log", "sqrt", "reciprocal"):
        sample(op, batched(5, values=positive))
        sample(f"{op}_grad", batched(5), batched(5, values=positive))
    some = batched(4, 7, 6, values=positive)
    smaller = (some, fixed(4, values=positive), batched(4, 1, 1, values=positive), batched(1, 7, 6, values=positive))
    for b in smaller:
        for op in ("add", "sub", "mul", "div", "maximum", "minimum"):
            sample(op, IMAGE, b)
        sample("mul", b, IMAGE)
    sample("div_grad_a", IMAGE, some)
    sample("div_grad_b", IMAGE, IMAGE, some)
    for op in ("maximum_grad_a", "maximum_grad_b", "minimum_grad_a", "minimum_grad_b"):
        sample(op, IMAGE, IMAGE, some)
    for x in (image, batched(4)):
        sample("prelu", x, fixed(4))
        sample("prelu_grad_x", x, fixed(4), x)
        sample("prelu_grad_weight", x, x)
    sample("add", batched(5), batched(5))
    for op in ("sum_channels", "mean_channels", "max_channels"):
        sample(op, IMAGE)
    sample("spread_channels", batched(1, 7, 6), channels=4)
    for ties in ("first", "shared"):
        sample("max_channels_grad", batched(1, 7, 6), IMAGE, ties=ties)


def _samples() -> list[Sample]:
    found = []

    def sample(op: str, *operands: Operand, **attrs: Any) -> None:
        found.append(Sample(op, operands, attrs))

    for x, w, attrs, (p, q) in CONVOLUTIONS:
        filters = w.shape[0]
        dy = batched(filters, p, q)
        sample("conv2d", x, w, **attrs)
        sample("conv2d", x, w, fixed(filters), **attrs)
        sample("conv2d_grad_input", dy, w, input_size=x.shape[2:], **attrs)
        sample("conv2d_grad_input", dy, w, fixed(x.shape[1]), input_size=x.shape[2:], **attrs)
        sample("conv2d_grad_weight", dy, x, kernel_size=w.shape[2:], **attrs)
    for x, w, attrs in TRANSPOSED:
        sample("conv_transpose2d", x, w, **attrs)
        sample("conv_transpose2d", x, w, fixed(w.shape[1] * attrs.get("groups", 1)), **attrs)
    sample("scale_filters", fixed(5, 2, 3, 2), fixed(5))
    sample("scale_filters", fixed(5), fixed(5))
    sample("repeat_number", fixed(1), channels=5)
    sample("round_weight", fixed(5, 2, 3, 2))
    sample("filter_sum", fixed(5, 2, 3, 2))
    sample("filter_sum", fixed(1, 7))
    sample("standardize_filters", fixed(5, 2, 3, 2), eps=1e-3, factor=1.7)
    sample("standardize_filters_grad", fixed(5, 2, 3, 2), fixed(5, 2, 3, 2, constant=True), eps=1e-3, factor=1.7)
    sample("filter_scale_grad", fixed(5, 2, 3, 2), fixed(5, 2, 3, 2))
    sample("filter_scale_grad", fixed(5, 4), fixed(5, 4), fixed(5), fixed(5))
    sample("channel_sum", IMAGE)
    sample("channel_sum", batched(5))
    sample("linear", batched(5), fixed(4, 5))
    sample("linear", batched(5), fixed(4, 5), fixed(4))
    sample("linear_grad_input", batched(4), fixed(4, 5))
    sample("linear_grad_weight", batched(4), batched(5))
    # batch norm: running statistics are given, so they are buffers
    for x in (IMAGE, batched(4)):
        vectors = fixed(4), fixed(4), fixed(4, constant=True), fixed(4, values=positive, constant=True)
        sample("batch_norm", x, *vectors, eps=1e-3)
        sample("batch_norm_grad_input", x, fixed(4), fixed(4, values=positive), eps=1e-3)
        sample("batch_stats", x)
        sample("normalize", x, STATS, fixed(4), fixed(4), eps=1e-3)
        sample("normalize_grad_sums", x, x, STATS, eps=1e-3)
        sample("normalize_grad_input", x, x, STATS, fixed(4), fixed(2, 4), eps=1e-3)
        sample("running_var", fixed(4), STATS, x, momentum=0.3)
    of_pixels = batched(2, 7, 6, values=positive, constant=True)
    sample("pixel_stats", IMAGE)
    sample("layer_normalize", IMAGE, of_pixels, fixed(4), fixed(4), eps=1e-3)
    sample("layer_normalize_grad_sums", IMAGE, IMAGE, of_pixels, eps=1e-3)
    sample("layer_normalize_grad_input", IMAGE, IMAGE, of_pixels, fixed(4), eps=1e-3)
    sample("view_weight", fixed(4, 3), shape=(4, 3, 1, 1))
    sample("view_weight", fixed(4, 3, 1, 1), shape=(4, 3))
    sample("view_weight", fixed(4, 1, 1), shape=(4,))
    sample("running_mean", fixed(4), STATS, momentum=0.3)
    sample("row", fixed(2, 4), index=1)
    sample("stack", fixed(4), fixed(4))
    sample("fold_weight", fixed(4, 2, 3, 3), fixed(4), fixed(4, values=positive), eps=1e-3)
    sample("fold_weight", fixed(4, 5), fixed(4), fixed(4, values=positive), eps=1e-3)
    sample("pad_window", fixed(4, 2, 1, 3), padding=(1, 0, 2, 3))
    for groups in (1, 2, 4):
        sample("diagonal_weight", fixed(4), fixed(4, values=positive), eps=1e-3, groups=groups)
    vectors = fixed(4), fixed(4), fixed(4), fixed(4, values=positive)
    sample("fold_bias", *vectors, eps=1e-3)
    sample("fold_bias", *vectors, fixed(4), eps=1e-3)
    bytes_ = batched(3, 5, 4, dtype="uint8", values=bytes_of, constant=True)
    sample("from_bytes", bytes_, scale=(0.017, 0.0175, 0.0174), shift=(-2.1, -2.0, 1.8))
    for x in (IMAGE, batched(5)):
        for op in ("relu", "sigmoid", "tanh"):
            sample(op, x)
            sample(f"{op}_grad", x, x)
        sample("scale", x, factor=-1.7)
        sample("dropout", x, p=0.4, layer=3)
        sample("dropout2d", x, p=0.4, layer=3)
        sample("stochastic_depth", x, p=0.4, layer=3)
    _pointwise(sample)
    sample("sigmoid", batched(5, values=lambda rng, shape: apart(rng, shape) * 800))  # exp(800) is infinite
    for attrs in POOLS:
        sample("max_pool2d", IMAGE, **attrs)
        sample("max_pool2d_index", IMAGE, **attrs)
        index = window_index(IMAGE, **attrs)
        sample("max_pool2d_grad", Operand(index.shape), index, input_size=IMAGE.shape[2:], **attrs)
        for include in (True, False):
            averaged = {**attrs, "count_include_pad": include}
            sample("avg_pool2d", IMAGE, **averaged)
            sample("avg_pool2d_grad", Operand(index.shape), input_size=IMAGE.shape[2:], **averaged)
    sample("global_avg_pool", IMAGE)
    sample("global_avg_pool_grad", batched(4, 1, 1), input_size=(7, 6))
    for x, size in ((IMAGE, (14, 18)), (IMAGE, (9, 4)), (batched(2, 1, 3), (3, 3)), (batched(2, 5, 4), (5, 1))):
        for op, attrs in (
            ("upsample_nearest2d", {}), ("upsample_bilinear2d", {}), ("upsample_bilinear2d", {"align_corners": True}),
        ):  # fmt: skip
            sample(op, x, size=size, **attrs)
            sample(f"{op}_grad", batched(x.shape[1], *size), input_size=x.shape[2:], **attrs)
        sample("adaptive_avg_pool2d", x, output_size=size)
        sample("adaptive_avg_pool2d_grad", batched(x.shape[1], *size), input_size=x.shape[2:])
    for size in ((3, 4), (7, 2), (1, 1)):
        sample("adaptive_avg_pool2d", IMAGE, output_size=size)
        sample("adaptive_avg_pool2d_grad", batched(4, *size), input_size=IMAGE.shape[2:])
    for padding in ((1, 2, 0, 3), (-1, 2, 1, -2), (-2, -1, -1, 0), (0, 0, 0, 0)):
        sample("zero_pad2d", IMAGE, padding=padding)
    for groups in (1, 2, 4):
        sample("channel_shuffle", IMAGE, groups=groups)
    sample("channel_shuffle", batched(6, 2, 3), groups=2)
    for factor, channels in ((2, 8), (3, 9), (1, 2)):
        sample("pixel_shuffle", batched(channels, 2, 3), upscale_factor=factor)
        sample("pixel_unshuffle", batched(2, 2 * factor, 3 * factor), downscale_factor=factor)
    sample("flatten", IMAGE)
    sample("flatten", batched(5, 1, 1))
    sample("unflatten", batched(24), shape=(2, 3, 4))
    sample("concat", batched(2, 3, 4), batched(3, 3, 4), batched(1, 3, 4))
    sample("concat", batched(2), batched(3))
    sample("slice_channels", IMAGE, start=1, stop=3)
    sample("slice_channels", batched(5), start=0, stop=4)
    sample("concat_filters", fixed(2, 3, 3, 2), fixed(1, 3, 3, 2))
    sample("slice_filters", fixed(4, 3, 1, 2), start=1, stop=3)
    for x in (IMAGE, batched(5)):
        sample("pad_channels", x, before=1, after=2)
        sample("pad_channels", x)
    sample("softmax", batched(5))
    sample("softmax_grad", batched(5), batched(5))
    upstream = fixed(values=lambda rng, shape: np.array(1.7))
    for x in (batched(5), IMAGE):
        k, *pixels = x.shape[1:]
        weighed = labels(k, *pixels, least=-1), fixed(k, values=positive, constant=True)
        for options in ({}, {"label_smoothing": 0.1, "weight": 0.3}):
            for operands in ((labels(k, *pixels),), weighed):
                sample("cross_entropy", x, *operands, **options)
                sample("cross_entropy_grad", upstream, x, *operands, **options)
        for loss in ("soft_cross_entropy", "binary_cross_entropy", "squared_error"):
            sample(loss, x, targets(*x.shape[1:]), weight=0.3)
            sample(f"{loss}_grad", upstream, x, targets(*x.shape[1:]), weight=0.3)
    for attrs in ({}, {"size": 4, "alpha": 0.9, "beta": 0.6, "k": 1.5}):
        sample("local_response_norm", IMAGE, **attrs)
        sample("local_response_norm_grad", IMAGE, IMAGE, **attrs)
    return found


SAMPLES = tuple(_samples())
#: rows that are given a value instead of computing one
GIVEN = ("input", "parameter", "buffer")
