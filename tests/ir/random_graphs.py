"""Random small networks of every operation that can be declared, for properties that must hold of every graph."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tricnn.ir import Graph, GraphBuilder, Kind

CLASSES = 3
#: pixels of an image that no layer makes larger
LARGE = 90


@st.composite
def networks(draw: Any, most_layers: int = 9, heads: bool = True, images: bool = False) -> Graph:
    """A DAG of all kinds of layers over a tiny image, with one to three dense heads; with ``images``, results that are
    not logits as well (which only inference knows)."""
    return _Network(lambda options: draw(st.sampled_from(options))).grown(most_layers, heads, images)


def drawn(
    seed: int, most_layers: int = 9, heads: bool = True, images: bool = False, *, exact: bool = False,
    wide: bool = False, dense: bool = False,
) -> Graph:  # fmt: skip
    """The network of a seed: what :func:`networks` may give, spread evenly instead of shrinking; with ``dense``, heads
    that give logits to each pixel, if it ends in an image.

    ``exact``: only layers that take integers (and halves of them) to such. ``wide``: channels in multiples of 8, as
    bulk copies want them.
    """
    return _Network(Random(seed).choice, exact, 8 if wide else 1, dense).grown(most_layers, heads, images)


class _Network:
    """A network in the making: a value is chosen among the last ones, then a layer that its shape allows."""

    def __init__(
        self, choose: Callable[[Sequence[Any]], Any], exact: bool = False, width: int = 1, dense: bool = False
    ):
        self.choose, self.exact, self.width, self.dense_heads = choose, exact, width, dense
        self.b = GraphBuilder("random")
        shape = [width * self.integer(1, 4 // min(width, 2)), self.integer(3, 9), self.integer(3, 9)]
        self.values = [self.b.input("x", shape)]
        self.weights: list[str] = []

    # --- choices ---------------------------------------------------------------

    def choice(self, *options: Any) -> Any:
        return self.choose(options)

    def integer(self, low: int, high: int) -> int:
        return int(self.choose(range(low, high + 1)))

    def chance(self) -> bool:
        return bool(self.choose((False, True)))

    def is_image(self, x: str) -> bool:
        return len(self.b.type(x).shape) == 4

    def like(self, x: str) -> str:
        """A value of the same shape, perhaps the same."""
        return str(self.choice(*(v for v in self.values if self.b.type(v) == self.b.type(x))))

    def kernel(self, x: str, most: int = 3) -> tuple[int, int]:
        h, w = self.b.type(x).spatial
        return self.integer(1, min(most, h)), self.integer(1, min(most, w))

    # --- layers of an image ----------------------------------------------------

    def conv(self, x: str) -> str:
        """Any stride, padding (uneven too) and dilation; dense, grouped and depthwise."""
        (h, w), channels = self.b.type(x).spatial, self.b.type(x).channels
        r, s = self.kernel(x)
        dilation = (self.choice(1, 2) if 2 * r - 1 <= h else 1, self.choice(1, 2) if 2 * s - 1 <= w else 1)
        padding = self.choice(0, (r // 2, (r - 1) // 2, s // 2, (s - 1) // 2), 1, (0, 2, 1, 0))
        groups = self.choice(1, 1, *(g for g in range(1, channels + 1) if channels % g == 0))
        stride = (self.choice(1, 1, 2, 3), self.choice(1, 1, 2))
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        filters = self.width * groups * self.integer(1, 4 if groups == 1 else 2)
        if self.chance():
            return self.b.conv2d(x, filters, (r, s), bias=self.chance(), **options)
        return self.b.add("conv2d", x, self.weight(filters, channels // groups, r, s), **options)

    def conv_transpose(self, x: str) -> str:
        """Any stride, cropping, output padding and dilation, of an image that may still grow; else a convolution."""
        (h, w), channels = self.b.type(x).spatial, self.b.type(x).channels
        if h * w > LARGE:
            return self.conv(x)
        stride, kernel = (self.choice(1, 2, 2, 3), self.choice(1, 2)), (self.integer(1, 3), self.integer(1, 3))
        dilation = (self.choice(1, 1, 2), self.choice(1, 1, 2))
        output_padding = tuple(self.integer(0, s - 1) for s in stride)
        grown = [
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip((h, w), stride, dilation, kernel, strict=True)
        ]  # fmt: skip
        padding = self.choice(0, (1, 0, 0, 1), 1)
        options = {"padding": padding if min(grown) > 2 else 0, "stride": stride, "dilation": dilation}
        groups = self.choice(1, 1, *(g for g in range(1, channels + 1) if channels % g == 0))
        filters = self.width * groups * self.integer(1, 4 if groups == 1 else 2)
        return self.b.conv_transpose2d(
            x, filters, kernel, bias=self.chance(), groups=groups, output_padding=output_padding, **options
        )

    def resize(self, x: str) -> str:
        """To another height and width: by nearest pixels, linear between them, or means of windows."""
        h, w = self.b.type(x).spatial
        most = 9 if h * w <= LARGE else min(h, w)
        size = self.choice((h, w), (self.integer(1, most), self.integer(1, most)), (1, 1))
        kind = "nearest" if self.exact else self.choice("nearest", "nearest", "half", "corners", "mean")
        if kind == "mean":
            return self.b.adaptive_avg_pool2d(x, size)
        if kind == "nearest":
            grows = h * w <= LARGE // 4 and self.chance()
            return self.b.interpolate(x, scale_factor=(2, 3)) if grows else self.b.interpolate(x, size)
        return self.b.interpolate(x, size, mode="bilinear", align_corners=kind == "corners")

    def frame(self, x: str) -> str:
        """Zeros around an image, or less of it, on each side alike or not."""
        h, w = self.b.type(x).spatial
        sides = [self.integer(-1 if n > 2 else 0, 2) for n in (h, h, w, w)]
        return self.b.zero_pad2d(x, tuple(sides))

    def shuffle(self, x: str) -> str:
        """Channels among channels, into pixels, or pixels into channels."""
        (h, w), channels = self.b.type(x).spatial, self.b.type(x).channels
        divisors = [g for g in range(1, channels + 1) if channels % g == 0]
        kinds = ["channels", *["grow"] * (channels % 4 == 0 and h * w <= LARGE), *["shrink"] * (h % 2 == w % 2 == 0)]
        kind = self.choice(*kinds, kinds[-1])
        if kind == "grow":
            return self.b.pixel_shuffle(x, 2)
        if kind == "shrink" and channels <= 8:
            return self.b.pixel_unshuffle(x, 2)
        return self.b.channel_shuffle(x, self.choice(*divisors))

    def largest(self, x: str) -> str:
        return self.b.global_max_pool(x)

    def weight(self, *shape: int) -> str:
        """A weight of its own, one that another layer has as well, or one computed of others."""
        same = [w for w in self.weights if self.b.type(w).shape == shape]
        kind = self.choice("own", "shared", "sum", "joined")
        if kind == "shared" and same:
            return str(self.choice(*same))
        if kind == "sum":
            made = self.b.add_(self.parameter(*shape), self.choice(*same) if same else self.parameter(*shape))
        elif kind == "joined" and shape[1] > 1:
            columns = self.integer(1, shape[1] - 1)
            parts = [self.parameter(shape[0], count, *shape[2:]) for count in (columns, shape[1] - columns)]
            made = self.b.concat(parts)
        else:
            made = self.parameter(*shape)
        self.weights.append(made)
        return made

    def parameter(self, *shape: int) -> str:
        return self.b.parameter(self.b.fresh("w"), shape, "he_normal")

    def norm(self, x: str) -> str:
        return self.b.batch_norm(x, eps=self.choice(1e-5, 1e-3, 0.1), momentum=self.choice(0.1, 0.3, 1.0))

    def norms(self, x: str) -> str:
        """Two batch norms of one value, put together or side by side."""
        y, z = self.norm(x), self.norm(x)
        return self.b.add_(y, z) if self.chance() else self.b.concat([y, z])

    def several(self, x: str) -> str:
        """A convolution whose result two layers read: each of its readers may be fused with it, or not."""
        y = self.conv(x)
        self.values.append(y)
        readers = [r for r in READERS if self.allows(r)]
        for layer in (self.choice(*readers), self.choice(*readers)):
            self.values.append(layer(self, y))
        return self.values.pop()

    def stem(self, x: str) -> str:
        """A padded convolution, and its result pooled while others read it too."""
        size = self.choice((1, 1), self.kernel(x))
        y = self.b.conv2d(x, self.width * self.integer(1, 4), size, padding=self.choice(0, 1))
        self.values.append(self.activation(y) if self.chance() else y)
        return self.halve(y)

    def activation(self, x: str) -> str:
        return str(getattr(self.b, self.choice("relu", "relu", *([] if self.exact else ["sigmoid", "tanh"])))(x))

    def unit(self, x: str) -> str:
        """Convolution, batch norm, activation."""
        return self.activation(self.norm(self.conv(x)))

    def residual(self, x: str) -> str:
        """x + f(x), activated or not."""
        size = self.choice(1, 3)
        y = self.b.conv2d(x, self.b.type(x).channels, size, padding=size // 2, bias=self.chance())
        y = self.b.add_(*self.choice((x, y), (y, x))) if self.exact else self.b.add_(
            *self.choice((x, self.norm(y)), (self.norm(y), x), (y, x))
        )  # fmt: skip
        return self.activation(y) if self.chance() else y

    def branches(self, x: str) -> str:
        """An Inception block: convolutions of one image side by side, with the same end or not."""
        filters = [self.width * self.integer(1, 4) for _ in range(self.integer(2, 3))]
        ends = [self.b.conv2d(x, count, 1, bias=self.chance()) for count in filters]
        if self.chance() and not self.exact:
            ends = [self.b.batch_norm(y) for y in ends]
        if self.chance():
            ends = [self.b.relu(y) for y in ends]
        if self.chance():
            ends.append(self.b.max_pool2d(x, 3, 1, padding=1))
        self.values += ends[:1] if self.chance() else []
        return self.b.concat(ends)

    def partial(self, x: str) -> str:
        """LeCun et al. 1998, table I: each filter sees some of the maps, by slices and a grouped convolution."""
        channels = self.b.type(x).channels
        maps = [self.b.add("slice_channels", x, start=i, stop=i + 1) for i in range(channels)]
        filters, seen = self.integer(1, 3), self.integer(1, channels)
        columns = [self.choice(*maps) for _ in range(filters * seen)]
        return self.b.conv2d(self.b.concat(columns), filters, self.kernel(x, 2), groups=filters)

    def pool(self, x: str) -> str:
        """Apart, overlapping, with gaps; padded or not, evenly or not; ceil mode; with and without the padding."""
        if self.exact and self.chance():
            return self.halve(x)
        r, s = self.kernel(x, 4)
        stride = self.choice((r, s), (r, s), (1, 1), (2, 1), (r + 1, s))
        padding = self.choice(0, 0, (r // 2, r // 2, s // 2, s // 2), (r // 2, 0, 0, s // 2))
        options = {"padding": padding, "ceil_mode": self.chance()}
        if self.exact or self.chance():
            return self.b.max_pool2d(x, (r, s), stride, **options)
        return self.b.avg_pool2d(x, (r, s), stride, **options, count_include_pad=self.chance())

    def halve(self, x: str) -> str:
        """A pooling that fits in the epilogue of a convolution."""
        h, w = self.b.type(x).spatial
        size = (min(2, h), min(2, w))
        return self.b.max_pool2d(x, size) if self.chance() else self.b.avg_pool2d(x, size)

    def mean(self, x: str) -> str:
        return self.b.global_avg_pool(x)

    def lrn(self, x: str) -> str:
        return self.b.local_response_norm(x, self.integer(1, 4), alpha=0.5, beta=self.choice(0.5, 0.75), k=2.0)

    def flatten(self, x: str) -> str:
        return self.b.flatten(x)

    # --- layers of a vector ----------------------------------------------------

    def dense(self, x: str) -> str:
        features = self.integer(1, 6)
        if self.chance() or self.is_image(x):
            return self.b.linear(x, features, bias=self.chance())
        return self.b.add("linear", x, self.weight(features, self.b.type(x).channels))

    def dense_image(self, x: str) -> str:
        """A dense layer whose features are an image of one channel, of one pixel, or of several of both."""
        shape = self.choice((1, 4, 4), (2, 1, 1), (3, 2, 2))
        y = self.b.linear(x, int(np.prod(shape)))
        return self.b.add("unflatten", self.activation(y) if self.chance() else y, shape=shape)

    def softmax(self, x: str) -> str:
        return self.b.softmax(x)

    # --- layers of either ------------------------------------------------------

    def add(self, x: str) -> str:
        return self.b.add_(x, self.like(x)) if self.chance() else self.b.add_(self.like(x), x)

    def scale(self, x: str) -> str:
        return self.b.add("scale", x, factor=self.choice(-0.5, 1.0, 2.0))

    def scaled(self, x: str) -> str:
        """A convolution or a dense layer whose channels are multiplied by numbers of their own, on either side."""
        y = self.conv(x) if self.is_image(x) else self.dense(x)
        scale = self.b.parameter(self.b.fresh("s"), (self.b.type(y).channels,), "constant(1)")
        return self.b.add("mul", *((y, scale) if self.chance() else (scale, y)))

    def dropout(self, x: str) -> str:
        return self.b.add(self.choice("dropout", "dropout2d", "stochastic_depth"), x, p=self.choice(0.2, 0.5))

    def concat(self, x: str) -> str:
        """Of values or inputs or other concatenations, perhaps the same one twice."""
        rank, size = len(self.b.type(x).shape), self.b.type(x).spatial
        fits = [v for v in self.values if len(self.b.type(v).shape) == rank and self.b.type(v).spatial == size]
        return self.b.concat([x, *(self.choice(*fits) for _ in range(self.integer(0, 2)))])

    def part(self, x: str) -> str:
        """Some of the channels, or some around them."""
        if self.chance():
            return self.b.add("pad_channels", x, before=self.integer(0, 2), after=self.integer(0, 2))
        start = self.integer(0, self.b.type(x).channels - 1)
        return self.b.add("slice_channels", x, start=start, stop=self.integer(start + 1, self.b.type(x).channels))

    # --- the whole -------------------------------------------------------------

    def grown(self, most_layers: int, heads: bool, images: bool) -> Graph:
        if self.chance():  # else what follows, often without parameters before it, needs no gradient
            self.values.append(self.conv("x"))
        for _ in range(self.integer(1, most_layers)):
            x = self.choice(*self.values[-3:], self.values[-1], self.values[0])
            layers = [y for y in (IMAGE_LAYERS if self.is_image(x) else VECTOR_LAYERS) if self.allows(y)]
            self.values.append(self.choice(*layers)(self, x))
        for i in range(self.integer(0, 3) if images else 0):
            self.b.output(self.choice(*self.values), f"image{i}")
        if self.dense_heads and self.is_image(self.values[-1]):
            return self.each_pixel(self.values[-1])
        self.b.output(self.head(self.values[-1], "fc"))
        if heads and self.chance():
            self.b.output(
                self.head(self.choice(*self.values), "aux.fc"),
                "aux",
                loss_weight=0.25 if self.exact else 0.3,
                training_only=True,
            )
        if heads and self.chance():
            logits = self.b.outputs[-1].value
            again = logits if self.exact else self.choice(logits, self.b.softmax(logits))
            self.b.output(again, "again", loss_weight=self.choice(0.5, 2.0))
        return self.b.build().pruned()

    def each_pixel(self, x: str) -> Graph:
        """Heads of logits for each pixel: of the last layer and, perhaps, of another image in the same size."""
        size = self.b.type(x).spatial
        for i, value in enumerate([x, self.choice(*filter(self.is_image, self.values))][: self.integer(1, 2)]):
            logits = self.b.conv2d(value, CLASSES, 1, bias=self.chance(), name=f"pixels{i}")
            if self.b.type(logits).spatial != size:
                logits = self.b.interpolate(logits, size, mode=self.choice("nearest", "bilinear"))
            self.b.output(logits, f"map{i}", loss_weight=self.choice(0.5, 1.0))
        return self.b.build().pruned()

    def allows(self, layer: Any) -> bool:
        return not (self.exact and layer in ROUNDING)

    def head(self, x: str, name: str) -> str:
        if self.is_image(x) and self.chance() and not self.exact:
            x = self.b.global_avg_pool(x)
        if self.is_image(x) and self.chance():
            x = self.b.relu(self.b.flatten(x))
        return self.b.linear(x, CLASSES, name=name, bias=self.chance())


_N = _Network
_EITHER = (_N.norm, _N.activation, _N.activation, _N.add, _N.scale, _N.dropout, _N.concat, _N.concat, _N.part)
IMAGE_LAYERS = (
    *_EITHER, *_EITHER, *[_N.conv] * 3, *[_N.unit] * 4, *[_N.residual] * 2, *[_N.branches] * 2, _N.partial,
    *[_N.pool] * 5, *[_N.halve] * 2, *[_N.lrn] * 2, _N.mean, _N.flatten, _N.dense_image, *[_N.several] * 2, _N.norms,
    *[_N.stem] * 2, *[_N.conv_transpose] * 2, *[_N.scaled] * 2,
    *[_N.resize] * 3, *[_N.frame] * 2, *[_N.shuffle] * 3, _N.largest,
)  # fmt: skip
VECTOR_LAYERS = (*_EITHER, _N.dense, _N.dense, _N.scaled, _N.dense_image, _N.dense_image, _N.softmax, _N.norms)
#: what may read a convolution's result beside another one
READERS = (
    _N.norm, _N.norm, _N.activation, _N.halve, _N.halve, _N.pool, _N.conv, _N.conv_transpose, _N.part, _N.flatten,
    _N.add, _N.resize, _N.frame, _N.shuffle,
)  # fmt: skip
#: layers that an ``exact`` network does without
ROUNDING = (_N.norm, _N.norms, _N.unit, _N.lrn, _N.mean, _N.softmax)


def values_for(
    graph: Graph, batch: int = 2, seed: int = 0, *, ties: bool = False, whole: bool = False
) -> dict[str, np.ndarray]:  # fmt: skip
    """Random values for every source; with ``ties``, images of few and mostly equal values; with ``whole``, small
    integers, most of them 0, for everything."""
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.kind is not Kind.SOURCE or node.op == "fill":
            continue
        shape = graph.types[node.name].at(batch)
        if graph.types[node.name].dtype == "int64":
            values[node.name] = rng.integers(0, CLASSES, shape)
        elif whole:
            values[node.name] = (rng.integers(-2, 3, shape) * (rng.random(shape) < 0.4)).astype(float)
        elif node.op == "buffer":
            values[node.name] = rng.uniform(0.5, 2.0, shape)
        elif ties and node.op == "input":
            values[node.name] = rng.integers(-1, 2, shape).astype(float)
        else:
            values[node.name] = rng.normal(size=shape)
    return values
