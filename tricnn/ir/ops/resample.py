"""Images of another size: upsampling, adaptive pooling, padding and cropping; and pixels and channels shuffled.

    y[n,c,p,q] = sum over h, w of rows(p, h) * columns(q, w) * x[n,c,h,w]

The weights of an axis are fixed (``numpy_ops/resample.py``), so the gradient is the same sum with the axes' roles
exchanged: each of these operations and its gradient are one mechanism. Of zero padding the gradient is cropping, of
pixel_shuffle pixel_unshuffle, of channel_shuffle another channel_shuffle.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

from ...system.limits import MOST_GROUPS, WIDEST, WIDEST_IMAGE
from ..numpy_ops import resample as np_resample
from ..numpy_ops.resample import Taps
from ..table import Attr, Kind, boolean, integer, pair, register, require
from ..types import N, TensorType

SIZE = pair(least=1, most=WIDEST_IMAGE)

#: how an operation weighs the positions of an axis, by its attributes (``numpy_ops.resample.weights``)
AXIS_KINDS: dict[str, Callable[[Any], str]] = {
    "upsample_nearest2d": lambda a: "nearest",
    "upsample_bilinear2d": lambda a: "corners" if a["align_corners"] else "half",
    "adaptive_avg_pool2d": lambda a: "mean",
}


def axis_kind(op: str, attrs: Any) -> tuple[str, bool]:
    """The kind of an operation's weights, and whether it is the gradient, which reads them the other way round."""
    forward = op.removesuffix("_grad")
    return AXIS_KINDS[forward](attrs), forward != op


def axes_taps(op: str, attrs: Any, x: TensorType, y: TensorType) -> tuple[Taps, Taps]:
    """What each row, and each column, of the result y is made of: of which of the operand x."""
    kind, transposed = axis_kind(op, attrs)
    made = np_resample.transposed_taps if transposed else np_resample.taps
    (h, w), (p, q) = (y.spatial, x.spatial) if transposed else (x.spatial, y.spatial)
    return made(kind, h, p), made(kind, w, q)


def _image(x: TensorType) -> None:
    require(len(x.shape) == 4 and x.batched, lambda: f"input must be [N, C, H, W], it is {x}")


def _resized(x: TensorType, size: tuple[int, int]) -> TensorType:
    """x with another height and width. Where positions lie is computed in 32-bit integers."""
    _image(x)
    (h, w), (p, q) = x.spatial, size
    require(
        2 * (max(h, w) + 1) * (max(p, q) + 1) < 2**31, lambda: f"{h}x{w} to {p}x{q} pixels are too many to be resampled"
    )
    return TensorType((N, x.channels, *size), x.dtype)


def _as_array_type(x: Any) -> TensorType:
    return TensorType((N, *x.shape[1:]))


def _resampling(op: str, size: str, attrs: dict[str, Attr], aten: Callable[..., Any], doc: str, grad_doc: str,
                **facts: Any) -> None:  # fmt: skip
    """Add the rows of an operation whose result's height and width are its attribute ``size``, and of its gradient."""
    grad = f"{op}_grad"

    def numpy(name: str, key: str) -> Callable[..., Any]:
        def computed(env: Any, a: Any, x: Any) -> Any:
            type_ = _as_array_type(x)
            return np_resample.resample(x, *axes_taps(name, a, type_, _resized(type_, a[key])))

        return computed

    def shared(a: Any) -> dict[str, Any]:
        return {key: a[key] for key in attrs}

    def gradient(g: Any, node: Any, dy: str) -> list[str]:
        return [g.add(grad, dy, input_size=g.type(node.inputs[0]).spatial, **shared(node.attrs))]

    def again(g: Any, node: Any, dx: str) -> list[str]:
        return [g.add(op, dx, **{size: g.type(node.inputs[0]).spatial}, **shared(node.attrs))]

    def aten_grad(env: Any, a: Any, dy: Any) -> Any:
        import torch

        with torch.enable_grad():
            wide = dy if dy.element_size() == 8 else dy.float()
            x = torch.zeros(*dy.shape[:2], *a["input_size"], dtype=wide.dtype, device=dy.device, requires_grad=True)
            y = aten(env, {**a, size: tuple(dy.shape[2:])}, x)
            return torch.autograd.grad(y, x, wide, create_graph=dy.requires_grad)[0].to(dy.dtype)

    def terms(name: str) -> Callable[..., int]:
        def counted(a: Any, y: Any, x: Any) -> int:
            rows, columns = axes_taps(name, a, _as_array_type(x), _as_array_type(y))
            return rows.most * columns.most

        return counted

    windows: dict[str, Any] = {"on_load": (0,), "takes_sums": True}
    forward = windows | facts
    register(
        op, Kind.WINDOW, "x", attrs={size: SIZE, **attrs}, shape=lambda a, x: _resized(x, a[size]),
        numpy=numpy(op, size), gradient=gradient, aten=aten, terms=terms(op), doc=doc, **forward,
    )  # fmt: skip
    register(
        grad, Kind.WINDOW, "dy", attrs={"input_size": SIZE, **attrs}, shape=lambda a, dy: _resized(dy, a["input_size"]),
        numpy=numpy(grad, "input_size"), gradient=again, aten=aten_grad, terms=terms(grad), doc=grad_doc, **windows,
    )  # fmt: skip


def _aten_nearest(env: Any, a: Any, x: Any) -> Any:
    """The nearest pixels, at the places that NumPy's form has.
    PyTorch's own function computes their places in fp32, which may round to the pixel before, and does not round alike
    for all orders of memory."""
    import torch

    for axis, size in ((2, a["size"][0]), (3, a["size"][1])):
        index = torch.arange(size, device=x.device) * x.shape[axis] // size
        x = x.index_select(axis, index)
    return x


def _aten_bilinear(env: Any, a: Any, x: Any) -> Any:
    import torch.nn.functional as F

    return F.interpolate(x, a["size"], mode="bilinear", align_corners=a["align_corners"])


def _aten_adaptive(env: Any, a: Any, x: Any) -> Any:
    import torch.nn.functional as F

    return F.adaptive_avg_pool2d(x, a["output_size"])


def _as_pooling(a: Any, x: TensorType) -> list[tuple[str, dict[str, Any]]]:
    """adaptive_avg_pool2d(x) = avg_pool2d(x) where all windows are alike, and global_avg_pool(x) where there is one."""
    (h, w), (p, q) = x.spatial, a["output_size"]
    if (p, q) == (1, 1):
        return [("global_avg_pool", {})]
    if h % p or w % q:
        return []
    return [("avg_pool2d", {"kernel_size": (h // p, w // q), "stride": (h // p, w // q)})]


_resampling(
    "upsample_nearest2d", "size", {}, _aten_nearest,
    "y[n,c,p,q] = x[n, c, floor(p*H/P), floor(q*W/Q)]", "dx = sum of dy over the pixels that were copied from here",
    gathers=True, through=True, keeps_zero=True, on_load=(), takes_sums=False,
)  # fmt: skip
_resampling(
    "upsample_bilinear2d",
    "size",
    {"align_corners": boolean(False)},
    _aten_bilinear,
    "y = x between its pixels, linear along both axes",
    "dx = sum of dy, weighted as what was computed of this pixel",
)
_resampling(
    "adaptive_avg_pool2d", "output_size", {}, _aten_adaptive,
    "y[n,c,p,q] = mean of x over rows floor(p*H/P) to ceil((p+1)*H/P) and columns alike",
    "dx = sum of dy / count over the windows that cover this pixel",
    means=_as_pooling,
)  # fmt: skip


# --- padding and cropping -------------------------------------------------------------------


def _signed_padding(value: Any) -> tuple[int, int, int, int]:
    if isinstance(value, Integral):
        value = (value,) * 4
    if len(value) == 2:
        value = (value[0], value[0], value[1], value[1])
    whole = integer(least=-WIDEST_IMAGE, most=WIDEST)
    top, bottom, left, right = (whole.check(v) for v in value)
    return top, bottom, left, right


def _padded_shape(a: Any, x: TensorType) -> TensorType:
    _image(x)
    (h, w), (top, bottom, left, right) = x.spatial, a["padding"]
    for n, before, after in ((h, top, bottom), (w, left, right)):
        require(
            min(n + before, n + after, n + before + after) > 0,
            lambda: f"padding {a['padding']} leaves nothing of {h}x{w} pixels; a side that is cut keeps one at least",
        )
    return TensorType((N, x.channels, h + top + bottom, w + left + right), x.dtype)


def _aten_pad(env: Any, a: Any, x: Any) -> Any:
    import torch.nn.functional as F

    top, bottom, left, right = a["padding"]
    return F.pad(x, (left, right, top, bottom))


register(
    "zero_pad2d", Kind.WINDOW, "x",
    attrs={"padding": Attr(_signed_padding, "an integer, (height, width) or (top, bottom, left, right), of at most "
                           f"{WIDEST}; a negative one cuts pixels off")},
    shape=_padded_shape,
    numpy=lambda env, a, x: np_resample.zero_pad2d(x, a["padding"]),
    gradient=lambda g, node, dy: [g.add("zero_pad2d", dy, padding=tuple(-p for p in node.attrs["padding"]))],
    aten=_aten_pad,
    terms=lambda a, y, x: 1,
    gathers=True, through=True, keeps_zero=True, frames="result",
    doc="y[n,c,h,w] = x[n, c, h - top, w - left], 0 where there is none; negative padding cuts pixels off",
)  # fmt: skip


# --- channels and pixels shuffled -----------------------------------------------------------


def _shuffled_shape(a: Any, x: TensorType) -> TensorType:
    _image(x)
    require(x.channels % a["groups"] == 0, f"groups={a['groups']} must divide the {x.channels} channels")
    return x


def _shuffled(env: Any, a: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    x = x.transpose(0, 2, 3, 1).reshape(n, h, w, a["groups"], c // a["groups"])
    return x.swapaxes(3, 4).reshape(n, h, w, c).transpose(0, 3, 1, 2)


def _aten_shuffled(env: Any, a: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    return x.reshape(n, a["groups"], c // a["groups"], h, w).transpose(1, 2).reshape(n, c, h, w)


def _unshuffle_channels(g: Any, node: Any, dy: str) -> list[str]:
    return [g.add("channel_shuffle", dy, groups=g.type(dy).channels // node.attrs["groups"])]


def _grown_shape(a: Any, x: TensorType) -> TensorType:
    _image(x)
    r, (h, w) = a["upscale_factor"], x.spatial
    require(x.channels % (r * r) == 0, f"upscale_factor={r} takes {r * r} channels for one; the input has {x.channels}")
    return TensorType((N, x.channels // (r * r), h * r, w * r), x.dtype)


def _shrunk_shape(a: Any, x: TensorType) -> TensorType:
    _image(x)
    r, (h, w) = a["downscale_factor"], x.spatial
    require(h % r == 0 and w % r == 0, f"downscale_factor={r} must divide height and width of the input, {h}x{w}")
    return TensorType((N, x.channels * r * r, h // r, w // r), x.dtype)


def _pixel_shuffle(env: Any, a: Any, x: Any) -> Any:
    (n, c, h, w), r = x.shape, a["upscale_factor"]
    x = x.transpose(0, 2, 3, 1).reshape(n, h, w, c // (r * r), r, r)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, h * r, w * r, c // (r * r)).transpose(0, 3, 1, 2)


def _pixel_unshuffle(env: Any, a: Any, x: Any) -> Any:
    (n, c, h, w), r = x.shape, a["downscale_factor"]
    x = x.transpose(0, 2, 3, 1).reshape(n, h // r, r, w // r, r, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // r, w // r, c * r * r).transpose(0, 3, 1, 2)


def _torch_function(name: str, key: str) -> Callable[..., Any]:
    def called(env: Any, a: Any, x: Any) -> Any:
        import torch.nn.functional as F

        return getattr(F, name)(x, a[key])

    return called


register(
    "channel_shuffle", Kind.WINDOW, "x",
    attrs={"groups": integer(least=1, most=MOST_GROUPS)},
    shape=_shuffled_shape,
    numpy=_shuffled,
    gradient=_unshuffle_channels,
    aten=_aten_shuffled,
    terms=lambda a, y, x: 1,
    gathers=True, through=True, keeps_zero=True,
    doc="the channels as [groups, C/groups], transposed: channel k*groups + g is channel g*C/groups + k of x",
)  # fmt: skip
register(
    "pixel_shuffle", Kind.WINDOW, "x",
    attrs={"upscale_factor": integer(least=1, most=WIDEST)},
    shape=_grown_shape,
    numpy=_pixel_shuffle,
    gradient=lambda g, node, dy: [g.add("pixel_unshuffle", dy, downscale_factor=node.attrs["upscale_factor"])],
    aten=_torch_function("pixel_shuffle", "upscale_factor"),
    terms=lambda a, y, x: 1,
    gathers=True, keeps_zero=True,
    doc="y[n, c, h*r + i, w*r + j] = x[n, c*r*r + i*r + j, h, w], r = upscale_factor",
)  # fmt: skip
register(
    "pixel_unshuffle", Kind.WINDOW, "x",
    attrs={"downscale_factor": integer(least=1, most=WIDEST)},
    shape=_shrunk_shape,
    numpy=_pixel_unshuffle,
    gradient=lambda g, node, dy: [g.add("pixel_shuffle", dy, upscale_factor=node.attrs["downscale_factor"])],
    aten=_torch_function("pixel_unshuffle", "downscale_factor"),
    terms=lambda a, y, x: 1,
    gathers=True, keeps_zero=True,
    doc="y[n, c*r*r + i*r + j, h, w] = x[n, c, h*r + i, w*r + j], r = downscale_factor",
)  # fmt: skip
