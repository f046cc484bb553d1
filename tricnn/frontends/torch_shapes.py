"""ATen operations in our words: views, slices, joins, padding, and images of another size.

A reader takes the :class:`~tricnn.frontends.assembler.Assembler` and the call's arguments (torch_ops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from ..ir import borders
from .assembler import BATCH, Assembler, Stored, Tensor, Unsupported, described
from .readers import Reader, entering
from .torch_layers import bordered
from .torch_names import aten_name
from .torch_parts import stacked
from .torch_pointwise import multiply, order_of, sum_of, unary
from .views import View

READERS: dict[str, Reader] = {}
reads = entering(READERS, aten_name)


@reads("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int",
       "squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default")  # fmt: skip
def reshaped(a: Assembler, x: Any, *_: Any) -> Any:
    shape = a.shape
    if isinstance(x, Stored):
        return replace(x, shape=shape)
    x = a.tensor(x)
    if prod(shape) != prod(x.shape):
        raise Unsupported("it fixes the batch size", "write it as x.shape[0] or -1")
    view = x.view.reshaped(shape)
    if view is None:
        raise Unsupported(f"{described(x.shape)} seen as {described(shape)}", "an axis is cut where it cannot be")
    return Tensor(x.value, view, site=a.site)


@reads("permute.default")
def permuted(a: Assembler, x: Any, order: Sequence[int]) -> Any:
    if isinstance(x, Stored):
        raise Unsupported(f"the parameter {x.name} is permuted", "store it as it is used")
    x = a.tensor(x)
    return Tensor(x.value, x.view.permuted([d % len(x.shape) for d in order]), site=a.site)


@reads("transpose.int")
def transposed(a: Assembler, x: Any, first: int, second: int) -> Any:
    order = list(range(len(x.shape) if isinstance(x, Tensor | Stored) else 0))
    order[first], order[second] = order[second], order[first]
    return permuted(a, x, order)


@reads("contiguous.default", "clone.default", "alias.default", "lift_fresh_copy.default")
def as_it_is(a: Assembler, x: Any, *_: Any, **__: Any) -> Any:
    """The value itself: memory is nobody's business but the compiler's."""
    return x


@reads("detach.default")
def detached(a: Assembler, x: Any) -> Any:
    """The value itself, through which no gradient passes; a constant as it is."""
    if isinstance(x, Stored) and a.stored[x.name].trained:
        raise Unsupported(f"it stops the gradient of the parameter {x.name}", "freeze it by requires_grad_(False)")
    if not isinstance(x, Tensor) or x.value in a.unknown:
        return x
    return replace(x, value=a.add("detach", x.value))


@reads("expand.default", "expand_as.default")
def expanded(a: Assembler, x: Any, *_: Any, **__: Any) -> Any:
    """The value under a view with copies, which arithmetic has no need of; whoever does makes them."""
    if isinstance(x, Stored):
        return x  # parameters are as wide as what they meet
    x = a.tensor(x)
    return Tensor(x.value, x.view.expanded(a.shape), site=a.site)


@reads("_to_copy.default", "to.dtype", "to.device", "to.dtype_layout", "type_as.default")
def converted(a: Assembler, x: Any, *_: Any, **__: Any) -> Any:
    """The value itself, if it is a real number afterwards: types are chosen when a network is compiled."""
    if a.floating:
        return x
    raise Unsupported("a conversion to integers", "values of a network are real numbers")


@reads("slice.Tensor")
def sliced(a: Assembler, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    x = a.tensor(x)
    dim, extent = dim % len(x.shape), x.shape[dim % len(x.shape)]
    start, end = 0 if start is None else start, extent if end is None else end
    start, end = (min(v if v >= 0 else v + extent, extent) for v in (start, end))
    if (start, end, step) == (0, extent, 1):
        return x
    return _cut(a, x, dim, [(start, end, step)])[0]


def _cut(a: Assembler, x: Tensor, dim: int, ranges: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """Some of the channels; each piece is seen as the whole was."""
    if any(step != 1 for *_, step in ranges):
        return [_every(a, x, dim, *r) for r in ranges]
    whole = len(x.view.base) > 1 and x.view.dims[dim] == View.of(x.view.base).dims[1]
    if dim == 0 or not whole:
        x = a.made(a.plain(x))
        if dim in (2, 3):
            return [_band(a, x, dim, start, stop) for start, stop, _ in ranges]
        if dim != 1:
            raise Unsupported(f"a slice of {described(x.shape)} along the batch", "images are computed one by one")
    pieces = []
    for start, stop, _ in ranges:
        value = a.add("slice_channels", x.value, start=start, stop=stop)
        base = (x.view.base[0], stop - start, *x.view.base[2:])
        like = View.of(base).dims[1]
        pieces.append(a.made(value, View(base, tuple(like if i == dim else d for i, d in enumerate(x.view.dims)))))
    return pieces


def _band(a: Assembler, x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Some of the rows (dim 2) or columns (dim 3) of an image."""
    before, after = -start, stop - x.shape[dim]
    return bordered(a, x, (before, after, 0, 0) if dim == 2 else (0, 0, before, after))


def _every(a: Assembler, x: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    """Every ``step``-th row or column of some: windows of one pixel, ``step`` apart."""
    if dim not in (2, 3):
        raise Unsupported(
            f"a slice of {described(x.shape)} along dimension {dim} with step {step}",
            "supported are those of rows and columns",
        )
    if (start, stop) != (0, x.shape[dim]):
        x = _band(a, a.made(a.plain(x)), dim, start, stop)
    return subsampled(a, x, (step, 1) if dim == 2 else (1, step))


@reads("tricnn.subsampled.default")
def subsampled(a: Assembler, x: Any, steps: tuple[int, int]) -> Tensor:
    """``x[:, :, ::sh, ::sw]``."""
    return a.made(a.add("avg_pool2d", a.image(x), kernel_size=1, stride=steps))


@reads("split.Tensor")
def split(a: Assembler, x: Any, size: int, dim: int = 0) -> list[Any]:
    x = a.tensor(x)
    extent = x.shape[dim]
    return split_with_sizes(a, x, [min(size, extent - start) for start in range(0, extent, size)], dim)


@reads("split_with_sizes.default", "split.sizes")
def split_with_sizes(a: Assembler, x: Any, sizes: Sequence[int], dim: int = 0) -> list[Any]:
    x = a.tensor(x)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    if len(sizes) == 1:
        return [x]
    return _cut(a, x, dim % len(x.shape), [(end - size, end, 1) for end, size in zip(ends, sizes)])


@reads("chunk.default")
def chunk(a: Assembler, x: Any, count: int, dim: int = 0) -> list[Any]:
    x = a.tensor(x)
    return split(a, x, -(-x.shape[dim] // count), dim)


@reads("glu.default")
def glu(a: Assembler, x: Any, dim: int = -1) -> Tensor:
    """The first half times the sigmoid of the second (Dauphin et al., 2017, equation 1)."""
    first, second = chunk(a, x, 2, dim)
    return multiply(a, first, unary(a, "sigmoid", second))


@reads("select.int")
def select(a: Assembler, x: Any, dim: int, index: int) -> Any:
    x = a.tensor(x)
    dim, extent = dim % len(x.shape), x.shape[dim % len(x.shape)]
    index %= extent
    piece = x if extent == 1 else _cut(a, x, dim, [(index, index + 1, 1)])[0]
    return Tensor(piece.value, piece.view.without([dim], keep=False), site=a.site)


@reads("cat.default", "concat.default")
def concat(a: Assembler, xs: Sequence[Any], dim: int = 0) -> Tensor:
    xs = [a.tensor(x) for x in xs]
    if len(xs) == 1:
        return xs[0]
    dim %= len(xs[0].shape)
    order = order_of(xs[0].view)
    channels = dim if order is None else order[dim]
    whole = order is None or order == tuple(range(len(order)))
    if channels in (2, 3) and whole and len(a.shape) == 4:
        return side_by_side(a, xs, dim)
    if channels != 1:
        raise Unsupported(
            f"a concatenation along dimension {dim}",
            "supported is that of channels, rows and columns",
        )
    if order is None or whole:
        return a.made(a.add("concat", *[a.plain(x) for x in xs]))
    back = tuple(order.index(i) for i in range(len(order)))
    value = a.add("concat", *[a.plain(Tensor(x.value, x.view.permuted(back), site=x.site)) for x in xs])
    return a.made(value, View.of(a.type(value).at(BATCH)).permuted(order))


def side_by_side(a: Assembler, xs: Sequence[Tensor], dim: int) -> Tensor:
    """Images joined along their rows (dim 2) or columns (dim 3).
    Each is put amid as many zeros as there are rows or columns of the others, and these are added up."""
    extents = [x.shape[dim] for x in xs]
    parts = []
    for i, x in enumerate(xs):
        before, after = sum(extents[:i]), sum(extents[i + 1 :])
        sides = (before, after, 0, 0) if dim == 2 else (0, 0, before, after)
        parts.append(bordered(a, a.made(a.plain(x)), sides))
    return sum_of(a, *parts)


@reads("stack.default")
def stack(a: Assembler, xs: Sequence[Any], dim: int = 0) -> Tensor:
    return stacked(a, [a.tensor(x) for x in xs], dim)


@reads("pad.default", "constant_pad_nd.default")
def pad(a: Assembler, x: Any, amounts: Sequence[int], mode: Any = "constant", value: Any = None) -> Any:
    if not isinstance(mode, str):
        mode, value = "constant", mode
    if not any(amounts):
        return x
    if mode != "constant":
        return repeated(a, x, amounts, mode)
    amounts = [*amounts, *[0] * (8 - len(amounts))]
    (left, right, top, bottom), others = amounts[:4], amounts[4:]
    fill = 0.0 if value is None else float(value)
    if len(a.shape) != 4 or any(others[2:]) or (any(others) and (any(amounts[:4]) or min(others) < 0 or fill != 0)):
        raise Unsupported(f"padding by {amounts}", "supported is padding of height and width, or of channels by 0")
    if any(others):
        return a.made(a.add("pad_channels", a.image(x), before=others[0], after=others[1]))
    return bordered(a, x, (top, bottom, left, right), fill)


def repeated(a: Assembler, x: Any, amounts: Sequence[int], mode: str) -> Tensor:
    """An image amid pixels of its own, by (left, right, top, bottom) of them."""
    if mode not in borders.MODES or len(amounts) != 4 or min(amounts) < 0:
        raise Unsupported(
            f"{mode} padding by {list(amounts)}",
            f"supported is padding by a number, or of height and width by {', '.join(borders.MODES)}",
        )
    image, (left, right, top, bottom) = a.image(x), amounts
    add = partial(a.add, stem="part")
    return a.made(borders.bordered(add, image, a.type(image).spatial, (top, bottom, left, right), mode))


@reads("reflection_pad2d.default")
def reflection_pad2d(a: Assembler, x: Any, amounts: Sequence[int]) -> Tensor:
    return repeated(a, x, amounts, "reflect")


@reads("replication_pad2d.default")
def replication_pad2d(a: Assembler, x: Any, amounts: Sequence[int]) -> Tensor:
    return repeated(a, x, amounts, "replicate")


# --- images of another size -------------------------------------------------------------------------------------------


def resized(a: Assembler, op: str, x: Any, scales: Any, **attrs: Any) -> Tensor:
    """An image of the size that PyTorch gives it.
    ``scales``, where a scale was asked for, must be that of the sizes: else PyTorch takes the pixels of another one."""
    image, size = a.image(x), a.shape[2:]
    for scale, before, after in zip(scales or (), a.type(image).spatial, size):
        if scale is not None and scale * before != after:
            raise Unsupported(f"{before} pixels are scaled by {scale:g}", f"give it a size: {after}")
    return a.made(a.add(op, image, size=size, **attrs))


@reads("upsample_nearest2d.vec")
def upsample_nearest2d(a: Assembler, x: Any, size: Any, scales: Any) -> Tensor:
    return resized(a, "upsample_nearest2d", x, scales)


@reads("upsample_nearest2d.default")
def upsample_nearest2d_sized(a: Assembler, x: Any, size: Any, *scales: Any) -> Tensor:
    return resized(a, "upsample_nearest2d", x, scales)


@reads("upsample_bilinear2d.vec")
def upsample_bilinear2d(a: Assembler, x: Any, size: Any, align_corners: bool, scales: Any) -> Tensor:
    return resized(a, "upsample_bilinear2d", x, None if align_corners else scales, align_corners=align_corners)


@reads("upsample_bilinear2d.default")
def upsample_bilinear2d_sized(a: Assembler, x: Any, size: Any, align_corners: bool, *scales: Any) -> Tensor:
    return resized(a, "upsample_bilinear2d", x, None if align_corners else scales, align_corners=align_corners)


@reads("channel_shuffle.default")
def channel_shuffle(a: Assembler, x: Any, groups: int) -> Tensor:
    return a.made(a.add("channel_shuffle", a.image(x), groups=groups))


@reads("pixel_shuffle.default")
def pixel_shuffle(a: Assembler, x: Any, factor: int) -> Tensor:
    return a.made(a.add("pixel_shuffle", a.image(x), upscale_factor=factor))


@reads("pixel_unshuffle.default")
def pixel_unshuffle(a: Assembler, x: Any, factor: int) -> Tensor:
    return a.made(a.add("pixel_unshuffle", a.image(x), downscale_factor=factor))
