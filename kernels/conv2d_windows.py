"""Convolution of an image of few channels, as a network's first layer has it, and its gradient by the weights.

    y[n,p,q,k]  = sum over r,t of  window(n, p, r, q)[t] * w[k,r,t]
    dw[k,r,t]   = sum over n,p,q of  dy[n,p,q,k] * window(n, p, r, q)[t]

The image is stored with zeros beside it. Then what a filter's row r meets at a pixel of y, taps by channels, is one run
of memory, the window, and windows begin a fixed number of elements apart: a tensor descriptor whose windows overlap
brings a box of them by one bulk copy (Hopper's TMA), and no address is computed for any pixel.

A bulk copy begins at a multiple of 16 bytes, ALIGNED elements, and so do the windows of a descriptor. Where those of y
do not, PHASES of them take turns: the columns q = j * PHASES + phase have windows that begin equally far behind such a
place, and a program has columns of one phase, with its filters moved by as much.
"""

import triton
import triton.language as tl

from .numerics import IEEE, dot

# Elements of 16 bits in 16 bytes.
ALIGNED = tl.constexpr(8)


@triton.jit
def corner_of_windows(place, P: tl.constexpr, Q: tl.constexpr, PHASES: tl.constexpr, BOX_N: tl.constexpr,
                      BOX_P: tl.constexpr, BOX_Q: tl.constexpr):  # fmt: skip
    """(image, row, column of its phase) of the first pixel of a tile, by its number among those of its phase."""
    TILES_P: tl.constexpr = (P + BOX_P - 1) // BOX_P
    TILES_Q: tl.constexpr = ((Q + PHASES - 1) // PHASES + BOX_Q - 1) // BOX_Q
    return place // (TILES_P * TILES_Q) * BOX_N, place // TILES_Q % TILES_P * BOX_P, place % TILES_Q * BOX_Q


@triton.jit
def pixels_of_windows(first_n, first_p, first_q, phase, N, P: tl.constexpr, Q: tl.constexpr, PHASES: tl.constexpr,
                      BOX_N: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr):  # fmt: skip
    """The pixels of y in a tile, and which of them exist, both [BOX_N * BOX_P * BOX_Q, 1]."""
    row = tl.arange(0, BOX_N * BOX_P * BOX_Q)[:, None]
    n = first_n + row // (BOX_P * BOX_Q)
    p = first_p + row // BOX_Q % BOX_P
    q = (first_q + row % BOX_Q) * PHASES + phase
    return (n * P + p) * Q + q, (n < N) & (p < P) & (q < Q)


@triton.jit
def conv2d_windows(
    x, w, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, DH: tl.constexpr, PT: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr,
    PHASES: tl.constexpr, BOX_N: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, DEPTH: tl.constexpr, SUMS: tl.constexpr = 0,
    leave_sums: tl.constexpr = None, leave_args=None, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """y: [N, P, Q, K] of x and w: [K, R, S, C].

    x is a descriptor of windows [N, rows/SH, SH, windows, ...] in boxes of [BOX_N, BOX_P, 1, BOX_Q, DEPTH]: window j is
    that of the columns j * PHASES + phase, whose first taps are in it at FIRST + phase * STEP; rows are those of the
    image, with zeros up to a multiple of SH. What is beyond the taps is multiplied by 0, and must be finite; DEPTH has
    room for S*C of them wherever they begin.

    Any multiple of PHASES programs along x: each computes tile after tile of one phase, with the weights loaded once;
    along y a program for each BLOCK_N filters. store_y(acc, pixel, channel, mask, part, args) as in `conv2d_fprop`,
    with part the number of the tile, phases innermost; acc is 0 where there is no pixel. SUMS and leave_sums as in
    `matmul_boxes`, with the program along x for a stream; finish as in `conv2d_fprop`, with a part for each of these.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_P * BOX_Q
    phase = tl.program_id(0) % PHASES
    first_tap = FIRST + phase * STEP
    first = first_tap // ALIGNED * ALIGNED
    first_column = tl.program_id(1) * BLOCK_N
    filter_ = first_column + tl.arange(0, BLOCK_N)[:, None]
    term = tl.arange(0, DEPTH)[None, :] - first_tap % ALIGNED
    known = (term >= 0) & (term < S * C) & (filter_ < K)
    weights = ()
    for r in tl.static_range(R):
        rows = tl.load(w + (filter_ * R + r) * (S * C) + term, mask=known, other=0.0)
        weights += (rows,)

    column = first_column + tl.arange(0, BLOCK_N)[None, :]
    places = tl.cdiv(N, BOX_N) * ((P + BOX_P - 1) // BOX_P) * (((Q + PHASES - 1) // PHASES + BOX_Q - 1) // BOX_Q)
    # Sums of all pixels in one place of a tile stay with the threads that have them: whole tiles, added up at the end.
    totals = ()
    for _ in tl.static_range(SUMS):
        totals += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    count = 0
    for place in tl.range(tl.program_id(0) // PHASES, places, tl.num_programs(0) // PHASES):
        first_n, first_p, first_q = corner_of_windows(place, P, Q, PHASES, BOX_N, BOX_P, BOX_Q)
        # With 64 filters or more these are the rows of the product, which a tensor core takes by 64: their operand
        # stays where it is, and tiles of few pixels leave room for several programs.
        if BLOCK_N >= 64:
            sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        else:
            sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for r in tl.static_range(R):
            h = r * DH - PT + PT * SH  # PT image rows too far down, so that it is not negative
            box = x.load([first_n, first_p + (h // SH - PT), h % SH, first_q, first])
            window = box.reshape(BLOCK_M, DEPTH)
            if BLOCK_N >= 64:
                sums = dot(weights[r], window.T, sums, IEEE)
            else:
                sums = dot(window, weights[r].T, sums, IEEE)
        if BLOCK_N >= 64:
            acc = sums.T
        else:
            acc = sums
        pixel, exists = pixels_of_windows(first_n, first_p, first_q, phase, N, P, Q, PHASES, BOX_N, BOX_P, BOX_Q)
        if P % BOX_P != 0 or Q % (PHASES * BOX_Q) != 0:
            acc = tl.where(exists, acc, 0.0)
        terms = store_y(acc, pixel, column, exists & (column < K), place * PHASES + phase, y_args)
        if SUMS > 0:
            wide = tl.minimum((Q - phase + PHASES - 1) // PHASES - first_q, BOX_Q)
            count += tl.minimum(N - first_n, BOX_N) * tl.minimum(P - first_p, BOX_P) * wide
            added = ()
            for which in tl.static_range(SUMS):
                added += (totals[which] + terms[which],)
            totals = added
    if SUMS > 0:
        added = ()
        for which in tl.static_range(SUMS):
            added += (tl.sum(totals[which], axis=0)[None, :],)
        leave_sums(added, count, column, tl.program_id(0), leave_args)
    if finish is not None:
        finish(tl.program_id(1), first_column, K, tl.program_id(0), tl.num_programs(0), finish_args)


@triton.jit
def conv2d_windows_wgrad(
    load_dy: tl.constexpr, dy_args, x, store_dw: tl.constexpr, dw_args, store_bias: tl.constexpr, bias_args, N,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, DH: tl.constexpr, PT: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr,
    PHASES: tl.constexpr, BOX_N: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr = False,
):  # fmt: skip
    """A partial sum of dw: [K, R, S, C] for each program along x, of the tiles that are its own.

    x, the descriptor of windows, as in `conv2d_windows`. Grid: (any multiple of PHASES, cdiv(R, ROWS), cdiv(K,
    BLOCK_N)): a program has tiles of one phase, and ROWS rows of BLOCK_N filters. load_dy, store_dw, store_bias as in
    `conv2d_wgrad`, where split is the number of the program along x.
    """
    BLOCK_M: tl.constexpr = BOX_N * BOX_P * BOX_Q
    split = tl.program_id(0)
    phase = split % PHASES
    first_tap = FIRST + phase * STEP
    first = first_tap // ALIGNED * ALIGNED
    first_r = tl.program_id(1) * ROWS
    first_k = tl.program_id(2) * BLOCK_N
    channel = first_k + tl.arange(0, BLOCK_N)[None, :]
    sums = ()
    for _ in tl.static_range(ROWS):
        sums += (tl.zeros([BLOCK_N, DEPTH], tl.float32),)
    if BIAS:
        bias = tl.zeros([BLOCK_N], tl.float32)
    places = tl.cdiv(N, BOX_N) * ((P + BOX_P - 1) // BOX_P) * (((Q + PHASES - 1) // PHASES + BOX_Q - 1) // BOX_Q)
    for place in tl.range(split // PHASES, places, tl.num_programs(0) // PHASES):
        first_n, first_p, first_q = corner_of_windows(place, P, Q, PHASES, BOX_N, BOX_P, BOX_Q)
        pixel, exists = pixels_of_windows(first_n, first_p, first_q, phase, N, P, Q, PHASES, BOX_N, BOX_P, BOX_Q)
        dy = load_dy(pixel, channel, exists & (channel < K), dy_args)
        if BIAS:  # decided when compiling, the inner one when running
            if first_r == 0:
                bias += tl.sum(dy.to(tl.float32), axis=0)
        turned = tl.trans(dy)
        added = ()
        for r in tl.static_range(ROWS):
            h = (first_r + r) * DH - PT + PT * SH  # as in `conv2d_windows`
            box = x.load([first_n, first_p + (h // SH - PT), h % SH, first_q, first])
            added += (dot(turned, box.reshape(BLOCK_M, DEPTH), sums[r], IEEE),)
        sums = added

    k = first_k + tl.arange(0, BLOCK_N)
    term = tl.arange(0, DEPTH)[None, :] - first_tap % ALIGNED
    for r in tl.static_range(ROWS):
        terms = tl.where(first_r + r < R, S * C, 0)
        known = (term >= 0) & (term < terms) & (k[:, None] < K)
        store_dw(sums[r], k[:, None], (first_r + r) * (S * C) + term, known, split, dw_args)
    if BIAS:
        if first_r == 0:
            store_bias(bias, k, k < K, split, bias_args)
