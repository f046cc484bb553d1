"""Local response normalisation across channels (Krizhevsky, Sutskever & Hinton, 2012, section 3.3).

``y_c = x_c * d_c^-beta`` with ``d_c = k + alpha/size * (sum of x_j^2 over the window of c)``, the window being the
``size`` channels c - size//2 .. c + (size-1)//2, clipped to those there are. As in PyTorch alpha is divided by the
size; the paper does not divide, so its alpha of 1e-4 over 5 channels is 5e-4 here.
"""

from __future__ import annotations

from typing import Any

from ..numpy_ops import lrn as np_lrn
from ..table import Kind, integer, number, register, require
from ..types import TensorType

LRN = {
    "size": integer(5, least=1),
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


register(
    "local_response_norm", Kind.REDUCTION, "x",
    attrs=LRN,
    shape=_shape,
    numpy=lambda env, a, x: np_lrn.local_response_norm(x, **a),
    gradient=lambda g, node, dy: [g.add("local_response_norm_grad", dy, node.inputs[0], **node.attrs)],
    aten=_aten,
    doc="y_c = x_c * d_c^-beta, d_c = k + alpha/size * sum of x_j^2 over the size channels around c",
)  # fmt: skip
register(
    "local_response_norm_grad", Kind.REDUCTION, "dy x",
    attrs=LRN,
    shape=_shape,
    numpy=lambda env, a, dy, x: np_lrn.local_response_norm_grad(dy, x, **a),
    gradient="second derivatives are not supported",
    aten=_aten_grad,
    doc="dx_c = dy_c d_c^-beta - 2 alpha beta/size x_c * sum of dy_j x_j d_j^-(beta+1) over the j whose window has c",
)  # fmt: skip
