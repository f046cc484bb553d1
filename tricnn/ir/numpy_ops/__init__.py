"""Array functions in plain NumPy: what every operation means, written to be read and fast enough to use.

Arrays are logical NCHW with any strides. Channels-last memory is what the fast paths want and what they return. All
arithmetic is done in the input's own type, and in an order fixed by the shapes alone.
"""

from tricnn.ir.numpy_ops.conv import conv2d, conv2d_grad_input, conv2d_grad_weight
from tricnn.ir.numpy_ops.loss import smoothed, soft_cross_entropy, soft_cross_entropy_grad, softmax
from tricnn.ir.numpy_ops.lrn import local_response_norm, local_response_norm_grad
from tricnn.ir.numpy_ops.pool import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad, max_pool2d_index
from tricnn.ir.numpy_ops.random import keep_mask, philox_4x32
from tricnn.ir.numpy_ops.sizes import output_size

__all__ = [
    "avg_pool2d",
    "avg_pool2d_grad",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "keep_mask",
    "local_response_norm",
    "local_response_norm_grad",
    "max_pool2d",
    "max_pool2d_grad",
    "max_pool2d_index",
    "output_size",
    "philox_4x32",
    "smoothed",
    "soft_cross_entropy",
    "soft_cross_entropy_grad",
    "softmax",
]
