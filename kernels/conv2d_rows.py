"""Convolutions with few channels, by programs that go down an image row by row and have all filters at hand.

    y[n,p,q,j] = sum over r,s,c of  x[n, p + r - PT, q + s*DW - PL, c] * w(r, s, c, j)

A row of x has a part in R rows of y. So a program keeps the sums of R rows, and what it loads of a row of x, once for
each column of taps, is multiplied by the R taps of that column, each for a row of its own: a third of the loads that a
3x3 convolution takes tap by tap. The oldest row is complete then, and the others move up. The filters lie in shared
memory for the program's whole life.

Groups of a grouped convolution that lie beside one another are multiplied together, PACK of them: their filters are
spread over a matrix that is 0 where a filter does not read a channel. Tensor cores multiply those zeros in less time
than the memory takes for the image.
"""

import triton
import triton.language as tl

from .conv2d_streams import over_rows_apart, over_rows_of_thread
from .matmul_boxes import over_all_rows
from .numerics import IEEE, dot, existing


@triton.jit
def packed_filters(
    w, tap, first_c, first_k, C, K, GROUP_C: tl.constexpr, GROUP_K: tl.constexpr, WIDTH_K: tl.constexpr,
    TAPS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """A tap's weights, [BLOCK_C, BLOCK_N], 0 where channel and column are of different groups.

    They are between channels from first_c on and columns from first_k on, in groups of GROUP_C and GROUP_K; the first
    WIDTH_K columns are those of whole groups.
    w: [K, TAPS, GROUP_C], or with GRADIENT [C, TAPS, GROUP_K]."""
    c = tl.arange(0, BLOCK_C)[:, None]
    j = tl.arange(0, BLOCK_N)[None, :]
    known = (c // GROUP_C == j // GROUP_K) & (j < WIDTH_K) & (first_c + c < C) & (first_k + j < K)
    if GRADIENT:
        element = ((first_c + c) * TAPS + tap) * GROUP_K + j % GROUP_K
    else:
        element = ((first_k + j) * TAPS + tap) * GROUP_C + c % GROUP_C
    return tl.load(w + existing(element, known), mask=known, other=0.0)


@triton.jit
def over_near_rows_of(tile, APART: tl.constexpr):
    """Sums of those rows of a tile that a thread has: as tensor cores leave it, or of rows APART from one another."""
    if APART > 0:
        sums = over_rows_apart(tile, APART)
    else:
        sums = over_rows_of_thread(tile, 1)
    return sums


@triton.jit
def conv2d_rows(
    x, w, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    BOX_N: tl.constexpr, BOX_W: tl.constexpr, BLOCK_N: tl.constexpr,
    DW: tl.constexpr = 1, PT: tl.constexpr = 0, PL: tl.constexpr = 0,
    GRADIENT: tl.constexpr = False, GROUPS: tl.constexpr = 1, PACK: tl.constexpr = 1, BLOCK_C: tl.constexpr = 0,
    SUMS: tl.constexpr = 0, APART: tl.constexpr = 0,
    leave_sums: tl.constexpr = None, leave_args=None, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """y: [N, P, Q, K] of x: [N, H, W, C]; K is at most BLOCK_N, PT < R.

    x is a descriptor of [H, W, N, C] in boxes of [1, BOX_W, BOX_N, C]. Forward: w, a descriptor of [K, R*S*C] in boxes
    of [BLOCK_N, C], has w(r, s, c, j) at [j, (r, s, c)]. GRADIENT: x is the gradient of a convolution's result, y that
    of its operand, PT and PL are R - 1 and (S - 1)*DW less the convolution's padding, and w, a descriptor of [C, R*S*K]
    in boxes of [C, BLOCK_N], has w(R-1-r, S-1-s, c, j) at [c, (r, s, j)].

    GROUPS > 1: w are the weights themselves, [K, R, S, C/GROUPS], or with GRADIENT [C, R, S, K/GROUPS]. PACK groups
    have at most BLOCK_N columns and BLOCK_C channels, a power of two, which is how many a box of x has.
    Each of the cdiv(GROUPS, PACK) packs has programs of its own, those of a run side by side. Where BLOCK_N or BLOCK_C
    are more than a pack has, channels of the next one are multiplied by 0, and no column of it is stored.

    Strips of BOX_N images and BOX_W columns lie one behind the other, and each of the programs, any number up to that
    of all their rows, has as many rows in a run. store_y(acc, pixel, channel, mask, part, first_p, first_q, first_n,
    first_channel, args), SUMS, leave_sums and finish as in `conv2d_streams`, with part the number of the row's tile.
    Rows of others, of which a program has some sums only, have first_p = -1, and no mask is set. APART > 0: sums are
    first of rows so far apart (`over_rows_apart`), as is quick where store_y loads tiles, and not in boxes.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_W
    ACROSS: tl.constexpr = (Q + BOX_W - 1) // BOX_W
    OLDEST: tl.constexpr = 0  # of the rows of y that are summed up, the one that is complete first
    LAST: tl.constexpr = P + R - 1  # row t of x, with the padding above it, is the first of row t of y
    GROUP_C: tl.constexpr = C // GROUPS
    GROUP_K: tl.constexpr = K // GROUPS
    PACKS: tl.constexpr = (GROUPS + PACK - 1) // PACK
    DEPTH: tl.constexpr = BLOCK_C if GROUPS > 1 else C
    pack = tl.program_id(0) % PACKS
    stream, streams = tl.program_id(0) // PACKS, tl.num_programs(0) // PACKS
    first_channel, first_column = pack * (PACK * GROUP_C), pack * (PACK * GROUP_K)
    taps = ()
    for r in tl.static_range(R):
        for s in tl.static_range(S):
            if GROUPS > 1:
                tap = R * S - 1 - (r * S + s) if GRADIENT else r * S + s
                taps += (packed_filters(
                    w, tap, first_channel, first_column, C, K, GROUP_C, GROUP_K, PACK * GROUP_K, R * S, BLOCK_C,
                    BLOCK_N, GRADIENT,
                ),)  # fmt: skip
            elif GRADIENT:
                taps += (w.load([0, ((R - 1 - r) * S + (S - 1 - s)) * K]),)
            else:
                taps += (w.load([0, (r * S + s) * C]).T,)
    rows = tl.cdiv(N, BOX_N) * (ACROSS * P)
    begin = rows // streams * stream + tl.minimum(rows % streams, stream)
    end = begin + rows // streams + tl.where(stream < rows % streams, 1, 0)
    strip, t = begin // P, tl.maximum(begin % P, PT)
    last_strip, last_t = (end - 1) // P, (end - 1) % P + R - 1
    steps = (last_strip - strip) * (LAST - PT) + last_t - t + 1

    column = first_column + tl.arange(0, BLOCK_N)[None, :]
    last_column = K
    if GROUPS > 1 and PACK * GROUP_K < BLOCK_N:  # beyond a pack lies the next one's
        last_column = tl.minimum(first_column + PACK * GROUP_K, K)
    row = tl.arange(0, BLOCK_M)[:, None]
    count = 0
    sum_0 = tl.zeros([1, APART, BLOCK_N] if APART > 0 else [BLOCK_M // 16, 8, BLOCK_N], tl.float32)
    sum_1 = tl.zeros([1, APART, BLOCK_N] if APART > 0 else [BLOCK_M // 16, 8, BLOCK_N], tl.float32)
    sum_2 = tl.zeros([1, APART, BLOCK_N] if APART > 0 else [BLOCK_M // 16, 8, BLOCK_N], tl.float32)
    kept = ()  # of the rows of y that t - 1 has a part in, the sums of those that t has one in, too
    for _ in tl.static_range(R - 1):
        kept += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    for _ in tl.range(steps):
        first_n, first_q = strip // ACROSS * BOX_N, strip % ACROSS * BOX_W
        sums = kept
        sums += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
        for s in tl.static_range(S):
            operand = x.load([t - PT, first_q + (s * DW - PL), first_n, first_channel]).reshape(BLOCK_M, DEPTH)
            added = ()
            for i in tl.static_range(R):
                added += (dot(operand, taps[(R - 1 - i) * S + s], sums[i], IEEE),)
            sums = added

        p = t - (R - 1)
        own = (strip * P + p >= begin) & (p >= 0)
        first_p = tl.where(own, p, -1)
        n, q = first_n + row % BOX_N, first_q + row // BOX_N
        exists = (n < N) & (q < tl.where(own, Q, 0))
        count += tl.where(own, tl.minimum(N - first_n, BOX_N) * tl.minimum(Q - first_q, BOX_W), 0)
        mask = exists & (column < last_column)
        tile = (strip // ACROSS * P + first_p) * ACROSS + strip % ACROSS
        terms = store_y(
            sums[OLDEST], (n * P + p) * Q + q, column, mask, tile, first_p, first_q, first_n, first_column, y_args
        )  # fmt: skip
        if SUMS > 0:
            sum_0 += over_near_rows_of(terms[0], APART)
        if SUMS > 1:
            sum_1 += over_near_rows_of(terms[1], APART)
        if SUMS > 2:
            sum_2 += over_near_rows_of(terms[2], APART)

        t += 1
        ended = t == LAST
        strip = tl.where(ended, strip + 1, strip)
        t = tl.where(ended, PT, t)
        kept = ()
        for i in tl.static_range(R - 1):
            kept += (tl.where(ended, 0.0, sums[i + 1]),)
    if SUMS > 0:
        totals = over_all_rows(sum_0), over_all_rows(sum_1), over_all_rows(sum_2)
        leave_sums(totals, count, tl.where(column < last_column, column, K), stream, leave_args)
    if finish is not None:
        end = tl.minimum(first_column + PACK * GROUP_K, K)
        finish(pack, first_column, end, stream, streams, finish_args)
