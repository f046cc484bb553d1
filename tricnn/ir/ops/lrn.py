"""Local response normalisation across channels (Krizhevsky, Sutskever & Hinton, 2012, section 3.3).

``y_c = x_c * d_c^-beta`` with ``d_c = k + alpha/size * (sum of x_j^2 over the window of c)``, the window being the
``size`` channels c - size//2 .. c + (size-1)//2, clipped to those there are. As in PyTorch alpha is divided by the
size; the paper does not divide, so its alpha of 1e-4 over 5 channels is 5e-4 here.
"""

from __future__ import annotations

from typing import Any

from ...system.limits import WIDEST
from ..numpy_ops import lrn as np_lrn
from ..table import Kind, integer, number, register, require
from ..types import TensorType

LRN = {
    "size": integer(5, 1, WIDEST),
    "alpha": number(1e-4, 0.0),
    "beta": number(0.75, 0.0),
    "k": number(1.0, 0.0),
}


def _shape(a: Any, x: TensorType, *others: TensorType) -> TensorType:
    require(len(x.shape) == 4 and x.batched, f"input must be [N, C, H, W], it is {x}")
    require(all(o.shape == x.shape for o in others), f"inputs must have one shape, they are {x} and {others}")
    return x


def _aten(env: Any, a: Any, x: Any) -> Any:
    import torch.nn.functional as F

    return F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["k"])


def _aten_grad(env: Any, a: Any, dy: Any, x: Any) -> Any:
    import torch

    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(_aten(env, a, x), x, dy)[0]


def _window_sums(a: Any, x: Any, *, mirrored: bool = False) -> Any:
    """The sum of x over the window of each channel; mirrored: over the channels whose window has it."""
    before, after = a["size"] // 2, (a["size"] - 1) // 2
    x = np_lrn.to_nhwc(x)
    return np_lrn.to_nchw(np_lrn.window_sum(x, *((after, before) if mirrored else (before, after))))


def _moved(a: Any, errors: Any, x: Any) -> Any:
    """dy_c = d_c^-beta dx_c - 2 alpha beta/size x_c d_c^-(beta+1) * sum of x_j dx_j over the window of c."""
    (ex,), rate = errors, 2 * a["alpha"] / a["size"]
    d = a["k"] + rate / 2 * _window_sums(a, x * x)
    return d ** -a["beta"] * (ex + a["beta"] * abs(x) / d * rate * _window_sums(a, abs(x) * ex))


def _grad_moved(a: Any, errors: Any, dy: Any, x: Any) -> Any:
    """Both terms by themselves: they are subtracted."""
    (edy, ex), rate, beta = errors, 2 * a["alpha"] / a["size"], a["beta"]
    size, grad = abs(x), abs(dy)
    d = a["k"] + rate / 2 * _window_sums(a, x * x)
    ed = rate * _window_sums(a, size * ex)  # by how much d moves
    power = d ** -(beta + 1)
    total = _window_sums(a, grad * size * power, mirrored=True)
    etotal = (edy * size + grad * ex + grad * size * (beta + 1) * ed / d) * power
    first = d**-beta * edy + grad * beta * power * ed
    return first + rate * beta * (ex * total + size * _window_sums(a, etotal, mirrored=True))


def _terms(a: Any, *arrays: Any) -> int:
    return int(a["size"])


register(
    "local_response_norm", Kind.REDUCTION, "x",
    attrs=LRN,
    shape=_shape,
    numpy=lambda env, a, x: np_lrn.local_response_norm(x, **a),
    gradient=lambda g, node, dy: [g.add("local_response_norm_grad", dy, node.inputs[0], **node.attrs)],
    aten=_aten,
    moved=_moved, terms=_terms,
    doc="y_c = x_c * d_c^-beta, d_c = k + alpha/size * sum of x_j^2 over the size channels around c",
)  # fmt: skip
register(
    "local_response_norm_grad", Kind.REDUCTION, "dy x",
    attrs=LRN,
    shape=_shape,
    numpy=lambda env, a, dy, x: np_lrn.local_response_norm_grad(dy, x, **a),
    gradient="second derivatives are not supported",
    aten=_aten_grad,
    moved=_grad_moved, terms=_terms,
    doc="dx_c = dy_c d_c^-beta - 2 alpha beta/size x_c * sum of dy_j x_j d_j^-(beta+1) over the j whose window has c",
)  # fmt: skip
