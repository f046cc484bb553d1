"""Maximum and average pooling, and their gradients in gather form: each input pixel sums the windows that cover it.

Ceil mode shows only in P and Q. Global average pooling is `avg_pool2d` of WHOLE images.
"""

import triton
import triton.language as tl

from .window import image_position

# Loads of a window that a thread has on their way at once.
IN_FLIGHT = tl.constexpr(8)


@triton.jit
def max_pool2d(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n,p,q,c] = max over r,s of x[n, p*SH + r - PT, q*SW + s - PL, c], padding left out.

    Grid: (cdiv(N*P*Q, BLOCK_M), cdiv(C, BLOCK_N)). store_y(value, index, pixel, channel, mask, part, args): value in
    fp32, index = r*S + s of the maximum in int32: the first of equals, but the last NaN if there is one, as in PyTorch.
    A result that store_y leaves alone costs nothing.
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * (P * Q)) & (channel < C)
    n, p, q = image_position(pixel, P, Q)

    best = tl.full([BLOCK_M, BLOCK_N], float("-inf"), tl.float32)
    # Where all are -inf, the first of them that is not padding.
    index = tl.maximum(PT - p * SH, 0) * S + tl.maximum(PL - q * SW, 0) + tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for tap in tl.range(R * S, loop_unroll_factor=IN_FLIGHT):
        h = p * SH + (tap // S - PT)
        v = q * SW + (tap % S - PL)
        inside = mask & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        x = load_x((n * H + h) * W + v, channel, inside, x_args).to(tl.float32)
        better = inside & ((x > best) | (x != x))
        best = tl.where(better, x, best)
        index = tl.where(better, tap, index)
    store_y(best, index, pixel, channel, mask, part, y_args)


@triton.jit
def with_window(acc, chosen, gradient, r: tl.constexpr, s: tl.constexpr, R: tl.constexpr, S: tl.constexpr):
    """acc, and a window's gradient where tap (r, s) was chosen; acc itself if the window has no such tap."""
    if r >= 0 and r < R and s >= 0 and s < S:
        acc += tl.where(chosen == r * S + s, gradient, 0.0)
    return acc


@triton.jit
def max_pool2d_grad(
    load_dy: tl.constexpr, dy_args, index, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PT: tl.constexpr, PL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HIGH: tl.constexpr = 1, WIDE: tl.constexpr = 1,
    LONG: tl.constexpr = False, SUMS: tl.constexpr = 0,
    leave_sums: tl.constexpr = None, leave_args=None, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """dx[n,h,w,c] = sum of dy[n,p,q,c] over the windows (p, q) whose maximum was at (h, w).

    dy: [N, P, Q, C]; index: [N, P, Q, C] integers, r*S + s as `max_pool2d` gives them. LONG: index may have 2**31
    elements or more. The image is taken by blocks of HIGH*SH by WIDE*SW pixels: the windows that reach into one are
    loaded once for all its pixels.

    Grid: (any number of programs up to cdiv(N * cdiv(H, HIGH*SH) * cdiv(W, WIDE*SW), BLOCK_M), cdiv(C, BLOCK_N)); each
    computes tile after tile of blocks. load_dy(pixel of y, channel, mask, args); store_dx(acc, pixel, channel, mask,
    part, args) is called for each pixel of the blocks, with part the tile's number. With SUMS it returns a tuple of so
    many fp32 tiles, 0 where the mask is not set, and leave_sums(sums, 0, channel, program, args) is given their sums
    over the program's pixels, [1, BLOCK_N]. finish as in `conv2d_fprop`, with a part for each program.
    """
    BLOCK_H: tl.constexpr = HIGH * SH
    BLOCK_W: tl.constexpr = WIDE * SW
    BLOCKS_H: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    BLOCKS_W: tl.constexpr = (W + BLOCK_W - 1) // BLOCK_W
    # Of the windows that reach into a block, the first and how many; both count from the block's own number.
    FIRST_H: tl.constexpr = (PT - R + SH) // SH
    FIRST_W: tl.constexpr = (PL - S + SW) // SW
    DOWN: tl.constexpr = (BLOCK_H - 1 + PT) // SH - FIRST_H + 1
    ACROSS: tl.constexpr = (BLOCK_W - 1 + PL) // SW - FIRST_W + 1
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    sums = ()
    for _ in tl.static_range(SUMS):
        sums += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    blocks = N * (BLOCKS_H * BLOCKS_W)
    for tile in tl.range(tl.program_id(0), tl.cdiv(blocks, BLOCK_M), tl.num_programs(0)):
        block = tile * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
        mask = (block < blocks) & (channel < C)
        n, i, j = image_position(block, BLOCKS_H, BLOCKS_W)
        chosen, gradients = (), ()
        for window in tl.static_range(DOWN * ACROSS):
            p = i * HIGH + (FIRST_H + window // ACROSS)
            q = j * WIDE + (FIRST_W + window % ACROSS)
            covers = mask & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
            source = (n * P + p) * Q + q
            where = source.to(tl.int64) if LONG else source
            position = tl.load(index + where * C + channel, mask=covers, other=0).to(tl.int32)
            chosen += (tl.where(covers, position, -1),)
            gradients += (load_dy(source, channel, covers, dy_args).to(tl.float32),)
        for of_block in tl.static_range(BLOCK_H * BLOCK_W):
            h = i * BLOCK_H + of_block // BLOCK_W
            v = j * BLOCK_W + of_block % BLOCK_W
            acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for before in tl.static_range(DOWN * ACROSS):  # the last window first
                acc = with_window(
                    acc, chosen[DOWN * ACROSS - 1 - before], gradients[DOWN * ACROSS - 1 - before],
                    of_block // BLOCK_W + PT - (FIRST_H + DOWN - 1 - before // ACROSS) * SH,
                    of_block % BLOCK_W + PL - (FIRST_W + ACROSS - 1 - before % ACROSS) * SW, R, S,
                )  # fmt: skip
            exists = mask & (h < H) & (v < W)
            terms = store_dx(acc, (n * H + h) * W + v, channel, exists, tile, dx_args)
            if SUMS > 0:
                added = ()
                for term in tl.static_range(SUMS):
                    added += (sums[term] + terms[term],)
                sums = added
    if SUMS > 0:
        totals = ()
        for term in tl.static_range(SUMS):
            totals += (tl.sum(sums[term], axis=0)[None, :],)
        leave_sums(totals, 0, channel, tl.program_id(0), leave_args)
    if finish is not None:
        first = tl.program_id(1) * BLOCK_N
        finish(tl.program_id(1), first, C, tl.program_id(0), tl.num_programs(0), finish_args)


@triton.jit
def window_length(start, KERNEL: tl.constexpr, SIZE: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr,
                  INCLUDE_PAD: tl.constexpr):  # fmt: skip
    """How many positions of one axis an averaging window divides by, as PyTorch counts them.

    start is its first position (negative in the padding). With INCLUDE_PAD the padding counts, but not what a
    ceil-mode window has beyond it; else only the image does.
    """
    if INCLUDE_PAD:
        return tl.minimum(start + KERNEL, SIZE + AFTER) - start
    return tl.minimum(start + KERNEL, SIZE) - tl.maximum(start, 0)


@triton.jit
def avg_pool2d(
    load_x: tl.constexpr, x_args, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PB: tl.constexpr, PL: tl.constexpr, PR: tl.constexpr, INCLUDE_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WHOLE: tl.constexpr = False,
):  # fmt: skip
    """y[n,p,q,c] = sum over r,s of x[n, p*SH + r - PT, q*SW + s - PL, c] / count(p, q), in fp32.

    Grid: (cdiv(N*P*Q, BLOCK_M), cdiv(C, BLOCK_N)). INCLUDE_PAD: does the padding PT, PB, PL, PR count (see
    `window_length`)? load_x(pixel of x, channel, mask, args); store_y(mean, pixel, channel, mask, part, args).

    WHOLE: is the only window the whole image, without padding? Then a program has one image, of which it sums BLOCK_M
    pixels at a time, and the grid is (N, cdiv(C, BLOCK_N)).
    """
    part = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if WHOLE:
        for first in tl.range(0, H * W, BLOCK_M, loop_unroll_factor=2):
            place = first + tl.arange(0, BLOCK_M)[:, None]
            inside = (place < H * W) & (channel < C)
            acc += load_x(part * (H * W) + place, channel, inside, x_args).to(tl.float32)
        image = part + tl.zeros([1, 1], tl.int32)
        store_y(tl.sum(acc, axis=0)[None, :] / (H * W), image, channel, channel < C, part, y_args)
    else:
        pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
        mask = (pixel < N * (P * Q)) & (channel < C)
        n, p, q = image_position(pixel, P, Q)
        for tap in tl.range(R * S, loop_unroll_factor=IN_FLIGHT):
            h = p * SH + (tap // S - PT)
            v = q * SW + (tap % S - PL)
            inside = mask & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            acc += load_x((n * H + h) * W + v, channel, inside, x_args).to(tl.float32)
        count = (window_length(p * SH - PT, R, H, PT, PB, INCLUDE_PAD)
                 * window_length(q * SW - PL, S, W, PL, PR, INCLUDE_PAD))  # fmt: skip
        store_y(acc / count.to(tl.float32), pixel, channel, mask, part, y_args)


@triton.jit
def avg_pool2d_grad(
    load_dy: tl.constexpr, dy_args, store_dx: tl.constexpr, dx_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PB: tl.constexpr, PL: tl.constexpr, PR: tl.constexpr, INCLUDE_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx[n,h,w,c] = sum of dy[n,p,q,c] / count(p, q) over the windows (p, q) that cover (h, w).

    Grid: (cdiv(N*H*W, BLOCK_M), cdiv(C, BLOCK_N)). load_dy(pixel of y, channel, mask, args); store_dx(acc, pixel,
    channel, mask, part, args).
    """
    part = tl.program_id(0)
    pixel = part * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    mask = (pixel < N * (H * W)) & (channel < C)
    n, h, v = image_position(pixel, H, W)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    # At most so many windows cover a pixel, the last of them first.
    ACROSS: tl.constexpr = (S + SW - 1) // SW
    for window in tl.range((R + SH - 1) // SH * ACROSS, loop_unroll_factor=IN_FLIGHT):
        p = (h + PT) // SH - window // ACROSS
        r = h + PT - p * SH
        q = (v + PL) // SW - window % ACROSS
        s = v + PL - q * SW
        covers = mask & (r < R) & (p >= 0) & (p < P) & (s < S) & (q >= 0) & (q < Q)
        count = (window_length(p * SH - PT, R, H, PT, PB, INCLUDE_PAD)
                 * window_length(q * SW - PL, S, W, PL, PR, INCLUDE_PAD))  # fmt: skip
        dy = load_dy((n * P + p) * Q + q, channel, covers, dy_args).to(tl.float32)
        # Where no window is, its count may be 0.
        acc += tl.where(covers, dy / tl.maximum(count, 1).to(tl.float32), 0.0)
    store_dx(acc, pixel, channel, mask, part, dx_args)
