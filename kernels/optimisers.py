"""Optimisers: all parameters of a network updated by a few launches, in place, each sum in a fixed order.

What is updated is said by tables. A row of the table of pieces is a part of one parameter, [pieces, 8] int64: the
addresses at its first element of p, its gradient g, what is remembered of it (first, second), its running average, and
its copy in another type (0 where there is none), then how many elements it has, and which parameter it is part of. A
row of the table of settings is a parameter, [parameters, 5] fp32: its share of the learning rate, its weight decay,
whether norms rescale its step (1 or 0), and its first piece and the one after its last in the table by which sums were
taken. sums: [4, pieces] fp32 has of each of those pieces the sum of p², of g² and of u², and how many elements of g are
not finite. Everything but the copy is fp32.
"""

import triton
import triton.language as tl

from .numerics import round_to

SUM_P = tl.constexpr(0)
SUM_G = tl.constexpr(1)
SUM_U = tl.constexpr(2)
NOT_FINITE = tl.constexpr(3)


@triton.jit
def sums_of_many(pieces, sums, BLOCK: tl.constexpr):
    """Store of each piece the sum of p², the sum of g², and how many elements of g are infinite or NaN.

    They are rows SUM_P, SUM_G and NOT_FINITE of sums.

    Grid: (pieces,).
    """
    p, g, _, _, _, _, count, _ = _piece(pieces)
    of_p, of_g, bad = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for begin in range(0, count, BLOCK):
        element = begin + tl.arange(0, BLOCK)
        parameter = tl.load(p + element, mask=element < count, other=0.0)
        gradient = tl.load(g + element, mask=element < count, other=0.0)
        of_p += parameter * parameter
        of_g += gradient * gradient
        bad += tl.where(tl.abs(gradient) < float("inf"), 0.0, 1.0)
    _leave_sum(sums, SUM_P, of_p)
    _leave_sum(sums, SUM_G, of_g)
    _leave_sum(sums, NOT_FINITE, bad)


@triton.jit
def moments_of_many(
    pieces,
    settings,
    sums,
    many,
    share,
    clip,
    beta1,
    new1,
    beta2,
    new2,
    left1,
    left2,
    eps,
    CLIPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Move LAMB's m and v by g, and store of each piece the sums of p² and of u², u = r + decay*p.

    They are rows SUM_P and SUM_U of sums. Arguments are those of `update_of_many`.

    Grid: (pieces,).
    """
    p, g, first, second, _, _, count, which = _piece(pieces)
    decay = tl.load(settings + which * 5 + 1)
    share = _clipped(sums, many, share, clip, CLIPS, WIDTH)
    of_p, of_u = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for begin in range(0, count, BLOCK):
        element = begin + tl.arange(0, BLOCK)
        mask = element < count
        parameter = tl.load(p + element, mask=mask, other=0.0)
        gradient = share * tl.load(g + element, mask=mask, other=0.0)
        m, v = _moved(first, second, element, mask, gradient, beta1, new1, beta2, new2)
        u = _direction(m, v, left1, left2, eps) + decay * parameter
        of_p += parameter * parameter
        of_u += u * u
    _leave_sum(sums, SUM_P, of_p)
    _leave_sum(sums, SUM_U, of_u)


@triton.jit
def update_of_many(
    pieces,
    settings,
    sums,
    many,
    rate,
    share,
    clip,
    beta1,
    new1,
    beta2,
    new2,
    left1,
    left2,
    eps,
    trust,
    forgotten,
    RULE: tl.constexpr,
    REMEMBERS: tl.constexpr,
    CLIPS: tl.constexpr,
    AVERAGES: tl.constexpr,
    ROUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Update every piece by one step of an optimiser.

    Its gradient counts g*share; if CLIPS, times min(1, clip/(share*sqrt(sum of all g²) + 1e-6)) as well.

        sgd, nesterov  d = g + decay*p;  v = beta1*v + d;  p = p - rate*v, or p - rate*(d + beta1*v)
        lars           v = beta1*v + rate*λ*(g + decay*p);  p = p - v,  λ = trust*|p| / (|g| + decay*|p|)
        adamw          p = p - rate*decay*p;  p = p - rate*r
        lamb           u = r + decay*p;  p = p - rate*|p|/|u| * u
                       where m = beta1*m + new1*g,  v = beta2*v + new2*g²,
                       r = (m/left1) / (sqrt(v/left2) + eps); for lamb `moments_of_many` has moved them

    λ, and |p|/|u|, are 1 for parameters that norms do not rescale and where a norm is 0; they and `clip` need `sums`
    (else None), of `many` pieces. REMEMBERS is False for sgd without momentum. With AVERAGES the running average is
    then average + forgotten*(p - average); a piece without a gradient has nothing else done to it. ROUNDED is the type
    of copies, which are p rounded, or None.

    Grid: (pieces,), BLOCK at least the elements of a piece; WIDTH, a power of two, as many sums as are read at once.
    """
    p, g, first, second, average, copy, count, which = _piece(pieces)
    rate *= tl.load(settings + which * 5)
    decay = tl.load(settings + which * 5 + 1)
    share = _clipped(sums, many, share, clip, CLIPS, WIDTH)
    element = tl.arange(0, BLOCK)
    mask = element < count
    learns = mask & _is(g, BLOCK)
    parameter = tl.load(p + element, mask=mask, other=0.0)
    gradient = share * tl.load(g + element, mask=learns, other=0.0)
    if RULE == "adamw":
        m, v = _moved(first, second, element, learns, gradient, beta1, new1, beta2, new2)
        new = parameter - rate * decay * parameter
        new = new - rate * _direction(m, v, left1, left2, eps)
    elif RULE == "lamb":
        m, v = tl.load(first + element, mask=learns, other=0.0), tl.load(second + element, mask=learns, other=0.0)
        size, length = (
            _norm(sums, many, settings, which, SUM_P, WIDTH),
            _norm(sums, many, settings, which, SUM_U, WIDTH),
        )
        ratio = _ratio(size, length, settings, which)
        new = parameter - rate * ratio * (_direction(m, v, left1, left2, eps) + decay * parameter)
    else:
        d = gradient + decay * parameter
        if RULE == "lars":
            size = _norm(sums, many, settings, which, SUM_P, WIDTH)
            slope = share * _norm(sums, many, settings, which, SUM_G, WIDTH)
            trusted = tl.where(slope > 0, trust * size, 0.0)  # a gradient of 0 is not rescaled, whatever the decay
            d = rate * _ratio(trusted, slope + decay * size, settings, which) * d
        velocity = d
        if REMEMBERS:
            velocity = beta1 * tl.load(first + element, mask=learns, other=0.0) + d
            tl.store(first + element, velocity, mask=learns)
        if RULE == "lars":
            new = parameter - velocity
        elif RULE == "nesterov":
            new = parameter - rate * (d + beta1 * velocity)
        else:
            new = parameter - rate * velocity
    tl.store(p + element, new, mask=learns)
    if ROUNDED is not None:
        rounded = copy.to(tl.pointer_type(ROUNDED))
        tl.store(rounded + element, round_to(new, ROUNDED), mask=learns & _is(copy, BLOCK))
    if AVERAGES:
        known = mask & _is(average, BLOCK)
        old = tl.load(average + element, mask=known, other=0.0)
        tl.store(average + element, old + forgotten * (tl.where(learns, new, parameter) - old), mask=known)


@triton.jit
def _piece(pieces):
    """This program's piece: its six addresses, the last of which has no type yet, its elements, its parameter."""
    row = pieces + tl.program_id(0) * 8
    p = tl.load(row).to(tl.pointer_type(tl.float32))
    g = tl.load(row + 1).to(tl.pointer_type(tl.float32))
    first = tl.load(row + 2).to(tl.pointer_type(tl.float32))
    second = tl.load(row + 3).to(tl.pointer_type(tl.float32))
    average = tl.load(row + 4).to(tl.pointer_type(tl.float32))
    return p, g, first, second, average, tl.load(row + 5), tl.load(row + 6).to(tl.int32), tl.load(row + 7)


@triton.jit
def _is(address, BLOCK: tl.constexpr):
    """Whether an address, a number or a pointer, is not 0, for every element of a block."""
    return tl.zeros([BLOCK], tl.int64) + address.to(tl.int64) != 0


@triton.jit
def _leave_sum(sums, KIND: tl.constexpr, terms):
    """Store the sum of this piece's terms in a row of sums."""
    tl.store(sums + KIND * tl.num_programs(0) + tl.program_id(0), tl.sum(terms, axis=0))


@triton.jit
def _sum_of_pieces(sums, many, first, last, KIND: tl.constexpr, WIDTH: tl.constexpr):
    """The sum over pieces first to last, in one order."""
    total = tl.zeros([WIDTH], tl.float32)
    for begin in range(first, last, WIDTH):
        piece = begin + tl.arange(0, WIDTH)
        total += tl.load(sums + KIND * many + piece, mask=piece < last, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _norm(sums, many, settings, which, KIND: tl.constexpr, WIDTH: tl.constexpr):
    """The norm of a parameter, of its gradient or of its step."""
    first, last = tl.load(settings + which * 5 + 3).to(tl.int32), tl.load(settings + which * 5 + 4).to(tl.int32)
    return tl.sqrt_rn(_sum_of_pieces(sums, many, first, last, KIND, WIDTH))


@triton.jit
def _clipped(sums, many, share, clip, CLIPS: tl.constexpr, WIDTH: tl.constexpr):
    """The factor by which a gradient counts."""
    if CLIPS:
        length = share * tl.sqrt_rn(_sum_of_pieces(sums, many, 0, many, SUM_G, WIDTH))
        share = share * tl.minimum(1.0, clip / (length + 1e-6), propagate_nan=tl.PropagateNan.ALL)
    return share


@triton.jit
def _ratio(above, below, settings, which):
    """The ratio above/below, which is 1 where either is 0, and for what norms do not rescale."""
    rescales = (tl.load(settings + which * 5 + 2) != 0) & (above > 0) & (below > 0)
    return tl.where(rescales, above / tl.where(below > 0, below, 1.0), 1.0)


@triton.jit
def _moved(first, second, element, mask, gradient, beta1, new1, beta2, new2):
    """Adam's two moments, moved by a gradient, and stored."""
    m = beta1 * tl.load(first + element, mask=mask, other=0.0) + new1 * gradient
    v = beta2 * tl.load(second + element, mask=mask, other=0.0) + new2 * gradient * gradient
    tl.store(first + element, m, mask=mask)
    tl.store(second + element, v, mask=mask)
    return m, v


@triton.jit
def _direction(m, v, left1, left2, eps):
    """Adam's r = (m/left1) / (sqrt(v/left2) + eps)."""
    return (m / left1) / (tl.sqrt_rn(v / left2) + eps)
