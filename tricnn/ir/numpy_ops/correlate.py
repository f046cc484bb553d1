"""Correlation of a channels-last array with taps: the one sum behind convolution, dgrad and wgrad.

    out[n,p,q,k] = sum over r, s, c of src[n, rows(p, r), cols(q, s), c + first channel of k's group] * taps[r,s,c,k]

It is a matrix product for each tile of columns and each group. Products with few channels run far below a BLAS's best
rate and their columns are made of short copies. So neighbours are computed together where that is cheaper, with a
weight matrix that has zeros in it: `block` outputs in a row (they share most of their windows) and `merge` groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tricnn.ir.numpy_ops.depthwise import correlate_depthwise, correlate_depthwise_grad
from tricnn.ir.numpy_ops.im2col import Axis, columns, tiles

_Index = tuple  # of slices, integers and ellipses


def correlate(src: np.ndarray, taps: np.ndarray, rows: Axis, cols: Axis, groups: int, out: np.ndarray) -> None:
    """Fill out: [N, P, Q, K] (any strides). src: [N, H, W, C], taps: [R, S, C/groups, K]."""
    n, p, q, k = out.shape
    if out.size == 0:
        return
    if groups > 1 and k == groups == src.shape[3]:
        correlate_depthwise(src, taps[:, :, 0], rows, cols, out)
        return
    product = _choose(q, taps.shape[2], k // groups, groups, rows, cols)
    if product.has_zeros and not _is_finite(src):
        product = _Product(1, 1)  # zero times infinity is not zero
    c, k = taps.shape[2] * product.merge, k // groups * product.merge
    wide, width = cols.blocked(product.block), q // product.block
    for g in range(groups // product.merge):
        filters = slice(g * k, (g + 1) * k)
        matrix = product.matrix(taps[..., filters], cols)
        for images, band in tiles(n, p, width * matrix.shape[0] * src.itemsize):
            windows = columns(src[..., g * c : (g + 1) * c], rows, wide, images, band, width)
            part = out[images, band, :, filters]
            target = _as_matrix(part, product.block)
            if target is None:
                part[...] = (windows @ matrix).reshape(part.shape)
            else:
                np.matmul(windows, matrix, out=target)


def correlate_grad(src: np.ndarray, grad: np.ndarray, rows: Axis, cols: Axis, groups: int) -> np.ndarray:
    """Gradient with respect to taps, [R, S, C/groups, K], given that of out, grad: [N, P, Q, K]."""
    n, p, q, k = grad.shape
    c = src.shape[3] // groups
    taps = np.zeros((rows.taps, cols.taps, c, k), dtype=grad.dtype)
    if grad.size == 0 or src.size == 0:
        return taps
    if groups > 1 and k == groups == src.shape[3]:
        taps[:, :, 0] = correlate_depthwise_grad(src, grad, rows, cols)
        return taps
    product = _choose(q, c, k // groups, groups, rows, cols)
    c, k = c * product.merge, k // groups * product.merge
    wide, width = cols.blocked(product.block), q // product.block
    size = rows.taps * wide.taps * c
    for g in range(groups // product.merge):
        filters = slice(g * k, (g + 1) * k)
        total = np.zeros((size, product.block * k), dtype=grad.dtype)
        for images, band in tiles(n, p, width * size * src.itemsize, at_least=2 * total.nbytes):
            windows = columns(src[..., g * c : (g + 1) * c], rows, wide, images, band, width)
            part = grad[images, band, :, filters]
            target = _as_matrix(part, product.block)
            total += windows.T @ (part.reshape(-1, product.block * k) if target is None else target)
        product.add_taps(total, cols, taps[..., filters])
    return taps


@dataclass(frozen=True)
class _Product:
    """How many neighbours in a row (`block`) and how many groups (`merge`) one matrix product computes together."""

    block: int
    merge: int

    @property
    def has_zeros(self) -> bool:
        return self.block > 1 or self.merge > 1

    def matrix(self, taps: np.ndarray, cols: Axis) -> np.ndarray:
        """taps: [R, S, C, merge*K] -> [R*width*merge*C, block*merge*K], zero where an output does not see an input.

        With block = merge = 1 this is the plain weight matrix. For C = 1, K = 6 and 5x5, block 4 makes it [40, 24]
        instead of [25, 6], and leaves a quarter of the rows to the other operand.
        """
        r, s, c, k = taps.shape
        if not self.has_zeros:
            return taps.reshape(r * s * c, k)
        wide = cols.blocked(self.block).taps
        matrix = np.zeros((r, wide, self.merge * c, self.block, k), dtype=taps.dtype)
        for into, of in self._places(cols, c, k):
            matrix[into] = taps[of]
        return matrix.reshape(r * wide * self.merge * c, self.block * k)

    def add_taps(self, matrix: np.ndarray, cols: Axis, taps: np.ndarray) -> None:
        """Add to taps what is in its places in `matrix`: the transpose of `matrix`."""
        r, _, c, k = taps.shape
        matrix = matrix.reshape(r, cols.blocked(self.block).taps, self.merge * c, self.block, k)
        for into, of in self._places(cols, c, k):
            taps[of] += matrix[into]

    def _places(self, cols: Axis, c: int, k: int) -> Iterator[tuple[_Index, _Index]]:
        """Where the taps of each group stand in the matrix, once for each neighbour."""
        reach = (cols.taps - 1) * cols.step + 1
        kg = k // self.merge
        for b in range(self.block):
            start = b * cols.stride if self.block > 1 else 0
            step = cols.step if self.block > 1 else 1
            span = slice(start, start + (reach if self.block > 1 else cols.taps), step)
            for m in range(self.merge):
                filters = slice(m * kg, (m + 1) * kg)
                yield (slice(None), span, slice(m * c, (m + 1) * c), b, filters), (..., filters)


@lru_cache
def _choose(q: int, c: int, k: int, groups: int, rows: Axis, cols: Axis) -> _Product:
    """The product that costs least per output pixel.

    The costs are nanoseconds on a two-core x86 server, of which only the proportions matter: a product of width w runs
    at a rate proportional to w / (w + 12), and columns cost 8 ns for each contiguous run, plus their bytes.
    """

    def cost(product: _Product) -> float:
        merge, block = product.merge, product.block
        width = cols.blocked(block).taps
        size = rows.taps * width * c * merge
        whole_run = merge == groups and (block > 1 or cols.step == 1)
        runs = rows.taps * (1 if whole_run else width)
        return (size * (block * merge * k + 12) / 80 + 8 * runs + size / 9) * groups / merge / block

    plain = _Product(1, 1)
    others = [_Product(b, m) for b in _divisors(q) for m in _divisors(groups) if b * m > 1 and b * m * k <= 256]
    return min([plain, *others], key=cost)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _is_finite(x: np.ndarray) -> bool:
    """False if x holds an infinity or a NaN (or, harmlessly, if its sum overflows)."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(x.sum()))


def _as_matrix(part: np.ndarray, block: int) -> np.ndarray | None:
    """part: [n, p, q, k] as [n*p*q/block, block*k] over the same memory, or None if its strides do not allow it."""
    n, p, q, k = part.shape
    sn, sp, sq, sk = part.strides
    evenly_spaced = (p == 1 or sp == q * sq) and (n == 1 or sn == p * q * sq)
    if sk != part.itemsize or not evenly_spaced or (block > 1 and sq != k * sk):
        return None
    return as_strided(part, (n * p * (q // block), block * k), (sq * block, sk))
