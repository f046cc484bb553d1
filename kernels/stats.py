"""Mean and variance per channel, by count, mean and M2 (the sum of squared deviations from the mean).

A tile leaves its own three numbers per channel, in `partials: [parts, 3, C]` fp32, rows count, mean and M2. They are
merged by the formula of Chan, Golub and LeVeque (1979), in its form for many groups at once:

    count = sum count_i,   mean = sum count_i*mean_i / count,   M2 = sum M2_i + sum count_i*(mean_i - mean)^2

Unlike E[x^2] - E[x]^2 over all pixels it never subtracts two large, nearly equal sums. A mean that was summed is off by
a few units of its last place, which may be more than the values deviate; so deviations are from some m near the mean,
and with them goes their own mean, the rest that m lacks:

    rest = sum count_i*(mean_i - m) / count,   mean = m + rest,   M2 = sum M2_i + ... (mean_i - m)^2 - count*rest^2
"""

import triton
import triton.language as tl


@triton.jit
def tile_stats(tile, mask):
    """The count, mean and M2 of a tile [M, C] over the rows that its mask keeps.

    count is a number, the same for all channels; mean and M2 are [C] fp32.

    M2 takes two passes, but one where the tile is of 16-bit numbers: sum x^2 - (sum x)^2/count in fp32 is off by as
    much as 2^-23 of mean^2, and rounding x to 8 or 11 bits has done more.
    """
    x = tl.where(mask, tile.to(tl.float32), 0.0)
    count = tl.sum(tl.max(mask.to(tl.int32), axis=1), axis=0).to(tl.float32)
    divisor = tl.maximum(count, 1.0)
    total = tl.sum(x, axis=0)
    mean = total / divisor
    if tile.dtype == tl.float32:
        deviation = tl.where(mask, x - mean[None, :], 0.0)
        rest = tl.sum(deviation, axis=0) / divisor
        near, mean = mean, mean + rest
        # Merging adds count * (what rounding this mean did)^2 for every tile, always upwards: take it off here.
        rounding = mean - near - rest
        m2 = tl.sum(deviation * deviation, axis=0) - count * (rest * rest + rounding * rounding)
    else:
        m2 = tl.sum(x * x, axis=0) - total * mean
    return count, mean, tl.maximum(m2, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def store_tile_stats(tile, channel, mask, part, partials, C: tl.constexpr):
    """Leave one tile's count, mean and M2 in partials: [parts, 3, C]. For epilogues; channel: [1, C of the tile].

    Give it the tile as stored, after rounding: these are the numbers that will be normalised.
    """
    count, mean, m2 = tile_stats(tile, mask)
    target = partials + part * (3 * C) + channel
    known = channel < C
    tl.store(target, count, mask=known)
    tl.store(target + C, mean[None, :], mask=known)
    tl.store(target + 2 * C, m2[None, :], mask=known)


@triton.jit
def store_sums(count, total, squares, channel, part, partials, C: tl.constexpr):
    """Leave count, mean and M2 in partials: [parts, 3, C], of 16-bit numbers whose sums are given.
    They are so many numbers of each channel; given are their sum and sum of squares; channel, total, squares: [1,
    channels]. As in `tile_stats`, sum x^2 - (sum x)^2/count is off by less than rounding x has done, for these sums are
    of many short ones."""
    divisor = tl.maximum(count.to(tl.float32), 1.0)
    mean = total / divisor
    m2 = tl.maximum(squares - total * mean, 0.0, propagate_nan=tl.PropagateNan.ALL)
    target = partials + part * (3 * C) + channel
    known = channel < C
    tl.store(target, count.to(tl.float32), mask=known)
    tl.store(target + C, mean, mask=known)
    tl.store(target + 2 * C, m2, mask=known)


@triton.jit
def batch_stats(
    load: tl.constexpr, load_args, partials, N,
    PIXELS: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Statistics of x: [N*PIXELS, C] by tiles  ->  partials: [cdiv(N*PIXELS, BLOCK_M), 3, C].

    Grid: (cdiv(N*PIXELS, BLOCK_M), cdiv(C, BLOCK_N)). load(pixel, channel, mask, args) -> tile.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * PIXELS) & (channel < C)
    store_tile_stats(load(pixel, channel, mask, load_args), channel, mask, part, partials, C)


@triton.jit
def merged_stats(partials, channel, mask, parts, STRIDE, C: tl.constexpr, BLOCK_P: tl.constexpr):
    """(count, mean, M2) of partials: [parts, 3, C], merged in their order.
    Parts are STRIDE times 3*C numbers apart; channel, mask and the results are [channels]. The partials are read twice:
    the mean first, then deviations from it."""
    shape: tl.constexpr = [BLOCK_P, channel.shape[0]]
    count = tl.zeros(shape, tl.float32)
    weighted = tl.zeros(shape, tl.float32)
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)[:, None]
        known = (part < parts) & mask[None, :]
        source = partials + part * (STRIDE * 3 * C) + channel[None, :]
        count_i = tl.load(source, mask=known, other=0.0)
        count += count_i
        weighted += count_i * tl.load(source + C, mask=known, other=0.0)
    total = tl.sum(count, axis=0)
    mean = tl.sum(weighted, axis=0) / tl.maximum(total, 1.0)

    m2 = tl.zeros(shape, tl.float32)
    rest = tl.zeros(shape, tl.float32)
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)[:, None]
        known = (part < parts) & mask[None, :]
        source = partials + part * (STRIDE * 3 * C) + channel[None, :]
        count_i = tl.load(source, mask=known, other=0.0)
        deviation = tl.load(source + C, mask=known, other=0.0) - mean[None, :]
        m2 += tl.load(source + 2 * C, mask=known, other=0.0) + count_i * deviation * deviation
        rest += count_i * deviation
    rest = tl.sum(rest, axis=0) / tl.maximum(total, 1.0)
    m2 = tl.maximum(tl.sum(m2, axis=0) - total * rest * rest, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return total, mean + rest, m2


@triton.jit
def merge_group(partials, channel, mask, parts, C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Merge partials: [parts, 3, C], at most BLOCK_P of them, into the first one, for these channels."""
    part = tl.arange(0, BLOCK_P)[:, None]
    known = (part < parts) & mask[None, :]
    source = partials + part * (3 * C) + channel[None, :]
    count_i = tl.load(source, mask=known, other=0.0)
    mean_i = tl.load(source + C, mask=known, other=0.0)
    m2_i = tl.load(source + 2 * C, mask=known, other=0.0)
    count = tl.sum(count_i, axis=0)
    near = tl.sum(count_i * mean_i, axis=0) / tl.maximum(count, 1.0)
    deviation = mean_i - near[None, :]
    rest = tl.sum(count_i * deviation, axis=0) / tl.maximum(count, 1.0)
    m2 = tl.sum(m2_i + count_i * deviation * deviation, axis=0) - count * rest * rest
    m2 = tl.maximum(m2, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.debug_barrier()  # no thread overwrites what another has not read
    tl.store(partials + channel, count, mask=mask)
    tl.store(partials + C + channel, near + rest, mask=mask)
    tl.store(partials + 2 * C + channel, m2, mask=mask)


@triton.jit
def merge_stats(
    partials, store: tl.constexpr, args, parts,
    C: tl.constexpr, SPLIT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Merge partials: [parts, 3, C] into SPLIT groups, in a fixed order.

    Grid: (cdiv(C, BLOCK), SPLIT). store(count, mean, m2, channel, mask, split, args), all tensors [BLOCK]. SPLIT = 1
    finishes (the biased variance is m2/count); where parts are many, a first launch with SPLIT > 1 whose store writes
    [SPLIT, 3, C] keeps more of the device busy.
    """
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = channel < C
    chunk = tl.cdiv(parts, SPLIT)
    begin = tl.program_id(1) * chunk
    end = tl.minimum(begin + chunk, parts)
    count, mean, m2 = merged_stats(partials + begin * (3 * C), channel, mask, end - begin, 1, C, BLOCK_P)
    store(count, mean, m2, channel, mask, tl.program_id(1), args)
