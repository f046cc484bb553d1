"""What a user reads after each epoch: accuracy, loss and mean intersection over union, by hand-counted pixels."""

import numpy as np
import pytest

from tricnn.training.scores import Scores


def test_mean_intersection_over_union_by_hand():
    """Labels 0 0 1 / 1 2 ignored, answers 0 1 1 / 1 0 2: IoU 1/3, 2/3, 0/1, whatever parts the pixels come in."""
    labels, answers = np.array([[[0, 0, 1], [1, 2, 255]]]), np.array([[[0, 1, 1], [1, 0, 2]]])
    logits = np.eye(4)[answers].transpose(0, 3, 1, 2) * 5
    scores, part = Scores(4, 255), Scores(4, 255)
    scores.add(logits[:, :, :1], labels[:, :1])
    part.add(logits[:, :, 1:], labels[:, 1:])
    scores.set([a + b for a, b in zip(scores.sums, part.sums, strict=True)])  # as of two processes
    figures = scores.figures
    assert figures["test_accuracy"] == 3 / 5
    assert figures["test_mean_iou"] == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)  # class 3 is nowhere
    wrong, right = np.log(np.exp(5) + 3), np.log(np.exp(5) + 3) - 5
    assert figures["test_loss"] == pytest.approx((2 * wrong + 3 * right) / 5)


def test_images_have_no_intersections():
    scores = Scores()
    scores.add(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
    assert scores.figures["test_accuracy"] == 0.5 and "test_mean_iou" not in scores.figures
