"""Depthwise convolution, which filters each channel by itself, and both of its gradients, without matrix products.

    y[n,p,q,c]  = sum over r,s of    x[n, p*SH + r - PT, q*SW + s - PL, c] * w[c,r,s]
    dx[n,h,v,c] = sum over r,s of    dy[n, (h + PT - r)/SH, (v + PL - s)/SW, c] * w[c,r,s]    where both divide
    dw[c,r,s]   = sum over n,p,q of  dy[n,p,q,c] * x[n, p*SH + r - PT, q*SW + s - PL, c]

Each number of the image is multiplied by R*S weights only, so what counts is to load it, convert it and compute what is
computed on load as rarely as possible. A thread goes down a strip of the result, WIDE columns of some channels, row by
row of the source: a source row is loaded once for the strip, and goes at once into all results that it is part of, of
which as many rows are kept in registers as a filter has. Weights stay in registers, too.

The strips of an image are one behind the other, those of all images as well; a tile is BLOCK_M of them by BLOCK_N
channels, cut into segments of ROWS rows of the result. A program computes tile after tile.
"""

import triton
import triton.language as tl


@triton.jit
def strip_of(tile, N, STRIPS: tl.constexpr, BLOCK_M: tl.constexpr):
    """(image, strip in it, whether it exists) of the strips of a tile, all [BLOCK_M, 1], by the tile's number."""
    strip = tile * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    return strip // STRIPS, strip % STRIPS, strip < N * STRIPS


@triton.jit
def columns_before(strip, STRIPS: tl.constexpr, WIDE: tl.constexpr, WIDTH: tl.constexpr):
    """How many columns of a result WIDTH wide lie in the strips before this one, of all images."""
    return strip // STRIPS * WIDTH + tl.minimum(strip % STRIPS * WIDE, WIDTH)


@triton.jit
def row_of_strips(
    load: tl.constexpr, given, args, image, row, first, channel, exists, within,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr,
    BELOW: tl.constexpr = 0,
):  # fmt: skip
    """COUNT columns of a row of a source [images, HEIGHT, WIDTH, channels], from column ``first`` of each strip on.

    The row is BELOW rows below ``row``. Each column is a tile in fp32, 0 where ``within`` is not set and where the
    image has no such column.

    ``exists``: what may be loaded, if the image has the column. ``first`` is BEGIN to END. Pixels are counted in 64
    bits, so that columns are constants apart for a compiler who cannot know that 32 are enough."""
    base = ((image * HEIGHT + row) * WIDTH + first).to(tl.int64)
    found = ()
    for e in tl.static_range(COUNT):
        inside = within
        if BEGIN + e < 0:
            inside = inside & (first + e >= 0)
        if END + e >= WIDTH:
            inside = inside & (first + e < WIDTH)
        pixel = base + (BELOW * WIDTH + e)
        found += (load(pixel, channel, exists & inside, inside, given, args).to(tl.float32),)
    return found


@triton.jit
def step_of_strips(
    load: tl.constexpr, given, args, image, row, first, channel, exists,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr,
    ROWS: tl.constexpr, SURE: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a source, from ``row`` on, as `row_of_strips` has each, one behind the other.
    SURE: whether the image has all of them that exist."""
    found = ()
    for new in tl.static_range(ROWS):
        within = tl.zeros([1, 1], tl.int32) == 0
        if not SURE:
            place = row + new + tl.zeros_like(image)  # the interpreter takes no mask of a number
            within = (place >= 0) & (place < HEIGHT)
        found += row_of_strips(
            load, given, args, image, row, first, channel, exists & within, within, HEIGHT, WIDTH, COUNT, BEGIN, END,
            new,
        )  # fmt: skip
    return found


@triton.jit
def filtered(
    acc, x, weights, j: tl.constexpr, r: tl.constexpr, R: tl.constexpr, S: tl.constexpr, SW: tl.constexpr,
    PL: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, APART: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """acc, column j of a strip of the result, and what a row of the source adds to it by row r of the filters.
    acc itself if they have no such row. x has the row's columns; number 0 of the strip would be x[-FIRST]. It is column
    0 of the first strip's image, which is WIDTH wide, and column APART of the last one's: what lies outside in both
    adds nothing."""
    if r < R:
        for s in tl.static_range(S):
            if GRADIENT:
                if (j + PL - s) % SW == 0 and (j + PL - s) // SW < WIDTH and (j + PL - s) // SW >= -APART:
                    acc += x[(j + PL - s) // SW - FIRST] * weights[r * S + s]
            elif j * SW + s - PL < WIDTH and j * SW + s - PL >= -APART:
                acc += x[j * SW + s - PL - FIRST] * weights[r * S + s]
    return acc


@triton.jit
def place_of_result(
    place: tl.constexpr, image, row, column, exists, begin, end,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """(pixel, mask) of number ``place`` of what a step is done with, rows of WIDE columns from this row and column on.
    The mask is set where the segment and the image, HEIGHT by WIDTH, have it."""
    base = ((image * HEIGHT + row) * WIDTH + column).to(tl.int64)
    row = row + place // WIDE
    mask = exists & (row >= begin) & (row < end)
    if WIDTH % WIDE != 0:
        mask = mask & (column + place % WIDE < WIDTH)
    return base + (place // WIDE * WIDTH + place % WIDE), mask


@triton.jit
def stored_rows(
    store_y: tl.constexpr, y_args, given, ring, sums, beside_result: tl.constexpr, beside_args, beside,
    image, row, column, channel, exists, begin, end, part,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr, DONE: tl.constexpr, SUMS: tl.constexpr,
    LOADED: tl.constexpr,
):  # fmt: skip
    """``sums`` with those of the DONE rows that a step is done with, which are stored; `depthwise` says what they are.
    LOADED: whether ``beside`` is what is loaded beside them; else it is loaded here."""
    for place in tl.static_range(DONE * WIDE):
        pixel, mask = place_of_result(place, image, row, column, exists, begin, end, HEIGHT, WIDTH, WIDE)
        if beside_result is None:
            terms = store_y(ring[place], pixel, channel, mask, given, (), part, y_args)
        elif LOADED:
            terms = store_y(ring[place], pixel, channel, mask, given, beside[place], part, y_args)
        else:
            loaded = beside_result(pixel, channel, mask, beside_args)
            terms = store_y(ring[place], pixel, channel, mask, given, loaded, part, y_args)
        if SUMS > 0:
            more = ()
            for term in tl.static_range(SUMS):
                more += (sums[term] + terms[term],)
            sums = more
    return sums


@triton.jit
def without_rows(
    ring, RING: tl.constexpr, DONE: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The RING rows of a strip's result that are not finished, once DONE of them are: as many new ones are 0."""
    moved = ()
    for place in tl.static_range(RING * WIDE):
        if place < (RING - DONE) * WIDE:
            moved += (ring[place + DONE * WIDE],)
        else:
            moved += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    return moved


@triton.jit
def depthwise(
    load_x: tl.constexpr, x_args, w, store_y: tl.constexpr, y_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, PT: tl.constexpr = 0, PL: tl.constexpr = 0,
    GRADIENT: tl.constexpr = False, source_given: tl.constexpr = None, source_args=None,
    result_given: tl.constexpr = None, result_args=None, beside_result: tl.constexpr = None, beside_args=None,
    SUMS: tl.constexpr = 0,
    leave_sums: tl.constexpr = None, leave_args=None, finish: tl.constexpr = None, finish_args=None,
):  # fmt: skip
    """x: [N, H, W, C], w: [C, R, S]  ->  y: [N, P, Q, C]; with GRADIENT dy: [N, P, Q, C]  ->  dx: [N, H, W, C].

    PT < R. ROWS and WIDE are of the result, and with GRADIENT multiples of SH and SW; then R >= SH and S >= SW.

    Grid: (any number of programs up to T, cdiv(C, BLOCK_N)), for T = cdiv(N * cdiv(width, WIDE), BLOCK_M) *
    cdiv(height, ROWS) tiles of the result. load_x(pixel, channel, mask, inside, given, args) loads where the mask is
    set, and gives 0 where ``inside`` is not; where only the mask is not set it may give what it likes. store_y(acc,
    pixel, channel, mask, given, beside, part, args) is called for one column of a tile's strips at a time, part the
    tile's number: acc [BLOCK_M, BLOCK_N] in fp32, pixel [BLOCK_M, 1] in 64 bits, channel [1, BLOCK_N]. `given` is what
    source_given(channel, args) and result_given(channel, args) compute of the channels, once for all pixels, and
    `beside` what beside_result(pixel, channel, mask, args) loads; () without them. With GRADIENT source and result are
    dy and dx.
    SUMS and leave_sums as in `matmul_boxes`, with the program along the first axis for a stream; finish as in
    `conv2d_fprop`, with a part for each of these.
    """
    SOURCE_H: tl.constexpr = P if GRADIENT else H
    SOURCE_W: tl.constexpr = Q if GRADIENT else W
    RESULT_H: tl.constexpr = H if GRADIENT else P
    RESULT_W: tl.constexpr = W if GRADIENT else Q
    STRIPS: tl.constexpr = (RESULT_W + WIDE - 1) // WIDE
    SEGMENTS: tl.constexpr = (RESULT_H + ROWS - 1) // ROWS
    # Of a segment's first row and a strip's first column, at which source row and column they begin, counted from the
    # same place of the image; and how many columns a strip loads.
    AHEAD: tl.constexpr = -((R - 1 - PT) // SH) if GRADIENT else 0
    FIRST: tl.constexpr = -((S - 1 - PL) // SW) if GRADIENT else -PL
    COUNT: tl.constexpr = (WIDE - 1 + PL) // SW - FIRST + 1 if GRADIENT else (WIDE - 1) * SW + S
    # Each step loads NEW rows of the source, is done with DONE rows of the result, and has RING of them unfinished.
    NEW: tl.constexpr = 1 if GRADIENT else SH
    DONE: tl.constexpr = SH if GRADIENT else 1
    RING: tl.constexpr = R if GRADIENT else (R + SH - 1) // SH
    # Columns of the source at which the first strip begins, and the last.
    BEGIN: tl.constexpr = FIRST
    END: tl.constexpr = FIRST + ((STRIPS - 1) * WIDE // SW if GRADIENT else (STRIPS - 1) * WIDE * SW)

    first_column = tl.program_id(1) * BLOCK_N
    channel = first_column + tl.arange(0, BLOCK_N)[None, :]
    known = channel < C
    weights = ()
    for tap in tl.static_range(R * S):
        weights += (tl.load(w + channel * (R * S) + tap, mask=known, other=0.0).to(tl.float32),)

    given_x, given_y = (), ()
    if source_given is not None:
        given_x = source_given(channel, source_args)
    if result_given is not None:
        given_y = result_given(channel, result_args)
    sums = ()
    for _ in tl.static_range(SUMS):
        sums += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    count = 0
    tiles = tl.cdiv(N * STRIPS, BLOCK_M) * SEGMENTS
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0)):
        image, strip, real = strip_of(tile // SEGMENTS, N, STRIPS, BLOCK_M)
        begin = tile % SEGMENTS * ROWS
        end = tl.minimum(begin + ROWS, RESULT_H)
        column = strip * WIDE
        exists = real & known
        if SUMS > 0:
            first_strip = tile // SEGMENTS * BLOCK_M
            last_strip = tl.minimum(first_strip + BLOCK_M, N * STRIPS)
            columns = columns_before(last_strip, STRIPS, WIDE, RESULT_W)
            columns -= columns_before(first_strip, STRIPS, WIDE, RESULT_W)
            count += columns * (end - begin)
        ring = ()
        for _ in tl.static_range(RING * WIDE):
            ring += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
        # Only steps that have rows of the image load and multiply: from the first to the last one. Behind them what is
        # left in registers is stored.
        first = tl.maximum(begin // SH + AHEAD, 0) if GRADIENT else tl.maximum(begin, PT // SH)
        final = (end - 1 + PT) // SH if GRADIENT else end + (RING - 2)
        last = tl.minimum(final, P - 1 if GRADIENT else (H - 1 + PT) // SH)
        source_column = column // SW + FIRST if GRADIENT else column * SW + FIRST
        source_row = first if GRADIENT else first * SH - PT
        asked = exists & (first + tl.zeros_like(image) <= last)
        following = step_of_strips(
            load_x, given_x, x_args, image, source_row, source_column, channel, asked, SOURCE_H, SOURCE_W, COUNT,
            BEGIN, END, NEW, NEW == 1,
        )  # fmt: skip
        for step in tl.range(first, last + 1):
            # What is loaded is loaded early: the tiles beside the result before anything is stored, and the next
            # step's rows before this one's are multiplied.
            oldest = (step * SH - PT if GRADIENT else step - (RING - 1)) + tl.zeros_like(image)
            beside = ()
            if beside_result is not None:
                for place in tl.static_range(DONE * WIDE):
                    pixel, mask = place_of_result(
                        place, image, oldest, column, exists, begin, end, RESULT_H, RESULT_W, WIDE
                    )  # fmt: skip
                    beside += (beside_result(pixel, channel, mask, beside_args),)
            x = following
            source_row = step + 1 if GRADIENT else (step + 1) * SH - PT
            asked = exists & (step + 1 + tl.zeros_like(image) <= last)
            following = step_of_strips(
                load_x, given_x, x_args, image, source_row, source_column, channel, asked, SOURCE_H, SOURCE_W, COUNT,
                BEGIN, END, NEW, NEW == 1,
            )  # fmt: skip
            for new in tl.static_range(NEW):
                added = ()
                for place in tl.static_range(RING * WIDE):
                    added += (filtered(
                        ring[place], x, weights, place % WIDE,
                        place // WIDE if GRADIENT else new + (RING - 1 - place // WIDE) * SH,
                        R, S, SW, PL, FIRST - new * COUNT, SOURCE_W, END - BEGIN, GRADIENT,
                    ),)  # fmt: skip
                ring = added
            sums = stored_rows(
                store_y, y_args, given_y, ring, sums, beside_result, beside_args, beside, image, oldest, column,
                channel, exists, begin, end, tile, RESULT_H, RESULT_W, WIDE, DONE, SUMS, True,
            )  # fmt: skip
            ring = without_rows(ring, RING, DONE, WIDE, BLOCK_M, BLOCK_N)
        for step in tl.range(tl.maximum(first, last + 1), final + 1):
            oldest = (step * SH - PT if GRADIENT else step - (RING - 1)) + tl.zeros_like(image)
            sums = stored_rows(
                store_y, y_args, given_y, ring, sums, beside_result, beside_args, (), image, oldest, column,
                channel, exists, begin, end, tile, RESULT_H, RESULT_W, WIDE, DONE, SUMS, False,
            )  # fmt: skip
            ring = without_rows(ring, RING, DONE, WIDE, BLOCK_M, BLOCK_N)
    if SUMS > 0:
        totals = ()
        for term in tl.static_range(SUMS):
            totals += (tl.sum(sums[term], axis=0)[None, :],)
        leave_sums(totals, count, channel, tl.program_id(0), leave_args)
    if finish is not None:
        finish(tl.program_id(1), first_column, C, tl.program_id(0), tl.num_programs(0), finish_args)


@triton.jit
def with_products(
    acc, ring, x, tap: tl.constexpr, new: tl.constexpr, S: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PL: tl.constexpr, WIDE: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """acc, a tap's sum, and the products of a row of x, the step's number ``new``, with the row of dy that it meets.
    acc itself if the tap meets another row. ring are rows of dy, the newest first; x has the row from number FIRST on.
    Columns that lie outside the image add nothing, as in `filtered`."""
    if tap // S % SH == new:
        for j in tl.static_range(WIDE):
            if j * SW + tap % S - PL < WIDTH and j * SW + tap % S - PL >= -APART:
                acc += ring[tap // S // SH * WIDE + j] * x[FIRST + j * SW + tap % S]
    return acc


@triton.jit
def depthwise_wgrad(
    load_dy: tl.constexpr, dy_args, load_x: tl.constexpr, x_args,
    store_dw: tl.constexpr, dw_args, store_bias: tl.constexpr, bias_args, N,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SH: tl.constexpr = 1, SW: tl.constexpr = 1, PT: tl.constexpr = 0, PL: tl.constexpr = 0,
    BIAS: tl.constexpr = False, left_given: tl.constexpr = None, left_args=None,
    right_given: tl.constexpr = None, right_args=None,
):  # fmt: skip
    """A partial sum of dw: [C, R, S] for each program along the first axis, of the tiles of dy that are its own.

    Grid, tiles and loads as of `depthwise`, ROWS and WIDE of dy. load_dy, load_x(pixel, channel, mask, inside, given,
    args), with what left_given and right_given(channel, args) compute once, () without them. store_dw(acc, channel,
    tap, mask, split, args): acc, channel and mask [BLOCK_N], split the program along the first axis; with BIAS
    store_bias(sum of dy, channel, mask, split, args).
    """
    STRIPS: tl.constexpr = (Q + WIDE - 1) // WIDE
    SEGMENTS: tl.constexpr = (P + ROWS - 1) // ROWS
    COUNT: tl.constexpr = (WIDE - 1) * SW + S
    RING: tl.constexpr = (R + SH - 1) // SH
    # Steps above this one would load rows above the image only, and steps below LOWEST rows below it; but a bias is the
    # sum of all rows of dy.
    BEFORE: tl.constexpr = PT // SH
    LOWEST: tl.constexpr = (H - 1 + PT) // SH
    SURE: tl.constexpr = SH == 1 and P - 1 <= LOWEST
    END: tl.constexpr = (STRIPS - 1) * WIDE

    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    known = channel < C
    given_dy, given_x = (), ()
    if left_given is not None:
        given_dy = left_given(channel, left_args)
    if right_given is not None:
        given_x = right_given(channel, right_args)
    sums = ()
    for _ in tl.static_range(R * S):
        sums += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    bias = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    tiles = tl.cdiv(N * STRIPS, BLOCK_M) * SEGMENTS
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0)):
        image, strip, real = strip_of(tile // SEGMENTS, N, STRIPS, BLOCK_M)
        begin = tile % SEGMENTS * ROWS
        end = tl.minimum(begin + ROWS, P)
        exists = real & known
        column = strip * WIDE
        start = tl.maximum(begin, BEFORE)
        last = tl.maximum(tl.minimum(end + (RING - 2), LOWEST), end - 1)
        ring = ()  # the newest row first
        for before in tl.static_range(BEFORE):
            row = start - BEFORE + before + tl.zeros_like(image)
            ours = real & (row >= begin) & (row < end)
            ring = row_of_strips(
                load_dy, given_dy, dy_args, image, row, column, channel, ours & known, ours, P, Q, WIDE, 0, END
            ) + ring  # fmt: skip
            if BIAS:
                for j in tl.static_range(WIDE):
                    bias += ring[j]
        for _ in tl.static_range((RING - BEFORE) * WIDE):
            ring += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
        first = column * SW - PL
        ours = real & (start + tl.zeros_like(image) < end)
        newest = row_of_strips(
            load_dy, given_dy, dy_args, image, start, column, channel, ours & known, ours, P, Q, WIDE, 0, END
        )  # fmt: skip
        source_row = start * SH - PT
        following = step_of_strips(
            load_x, given_x, x_args, image, source_row, first, channel, exists, H, W, COUNT, -PL, END * SW - PL, SH,
            SURE,
        )  # fmt: skip
        for step in tl.range(start, last + 1):
            moved = newest
            for place in tl.static_range((RING - 1) * WIDE):
                moved += (ring[place],)
            ring = moved
            if BIAS:
                for j in tl.static_range(WIDE):
                    bias += newest[j]
            x = following  # the next step's rows are loaded while these are multiplied
            ours = real & (step + 1 + tl.zeros_like(image) < end)
            newest = row_of_strips(
                load_dy, given_dy, dy_args, image, step + 1, column, channel, ours & known, ours, P, Q, WIDE, 0, END
            )  # fmt: skip
            source_row = (step + 1) * SH - PT
            asked = exists & (step + 1 + tl.zeros_like(image) <= last)
            following = step_of_strips(
                load_x, given_x, x_args, image, source_row, first, channel, asked, H, W, COUNT, -PL, END * SW - PL, SH,
                SURE,
            )  # fmt: skip
            for new in tl.static_range(SH):
                added = ()
                for tap in tl.static_range(R * S):
                    added += (with_products(
                        sums[tap], ring, x, tap, new, S, SH, SW, PL, WIDE, new * COUNT, W, END * SW
                    ),)  # fmt: skip
                sums = added
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    for tap in tl.static_range(R * S):
        store_dw(tl.sum(sums[tap], axis=0), channel, tap, channel < C, tl.program_id(0), dw_args)
    if BIAS:
        store_bias(tl.sum(bias, axis=0), channel, channel < C, tl.program_id(0), bias_args)
