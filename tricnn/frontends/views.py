"""Reshapes and permutations as an algebra: which factors of which axes a dimension is made of.

A foreign graph says ``x.view(N, 2, C/2, H, W).transpose(1, 2).reshape(N, C, H, W)`` where ours says *channel shuffle*,
and ``x.permute(0, 2, 3, 1)`` where ours says nothing at all, for memory is channels-last anyway. So nothing is copied
while a graph is read. A :class:`View` remembers what became of the axes, and whoever needs the numbers in a plain order
asks what the view amounts to.

A factor ``(axis, extent, step)`` counts ``extent`` places of an axis, ``step`` apart: the index along the axis is the
sum of (factor's index * step). Axis C of 12 is the factor (C, 12, 1); split into 3 x 4 it is (C, 3, 4), (C, 4, 1), and
those two, one after the other, are (C, 12, 1) again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Factor:
    """``extent`` places, ``step`` apart, of an axis of the value that is viewed.
    Of the axis ``REPEATED`` it is the same number ``extent`` times."""

    axis: int
    extent: int
    step: int = 1


Dim = tuple[Factor, ...]

#: no axis: what is counted along it are copies
REPEATED = -1


def joined(factors: Sequence[Factor]) -> Dim:
    """A dimension of these factors, two neighbours made one where the second counts on where the first ends."""
    result: list[Factor] = []
    for factor in factors:
        if factor.extent == 1:
            continue
        last = result[-1] if result else None
        if last is not None and last.axis == factor.axis and last.step == factor.step * factor.extent:
            result[-1] = Factor(factor.axis, last.extent * factor.extent, factor.step)
        else:
            result.append(factor)
    return tuple(result)


@dataclass(frozen=True)
class View:
    """Dimensions made of the factors of a value's axes; a dimension of no factor has the extent 1."""

    base: tuple[int, ...]
    dims: tuple[Dim, ...]

    @classmethod
    def of(cls, shape: Sequence[int]) -> View:
        """The view of a value under its own shape: dimension i is axis i."""
        return cls(tuple(shape), tuple(joined([Factor(i, extent)]) for i, extent in enumerate(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(f.extent for f in dim) for dim in self.dims)

    @property
    def plain(self) -> bool:
        """Is it the value itself?"""
        return self == View.of(self.base)

    @property
    def in_order(self) -> bool:
        """Is it a reshape and no permutation: the same numbers in the same order?"""
        flat = [f for dim in self.dims for f in dim]
        whole = [Factor(i, extent) for i, extent in enumerate(self.base) if extent > 1]
        return list(joined(flat)) == whole

    def permuted(self, order: Sequence[int]) -> View:
        return View(self.base, tuple(self.dims[i] for i in order))

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The view of these numbers, in their order, under another shape; None where that is no view.
        It is none where a new dimension would begin within a factor, at a place that does not divide it."""
        waiting = [f for dim in self.dims for f in dim][::-1]
        dims = []
        for extent in shape:
            found = []
            while extent > 1:
                if not waiting:
                    return None
                factor = waiting.pop()
                if extent % factor.extent == 0:
                    extent //= factor.extent
                    found.append(factor)
                elif factor.extent % extent == 0:
                    rest = factor.extent // extent
                    found.append(Factor(factor.axis, extent, factor.step * rest))
                    waiting.append(Factor(factor.axis, rest, factor.step))
                    extent = 1
                else:
                    return None
            dims.append(joined(found))
        return None if waiting else View(self.base, tuple(dims))

    def expanded(self, shape: Sequence[int]) -> View:
        """The view under a shape in which dimensions of 1 may be longer and new ones come first: of copies."""
        dims = ((),) * (len(shape) - len(self.dims)) + self.dims
        copies = [joined([Factor(REPEATED, extent, 0)]) for extent in shape]
        return View(self.base, tuple(dim or copy for dim, copy in zip(dims, copies)))

    @property
    def narrow(self) -> View:
        """The view with dimensions of nothing but copies left at 1, as arithmetic takes them."""
        return View(self.base, tuple(() if all(f.axis == REPEATED for f in dim) else dim for dim in self.dims))

    @property
    def of_whole_batches(self) -> bool:
        """Are the batch's images, in their order, the first dimension, and no number there twice or left out?"""
        flat = [f for dim in self.dims for f in dim]
        counted = [prod(f.extent for f in flat if f.axis == axis) for axis in range(len(self.base))]
        first = View.of(self.base).dims[:1]
        return self.dims[:1] == first and counted == list(self.base) and all(f.axis != REPEATED for f in flat)

    def of_numbers(self, x: Any) -> Any:
        """The numbers of a value [N, ...] as they are seen: an array or a tensor, reshaped and permuted.
        The view is ``of_whole_batches``; N may be another one than its own."""
        flat = [f for dim in self.dims[1:] for f in dim]
        stored = sorted(flat, key=lambda f: (f.axis, -f.step))
        order = [0, *(1 + stored.index(f) for f in flat)]
        split = x.reshape(len(x), *(f.extent for f in stored))
        return (split.permute if hasattr(split, "permute") else split.transpose)(order).reshape(len(x), *self.shape[1:])

    def without(self, dims: Sequence[int], *, keep: bool) -> View:
        """The view without some dimensions; ``keep`` leaves them there, of extent 1."""
        left = [((), True) if i in dims else (dim, False) for i, dim in enumerate(self.dims)]
        return View(self.base, tuple(dim for dim, gone in left if keep or not gone))

    def axes(self, dims: Sequence[int]) -> frozenset[int] | None:
        """The axes that some dimensions are made of, if they are whole axes; else None."""
        factors = joined(sorted((f for i in dims for f in self.dims[i]), key=lambda f: (f.axis, -f.step)))
        whole = all(f.axis != REPEATED and f.extent == self.base[f.axis] for f in factors)
        return frozenset(f.axis for f in factors) if whole else None
