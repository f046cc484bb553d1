"""What each pointwise operation is in Triton, at one pixel and channel.

Most are scalar expressions, whose text is derived (tricnn/ir/scalar.py); the others are written here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..ir import scalar
from ..ir.graph import Node
from ..system.errors import TargetError
from .body import Body, Steps
from .names import StepNumber
from .positions import At, Windows

#: asks for operands by ``yield body.asked(...)``: a chain of any length is computed without recursion
Expression = Callable[[Body, Node, At], Steps]


def _formula(template: str) -> Expression:
    def write(body: Body, node: Node, at: At) -> Steps:
        operands = []
        for i in range(len(node.inputs)):
            operands.append((yield body.asked(node, i, at)))
        return template.format(*operands, **node.attrs)

    return write


def _affine(body: Body, node: Node, x: str, mean: str, var: str, weight: str, bias: str) -> str:
    """(x - mean) * rstd * weight + bias. Of 16-bit numbers as one multiply-add for each element, the rest is for each
    channel: that is off by 2^-24 of mean * scale, and rounding x did more. Of fp32 numbers the difference comes first:
    it may be much smaller than either, or 0."""
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


def statistics(body: Body, node: Node, index: int, at: At) -> tuple[str, str]:
    """(mean, variance), or any other pair of rows of a ``[2, C]`` operand."""
    value = node.inputs[index]
    stem = "sum" if "sums" in value or index == 4 else "stats"
    return body.vector(value, stem, at), body.vector(value, stem, at, row=1)


def _normalize(body: Body, node: Node, at: At) -> Steps:
    x = yield body.asked(node, 0, at)
    mean, var = statistics(body, node, 1, at)
    weight, bias = body.operand(node, 2, at), body.operand(node, 3, at)
    return _affine(body, node, x, mean, var, weight, bias)


def _normalize_grad_input(body: Body, node: Node, at: At) -> Steps:
    """(dy - sum(dy)/m - xhat * sum(dy*xhat)/m) * rstd * weight; of 16-bit numbers, as in `_affine`, sorted by what is
    multiplied for each element."""
    dy = yield body.asked(node, 0, at)
    x = yield body.asked(node, 1, at)
    mean, var = statistics(body, node, 2, at)
    weight = body.operand(node, 3, at)
    dbias, dweight = statistics(body, node, 4, at)
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
    """What the row's expression says. A gradient by a result that is not there yet may take less by its operand."""
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
    return scalar.text(expression, node.attrs, operands, body.let)


def _dropout(body: Body, node: Node, at: At) -> Steps:
    """The counter is the logical NCHW index, from the place in channels-last memory."""
    x = yield body.asked(node, 0, at)
    type_ = body.plan.type(node.name)
    c, pixels = type_.channels, type_.pixels
    if at.width == c:
        pixel, channel = at.pixel, at.channel
    else:
        offset = body.let("offset", body.offset(at))
        pixel, channel = body.let("at_pixel", f"{offset} // {c}"), body.let("at_channel", f"{offset} % {c}")
    if pixels == 1:
        index = f"{pixel} * {c} + {channel}"
    else:
        index = f"({pixel} // {pixels} * {c} + {channel}) * {pixels} + {pixel} % {pixels}"
    element = body.let("element", index)
    threshold = min(round(node.attrs["p"] * 2**32), 2**32 - 1)
    numbers = StepNumber.SEED_LOW, StepNumber.SEED_HIGH, StepNumber.STEP
    low, high, step = (body.argument(number, number.value) for number in numbers)
    keep = body.let("keep", f"keep_mask({element}, {low}, {high}, {node.attrs['layer']}, {step}, {threshold})")
    return f"{x} * tl.where({keep}, {1 / (1 - node.attrs['p'])!r}, 0.0)"


def _window_of(body: Body, node: Node, at: At) -> tuple[At, str, str]:
    """The pooling window that a pixel lies in (of those that do not overlap, one at most), and where in it."""
    height, width = node.attrs["input_size"]
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    p, q = body.plan.type(node.inputs[0]).spatial
    n, h, v = body.name("n"), body.name("h"), body.name("v")
    body.lines.append(f"{n}, {h}, {v} = image_position({at.pixel}, {height}, {width})")
    window = body.let("window", f"({n} * {p} + {h} // {sh}) * {q} + {v} // {sw}")
    body.windows[window] = at.pixel, Windows((p, q), (r, s), (sh, sw))
    tests = [f"({h} < {p * sh})"] * (p * sh < height) + [f"({v} < {q * sw})"] * (q * sw < width)
    tests += [f"({h} % {sh} < {r})"] * (sh > r) + [f"({v} % {sw} < {s})"] * (sw > s)
    mask = body.let("covered", " & ".join([at.mask, *tests])) if tests else at.mask
    return replace(at, pixel=window, mask=mask), f"{h} % {sh}", f"{v} % {sw}"


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
    body.windows[image] = at.pixel, Windows((1, 1), (height, width), (height, width))
    dy = yield body.asked(node, 0, replace(at, pixel=image))
    return f"{dy} * {1 / (height * width)!r}"


#: pointwise operations that are more than a scalar expression: each has what is for a channel apart, or counts elements
EXPRESSIONS: dict[str, Expression] = {
    "dropout": _dropout,
    "batch_norm": _batch_norm,
    "batch_norm_grad_input": _batch_norm_grad,
    "normalize": _normalize,
    "normalize_grad_input": _normalize_grad_input,
    "max_pool2d_grad": _max_pool_grad,
    "avg_pool2d_grad": _avg_pool_grad,
    "global_avg_pool_grad": _global_avg_grad,
}


def expression_of(node: Node) -> Expression:
    """What computes a node at one place; raises TargetError if nothing does."""
    found = EXPRESSIONS.get(node.op)
    if found is None and node.row.scalar is None:
        raise TargetError(f"layer {node.name}: {node.op} has no Triton expression, so no kernel can compute it")
    return found or _scalar
