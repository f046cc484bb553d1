"""Sums over pixels and over partial results. Every order is fixed by the launch, so every sum is repeatable."""

import triton
import triton.language as tl


@triton.jit
def added_up(partials, element, mask, parts, STRIDE, BLOCK_P: tl.constexpr):
    """sum over p < parts of partials[p, element], in fp32.
    Parts are STRIDE numbers apart; element, mask and the sum are [elements]."""
    total = tl.zeros([BLOCK_P, element.shape[0]], tl.float32)
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)[:, None]
        known = (part < parts) & mask[None, :]
        total += tl.load(partials + part * STRIDE + element[None, :], mask=known, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def add_group(partials, channel, mask, parts, C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Add partials: [parts, 2, C] up into the first of them, for these channels."""
    first = added_up(partials, channel, mask, parts, 2 * C, BLOCK_P)
    second = added_up(partials, C + channel, mask, parts, 2 * C, BLOCK_P)
    tl.debug_barrier()  # no thread overwrites what another has not read
    tl.store(partials + channel, first, mask=mask)
    tl.store(partials + C + channel, second, mask=mask)


@triton.jit
def sum_partials(
    partials, store: tl.constexpr, args, parts,
    LENGTH: tl.constexpr, SPLIT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[j] = sum over p < parts of partials[p, j], with partials: [parts, LENGTH] in fp32.

    Grid: (cdiv(LENGTH, BLOCK), SPLIT). store(total, element, mask, split, args): total, element and mask [BLOCK].
    SPLIT = 1 gives the sum; where parts are many and LENGTH is small, a first launch with SPLIT > 1 leaves
    [SPLIT, LENGTH] sums of contiguous chunks, for a second one to add.
    """
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = element < LENGTH
    chunk = tl.cdiv(parts, SPLIT)
    begin = tl.program_id(1) * chunk
    end = tl.minimum(begin + chunk, parts)
    total = added_up(partials + begin * LENGTH, element, mask, end - begin, LENGTH, BLOCK_P)
    store(total, element, mask, tl.program_id(1), args)


@triton.jit
def sum_partials_of_many(table, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr = 0):
    """Sums of the partial results of many tensors in one launch: each program adds one block of one of them.

    table: [blocks, 5] int64 says of each block: the addresses of its first partial result and of its sum (both
    fp32), how many parts there are, how many elements lie between two of them, and how many elements the block has, at
    most BLOCK. Grid: (how many blocks this launch adds,), from number FIRST on.
    """
    row = table + (FIRST + tl.program_id(0)) * 5
    source = tl.load(row).to(tl.pointer_type(tl.float32))
    target = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    parts = tl.load(row + 2).to(tl.int32)
    stride = tl.load(row + 3)
    element = tl.arange(0, BLOCK)
    mask = element < tl.load(row + 4)
    total = tl.zeros([BLOCK_P, BLOCK], tl.float32)
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)[:, None]
        known = (part < parts) & mask[None, :]
        total += tl.load(source + part * stride + element[None, :], mask=known, other=0.0)
    tl.store(target + element, tl.sum(total, axis=0), mask=mask)


@triton.jit
def channel_sum(
    load: tl.constexpr, load_args, store: tl.constexpr, store_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Partial sums over pixels of a tile [N*PIXELS, C], such as the gradient of a bias.

    Grid: (cdiv(C, BLOCK_N), SPLIT). load(pixel, channel, mask, args) -> tile; store(total, channel, mask, split,
    args): total, channel and mask [BLOCK_N]. The SPLIT partial sums cover contiguous chunks of pixels.
    """
    channel = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = channel < C
    chunk = tl.cdiv(tl.cdiv(N * PIXELS, BLOCK_M), SPLIT) * BLOCK_M
    begin = tl.program_id(1) * chunk
    end = tl.minimum(begin + chunk, N * PIXELS)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(begin, end, BLOCK_M):
        pixel = first + tl.arange(0, BLOCK_M)[:, None]
        total += load(pixel, channel[None, :], (pixel < end) & mask[None, :], load_args).to(tl.float32)
    store(tl.sum(total, axis=0), channel, mask, tl.program_id(1), store_args)


@triton.jit
def channel_sum_pair(
    load: tl.constexpr, load_args, store: tl.constexpr, store_args, N,
    PIXELS: tl.constexpr, C: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Two `channel_sum`s in one pass, such as the sums of dy and of dy*xhat that batch norm's gradient needs.

    Grid: (cdiv(C, BLOCK_N), SPLIT). load(pixel, channel, mask, args) -> (tile, tile); store(first, second, channel,
    mask, split, args): the two totals, channel and mask are [BLOCK_N].
    """
    channel = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = channel < C
    chunk = tl.cdiv(tl.cdiv(N * PIXELS, BLOCK_M), SPLIT) * BLOCK_M
    begin = tl.program_id(1) * chunk
    end = tl.minimum(begin + chunk, N * PIXELS)
    total_a = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    total_b = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(begin, end, BLOCK_M):
        pixel = first + tl.arange(0, BLOCK_M)[:, None]
        a, b = load(pixel, channel[None, :], (pixel < end) & mask[None, :], load_args)
        total_a += a.to(tl.float32)
        total_b += b.to(tl.float32)
    store(tl.sum(total_a, axis=0), tl.sum(total_b, axis=0), channel, mask, tl.program_id(1), store_args)
