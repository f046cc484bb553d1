"""Softmax, and losses of outputs x [N, K], each the mean over the batch, with their gradients by x."""

import numpy as np


def softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    """exp(x - max x) / sum exp(x - max x) along `axis`; same shape as x."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    e /= e.sum(axis=axis, keepdims=True)
    return e


def cross_entropy(logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float = 0.0) -> np.ndarray:
    """Mean over the batch of -sum_k q_k log softmax(logits)_k, with q = (1 - e) onehot(label) + e / K.

    logits: [N, K]; labels: [N], integers in 0..K-1; e is `label_smoothing` (Szegedy et al. 2016, section 7). Returns a
    scalar array of the type of logits. Raises IndexError on a label outside 0..K-1.
    """
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    picked = log_p[np.arange(len(labels)), _checked(labels, logits.shape[1])]
    # What has no weight adds nothing, not even where a probability is 0 and its logarithm infinite.
    means = [(1 - label_smoothing, picked), (label_smoothing, log_p)]
    loss = sum(logits.dtype.type(share) * -x.mean() for share, x in means if share)
    return np.asarray(loss, dtype=logits.dtype)


def cross_entropy_grad(logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float = 0.0) -> np.ndarray:
    """Gradient of `cross_entropy` with respect to logits: (softmax(logits) - q) / N; shape [N, K]."""
    n, k = logits.shape
    e = logits.dtype.type(label_smoothing)
    grad = softmax(logits, axis=1)
    grad[np.arange(n), _checked(labels, k)] -= 1 - e
    if label_smoothing:
        grad -= e / k
    grad /= n
    return grad


# --- of targets t [N, K] that are numbers


def soft_cross_entropy(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """-1/N * sum_nk t * log softmax(x), a scalar array of x's type. A target of 0 adds nothing, not even where a
    probability is 0 and its logarithm infinite."""
    log_p = x - x.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return _mean(-np.where(t != 0, t * log_p, 0).sum(axis=1), x)


def soft_cross_entropy_grad(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(softmax(x) * sum_k t - t) / N: [N, K]."""
    return (softmax(x, axis=1) * t.sum(axis=1, keepdims=True) - t) / len(x)


def binary_cross_entropy(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """1/(N*K) * sum_nk max(x, 0) - x*t + log(1 + exp(-|x|)): of the sigmoid of x, without its overflow."""
    return _mean((np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))).mean(axis=1), x)


def binary_cross_entropy_grad(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(sigmoid(x) - t) / (N*K): [N, K]."""
    e = np.exp(-np.abs(x))
    return (np.where(x >= 0, 1, e) / (1 + e) - t) / x.size


def squared_error(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """1/(N*K) * sum_nk (x - t)**2."""
    return _mean(((x - t) ** 2).mean(axis=1), x)


def squared_error_grad(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """2 * (x - t) / (N*K): [N, K]."""
    return 2 * (x - t) / x.size


def _mean(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(rows.mean(), dtype=like.dtype)


def _checked(labels: np.ndarray, classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise IndexError(f"labels run from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}")
    return labels
