"""Labels of a batch as the targets ``float32[N, K]`` of a loss, on whatever device the labels are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..ir.graph import Graph
from ..ir.objective import Loss
from ..system.errors import DataError, ShapeError
from .inputs import check_labels, is_tensor, plain


class Mixed(NamedTuple):
    """Two labels for each image: ``share`` of the loss is that of ``labels``, the rest that of ``other`` (mixup, Zhang
    et al. 2018; CutMix, Yun et al. 2019). ``share`` is a number, or one for each image."""

    labels: Any
    other: Any
    share: Any


def targets_of(loss: Loss, graph: Graph, labels: Any, count: int, *, tensors: bool) -> Any:
    """The targets t for ``count`` images: what ``labels`` (class numbers [N], :class:`Mixed`, or numbers [N, K]) mean
    under ``loss``. With e the label smoothing and w the class weights:

        class numbers   t[n,k] = w[k] * ((1 - e)*[k == label_n] + e/K) * N / sum over n of w[label_n], 0 if ignored
        numbers p       t[n,k] = w[k] * ((1 - e)*p[n,k] + e/K)
        two labels      share * t(labels) + (1 - share) * t(other)

    so that -sum t log softmax(x) / N is what ``torch.nn.functional.cross_entropy`` gives. Raises ShapeError or
    DataError, as for labels.
    """
    if isinstance(labels, Mixed):
        first, other = (targets_of(loss, graph, part, count, tensors=tensors) for part in labels[:2])
        share = labels.share
        if getattr(share, "ndim", 0):
            share = plain(share, "the share of labels", ("float",), "numbers from 0 to 1", tensors=tensors)[:, None]
            share = share.to(first.device) if is_tensor(share) else share
        else:
            share = float(share)
        mixed = share * first + (1 - share) * other
        return mixed.float() if tensors else mixed.astype(np.float32)
    classes = graph.classes or 0
    whole = getattr(labels, "ndim", 1) == 2
    if whole:
        if tuple(labels.shape) != (count, classes):
            raise ShapeError(f"targets: expected [{count}, {classes}] or [{count}] labels, got {list(labels.shape)}")
        chosen = plain(labels, "targets", ("float",), "real numbers, or one class number per image", tensors=tensors)
        if not bool((chosen.isfinite() if tensors else np.isfinite(chosen)).all()):
            raise DataError("targets: they contain NaN or infinity")
        return _weighed(loss, chosen, None, classes, tensors)
    kept = None
    if loss.ignore_index is not None and getattr(labels, "shape", None) == (count,):
        kept = labels != loss.ignore_index
        labels = labels * kept  # class 0, and no weight
    numbers = check_labels(graph, labels, count, tensors=tensors)
    one, weight = _one_hot(numbers, classes, kept)
    if loss.class_weights is not None:
        weight = weight * _class_weights(loss, classes, one)[numbers]
    return _weighed(loss, one, weight, classes, tensors, kept)


def _one_hot(numbers: Any, classes: int, kept: Any) -> tuple[Any, Any]:
    """[N, K] with a 1 at each label; and 1 for each image, 0 where ``kept`` is false."""
    if not is_tensor(numbers):
        weight = np.ones(len(numbers), np.float32) if kept is None else np.asarray(kept, np.float32)
        return np.eye(classes, dtype=np.float32)[numbers], weight
    import torch

    counted = torch.ones_like(numbers) if kept is None else torch.as_tensor(kept, device=numbers.device)
    return torch.nn.functional.one_hot(numbers, classes).float(), counted.float()


def _weighed(loss: Loss, t: Any, weight: Any, classes: int, tensors: bool, kept: Any = None) -> Any:
    """Smoothed, times the classes' weights and, of class numbers, N by the sum of ``weight``, their own."""
    if loss.label_smoothing:
        t = t * (1 - loss.label_smoothing) + loss.label_smoothing / classes
    if loss.class_weights is not None:
        t = t * _class_weights(loss, classes, t)
    if weight is not None and (loss.class_weights is not None or kept is not None):
        total = weight.sum()
        t = t * (len(t) / total if float(total) > 0 else 0.0)
        if kept is not None:
            if is_tensor(t) and not is_tensor(kept):
                kept = t.new_tensor(kept)
            t = t * kept[:, None]
    return t.float() if tensors else t.astype(np.float32)


def _class_weights(loss: Loss, classes: int, like: Any) -> Any:
    assert loss.class_weights is not None
    if len(loss.class_weights) != classes:
        raise ShapeError(f"there are {len(loss.class_weights)} class weights and {classes} classes")
    if not is_tensor(like):
        return np.array(loss.class_weights, np.float32)
    import torch

    return torch.tensor(loss.class_weights, dtype=torch.float32, device=like.device)
