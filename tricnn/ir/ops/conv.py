"""Convolution (cross-correlation), its two gradients, and transposed convolution, which is one of them.

``y[n,k,p,q] = b[k] + sum_{c,r,s} x[n, c, p*sh + r*dh - top, q*sw + s*dw - left] * w[k,c,r,s]``

with x zero outside the image; the equations of the backward pass are in Dumoulin & Visin, "A guide to convolution
arithmetic for deep learning" (2016), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...system.limits import MOST_GROUPS
from ..numpy_ops import conv as np_conv
from ..numpy_ops.sizes import output_size
from ..numpy_ops.sums import pixel_rows, sum_rows
from ..table import Kind, integer, padding, pair, register, require
from ..types import N, TensorType

GEOMETRY = {
    "stride": pair((1, 1)),
    "padding": padding(),
    "dilation": pair((1, 1)),
    "groups": integer(1, 1, MOST_GROUPS),
}


def geometry(a: Any) -> dict[str, Any]:
    return {key: a[key] for key in GEOMETRY}


def conv_output(a: Any, x: TensorType, kernel: tuple[int, int]) -> tuple[int, int]:
    """``(P, Q)``, each ``floor((n + p - d*(k-1) - 1) / s) + 1``; raises ShapeError if the kernel does not fit."""
    (h, w), (top, bottom, left, right) = x.spatial, a["padding"]
    (r, s), (dh, dw) = kernel, a["dilation"]
    reach = (dh * (r - 1) + 1, dw * (s - 1) + 1)
    require(
        reach[0] <= h + top + bottom and reach[1] <= w + left + right,
        lambda: (
            f"kernel {reach[0]}x{reach[1]} (dilation counted) is larger than its padded input "
            f"{h + top + bottom}x{w + left + right}; use a smaller kernel, more padding or a larger image"
        ),
    )
    return (
        output_size(h, r, a["stride"][0], top, bottom, dh),
        output_size(w, s, a["stride"][1], left, right, dw),
    )


def _conv_shape(a: Any, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
    require(len(x.shape) == 4 and x.batched, lambda: f"input must be [N, C, H, W], it is {x}")
    require(len(w.shape) == 4, lambda: f"weight must be [K, C/groups, R, S], it is {w}")
    filters, per_group, r, s = w.per_image
    require(
        x.channels % a["groups"] == 0 and filters % a["groups"] == 0,
        lambda: f"groups={a['groups']} must divide the {x.channels} input channels and the {filters} filters",
    )
    require(
        per_group * a["groups"] == x.channels,
        lambda: (
            f"weight {w} with groups={a['groups']} fits {per_group * a['groups']} input channels, the input has "
            f"{x.channels}"
        ),
    )
    if b is not None:
        require(b.shape == (filters,), lambda: f"bias must be [{filters}], it is {b}")
    return TensorType((N, filters, *conv_output(a, x, (r, s))))


def _fits(a: Any, dy: TensorType, x: TensorType, kernel: tuple[int, int]) -> None:
    """dy must be what a convolution of x gives."""
    p, q = conv_output(a, x, kernel)
    require(dy.spatial == (p, q), f"dy must be [N, {dy.channels}, {p}, {q}] for input {x}, it is {dy}")


def _grad_input_shape(a: Any, dy: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
    filters, per_group, r, s = w.per_image
    x = TensorType((N, per_group * a["groups"], *a["input_size"]))
    require(dy.channels == filters and filters % a["groups"] == 0, f"weight {w} does not fit dy {dy}")
    _fits(a, dy, x, (r, s))
    if b is not None:
        require(b.shape == (x.channels,), lambda: f"bias must be [{x.channels}], it is {b}")
    return x


def _grad_weight_shape(a: Any, dy: TensorType, x: TensorType) -> TensorType:
    require(
        x.channels % a["groups"] == 0 and dy.channels % a["groups"] == 0,
        f"groups={a['groups']} must divide the {x.channels} input channels and the {dy.channels} filters",
    )
    _fits(a, dy, x, a["kernel_size"])
    return TensorType((dy.channels, x.channels // a["groups"], *a["kernel_size"]), "float32")


def _macs(y: TensorType, w: TensorType) -> int:
    k, c, r, s = w.per_image
    return y.pixels * k * c * r * s


def _conv_gradient(g: Any, node: Any, dy: str) -> Sequence[str | None]:
    x, w, *bias = node.inputs
    dx = None
    if g.wanted(x):
        dx = g.add("conv2d_grad_input", dy, w, input_size=g.type(x).spatial, **geometry(node.attrs))
    r, s = g.type(w).per_image[2:]
    dw = g.add("conv2d_grad_weight", dy, x, kernel_size=(r, s), **geometry(node.attrs)) if g.wanted(w) else None
    return [dx, dw, *(g.add("channel_sum", dy) if g.wanted(b) else None for b in bias)]


def _grad_input_gradient(g: Any, node: Any, dx: str) -> Sequence[str | None]:
    """The gradients of dx = dgrad(dy, w) by dy and w.
    It is linear in dy and in w. By dy it is the transpose of a convolution, whose transpose is the convolution; what w
    is multiplied by is what wgrad sums."""
    dy, w, *bias = node.inputs
    r, s = g.type(w).per_image[2:]
    return [
        g.add("conv2d", dx, w, **geometry(node.attrs)) if g.wanted(dy) else None,
        g.add("conv2d_grad_weight", dy, dx, kernel_size=(r, s), **geometry(node.attrs)) if g.wanted(w) else None,
        *(g.add("channel_sum", dx) if g.wanted(b) else None for b in bias),
    ]


def _grad_weight_gradient(g: Any, node: Any, dw: str) -> Sequence[str | None]:
    """The gradients of dw = wgrad(dy, x) by dy and x.
    It is linear in dy and in x: what is multiplied by one of them is a convolution by dw, or its dgrad."""
    dy, x = node.inputs
    size = g.type(x).spatial
    return [
        g.add("conv2d", x, dw, **geometry(node.attrs)) if g.wanted(dy) else None,
        g.add("conv2d_grad_input", dy, dw, input_size=size, **geometry(node.attrs)) if g.wanted(x) else None,
    ]


def _transposed_shape(a: Any, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
    require(len(x.shape) == 4 and x.batched, lambda: f"input must be [N, C, H, W], it is {x}")
    require(len(w.shape) == 4, lambda: f"weight must be [C, K/groups, R, S], it is {w}")
    channels, per_group, *kernel = w.per_image
    require(
        x.channels == channels and channels % a["groups"] == 0,
        lambda: (
            f"weight {w} with groups={a['groups']} fits {channels} input channels, which groups must divide; the input "
            f"has {x.channels}"
        ),
    )
    filters = per_group * a["groups"]
    if b is not None:
        require(b.shape == (filters,), lambda: f"bias must be [{filters}], it is {b}")
    for extra, stride in zip(a["output_padding"], a["stride"], strict=True):
        require(
            extra < stride,
            lambda: f"output_padding={a['output_padding']} must be smaller than stride={a['stride']} on each axis",
        )
    size = tuple(
        (n - 1) * stride - before - after + dilation * (k - 1) + extra + 1
        for n, k, stride, dilation, extra, before, after in zip(
            x.spatial, kernel, a["stride"], a["dilation"], a["output_padding"], a["padding"][::2], a["padding"][1::2],
            strict=True,
        )
    )  # fmt: skip
    require(
        min(size) > 0,
        lambda: f"padding {a['padding']} leaves {size[0]}x{size[1]} pixels; use less padding or a larger kernel",
    )
    return TensorType((N, filters, *size))


def _as_grad_input(a: Any, *operands: TensorType) -> list[tuple[str, dict[str, Any]]]:
    """conv_transpose2d(x, w, b) = conv2d_grad_input(x, w, b): x is as large as what a convolution of y by w gives."""
    return [("conv2d_grad_input", {**geometry(a), "input_size": _transposed_shape(a, *operands).spatial})]


def _numpy_grad_input(a: Any, size: tuple[int, int], dy: Any, w: Any, b: Any = None) -> Any:
    dx = np_conv.conv2d_grad_input(dy, w, input_size=size, **geometry(a))
    return dx if b is None else dx + b.reshape(1, -1, 1, 1)


def _numpy_transposed(env: Any, a: Any, x: Any, w: Any, b: Any = None) -> Any:
    size = _transposed_shape(a, TensorType((N, *x.shape[1:])), TensorType(w.shape)).spatial
    return _numpy_grad_input(a, size, x, w, b)


def _aten_transposed(env: Any, a: Any, x: Any, w: Any, b: Any = None) -> Any:
    """PyTorch crops both sides alike; what is more on one side is cut off afterwards."""
    import torch.nn.functional as F

    w, b = w.to(x.dtype), None if b is None else b.to(x.dtype)
    top, bottom, left, right = a["padding"]
    both = (min(top, bottom), min(left, right))
    y = F.conv_transpose2d(x, w, b, a["stride"], both, a["output_padding"], a["groups"], a["dilation"])
    (y0, y1), (x0, x1) = (top - both[0], bottom - both[0]), (left - both[1], right - both[1])
    return y[:, :, y0 : y.shape[2] - y1, x0 : y.shape[3] - x1]


def _padded(x: Any, a: Any) -> tuple[Any, tuple[int, int]]:
    """PyTorch pads both sides alike; what is more on one side is padded first."""
    import torch.nn.functional as F

    top, bottom, left, right = a["padding"]
    both = (min(top, bottom), min(left, right))
    rest = (left - both[1], right - both[1], top - both[0], bottom - both[0])
    return (F.pad(x, rest) if any(rest) else x), both


def _aten_conv(env: Any, a: Any, x: Any, w: Any, b: Any = None) -> Any:
    import torch.nn.functional as F

    x, both = _padded(x, a)
    w, b = w.to(x.dtype), None if b is None else b.to(x.dtype)
    return F.conv2d(x, w, b, a["stride"], both, a["dilation"], a["groups"])


def _aten_backward(a: Any, dy: Any, x: Any, w: Any, mask: list[bool]) -> Any:
    import torch

    x, both = _padded(x, a)
    return torch.ops.aten.convolution_backward(
        dy, x, w, None, list(a["stride"]), list(both), list(a["dilation"]), False, [0, 0], a["groups"], mask
    )


def _aten_grad_input(env: Any, a: Any, dy: Any, w: Any, b: Any = None) -> Any:
    import torch

    h, wd = a["input_size"]
    channels = w.shape[1] * a["groups"]
    shape, kind = (dy.shape[0], channels, h, wd), torch.channels_last
    x = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=kind)  # only its shape is read
    dx = _aten_backward(a, dy, x, w.to(dy.dtype), [True, False, False])[0]
    top, bottom, left, right = a["padding"]
    y0, x0 = top - min(top, bottom), left - min(left, right)
    dx = dx[:, :, y0 : y0 + h, x0 : x0 + wd]
    return dx if b is None else dx + b.to(dx.dtype).view(1, -1, 1, 1)


def _aten_grad_weight(env: Any, a: Any, dy: Any, x: Any) -> Any:
    import torch

    shape = (dy.shape[1], x.shape[1] // a["groups"], *a["kernel_size"])
    w = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last)
    if a["kernel_size"] == (1, 1) and a["stride"] != (1, 1) and x.device.type == "cpu":
        # oneDNN writes past its workspace here (uxlfoundation/oneDNN#6035): wrong gradients, sometimes a crash
        (top, bottom, left, right), (sh, sw) = a["padding"], a["stride"]
        x = torch.nn.functional.pad(x, (left, right, top, bottom))[:, :, ::sh, ::sw]
        x, a = x[:, :, : dy.shape[2], : dy.shape[3]], {**a, "stride": (1, 1), "padding": (0, 0, 0, 0)}
    return _aten_backward(a, dy, x, w, [False, True, False])[1]


register(
    "conv2d", Kind.CONTRACTION, "x weight bias?",
    attrs=GEOMETRY,
    shape=_conv_shape,
    numpy=lambda env, a, x, w, b=None: np_conv.conv2d(x, w, b, **geometry(a)),
    gradient=_conv_gradient,
    macs=lambda a, y, x, w, b=None: _macs(y, w),
    aten=_aten_conv,
    on_load=(0,), takes_sums=True, frames="operand",
    product="forward",
    doc="y = cross-correlation of x with weight, plus bias",
)  # fmt: skip
register(
    "conv2d_grad_input", Kind.CONTRACTION, "dy weight bias?",
    attrs={**GEOMETRY, "input_size": pair()},
    shape=_grad_input_shape,
    numpy=lambda env, a, dy, w, b=None: _numpy_grad_input(a, a["input_size"], dy, w, b),
    gradient=_grad_input_gradient,
    macs=lambda a, dx, dy, w, b=None: _macs(dy, w),
    aten=_aten_grad_input,
    on_load=(0,), takes_sums=True,
    product="by_input",
    doc="dgrad: dx[n,c,h,w] = sum over k and the taps that reach (h,w) of dy[n,k,p,q] * w[k,c,r,s], plus bias",
)  # fmt: skip
register(
    "conv2d_grad_weight", Kind.CONTRACTION, "dy x",
    attrs={**GEOMETRY, "kernel_size": pair()},
    shape=_grad_weight_shape,
    numpy=lambda env, a, dy, x: np_conv.conv2d_grad_weight(dy, x, kernel_size=a["kernel_size"], **geometry(a)),
    gradient=_grad_weight_gradient,
    macs=lambda a, dw, dy, x: _macs(dy, dw),
    aten=_aten_grad_weight,
    on_load=(0, 1), product="by_weight",
    doc="wgrad: dw[k,c,r,s] = sum_{n,p,q} dy[n,k,p,q] * x[n, c, p*sh + r*dh - top, q*sw + s*dw - left]",
)  # fmt: skip
register(
    "conv_transpose2d", Kind.CONTRACTION, "x weight bias?",
    attrs={**GEOMETRY, "output_padding": pair((0, 0), least=0)},
    shape=_transposed_shape,
    numpy=_numpy_transposed,
    gradient=_grad_input_gradient,
    macs=lambda a, y, x, w, b=None: _macs(x, w),
    aten=_aten_transposed,
    means=_as_grad_input,
    doc="y[n,k,h,w] = sum over c and the taps that reach (h,w) of x[n,c,p,q] * weight[c,k,r,s], plus bias",
)  # fmt: skip
register(
    "channel_sum", Kind.REDUCTION, "dy",
    shape=lambda a, dy: TensorType((dy.channels,), "float32"),
    numpy=lambda env, a, dy: sum_rows(pixel_rows(dy)),
    gradient=lambda g, node, db: [g.add("add", g.add("scale", node.inputs[0], factor=0.0), db)],
    aten=lambda env, a, dy: dy.sum(dim=(0, *range(2, dy.dim())), dtype=_fp32(dy)),
    on_load=(0,), collapses=True,
    side_sum="loaded", loop_over=0,
    doc="gradient of a bias: db[c] = sum of dy[n,c,h,w] over n, h, w",
)  # fmt: skip


def _fp32(x: Any) -> Any:
    import torch

    return torch.float64 if x.dtype == torch.float64 else torch.float32
