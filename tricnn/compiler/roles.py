"""What each operation may be in a kernel, to the fuser."""

from __future__ import annotations

from ..ir.graph import Node
from ..ir.table import Kind

#: operations a kernel can evaluate at (pixel, channel) as it loads, other than pointwise ones
GATHERS = ("max_pool2d_grad", "avg_pool2d_grad", "global_avg_pool_grad", "slice_channels")
#: pointwise operations that are copies with a shape of their own, or work on vectors; never part of a chain
ALONE = ("concat", "concat_filters", "stack", "slice_channels", "pad_channels", "running_mean", "running_var")
#: pointwise operations that look at nothing but the element: they may be computed where it is seen under another shape
ELEMENTWISE = (
    "relu", "relu_grad", "sigmoid", "sigmoid_grad", "tanh", "tanh_grad", "add", "scale", "dropout",
)  # fmt: skip
#: a 1x1 convolution of more filters than this computes what it loads too many times over
HOST_FILTERS = 512
POOLS = ("max_pool2d", "avg_pool2d")
WGRADS = ("conv2d_grad_weight", "linear_grad_weight")
#: reductions whose result has no pixels left to have an epilogue at
COLLAPSING = ("channel_sum", "batch_stats", "normalize_grad_sums", "cross_entropy", "cross_entropy_grad")
#: sums over pixels, and the kernels that can take them along as they store
SIDE_SUMS = ("batch_stats", "normalize_grad_sums")
TAKE_ALONG = ("conv2d", "conv2d_grad_input", "max_pool2d_grad", "avg_pool2d_grad")
SIBLINGS = {"max_pool2d_index": "max_pool2d", "cross_entropy_grad": "cross_entropy"}
#: which operand of an anchor may have a prologue
LOADED = {
    "conv2d": (0,), "conv2d_grad_input": (0,), "conv2d_grad_weight": (0, 1),
    "linear": (0,), "linear_grad_input": (0,), "linear_grad_weight": (0, 1),
    "channel_sum": (0,), "batch_stats": (0,), "normalize_grad_sums": (0, 1),
    "max_pool2d": (0,), "max_pool2d_index": (0,), "avg_pool2d": (0,), "global_avg_pool": (0,),
}  # fmt: skip


def chainable(node: Node) -> bool:
    return node.kind is Kind.POINTWISE and node.op not in ALONE


def exclusive(node: Node) -> bool:
    """Every pixel lies in at most one window, and windows do not reach into padding."""
    (r, s), (sh, sw) = node.attrs["kernel_size"], node.attrs["stride"]
    return sh >= r and sw >= s and not any(node.attrs["padding"])
