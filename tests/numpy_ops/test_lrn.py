"""Local response normalisation against PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tricnn.ir.numpy_ops import local_response_norm, local_response_norm_grad

ALEXNET = dict(size=5, alpha=1e-4, beta=0.75, k=2.0)  # Krizhevsky et al. 2012, section 3.3 (alpha there is not / size)


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("channels", [1, 2, 7, 16])
def test_forward_and_gradient_are_pytorchs(size, channels):
    """Even windows lean to the lower channels; a window may be wider than there are channels."""
    rng = np.random.default_rng(size)
    x, dy = rng.standard_normal((2, 3, channels, 5, 4))
    attrs = dict(size=size, alpha=0.8, beta=0.6, k=1.5)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = F.local_response_norm(x_torch, **attrs)
    y_torch.backward(torch.tensor(dy))
    y, dx = local_response_norm(x, **attrs), local_response_norm_grad(dy, x, **attrs)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=1e-14)


def test_type_and_layout_are_kept():
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)
    for result in (local_response_norm(x, **ALEXNET), local_response_norm_grad(x, x, **ALEXNET)):
        assert result.dtype == np.float32 and result.transpose(0, 2, 3, 1).flags.c_contiguous
    expected = F.local_response_norm(torch.tensor(x, dtype=torch.float64), **ALEXNET)
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(local_response_norm(x, **ALEXNET), expected, rtol=10 * eps, atol=0)
