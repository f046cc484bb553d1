"""Softmax, cross-entropy and its gradient, against PyTorch in float64."""

import pytest
import torch
import triton
import triton.language as tl

from tests.kernels.helpers import DEVICE, cdiv, load_tile, store_tile, unwritten
from tricnn.kernels.loss import cross_entropy, mean_rows, softmax


@triton.jit
def softmax_kernel(x, y, N, C: tl.constexpr, BLOCK_N: tl.constexpr):
    softmax(load_tile, (x, C), store_tile, (y, C), N, C, BLOCK_M=4, BLOCK_N=BLOCK_N)


@triton.jit
def loss_kernel(
    x, labels, losses, upstream, dlogits, N, C: tl.constexpr, BLOCK_N: tl.constexpr, SMOOTHING: tl.constexpr,
    LOSSES: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    cross_entropy(
        load_tile, (x, C), labels, None, losses, upstream, store_tile, (dlogits, C), N, PIXELS=1, C=C, BLOCK_M=1,
        BLOCK_N=BLOCK_N, SMOOTHING=SMOOTHING, SCALE=2.0, LOSSES=LOSSES, GRAD=GRAD,
    )  # fmt: skip


@triton.jit
def mean_kernel(rows, mean, N):
    mean_rows(rows, mean, N, PIXELS=1, BLOCK_M=1, BLOCK=8)


@pytest.mark.parametrize(
    "c, label_type, smoothing", [(10, torch.int64, 0.0), (37, torch.int32, 0.1), (1, torch.int64, 0.1)]
)
def test_cross_entropy(c, label_type, smoothing):
    g = torch.Generator().manual_seed(c)
    n, block = 7, triton.next_power_of_2(c)
    x = 100 * torch.randn(n, c, generator=g).to(
        DEVICE
    )  # large enough for exp to overflow if the maximum is not taken out
    labels = torch.randint(0, c, (n,), generator=g).to(DEVICE, label_type)
    leaf = x.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(leaf, labels.long(), reduction="none", label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(4 * expected.mean(), leaf)

    losses, dlogits, y = unwritten((n,)), unwritten((n, c)), unwritten((n, c))
    scale = torch.full((1,), 2.0, device=DEVICE)
    loss_kernel[n,](x, labels, losses, None, None, n, c, block, smoothing, True, False)
    loss_kernel[n,](x, labels, None, scale, dlogits, n, c, block, smoothing, False, True)
    softmax_kernel[cdiv(n, 4),](x, y, n, c, block)
    # Each is a sum of c terms of magnitude up to 400 (the loss) or 1 (the probabilities), in fp32.
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=0, atol=4 * 400 * c**0.5 * 2**-23)
    torch.testing.assert_close(dlogits.double(), gradient, rtol=0, atol=2 * 400 * c**0.5 * 2**-23)
    torch.testing.assert_close(y.double(), torch.softmax(x.double(), 1), rtol=0, atol=400 * c**0.5 * 2**-23)

    mean = unwritten((1,))
    mean_kernel[1,](losses, mean, n)
    torch.testing.assert_close(mean.double(), losses.double().mean(0, keepdim=True), rtol=4 * 2**-23, atol=0)
