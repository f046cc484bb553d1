"""Channels in equal parts: tensors that are stacked, and sums and softmax over the parts, as split attention has them.

A stack of B values [N, C, H, W] is a concatenation [N, B*C, H, W] whose channels are seen as [B, C]: the dimension that
counts the values is a factor of the channels (views.py), and to go along it is to go over slices. Where it is not the
outermost one, [G, B, C] with G groups (ResNeSt's cardinality, Zhang et al., 2020), each value is made of G slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from .assembler import Assembler, Tensor, Unsupported
from .views import Factor, View, joined


def stacked(a: Assembler, xs: Sequence[Tensor], dim: int) -> Tensor:
    """Values of one shape, [N, F] or [N, C, H, W], along a new dimension."""
    if any(x.shape != xs[0].shape for x in xs):
        raise Unsupported("a stack of values of several shapes", "they must have one")
    base = (xs[0].shape[0], len(xs) * xs[0].shape[1], *xs[0].shape[2:])
    values = [a.plain(x) for x in xs]
    view = View.of(base).reshaped((base[0], len(xs), *xs[0].shape[1:]))
    assert view is not None
    order = [0, *range(2, len(view.shape))]
    order.insert(dim % len(view.shape), 1)
    return a.made(a.add("concat", *values) if len(values) > 1 else values[0], view.permuted(order))


def parts(a: Assembler, x: Tensor, dims: Sequence[int], *, keep: bool) -> tuple[list[str], View] | None:
    """The values that some dimensions count, and the view of each that is left without these.
    None where they are no single factor of the channels."""
    factor = _factor(x, dims)
    if factor is None:
        return None
    left = _outermost(x.view, factor).without(dims, keep=keep)
    base = x.view.base
    return _slices(a, x, factor), View((base[0], base[1] // factor.extent, *base[2:]), left.dims)


def _slices(a: Assembler, x: Tensor, factor: Factor) -> list[str]:
    """The values that a factor of the channels counts, each made of one slice of every group."""
    base, (count, channels) = x.view.base, (factor.extent, factor.step)
    starts = range(0, base[1], count * channels)
    values = []
    for i in range(count):
        cut = [a.add("slice_channels", x.value, start=g + i * channels, stop=g + (i + 1) * channels) for g in starts]
        values.append(a.add("concat", *cut) if len(cut) > 1 else cut[0])
    return values


def _factor(x: Tensor, dims: Sequence[int]) -> Factor | None:
    """The factor of the channels that some dimensions are, if they are one, but neither all nor the innermost."""
    base, factors = x.view.base, joined([f for d in dims for f in x.view.dims[d]])
    if len(base) not in (2, 4) or len(factors) != 1 or factors[0].axis != 1 or factors[0].step == 1:
        return None
    return factors[0]


def _outermost(view: View, factor: Factor) -> View:
    """The view of the same numbers where the channels that the factor counts come one after the other."""

    def moved(f: Factor) -> Factor:
        if f.axis != 1 or f.step < factor.step:
            return f
        return Factor(1, f.extent, view.base[1] // f.extent if f == factor else f.step // factor.extent)

    return View(view.base, tuple(tuple(moved(f) for f in dim) for dim in view.dims))


def total(a: Assembler, values: Sequence[str]) -> str:
    """Their sum, added up in order."""
    return reduce(lambda x, y: a.add("add", x, y), values)


def softmax(a: Assembler, x: Tensor, dim: int) -> Tensor | None:
    """Softmax over the parts, at each of their elements; None where the dimension counts no parts.

    As everywhere the largest is taken off first: exp(x_i - max) / sum over j of exp(x_j - max)."""
    factor = _factor(x, [dim % len(x.shape)])
    if factor is None:
        return None
    values = _slices(a, x, factor)
    largest = reduce(lambda p, q: a.add("maximum", p, q), values)
    powers = [a.add("exp", a.add("sub", value, largest)) for value in values]
    sum_ = total(a, powers)
    return a.made(a.add("concat", *[a.add("div", power, sum_) for power in powers]), _outermost(x.view, factor))


def merged(whole: Tensor, part: Tensor) -> tuple[Tensor, Tensor] | None:
    """An image whose dimensions were reshaped, as it was, and a value beside it, reshaped back with it.
    [N, G, C, H, W] is [N, G*C, H, W], and beside it [N, G, C, 1, 1] is [N, G*C, 1, 1], and [N, G, 1, 1, 1] that with
    each number C times. None where they are not so."""
    base, shape = whole.view.base, whole.shape
    if len(base) != 4 or len(shape) == 4 or not whole.view.in_order or len(part.shape) > len(shape):
        return None
    if any(p not in (1, w) for p, w in zip(part.shape[::-1], shape[::-1])):
        return None
    beside = part.view.expanded(shape).reshaped(base)
    if beside is None:
        return None
    return Tensor(whole.value, View.of(base), site=whole.site), Tensor(part.value, beside.narrow, site=part.site)
