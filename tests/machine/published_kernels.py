"""Kernels whose times on an H100 somebody published, written again: what `published.py` compiles and simulates."""

import triton
import triton.language as tl


@triton.jit
def product(a, b, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c = a @ b, one tile a program; all three come and go in whole boxes."""
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    total = tl.zeros([BM, BN], tl.float32)
    for at in range(0, K, BK):
        total = tl.dot(a.load([row, at]), b.load([at, column]), total)
    c.store([row, column], total.to(c.dtype))


@triton.jit
def persistent_product(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SIDEWAYS: tl.constexpr):
    """The same, tile after tile by as many programs as there are multiprocessors; copies run on from tile to tile.
    SIDEWAYS: b comes transposed, as products of 8-bit numbers need it."""
    down, steps = tl.cdiv(M, BM), tl.cdiv(K, BK)
    for tile in tl.range(tl.program_id(0), down * tl.cdiv(N, BN), tl.num_programs(0), flatten=True):
        row, column = tile % down * BM, tile // down * BN
        total = tl.zeros([BM, BN], tl.float32)
        for step in range(steps):
            if SIDEWAYS:
                total = tl.dot(a.load([row, step * BK]), b.load([column, step * BK]).T, total)
            else:
                total = tl.dot(a.load([row, step * BK]), b.load([step * BK, column]), total)
        c.store([row, column], total.to(c.dtype))


@triton.jit
def product_by_threads(
    a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    """c = a @ b.T, every thread copies for itself; tiles in groups of 8 rows of tiles, for the cache's sake."""
    down, across = tl.cdiv(M, BM), tl.cdiv(N, BN)
    group = tl.program_id(0) // (8 * across)
    high = min(down - group * 8, 8)
    m = (group * 8 + tl.program_id(0) % high) * BM + tl.arange(0, BM)
    n = tl.program_id(0) % (8 * across) // high * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    m = tl.max_contiguous(tl.multiple_of(m, BM), BM)
    n = tl.max_contiguous(tl.multiple_of(n, BN), BN)
    left, right = a + m[:, None] * K + k[None, :], b + n[None, :] * K + k[:, None]
    total = tl.zeros([BM, BN], tl.float32)
    for step in range(tl.cdiv(K, BK)):
        x = tl.load(left, mask=k[None, :] < K - step * BK, other=0.0)
        y = tl.load(right, mask=k[:, None] < K - step * BK, other=0.0)
        total = tl.dot(x, y, total)
        left += BK
        right += BK
    tl.store(c + m[:, None] * N + n[None, :], total.to(T), mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def attention(q, k, v, o, scale, L, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    """o = softmax(q @ k.T * scale) @ v for L rows of each head, the softmax's maximum and sum carried along."""
    first, head = tl.program_id(0) * BM, tl.program_id(1) * L
    x = q.load([head + first, 0])
    top = tl.full([BM], float("-inf"), tl.float32)
    weight = tl.full([BM], 1.0, tl.float32)
    total = tl.zeros([BM, D], tl.float32)
    for at in tl.range(0, L, BN):
        s = tl.dot(x, k.load([head + at, 0]).T)
        higher = tl.maximum(top, tl.max(s, 1) * scale)
        p = tl.math.exp2(s * scale - higher[:, None])
        shrink = tl.math.exp2(top - higher)
        weight = weight * shrink + tl.sum(p, 1)
        total = tl.dot(p.to(tl.float16), v.load([head + at, 0]), total * shrink[:, None])
        top = higher
    o.store([head + first, 0], (total / weight[:, None]).to(tl.float16))


@triton.jit
def copy_rows(x, y, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """y = x, ROWS rows and BLOCK columns a program."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    for i in tl.static_range(ROWS):
        start = (tl.program_id(0) * ROWS + i) * COLUMNS
        tl.store(y + start + column, tl.load(x + start + column, mask=column < COLUMNS), mask=column < COLUMNS)
