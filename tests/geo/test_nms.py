"""Suppression: the oracle of the specification, a plain loop, and laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rotaware.geo.box_iou import box_iou_rotated
from rotaware.geo.boxes import boxes_to_hulls, hulls_to_boxes
from rotaware.geo.nms import greedy_of, nms_hulls, nms_rotated


def crowd(count: int = 300, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 7, generator=generator)
    boxes = torch.cat([60 * draw[:, :2], 4 + 20 * draw[:, 2:4], 7 * draw[:, 4:5]], dim=1)
    # Rounded, so that there are ties.
    return boxes, (draw[:, 5] * 20).round() / 20, (3 * draw[:, 6]).long()


def plainly(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    iou = box_iou_rotated(boxes, boxes)
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: (-scores[row].item(), row)):
        if all(labels[row] != labels[other] or iou[row, other] <= threshold for other in kept):
            kept.append(row)
    return kept


def test_oracle_of_the_specification() -> None:
    boxes = torch.tensor([(6, 3, 8, 7, 0.5), (3, 6, 9, 11, 0.6), (3, 7, 10, 12, 0.3), (1, 4, 13, 7, 0.6)])
    scores = torch.tensor([0.7, 0.8, 0.5, 0.9])
    assert nms_rotated(boxes, scores, 0.5).tolist() == [3, 1, 0]
    assert nms_rotated(boxes, scores, 0.5, labels=torch.tensor([1, 0, 1, 0])).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9])
def test_equals_a_plain_loop(threshold: float) -> None:
    boxes, scores, labels = crowd()
    same = torch.zeros_like(labels)
    for classes in (same, labels):
        kept = nms_rotated(boxes, scores, threshold, labels=classes)
        assert kept.tolist() == plainly(boxes, scores, classes, threshold)
        assert nms_rotated(boxes, scores, threshold, labels=classes, max_detections=7).tolist() == kept[:7].tolist()
        # The form of other devices.
        order = scores.argsort(descending=True, stable=True)
        iou = box_iou_rotated(boxes[order], boxes[order])
        allowed = classes[order][:, None] == classes[order]
        assert order[greedy_of((iou > threshold) & allowed, None)].tolist() == kept.tolist()


def test_class_by_class_is_each_class_alone() -> None:
    boxes, scores, labels = crowd(seed=4)
    kept = nms_rotated(boxes, scores, 0.2, labels=labels)
    for label in range(3):
        rows = (labels == label).nonzero()[:, 0]
        alone = rows[nms_rotated(boxes[rows], scores[rows], 0.2)]
        assert kept[labels[kept] == label].tolist() == alone.tolist()


@pytest.mark.parametrize("turn", [0.0, math.pi / 2, math.pi])
def test_without_a_turn_it_is_that_of_hulls(turn: float) -> None:
    boxes, scores, labels = crowd(seed=2)
    hulls = boxes_to_hulls(boxes)
    turned = hulls_to_boxes(hulls).double()
    turned[:, 4] += turn
    if turn == math.pi / 2:
        turned[:, 2:4] = turned[:, [3, 2]]
    for classes in (None, labels):
        expected = nms_hulls(hulls, scores, 0.4, labels=classes)
        assert nms_rotated(turned, scores, 0.4, labels=classes).tolist() == expected.tolist()


def test_threshold_itself_does_not_suppress() -> None:
    hulls = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]])
    scores = torch.tensor([0.9, 0.8])
    assert nms_hulls(hulls, scores, 0.5).tolist() == [0, 1]
    assert nms_hulls(hulls, scores, 0.49).tolist() == [0]
    assert nms_rotated(hulls_to_boxes(hulls), scores, 0.5).tolist() == [0, 1]


def test_equal_scores_keep_the_order_of_the_rows() -> None:
    boxes = torch.tensor([[5.0, 5.0, 4.0, 2.0, 0.1]]).repeat(4, 1)
    assert nms_rotated(boxes, torch.ones(4), 0.5).tolist() == [0]
    assert nms_rotated(boxes, torch.ones(4), 0.5, labels=torch.tensor([2, 2, 1, 1])).tolist() == [0, 2]


def test_empty_and_errors() -> None:
    none = torch.zeros(0, 5), torch.zeros(0)
    assert nms_rotated(*none, 0.5).shape == (0,) and nms_rotated(*none, 0.5).dtype == torch.int64
    assert nms_rotated(torch.rand(3, 5), torch.rand(3), 0.5, max_detections=0).shape == (0,)
    assert nms_hulls(torch.zeros(0, 4), torch.zeros(0), 0.5, labels=torch.zeros(0, dtype=torch.int64)).shape == (0,)
    with pytest.raises(ValueError, match="scores: expected shape"):
        nms_rotated(torch.rand(3, 5), torch.rand(2), 0.5)
    with pytest.raises(TypeError, match="labels: expected an integer"):
        nms_rotated(torch.rand(3, 5), torch.rand(3), 0.5, labels=torch.rand(3))
    with pytest.raises(ValueError, match=r"boxes: expected shape \(N, 5\)"):
        nms_rotated(torch.rand(3, 4), torch.rand(3), 0.5)
