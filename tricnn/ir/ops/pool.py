"""Pooling and its gradients. Windows, ceil mode and count_include_pad as in PyTorch."""

from __future__ import annotations

from typing import Any

from ..numpy_ops import pool as np_pool
from ..numpy_ops.sizes import output_size
from ..table import Kind, boolean, padding, pair, register, require
from ..types import N, TensorType

WINDOW = {"kernel_size": pair(), "stride": pair(), "padding": padding(), "ceil_mode": boolean(False)}
#: places of a window whose index fits in a byte
LARGEST_WINDOW = 255
AVERAGE = {**WINDOW, "count_include_pad": boolean(True)}
_TWICE = "second derivatives are not supported"


def window(a: Any, *, average: bool = False) -> dict[str, Any]:
    return {key: a[key] for key in (AVERAGE if average else WINDOW)}


def pool_output(a: Any, x: TensorType) -> TensorType:
    require(len(x.shape) == 4 and x.batched, f"input must be [N, C, H, W], it is {x}")
    (h, w), (r, s), (sh, sw) = x.spatial, a["kernel_size"], a["stride"]
    top, bottom, left, right = a["padding"]
    require(
        max(top, bottom) * 2 <= r and max(left, right) * 2 <= s,
        f"padding {a['padding']} must be at most half of the window {r}x{s}, or a window could see padding only",
    )
    require(
        r <= h + top + bottom and s <= w + left + right,
        f"window {r}x{s} is larger than its padded input {h + top + bottom}x{w + left + right}",
    )
    ceil = a["ceil_mode"]
    p = output_size(h, r, sh, top, bottom, ceil_mode=ceil)
    q = output_size(w, s, sw, left, right, ceil_mode=ceil)
    return TensorType((N, x.channels, p, q))


def _index_type(a: Any, x: TensorType) -> TensorType:
    r, s = a["kernel_size"]
    require(
        r * s <= LARGEST_WINDOW, f"window {r}x{s} has more than {LARGEST_WINDOW} places; its index is kept in one byte"
    )
    return TensorType(pool_output(a, x).shape, "uint8")


def _unpooled(a: Any, dy: TensorType, *index: TensorType) -> TensorType:
    """The image whose pooling has the shape of dy (and of the index)."""
    x = TensorType((N, dy.channels, *a["input_size"]))
    y = pool_output(a, x)
    for type_ in (dy, *index):
        require(type_.shape == y.shape, f"pooling {x} gives {y}, not {type_}")
    return x


def _max_gradient(g: Any, node: Any, dy: str) -> list[str]:
    (x,) = node.inputs
    index = g.add("max_pool2d_index", x, **window(node.attrs))
    return [g.add("max_pool2d_grad", dy, index, input_size=g.type(x).spatial, **window(node.attrs))]


def _avg_gradient(g: Any, node: Any, dy: str) -> list[str]:
    size = g.type(node.inputs[0]).spatial
    return [g.add("avg_pool2d_grad", dy, input_size=size, **window(node.attrs, average=True))]


def _avg_grad_gradient(g: Any, node: Any, dx: str) -> list[str]:
    """Spreading what each window's mean passes back is linear; its transpose is the mean."""
    return [g.add("avg_pool2d", dx, **window(node.attrs, average=True))]


def _aten_max_and_index(a: Any, x: Any) -> tuple[Any, Any, int]:
    """The maxima, their flat indices into the plane, and the plane's width.
    PyTorch pads both sides alike, so where ours are padded otherwise it is shown more of the image (all -inf, and no
    window begins there) and more windows than asked for."""
    import torch.nn.functional as F

    (top, bottom, left, right), (p, q) = a["padding"], _windows(a, x.shape[2:])
    x = F.pad(x, (0, max(right - left, 0), 0, max(bottom - top, 0)), value=float("-inf"))
    y, flat = F.max_pool2d(
        x, a["kernel_size"], a["stride"], (top, left), ceil_mode=a["ceil_mode"] or top != bottom or left != right,
        return_indices=True,
    )  # fmt: skip
    return y[:, :, :p, :q], flat[:, :, :p, :q], x.shape[3]


def _windows(a: Any, size: Any) -> tuple[int, int]:
    """How many rows and columns of windows an image of this height and width has."""
    return pool_output(a, TensorType((N, 1, *size))).spatial


def _aten_max(env: Any, a: Any, x: Any) -> Any:
    return _aten_max_and_index(a, x)[0]


def _aten_index(env: Any, a: Any, x: Any) -> Any:
    """PyTorch's flat index into the plane, turned into the place in the window."""
    import torch

    _, flat, width = _aten_max_and_index(a, x)
    top, _, left, _ = a["padding"]
    p = torch.arange(flat.shape[2], device=x.device).view(1, 1, -1, 1)
    q = torch.arange(flat.shape[3], device=x.device).view(1, 1, 1, -1)
    r = flat // width - (p * a["stride"][0] - top)
    s = flat % width - (q * a["stride"][1] - left)
    return (r * a["kernel_size"][1] + s).to(torch.uint8)


def _aten_max_grad(env: Any, a: Any, dy: Any, index: Any) -> Any:
    import torch

    (h, w), (_, s) = a["input_size"], a["kernel_size"]
    top, _, left, _ = a["padding"]
    index = index.to(torch.int64)
    p = torch.arange(dy.shape[2], device=dy.device).view(1, 1, -1, 1)
    q = torch.arange(dy.shape[3], device=dy.device).view(1, 1, 1, -1)
    flat = (p * a["stride"][0] - top + index // s) * w + (q * a["stride"][1] - left + index % s)
    dx = torch.zeros(*dy.shape[:2], h * w, dtype=dy.dtype, device=dy.device)
    dx = dx.scatter_add(2, flat.flatten(2), dy.flatten(2)).view(*dy.shape[:2], h, w)
    return dx.contiguous(memory_format=torch.channels_last)


def _aten_avg(env: Any, a: Any, x: Any) -> Any:
    """PyTorch pads both sides alike. Where ours are padded otherwise: sums over a padded image, and those of ones."""
    import torch
    import torch.nn.functional as F

    top, bottom, left, right = a["padding"]
    if top == bottom and left == right:
        return F.avg_pool2d(x, a["kernel_size"], a["stride"], (top, left), a["ceil_mode"], a["count_include_pad"])
    (h, w), (p, q), (r, s), (sh, sw) = x.shape[2:], _windows(a, x.shape[2:]), a["kernel_size"], a["stride"]

    def sums(x: Any, value: float) -> Any:
        """Over just the windows asked for; the padding has this value, and 0 is beyond it, or the image is cut."""
        padded = F.pad(x, (left, right, top, bottom), value=value)
        rest = (0, (q - 1) * sw + s - (w + left + right), 0, (p - 1) * sh + r - (h + top + bottom))
        return F.avg_pool2d(F.pad(padded, rest), (r, s), (sh, sw), divisor_override=1)

    wide = x if x.element_size() == 8 else x.float()
    counts = sums(torch.ones_like(wide[:1, :1]), float(a["count_include_pad"]))
    return (sums(wide, 0.0) / counts).to(x.dtype)


def _aten_avg_grad(env: Any, a: Any, dy: Any) -> Any:
    import torch

    with torch.enable_grad():
        x = torch.zeros(*dy.shape[:2], *a["input_size"], dtype=dy.dtype, device=dy.device, requires_grad=True)
        return torch.autograd.grad(_aten_avg(env, a, x), x, dy, create_graph=dy.requires_grad)[0]


def _window_area(a: Any, *arrays: Any) -> int:
    return int(a["kernel_size"][0] * a["kernel_size"][1])


register(
    "max_pool2d", Kind.WINDOW, "x",
    attrs=WINDOW,
    shape=pool_output,
    numpy=lambda env, a, x: np_pool.max_pool2d(x, **window(a)),
    gradient=_max_gradient,
    aten=_aten_max,
    on_load=(0,), pools=True,
    picks=True,
    doc="y[n,c,p,q] = max of x over the window at (p*sh - top, q*sw - left)",
)  # fmt: skip
register(
    "max_pool2d_index", Kind.WINDOW, "x",
    attrs=WINDOW,
    shape=_index_type,
    numpy=lambda env, a, x: np_pool.max_pool2d_index(x, **window(a)).astype("uint8", copy=False),
    gradient="an index has no derivative",
    aten=_aten_index,
    on_load=(0,), sibling_of="max_pool2d",
    loop_over=-1,
    index=True,
    doc="where in its window (row-major) the maximum is; the first of equals",
)  # fmt: skip
register(
    "max_pool2d_grad", Kind.WINDOW, "dy index",
    attrs={**WINDOW, "input_size": pair()},
    shape=_unpooled,
    numpy=lambda env, a, dy, index: np_pool.max_pool2d_grad(dy, index, input_size=a["input_size"], **window(a)),
    gradient=_TWICE,
    aten=_aten_max_grad,
    terms=_window_area,
    gathers=True, keeps_zero=True, takes_sums=True,
    from_window="chosen",
    doc="dx = sum of dy over the windows whose maximum is here",
)  # fmt: skip
register(
    "avg_pool2d", Kind.WINDOW, "x",
    attrs=AVERAGE,
    shape=pool_output,
    numpy=lambda env, a, x: np_pool.avg_pool2d(x, **window(a, average=True)),
    gradient=_avg_gradient,
    aten=_aten_avg,
    terms=_window_area,
    on_load=(0,), pools=True,
    doc="y = mean of x over the window",
)  # fmt: skip
register(
    "avg_pool2d_grad", Kind.WINDOW, "dy",
    attrs={**AVERAGE, "input_size": pair()},
    shape=_unpooled,
    numpy=lambda env, a, dy: np_pool.avg_pool2d_grad(dy, input_size=a["input_size"], **window(a, average=True)),
    gradient=_avg_grad_gradient,
    aten=_aten_avg_grad,
    terms=_window_area,
    gathers=True, keeps_zero=True, takes_sums=True,
    from_window="share",
    doc="dx = sum of dy / count over the windows that cover this pixel",
)  # fmt: skip


def _global_shape(a: Any, x: TensorType) -> TensorType:
    require(len(x.shape) == 4, f"input must be [N, C, H, W], it is {x}")
    return TensorType((N, x.channels, 1, 1))


def _spread_shape(a: Any, dy: TensorType) -> TensorType:
    require(dy.shape[2:] == (1, 1), f"dy must be [N, C, 1, 1], it is {dy}")
    return TensorType((N, dy.channels, *a["input_size"]))


def _global_gradient(g: Any, node: Any, dy: str) -> list[str]:
    return [g.add("global_avg_pool_grad", dy, input_size=g.type(node.inputs[0]).spatial)]


def _spread(dy: Any, a: Any) -> Any:
    """dy[n,c,0,0] / (H*W) at every pixel, channels-last in memory."""
    import numpy as np

    h, w = a["input_size"]
    each = (dy / dy.dtype.type(h * w)).transpose(0, 2, 3, 1)
    return np.broadcast_to(each, (each.shape[0], h, w, each.shape[3])).copy().transpose(0, 3, 1, 2)


register(
    "global_avg_pool", Kind.WINDOW, "x",
    shape=_global_shape,
    numpy=lambda env, a, x: x.mean(axis=(2, 3), keepdims=True),
    gradient=_global_gradient,
    aten=lambda env, a, x: x.mean(dim=(2, 3), keepdim=True),
    on_load=(0,),
    doc="y[n,c,0,0] = mean of x[n,c,:,:]",
)  # fmt: skip
register(
    "global_avg_pool_grad", Kind.WINDOW, "dy",
    attrs={"input_size": pair()},
    shape=_spread_shape,
    numpy=lambda env, a, dy: _spread(dy, a),
    gradient=lambda g, node, dx: [g.add("global_avg_pool", dx)],
    aten=lambda env, a, dy: (dy / (a["input_size"][0] * a["input_size"][1])).expand(-1, -1, *a["input_size"]),
    gathers=True, keeps_zero=True,
    doc="dx = dy / (H*W) at every pixel",
)  # fmt: skip
