"""Labels of a batch as what a loss reads, on whatever device the labels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ir.graph import Graph
from ..ir.numpy_ops.loss import as_rows, of_rows
from ..ir.objective import Loss
from ..system.errors import DataError, ShapeError
from .inputs import check_labels, is_tensor, plain


class Mixed(NamedTuple):
    """Two labels for each image (or pixel), of which the loss weighs each by its share.
    ``share`` of the loss is that of ``labels``, the rest that of ``other`` (mixup, Zhang et al. 2018; CutMix, Yun et
    al. 2019). ``share`` is a number, or one for each image."""

    labels: Any
    other: Any
    share: Any


class Share(NamedTuple):
    """Class numbers of a part of a batch, whose images (or pixels) weigh ``mean_weight`` on average in all of it."""

    labels: Any
    mean_weight: float


def weights_of(loss: Loss, graph: Graph, labels: Any, count: int) -> list[float]:
    """(sum of weights, how many) of the class numbers of ``count`` images, then the same of those mixed with them.
    A pair is 0 where there are none, or the loss weighs none; targets are divided by no sum."""
    parts = labels[:2] if isinstance(labels, Mixed) else (labels, None)
    return [number for part in parts for number in _weight_of(loss, graph, part, count)]


def in_whole_batch(labels: Any, weights: Sequence[float]) -> Any:
    """Labels of a part of a batch, which weigh what they do in all of it; ``weights`` are the sums of its parts'."""

    def shared(part: Any, total: float, rows: float) -> Any:
        return Share(part, total / rows) if rows else part

    if isinstance(labels, Mixed):
        return Mixed(shared(labels.labels, *weights[:2]), shared(labels.other, *weights[2:]), labels.share)
    return shared(labels, *weights[:2])


def _weight_of(loss: Loss, graph: Graph, labels: Any, count: int) -> tuple[float, int]:
    """The weights of all class numbers of ``count`` images, added up, and how many these are."""
    if not loss.weighs_rows or labels is None or getattr(labels, "ndim", 1) != 1 + len(graph.rows):
        return 0.0, 0
    numbers = check_labels(graph, labels, count, tensors=is_tensor(labels), ignored=loss.ignore_index).reshape(-1)
    kept = numbers >= 0
    return float((_class_weights(loss, graph.classes or 0, numbers)[numbers * kept] * kept).sum()), len(numbers)


def read_by_loss(loss: Loss, graph: Graph, labels: Any, count: int, *, tensors: bool) -> Sequence[Any]:
    """What the loss reads of the labels of ``count`` images, in the order of the training graph's inputs.

    That is targets, or class numbers int64 [N] or [N, 1, H, W]; and, if the loss weighs classes, the weights

        v[k] = w[k] * R / sum over rows r of w[label_r]

    of the R images (or pixels), where those with the ignored label, which is -1 from here on, do not count and w is 1
    where there are no class weights; of a :class:`Share` of a batch, R and the sum are of the whole batch. Raises
    ShapeError or DataError.
    """
    if not loss.takes_labels:
        return [targets_of(loss, graph, labels, count, tensors=tensors)]
    classes = graph.classes or 0
    labels, mean = labels if isinstance(labels, Share) else (labels, None)
    numbers = check_labels(graph, labels, count, tensors=tensors, ignored=loss.ignore_index)
    read = [numbers[:, None] if graph.rows else numbers]
    if loss.weighs:
        rows, weights = numbers.reshape(-1), _class_weights(loss, classes, numbers)
        total = (weights[rows * (rows >= 0)] * (rows >= 0)).sum()
        read.append(weights * _labels_per_weight(len(rows), total, mean))
    return read


def targets_of(loss: Loss, graph: Graph, labels: Any, count: int, *, tensors: bool) -> Any:
    """The targets t of ``count`` images, float32 and of the shape of the outputs.

    They are what ``labels`` (class numbers [N] or [N, H, W], :class:`Mixed`, or numbers of the outputs' shape) mean
    under ``loss``. With e the label smoothing and w the class weights, for each of the R images or pixels:

        class numbers   t[r,k] = w[k] * ((1 - e)*[k == label_r] + e/K) * R / sum over r of w[label_r], 0 if ignored
        numbers p       t[r,k] = w[k] * ((1 - e)*p[r,k] + e/K)
        two labels      share * t(labels) + (1 - share) * t(other)

    so that -sum t log softmax(x) / R is what ``torch.nn.functional.cross_entropy`` gives. Raises ShapeError or
    DataError, as for labels.
    """
    if isinstance(labels, Mixed):
        first, other = (targets_of(loss, graph, part, count, tensors=tensors) for part in labels[:2])
        share = labels.share
        if getattr(share, "ndim", 0):
            share = plain(share, "the share of labels", ("float",), "numbers from 0 to 1", tensors=tensors)
            share = share.reshape(-1, *(1,) * (first.ndim - 1))
            share = share.to(first.device) if is_tensor(share) else share
        else:
            share = float(share)
        mixed = share * first + (1 - share) * other
        return mixed.float() if tensors else mixed.astype(np.float32)
    labels, mean = labels if isinstance(labels, Share) else (labels, None)
    shape = (count, *graph.types[graph.outputs[0].value].per_image)
    if getattr(labels, "ndim", 1) == len(shape):
        if tuple(labels.shape) != shape:
            expected = f"{list(shape)} or {[count, *graph.rows]} labels"
            raise ShapeError(f"targets: expected {expected}, got {list(labels.shape)}")
        t = plain(labels, "targets", ("float",), "real numbers, or one class number per image", tensors=tensors)
        if not bool((t.isfinite() if tensors else np.isfinite(t)).all()):
            raise DataError("targets: they contain NaN or infinity")
        t = _weighed(loss, as_rows(t))
    else:
        numbers = check_labels(graph, labels, count, tensors=tensors, ignored=loss.ignore_index).reshape(-1)
        kept = numbers >= 0
        t = _weighed(loss, _one_hot(numbers * kept, graph.classes or 0)) * kept[:, None]
        if loss.weighs_rows:
            weight = kept if loss.class_weights is None else _class_weights(loss, t.shape[1], t)[numbers * kept] * kept
            t = t * _labels_per_weight(len(t), weight.sum(), mean)
    t = t.float() if tensors else t.astype(np.float32)
    return of_rows(t, np.broadcast_to(0, shape))


def _labels_per_weight(count: int, total: Any, mean: float | None) -> Any:
    """What weights are multiplied by so that their mean is 1: theirs, or ``mean`` if that is given. 0 if all are 0."""
    if mean is not None:
        return 1.0 / mean if mean > 0 else 0.0
    return count / total if float(total) > 0 else 0.0


def _one_hot(numbers: Any, classes: int) -> Any:
    """[R, K] with a 1 at each label."""
    if not is_tensor(numbers):
        return np.eye(classes, dtype=np.float32)[numbers]
    import torch

    return torch.nn.functional.one_hot(numbers, classes).float()


def _weighed(loss: Loss, t: Any) -> Any:
    """Targets [R, K], smoothed and times the classes' weights."""
    if loss.label_smoothing:
        t = t * (1 - loss.label_smoothing) + loss.label_smoothing / t.shape[1]
    return t if loss.class_weights is None else t * _class_weights(loss, t.shape[1], t)


def _class_weights(loss: Loss, classes: int, like: Any) -> Any:
    """The weights of the classes [K], 1 if there are none, as an array or a tensor where ``like`` is."""
    given = loss.class_weights if loss.class_weights is not None else (1.0,) * classes
    if len(given) != classes:
        raise ShapeError(f"there are {len(given)} class weights and {classes} classes")
    if not is_tensor(like):
        return np.array(given, np.float32)
    import torch

    return torch.tensor(given, dtype=torch.float32, device=like.device)
