"""What each pointwise operation is in Triton, at one pixel and channel.

Most are scalar expressions, whose text is derived (tricnn/ir/scalar.py); the others are written here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from ..ir import scalar
from ..ir.graph import Node
from ..system.errors import TargetError
from .body import Body, Steps
from .names import StepNumber
from .positions import At, Channels, FirstChannel, LaterChannel, Sources

#: asks for operands by ``yield body.asked(...)``: a chain of any length is computed without recursion
Expression = Callable[[Body, Node, At], Steps]


def _affine(body: Body, node: Node, x: str, mean: str, var: str, weight: str, bias: str) -> str:
    """The text of (x - mean) * rstd * weight + bias.
    Of 16-bit numbers it is one multiply-add for each element, the rest is for each channel: that is off by 2^-24 of
    mean * scale, and rounding x did more. Of fp32 numbers the difference comes first: it may be much smaller than
    either, or 0."""
    scale = body.let("scale", f"tl.rsqrt({var} + {node.attrs['eps']}) * {weight}")
    if body.storage == "fp32":
        return f"({x} - {mean}) * {scale} + {bias}"
    shift = body.let("shift", f"{bias} - {mean} * {scale}")
    return f"{x} * {scale} + {shift}"


def _batch_norm(body: Body, node: Node, at: At) -> Steps:
    x = yield body.asked(node, 0, at)
    weight, bias, mean, var = (body.operand(node, i, at) for i in range(1, 5))
    return _affine(body, node, x, mean, var, weight, bias)


def _batch_norm_grad(body: Body, node: Node, at: At) -> Steps:
    dy = yield body.asked(node, 0, at)
    weight, var = (body.operand(node, i, at) for i in (1, 2))
    return f"{dy} * (tl.rsqrt({var} + {node.attrs['eps']}) * {weight})"


MOMENTS = ("mean", "var")


def statistics(body: Body, node: Node, index: int, at: At, called: tuple[str, str] = MOMENTS) -> tuple[str, str]:
    """(mean, variance), or any other pair: the rows of ``[2, C]``, or a pixel's two numbers of ``[N, 2, H, W]``."""
    value = node.inputs[index]
    stem = "sum" if node.row.operand_names(len(node.inputs))[index] == "sums" else "stats"
    if body.plan.type(value).batched:
        return _of_pixel(body, value, at, stem, 0), _of_pixel(body, value, at, stem, 1)
    first, second = called
    return body.vector(value, stem, at, called=first), body.vector(value, stem, at, row=1, called=second)


def _of_pixel(body: Body, value: str, at: At, stem: str, number: int) -> str:
    """One of the two numbers that a value has for each pixel, whatever channel a lane computes."""
    first = body.once(FirstChannel(), at, "first_channel", f"{at.channel} * 0")
    channel = body.once(LaterChannel(number), replace(at, channel=first), "later_channel", f"{first} + {number}")
    lanes = (at.channels[1] - at.channels[0]) * at.lanes
    here = replace(at, channel=channel if number else first, width=2, first=number, count=1, lanes=lanes, corner=None)
    return body.value(value, here, stem)


def _layer_normalize(body: Body, node: Node, at: At) -> Steps:
    x = yield body.asked(node, 0, at)
    mean, var = statistics(body, node, 1, at)
    weight, bias = body.operand(node, 2, at), body.operand(node, 3, at)
    rstd = body.let("rstd", f"tl.rsqrt({var} + {node.attrs['eps']})")
    return f"({x} - {mean}) * {rstd} * {weight} + {bias}"


def _normalize(body: Body, node: Node, at: At) -> Steps:
    x = yield body.asked(node, 0, at)
    mean, var = statistics(body, node, 1, at)
    weight, bias = body.operand(node, 2, at), body.operand(node, 3, at)
    return _affine(body, node, x, mean, var, weight, bias)


def _normalize_grad_input(body: Body, node: Node, at: At) -> Steps:
    """The text of (dy - sum(dy)/m - xhat * sum(dy*xhat)/m) * rstd * weight.
    Of 16-bit numbers it is sorted, as in `_affine`, by what is multiplied for each element."""
    dy = yield body.asked(node, 0, at)
    x = yield body.asked(node, 1, at)
    mean, var = statistics(body, node, 2, at)
    weight = body.operand(node, 3, at)
    dbias, dweight = statistics(body, node, 4, at, ("dbias", "dweight"))
    pixels = body.plan.type(node.name).pixels
    count = body.argument(StepNumber.BATCH, "N")
    rstd = body.let("rstd", f"tl.rsqrt({var} + {node.attrs['eps']})")
    share = body.let("share", f"1.0 / ({count} * {pixels}.0)")
    scale = body.let("scale", f"{rstd} * {weight}")
    if body.storage == "fp32":
        slope = body.let("slope", f"{rstd} * ({dweight} * {share})")
        average = body.let("average", f"{dbias} * {share}")
        return f"({dy} - {average} - ({x} - {mean}) * {slope}) * {scale}"
    slope = body.let("slope", f"{scale} * {rstd} * ({dweight} * {share})")
    shift = body.let("shift", f"{mean} * {slope} - {scale} * ({dbias} * {share})")
    return f"{dy} * {scale} + ({shift} - {x} * {slope})"


def _scalar(body: Body, node: Node, at: At) -> Steps:
    """The text of what the row's scalar expression says.
    A gradient by a result that is not there yet may take less by its operand."""
    expression, names = node.row.scalar, node.row.operand_names(len(node.inputs))
    assert expression is not None
    sources = {name: (node, i) for i, name in enumerate(names)}
    if node.row.instead is not None:
        y = body.kernel.by_name.get(body.plan.storage(node.inputs[names.index("y")]))
        if y is not None and y.op == node.row.gradient_of and (y.name, at) not in body.known:
            expression, sources["x"] = node.row.instead, (y, 0)
    operands = {}
    for name in scalar.values(expression):
        operands[name] = yield body.asked(*sources[name], at)
    return scalar.text(expression, node.attrs, operands, body.let, at.channel)


def _dropout(body: Body, node: Node, at: At) -> Steps:
    """Dropout, whose counter is the logical NCHW index, from the index in channels-last memory."""
    pixel, channel, c, pixels = _pixel_and_channel(body, node, at)
    if pixels == 1:
        index = f"{pixel} * {c} + {channel}"
    else:
        index = f"({pixel} // {pixels} * {c} + {channel}) * {pixels} + {pixel} % {pixels}"
    return _drawn(body, node, at, body.let("element", index))


def _dropout2d(body: Body, node: Node, at: At) -> Steps:
    """Dropout of channels, whose counter is that of image and channel."""
    pixel, channel, c, pixels = _pixel_and_channel(body, node, at)
    image = pixel if pixels == 1 else f"{pixel} // {pixels}"
    return _drawn(body, node, at, body.let("of_channel", f"{image} * {c} + {channel}"))


def _pixel_and_channel(body: Body, node: Node, at: At) -> tuple[str, str, int, int]:
    """The pixel and the channel at a place, in the shape of the node, and how many of either it has."""
    type_ = body.plan.type(node.name)
    c, pixels = type_.channels, type_.pixels
    if at.width == c:
        return at.pixel, at.channel, c, pixels
    offset = body.let("offset", body.offset(at))
    return body.let("at_pixel", f"{offset} // {c}"), body.let("at_channel", f"{offset} % {c}"), c, pixels


def _stochastic_depth(body: Body, node: Node, at: At) -> Steps:
    """Stochastic depth, whose counter is the image's index, which is the same under any shape."""
    type_ = body.plan.type(node.name)
    c, pixels = type_.channels, type_.pixels
    if at.width == c:
        image = at.pixel if pixels == 1 else f"{at.pixel} // {pixels}"
    else:
        image = f"({body.offset(at)}) // {c * pixels}"
    return _drawn(body, node, at, body.let("of_image", image))


def _drawn(body: Body, node: Node, at: At, counter: str) -> Steps:
    """``x / (1 - p)`` where what is drawn at the counter keeps it."""
    x = yield body.asked(node, 0, at)
    threshold = min(round(node.attrs["p"] * 2**32), 2**32 - 1)
    numbers = StepNumber.SEED_LOW, StepNumber.SEED_HIGH, StepNumber.STEP
    low, high, step = (body.argument(number, number.value) for number in numbers)
    keep = body.let("keep", f"keep_mask({counter}, {low}, {high}, {node.attrs['layer']}, {step}, {threshold})")
    return f"{x} * tl.where({keep}, {1 / (1 - node.attrs['p'])!r}, 0.0)"


def _window_of(body: Body, node: Node, at: At) -> tuple[At, str, str]:
    """The pooling window that a pixel lies in (of those that do not overlap, one at most), and where in it."""
    height, width = node.attrs["input_size"]
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    p, q = body.plan.type(node.inputs[0]).spatial
    n, h, v = body.name("n"), body.name("h"), body.name("v")
    body.write(f"{n}, {h}, {v} = image_position({at.pixel}, {height}, {width})")
    window = body.let("window", f"({n} * {p} + {h} // {sh}) * {q} + {v} // {sw}")
    body.elsewhere[window] = at.pixel, _windows(height, p, r, sh), _windows(width, q, s, sw)
    tests = [f"({h} < {p * sh})"] * (p * sh < height) + [f"({v} < {q * sw})"] * (q * sw < width)
    tests += [f"({h} % {sh} < {r})"] * (sh > r) + [f"({v} % {sw} < {s})"] * (sw > s)
    mask = body.let("covered", " & ".join([at.mask, *tests])) if tests else at.mask
    return replace(at, pixel=window, mask=mask, corner=None), f"{h} % {sh}", f"{v} % {sw}"


def _windows(size: int, count: int, kernel: int, stride: int) -> Sources:
    """The window that each position of an axis lies in, of windows that do not overlap."""
    window, place = np.divmod(np.arange(size), stride)
    return Sources.of(np.where((place < kernel) & (window < count), window, -1), count)


def _max_pool_grad(body: Body, node: Node, at: At) -> Steps:
    (_, s) = node.attrs["kernel_size"]
    window, row, column = _window_of(body, node, at)
    dy = yield body.asked(node, 0, window)
    index = yield body.asked(node, 1, window)
    chosen = f"({index} == {row} * {s} + {column})"
    return f"tl.where({chosen if window.mask == at.mask else f'{window.mask} & {chosen}'}, {dy}, 0.0)"


def _avg_pool_grad(body: Body, node: Node, at: At) -> Steps:
    (r, s) = node.attrs["kernel_size"]
    window, _, _ = _window_of(body, node, at)
    dy = yield body.asked(node, 0, window)
    share = f"{dy} * {1 / (r * s)!r}" if r * s > 1 else dy
    return share if window.mask == at.mask else f"tl.where({window.mask}, {share}, 0.0)"


def _global_avg_grad(body: Body, node: Node, at: At) -> Steps:
    height, width = node.attrs["input_size"]
    image = body.let("image", f"{at.pixel} // {height * width}")
    body.elsewhere[image] = at.pixel, Sources.of([0] * height, 1), Sources.of([0] * width, 1)
    dy = yield body.asked(node, 0, replace(at, pixel=image, corner=None))
    return f"{dy} * {1 / (height * width)!r}"


# --- what lies at another place ------------------------------------------------------------


def _position(body: Body, node: Node, at: At) -> tuple[str, str, str]:
    """The names of the image, row and column of a pixel of the node's result."""
    n, h, v = body.name("n"), body.name("h"), body.name("v")
    height, width = body.plan.type(node.name).spatial
    body.write(f"{n}, {h}, {v} = image_position({at.pixel}, {height}, {width})")
    return n, h, v


def _from(body: Body, node: Node, at: At, n: str, row: str, column: str, rows: ArrayLike, columns: ArrayLike) -> At:
    """The position of the operand's pixel in (row, column) of the same image, of which a gathered element is a copy."""
    height, width = body.plan.type(node.inputs[0]).spatial
    pixel = body.let("source", f"({n} * {height} + {row}) * {width} + {column}")
    body.elsewhere[pixel] = at.pixel, Sources.of(rows, height), Sources.of(columns, width)
    return replace(at, pixel=pixel, corner=None)


def _upsample_nearest(body: Body, node: Node, at: At) -> Steps:
    """The nearest pixel of the operand: y[p, q] = x[p*H // P, q*W // Q]."""
    x, y = body.plan.type(node.inputs[0]).spatial, body.plan.type(node.name).spatial
    n, *axes = _position(body, node, at)
    row, column = (
        f"{p} // {results // size}" if results % size == 0 else f"{p} * {size} // {results}"
        for p, size, results in zip(axes, x, y, strict=True)
    )
    sources = (np.arange(results) * size // results for size, results in zip(x, y, strict=True))
    return (yield body.asked(node, 0, _from(body, node, at, n, row, column, *sources)))


def _zero_pad(body: Body, node: Node, at: At) -> Steps:
    """The operand amid zeros, or less of it: y[h, w] = x[h - top, w - left], 0 where there is none."""
    n, *axes = _position(body, node, at)
    padding = node.attrs["padding"]
    tests, places, sources = [], [], []
    x, y = body.plan.type(node.inputs[0]).spatial, body.plan.type(node.name).spatial
    for p, size, results, before, after in zip(axes, x, y, padding[::2], padding[1::2], strict=True):
        place = f"{p} - {before}" if before > 0 else f"{p} + {-before}" if before else p
        tests += [f"({p} >= {before})"] * (before > 0) + [f"({p} < {before + size})"] * (after > 0)
        place = f"tl.maximum({place}, 0)" if before > 0 else place
        places.append(f"tl.minimum({place}, {size - 1})" if after > 0 else place)
        source_of = np.arange(results) - before
        sources.append(np.where((source_of >= 0) & (source_of < size), source_of, -1))
    mask = body.let("inside", " & ".join([at.mask, *tests])) if tests else at.mask
    source = replace(_from(body, node, at, n, places[0], places[1], *sources), mask=mask)
    x_ = yield body.asked(node, 0, source)
    computed = body.computed(body.plan.storage(node.inputs[0]))
    return f"tl.where({mask}, {x_}, 0.0)" if tests and computed else x_


def _channel_shuffle(body: Body, node: Node, at: At) -> Steps:
    """Channels in another order: y[k*groups + g] = x[g*C/groups + k]; those beyond the last one stay there."""
    count, groups = body.plan.type(node.name).channels, node.attrs["groups"]
    c = at.channel
    shuffled = f"{c} % {groups} * {count // groups} + {c} // {groups}"
    if body.computed(body.plan.storage(node.inputs[0])):
        shuffled = f"tl.where({c} < {count}, {shuffled}, {count})"
    return (yield body.asked(node, 0, replace(at, channel=body.let("from_channel", shuffled), corner=None)))


def _pixel_shuffle(body: Body, node: Node, at: At) -> Steps:
    """Channels as pixels: y[c, h*r + i, w*r + j] = x[c*r*r + i*r + j, h, w]."""
    r, y = node.attrs["upscale_factor"], body.plan.type(node.name)
    n, h, v = _position(body, node, at)
    channel = body.let("from_channel", f"{at.channel} * {r * r} + {h} % {r} * {r} + {v} % {r}")
    rows, columns = (np.arange(size) // r for size in y.spatial)
    first, last = at.channels
    source = replace(
        _from(body, node, at, n, f"{h} // {r}", f"{v} // {r}", rows, columns),
        channel=channel,
        width=y.channels * r * r,
        first=0,
        count=None,
        seen=Channels(first, last, y.channels),
        lanes=at.lanes * Fraction(last - first, y.channels * r * r),
    )
    return (yield body.asked(node, 0, source))


def _pixel_unshuffle(body: Body, node: Node, at: At) -> Steps:
    """Pixels as channels: y[c*r*r + i*r + j, h, w] = x[c, h*r + i, w*r + j]."""
    r, y, c = node.attrs["downscale_factor"], body.plan.type(node.name), at.channel
    n, h, v = _position(body, node, at)
    row, column = f"{h} * {r} + {c} // {r} % {r}", f"{v} * {r} + {c} % {r}"
    rows, columns = (np.arange(size * r).reshape(size, r) for size in y.spatial)
    first, last = at.channels
    source = replace(
        _from(body, node, at, n, row, column, rows, columns),
        channel=body.let("from_channel", f"{c} // {r * r}"),
        width=y.channels // (r * r),
        first=0,
        count=None,
        seen=Channels(first, last, y.channels),
        lanes=at.lanes * Fraction(last - first, y.channels),
    )
    return (yield body.asked(node, 0, source))


#: pointwise operations that are more than a scalar expression: each has what is for a channel apart, or counts elements
EXPRESSIONS: dict[str, Expression] = {
    "dropout": _dropout,
    "dropout2d": _dropout2d,
    "stochastic_depth": _stochastic_depth,
    "batch_norm": _batch_norm,
    "batch_norm_grad_input": _batch_norm_grad,
    "normalize": _normalize,
    "normalize_grad_input": _normalize_grad_input,
    "layer_normalize": _layer_normalize,
    "max_pool2d_grad": _max_pool_grad,
    "avg_pool2d_grad": _avg_pool_grad,
    "global_avg_pool_grad": _global_avg_grad,
    "upsample_nearest2d": _upsample_nearest,
    "zero_pad2d": _zero_pad,
    "channel_shuffle": _channel_shuffle,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
}


def expression_of(node: Node) -> Expression:
    """What computes a node at one position; raises TargetError if nothing does."""
    found = EXPRESSIONS.get(node.op)
    if found is None and node.row.scalar is None:
        raise TargetError(f"layer {node.name}: {node.op} has no Triton expression, so no kernel can compute it")
    return found or _scalar
