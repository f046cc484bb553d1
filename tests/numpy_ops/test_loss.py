"""Softmax and cross entropy against PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tricnn.ir.numpy_ops import smoothed, soft_cross_entropy, soft_cross_entropy_grad, softmax


def cross_entropy(x, labels, **options):
    return soft_cross_entropy(x, smoothed(x, labels, **options))


def cross_entropy_grad(x, labels, **options):
    return soft_cross_entropy_grad(x, smoothed(x, labels, **options))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("n", "k"), [(1, 2), (5, 10), (64, 1000)])
def test_loss_and_gradient_are_pytorchs(n, k, label_smoothing):
    rng = np.random.default_rng(n)
    logits, labels = 5 * rng.standard_normal((n, k)), rng.integers(0, k, n)
    logits_torch = torch.tensor(logits, requires_grad=True)
    loss_torch = F.cross_entropy(logits_torch, torch.tensor(labels), label_smoothing=label_smoothing)
    loss_torch.backward()
    loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    grad = cross_entropy_grad(logits, labels, label_smoothing=label_smoothing)
    assert loss.shape == ()
    np.testing.assert_allclose(loss, loss_torch.item(), rtol=1e-14)
    np.testing.assert_allclose(grad, logits_torch.grad, rtol=0, atol=1e-15)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_is_pytorchs_along_any_axis(axis):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    np.testing.assert_allclose(softmax(x, axis), torch.softmax(torch.tensor(x), axis), rtol=0, atol=1e-15)


def test_confident_networks_do_not_overflow():
    logits = np.array([[1e4, 0, -1e4]], dtype=np.float32)
    np.testing.assert_array_equal(softmax(logits), [[1, 0, 0]])
    assert cross_entropy(logits, np.array([2])) == 2e4
    np.testing.assert_array_equal(cross_entropy_grad(logits, np.array([2])), [[1, 0, -1]])


def test_float32_stays_float32():
    logits, labels = np.zeros((2, 3), dtype=np.float32), np.array([0, 1])
    for smoothing in (0.0, 0.1):
        assert cross_entropy(logits, labels, label_smoothing=smoothing).dtype == np.float32
        assert cross_entropy_grad(logits, labels, label_smoothing=smoothing).dtype == np.float32


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_a_label_that_is_no_class_is_refused(labels):
    """NumPy would take -1 for the last class, and train on it."""
    with pytest.raises(IndexError, match="0 to 2"):
        smoothed(np.zeros((2, 3)), np.array(labels))
