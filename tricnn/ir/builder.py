"""Declaring a graph, layer by layer.

    b = GraphBuilder("tiny")
    x = b.input("x", (1, 28, 28))
    x = b.relu(b.conv2d(x, 6, 5, padding=2, name="conv1"))
    x = b.linear(b.flatten(x), 10, name="fc")
    graph = b.build(x)

Layers own their parameters under PyTorch's names (``conv1.weight``, ``bn1.running_mean``). ``scope`` prefixes names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from ..system.errors import GraphError, ShapeError, shown
from .graph import Graph, Node, Output, check_size, known_type, verified
from .norms import group_normalized, response_normalized
from .ops.pool import LARGEST_WINDOW
from .table import OPS, integer, pair, text
from .types import N, TensorType


class GraphBuilder:
    """Grows a graph one node at a time; every method returns the name of the value it adds."""

    def __init__(self, name: str, start: Graph | None = None):
        self.name = name
        self.nodes: list[Node] = list(start.nodes) if start else []
        self.types: dict[str, TensorType] = dict(start.types) if start else {}
        self.outputs: list[Output] = list(start.outputs) if start else []
        self._prefix = ""
        self._counts: dict[str, int] = {}
        self._draws = sum(node.row.random for node in self.nodes)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the layers declared inside: ``with b.scope("layer1.0"):``."""
        before, self._prefix = self._prefix, f"{self._prefix}{name}."
        try:
            yield
        finally:
            self._prefix = before

    def type(self, value: str) -> TensorType:
        if not isinstance(value, str) or value not in self.types:
            raise GraphError(f"there is no layer {shown(value)}")
        return self.types[value]

    def fresh(self, stem: str) -> str:
        """A name nobody has: ``relu1``, ``relu2``, ..."""
        while True:
            self._counts[stem] = self._counts.get(stem, 0) + 1
            name = f"{self._prefix}{stem}{self._counts[stem]}"
            if name not in self.types:
                return name

    def add(self, op: str, *inputs: str, name: str | None = None, **attrs: Any) -> str:
        """Append a node of any operation, ``add("relu", x)``, and return its name.

        The sum of two values is :meth:`add_`. What draws random numbers is given a number of its own, unless ``layer``
        is given.

        Raises GraphError or ShapeError naming it."""
        if op not in OPS and op in self.types:
            values = ", ".join([str(v) for v in (op, *inputs)])
            raise GraphError(
                f"add({values}): {op} is a layer; the sum of two layers is add_(a, b), and add takes the name of an "
                'operation first, as in add("relu", x)'
            )
        if op in OPS and OPS[op].random and "layer" not in attrs:
            self._draws += 1
            attrs["layer"] = self._draws
        full = self._prefix + name if name else self.fresh(op.replace("2d", "").replace("_", ""))
        node = verified(Node(full, op, inputs, attrs), self.types)
        self.types[full] = known_type(node)
        self.nodes.append(node)
        return full

    def _channels(self, layer: str, x: str, *accepted: str) -> int:
        """The channels of a layer's input, whose rank must be that of one of the ``accepted`` shapes."""
        type_ = self.type(x)
        if not type_.batched or len(type_.shape) not in [shape.count(",") + 1 for shape in accepted]:
            raise ShapeError(f"layer {self._prefix}{layer}: input must be {' or '.join(accepted)}, {x} is {type_}")
        return type_.channels

    # --- layers ------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], dtype: str = "float", *, scale: Sequence[float] = (),
              shift: Sequence[float] = ()) -> str:  # fmt: skip
        """Declare the input: a batch of ``shape`` (without the batch dimension).
        What a model is given is multiplied by ``scale``, then moved by ``shift``, where they are given (a number for
        each channel), before the network sees it."""
        return self.add("input", name=name, shape=(N, *shape), dtype=dtype, scale=tuple(scale), shift=tuple(shift))

    def parameter(self, name: str, shape: Sequence[int], init: str) -> str:
        return self.add("parameter", name=name, shape=tuple(shape), init=init)

    def conv2d(
        self, x: str, filters: int, kernel_size: Any, *, name: str | None = None, bias: bool = True,
        weight_init: str = "he_normal(fan_out)", bias_init: str = "constant(0)", **attrs: Any,
    ) -> str:  # fmt: skip
        """``filters`` kernels of ``kernel_size``; attributes: stride, padding, dilation, groups."""
        name = name or self.fresh("conv")[len(self._prefix) :]
        r, s = pair().checked(f"{self._prefix}{name}", "kernel_size", kernel_size)
        filters = integer(least=1).checked(f"{self._prefix}{name}", "filters", filters)
        groups = integer(least=1).checked(f"{self._prefix}{name}", "groups", attrs.get("groups", 1))
        channels = self._channels(name, x, "[N, C, H, W]")
        if channels % groups or filters % groups:
            raise GraphError(
                f"layer {self._prefix}{name}: groups={groups} must divide the {channels} input channels and the "
                f"{filters} filters"
            )
        w = self.parameter(f"{name}.weight", (filters, channels // groups, r, s), weight_init)
        b = [self.parameter(f"{name}.bias", (filters,), bias_init)] if bias else []
        return self.add("conv2d", x, w, *b, name=name, **attrs)

    def conv_transpose2d(
        self, x: str, filters: int, kernel_size: Any, *, name: str | None = None, bias: bool = True,
        weight_init: str = "he_normal(fan_out)", bias_init: str = "constant(0)", **attrs: Any,
    ) -> str:  # fmt: skip
        """A transposed convolution to ``filters`` channels.
        Its weight is [C, filters/groups, R, S], as PyTorch's ConvTranspose2d has it; its attributes are stride,
        padding, output_padding, dilation and groups."""
        name = name or self.fresh("convtranspose")[len(self._prefix) :]
        layer = f"{self._prefix}{name}"
        r, s = pair().checked(layer, "kernel_size", kernel_size)
        filters = integer(least=1).checked(layer, "filters", filters)
        groups = integer(least=1).checked(layer, "groups", attrs.get("groups", 1))
        channels = self._channels(name, x, "[N, C, H, W]")
        if channels % groups or filters % groups:
            raise GraphError(
                f"layer {layer}: groups={groups} must divide the {channels} input channels and the {filters} filters"
            )
        w = self.parameter(f"{name}.weight", (channels, filters // groups, r, s), weight_init)
        b = [self.parameter(f"{name}.bias", (filters,), bias_init)] if bias else []
        return self.add("conv_transpose2d", x, w, *b, name=name, **attrs)

    def linear(
        self, x: str, features: int, *, name: str | None = None, bias: bool = True,
        weight_init: str = "he_normal(fan_in)", bias_init: str = "constant(0)",
    ) -> str:  # fmt: skip
        """A dense layer on ``[N, F]``; ``[N, C, H, W]`` is flattened first."""
        name = name or self.fresh("linear")[len(self._prefix) :]
        self._channels(name, x, "[N, F]", "[N, C, H, W]")
        if len(self.type(x).shape) == 4:
            x = self.add("flatten", x, name=f"{name}.flatten")
        w = self.parameter(f"{name}.weight", (features, self.type(x).channels), weight_init)
        b = [self.parameter(f"{name}.bias", (features,), bias_init)] if bias else []
        return self.add("linear", x, w, *b, name=name)

    def batch_norm(self, x: str, *, name: str | None = None, eps: float = 1e-5, momentum: float = 0.1,
                   weight_init: str = "constant(1)") -> str:  # fmt: skip
        name = name or self.fresh("bn")[len(self._prefix) :]
        c = (self._channels(name, x, "[N, C]", "[N, C, H, W]"),)
        return self.add(
            "batch_norm", x,
            self.parameter(f"{name}.weight", c, weight_init),
            self.parameter(f"{name}.bias", c, "constant(0)"),
            self.add("buffer", name=f"{name}.running_mean", shape=c, init="constant(0)"),
            self.add("buffer", name=f"{name}.running_var", shape=c, init="constant(1)"),
            name=name, eps=eps, momentum=momentum,
        )  # fmt: skip

    def layer_norm(self, x: str, *, name: str | None = None, eps: float = 1e-5) -> str:
        """Each pixel's channels brought to mean 0 and variance 1, then ``* weight + bias``.
        It is layer normalisation over the last axis of channels-last images."""
        name = name or self.fresh("layernorm")[len(self._prefix) :]
        c = (self._channels(name, x, "[N, C, H, W]"),)
        stats = self.add("pixel_stats", x, name=f"{name}.stats")
        weight, bias = (self.parameter(f"{name}.{w}", c, f"constant({v})") for w, v in (("weight", 1), ("bias", 0)))
        return self.add("layer_normalize", x, stats, weight, bias, name=name, eps=eps)

    def group_norm(self, x: str, groups: int, *, name: str | None = None, eps: float = 1e-5) -> str:
        """Each image's groups of channels brought to mean 0 and variance 1, then ``* weight + bias`` by channel.
        With as many groups as channels it is instance normalisation."""
        name = name or self.fresh("groupnorm")[len(self._prefix) :]
        channels = self._channels(name, x, "[N, C, H, W]")
        groups = integer(least=1).checked(f"{self._prefix}{name}", "groups", groups)
        if channels % groups:
            raise GraphError(f"layer {self._prefix}{name}: groups={groups} must divide the {channels} channels")
        y = group_normalized(self._parts_of(name), x, self.type(x), groups, eps)
        weight, bias = (
            self.parameter(f"{name}.{w}", (channels,), f"constant({v})") for w, v in (("weight", 1), ("bias", 0))
        )
        return self.add("add", self.add("mul", y, weight, name=f"{name}.scaled"), bias, name=name)

    def global_response_norm(self, x: str, *, name: str | None = None, eps: float = 1e-6) -> str:
        """``x + weight * n(x) + bias``, n(x) the channels times their share in the image's response (ConvNeXt V2)."""
        name = name or self.fresh("grn")[len(self._prefix) :]
        c = (self._channels(name, x, "[N, C, H, W]"),)
        y = response_normalized(self._parts_of(name), x, self.type(x), eps)
        weight, bias = (self.parameter(f"{name}.{w}", c, "constant(0)") for w in ("weight", "bias"))
        y = self.add("add", self.add("mul", y, weight, name=f"{name}.scaled"), bias, name=f"{name}.moved")
        return self.add("add", x, y, name=name)

    def _parts_of(self, layer: str) -> Callable[..., str]:
        """``add`` for the values that a layer is made of: ``layer.part1`` and so on."""
        numbers = count(1)
        return lambda op, *values, **attrs: self.add(op, *values, name=f"{layer}.part{next(numbers)}", **attrs)

    def pixel_linear(self, x: str, features: int, *, name: str | None = None, bias: bool = True,
                     weight_init: str = "he_normal(fan_in)", bias_init: str = "constant(0)") -> str:  # fmt: skip
        """A dense layer over the channels of each pixel, with its weight [features, C]: a 1x1 convolution."""
        name = name or self.fresh("linear")[len(self._prefix) :]
        channels = self._channels(name, x, "[N, C, H, W]")
        w = self.parameter(f"{name}.weight", (features, channels), weight_init)
        w = self.add("view_weight", w, shape=(features, channels, 1, 1), name=f"{name}.window")
        b = [self.parameter(f"{name}.bias", (features,), bias_init)] if bias else []
        return self.add("conv2d", x, w, *b, name=name)

    def layer_scale(self, x: str, *, name: str, init: str) -> str:
        """``x`` with each channel multiplied by a parameter, [C, 1, 1] as published files have it."""
        channels = self._channels(name, x, "[N, C, H, W]")
        scale = self.parameter(name, (channels, 1, 1), init)
        vector = self.add("view_weight", scale, shape=(channels,), name=f"{name}.vector")
        return self.add("mul", x, vector, name=f"{name}.mul")

    def relu(self, x: str, *, name: str | None = None) -> str:
        return self.add("relu", x, name=name)

    def sigmoid(self, x: str, *, name: str | None = None) -> str:
        return self.add("sigmoid", x, name=name)

    def tanh(self, x: str, *, name: str | None = None) -> str:
        return self.add("tanh", x, name=name)

    def max_pool2d(self, x: str, kernel_size: Any, stride: Any = None, *, name: str | None = None, **a: Any) -> str:
        stride = kernel_size if stride is None else stride
        return self.add("max_pool2d", x, name=name, kernel_size=kernel_size, stride=stride, **a)

    def avg_pool2d(self, x: str, kernel_size: Any, stride: Any = None, *, name: str | None = None, **a: Any) -> str:
        stride = kernel_size if stride is None else stride
        return self.add("avg_pool2d", x, name=name, kernel_size=kernel_size, stride=stride, **a)

    def global_avg_pool(self, x: str, *, name: str | None = None) -> str:
        return self.add("global_avg_pool", x, name=name)

    def adaptive_avg_pool2d(self, x: str, output_size: Any, *, name: str | None = None) -> str:
        """The mean over ``output_size`` windows that cover the image."""
        return self.add("adaptive_avg_pool2d", x, name=name, output_size=output_size)

    def global_max_pool(self, x: str, *, name: str | None = None) -> str:
        """The largest pixel of each channel, [N, C, 1, 1].
        It is max_pool2d with a window as large as the image; where that has more pixels than a window may, it is one of
        rows, then one of columns."""
        name = name or self.fresh("globalmaxpool")[len(self._prefix) :]
        self._channels(name, x, "[N, C, H, W]")
        h, w = self.type(x).spatial
        count = 0
        while h * w > LARGEST_WINDOW:
            window = (1, min(w, LARGEST_WINDOW)) if w > 1 else (min(h, LARGEST_WINDOW), 1)
            x = self.max_pool2d(x, window, ceil_mode=True, name=f"{name}.part{count}")
            (h, w), count = self.type(x).spatial, count + 1
        return self.max_pool2d(x, (h, w), name=name)

    def mean_channels(self, x: str, *, name: str | None = None) -> str:
        """The mean over each pixel's channels, [N, 1, H, W]."""
        return self.add("mean_channels", x, name=name)

    def max_channels(self, x: str, *, ties: str = "first", name: str | None = None) -> str:
        """The largest of each pixel's channels, [N, 1, H, W].
        Of equal ones the first has the gradient, as in torch.max; with ``ties="shared"`` all have the same part of it,
        as in torch.amax."""
        return self.add("max_channels", x, name=name, ties=ties)

    def interpolate(
        self, x: str, size: Any = None, *, scale_factor: Any = None, mode: str = "nearest",
        align_corners: bool = False, name: str | None = None,
    ) -> str:  # fmt: skip
        """The image resized to ``size``, or ``scale_factor`` (whole numbers) times as high and wide.
        ``mode`` is ``nearest`` or ``bilinear`` (``align_corners``: the corner pixels stay corner pixels)."""
        name = name or self.fresh("interpolate")[len(self._prefix) :]
        layer = f"{self._prefix}{name}"
        self._channels(name, x, "[N, C, H, W]")
        if (size is None) == (scale_factor is None):
            raise GraphError(f"layer {layer}: interpolate takes either size or scale_factor")
        if size is None:
            factors = pair().checked(layer, "scale_factor", scale_factor)
            size = tuple(n * f for n, f in zip(self.type(x).spatial, factors, strict=True))
        kind = text(choices=("nearest", "bilinear")).checked(layer, "mode", mode)
        if kind == "nearest":
            if align_corners:
                raise GraphError(f"layer {layer}: align_corners is for mode bilinear")
            return self.add("upsample_nearest2d", x, name=name, size=size)
        return self.add("upsample_bilinear2d", x, name=name, size=size, align_corners=align_corners)

    def zero_pad2d(self, x: str, padding: Any, *, name: str | None = None) -> str:
        """Zeros around the image: one number, (height, width) or (top, bottom, left, right); a negative one crops."""
        return self.add("zero_pad2d", x, name=name, padding=padding)

    def channel_shuffle(self, x: str, groups: int, *, name: str | None = None) -> str:
        return self.add("channel_shuffle", x, name=name, groups=groups)

    def pixel_shuffle(self, x: str, upscale_factor: int, *, name: str | None = None) -> str:
        return self.add("pixel_shuffle", x, name=name, upscale_factor=upscale_factor)

    def pixel_unshuffle(self, x: str, downscale_factor: int, *, name: str | None = None) -> str:
        return self.add("pixel_unshuffle", x, name=name, downscale_factor=downscale_factor)

    def slice_channels(self, x: str, start: int, stop: int, *, name: str | None = None) -> str:
        """Channels ``start`` to ``stop``, the last one not among them."""
        return self.add("slice_channels", x, name=name, start=start, stop=stop)

    def split(self, x: str, sizes: int | Sequence[int], *, name: str | None = None) -> list[str]:
        """The channels in parts, as torch.split(x, sizes, dim=1).
        Each part has so many (the last may have fewer), or as many as a list says, which must be all channels together.
        """
        name = name or self.fresh("split")[len(self._prefix) :]
        layer = f"{self._prefix}{name}"
        channels = self._channels(name, x, "[N, F]", "[N, C, H, W]")
        if not isinstance(sizes, Iterable):
            each = integer(least=1).checked(layer, "sizes", sizes)
            sizes = [min(each, channels - start) for start in range(0, channels, each)]
        counts = [integer(least=1).checked(layer, "sizes", count) for count in sizes]
        if sum(counts) != channels:
            raise GraphError(f"layer {layer}: sizes {counts} are {sum(counts)} channels, the input has {channels}")
        starts = [sum(counts[:i]) for i in range(len(counts))]
        return [
            self.slice_channels(x, start, start + count, name=f"{name}.{i}")
            for i, (start, count) in enumerate(zip(starts, counts, strict=True))
        ]

    def flatten(self, x: str, *, name: str | None = None) -> str:
        return self.add("flatten", x, name=name)

    def add_(self, a: str, b: str, *, name: str | None = None) -> str:
        """a + b (the residual join)."""
        return self.add("add", a, b, name=name)

    def concat(self, xs: Sequence[str], *, name: str | None = None) -> str:
        return self.add("concat", *xs, name=name)

    def local_response_norm(self, x: str, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
                            name: str | None = None) -> str:  # fmt: skip
        """Krizhevsky et al. 2012, section 3.3, with alpha divided by ``size`` as PyTorch has it."""
        return self.add("local_response_norm", x, name=name, size=size, alpha=alpha, beta=beta, k=k)

    def dropout(self, x: str, p: float = 0.5, *, name: str | None = None) -> str:
        return self.add("dropout", x, name=name, p=p)

    def dropout2d(self, x: str, p: float = 0.5, *, name: str | None = None) -> str:
        """Dropout of whole channels of an image."""
        return self.add("dropout2d", x, name=name, p=p)

    def stochastic_depth(self, x: str, p: float = 0.2, *, name: str | None = None) -> str:
        """All of an image's ``x``, or in training with probability ``p`` zeros: what a block adds to its input."""
        return self.add("stochastic_depth", x, name=name, p=p)

    def softmax(self, x: str, *, name: str | None = None) -> str:
        return self.add("softmax", x, name=name)

    def output(self, value: str, name: str = "logits", *, loss_weight: float = 1.0,
               training_only: bool = False) -> None:  # fmt: skip
        self.outputs.append(Output(name, value, loss_weight, training_only))

    def build(self, logits: str | None = None) -> Graph:
        """The finished graph; ``logits`` is its output (further ones by :meth:`output`)."""
        if logits is not None:
            self.outputs.insert(0, Output("logits", logits))
        check_size(len(self.nodes), len(self.outputs))
        return Graph(self.name, tuple(self.nodes), tuple(self.outputs))
