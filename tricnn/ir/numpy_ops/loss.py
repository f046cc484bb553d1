"""Softmax, and losses of outputs x [R, K], with their gradients by x.
A row is an image or a pixel; a loss is the mean over the rows."""

from typing import Any

import numpy as np


def softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    """exp(x - max x) / sum exp(x - max x) along `axis`; same shape as x."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    e /= e.sum(axis=axis, keepdims=True)
    return e


def as_rows(x: Any) -> Any:
    """An array (or tensor) [N, K] as it is; one [N, K, H, W] as its pixels' rows [N*H*W, K].
    That is a view of channels-last memory."""
    if x.ndim != 4:
        return x
    pixels = x.transpose(0, 2, 3, 1) if isinstance(x, np.ndarray) else x.permute(0, 2, 3, 1)
    return pixels.reshape(-1, x.shape[1])


def of_rows(rows: Any, like: Any) -> Any:
    """The inverse of :func:`as_rows`: rows in the shape of ``like``."""
    if like.ndim != 4:
        return rows
    n, k, h, w = like.shape
    pixels = rows.reshape(n, h, w, k)
    return pixels.transpose(0, 3, 1, 2) if isinstance(rows, np.ndarray) else pixels.permute(0, 3, 1, 2)


def smoothed(
    x: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, *, label_smoothing: float = 0.0
) -> np.ndarray:
    """Targets t [R, K] for class numbers [R]: (1 - e) onehot(label) + e / K, times ``weights`` [K] if there are any.
    They have the shape and type of x; e is the ``label_smoothing`` (Szegedy et al. 2016, section 7). Rows whose label
    is negative are 0 then; else IndexError is raised for it, and for a label that is no class."""
    k = x.shape[1]
    known = np.asarray(labels) if weights is None else np.maximum(labels, 0)
    t = np.full(x.shape, label_smoothing / k, x.dtype)
    t[np.arange(len(t)), _checked(known, k)] += 1 - label_smoothing
    return t if weights is None else t * weights.astype(x.dtype) * (np.asarray(labels) >= 0)[:, None]


# --- of targets t [R, K]


def soft_cross_entropy(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """-1/R * sum_rk t * log softmax(x), a scalar array of x's type.
    A target of 0 adds nothing, not even where a probability is 0 and its logarithm infinite."""
    log_p = x - x.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return _mean(-np.where(t != 0, t * log_p, 0).sum(axis=1), x)


def soft_cross_entropy_grad(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(softmax(x) * sum_k t - t) / R: [R, K]."""
    return (softmax(x, axis=1) * t.sum(axis=1, keepdims=True) - t) / len(x)


def binary_cross_entropy(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """1/(R*K) * sum_rk max(x, 0) - x*t + log(1 + exp(-|x|)): of the sigmoid of x, without its overflow."""
    return _mean((np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))).mean(axis=1), x)


def binary_cross_entropy_grad(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(sigmoid(x) - t) / (R*K): [R, K]."""
    e = np.exp(-np.abs(x))
    return (np.where(x >= 0, 1, e) / (1 + e) - t) / x.size


def squared_error(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """1/(R*K) * sum_rk (x - t)**2."""
    return _mean(((x - t) ** 2).mean(axis=1), x)


def squared_error_grad(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """2 * (x - t) / (R*K): [R, K]."""
    return 2 * (x - t) / x.size


def _mean(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(rows.mean(), dtype=like.dtype)


def _checked(labels: np.ndarray, classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise IndexError(f"labels run from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}")
    return labels
