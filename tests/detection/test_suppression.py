"""Suppression by rounds is greedy suppression, and detections are what is left."""

from __future__ import annotations

import math

import pytest
import torch

from rotaware.detection.suppression import DetectionOptions, detected, suppression_by_rounds


def greedy(suppresses: torch.Tensor) -> list[bool]:
    kept: list[bool] = []
    for row in range(len(suppresses)):
        kept.append(not any(kept[other] and suppresses[row, other] for other in range(row)))
    return kept


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 0.9])
def test_rounds_are_greedy_suppression(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 2, 40):
        table = torch.rand(count, count, generator=generator) < density
        table = table | table.T
        assert suppression_by_rounds(table, 40).tolist() == greedy(table)


def test_a_chain_needs_as_many_rounds() -> None:
    chain = torch.zeros(9, 9, dtype=torch.bool)
    for row in range(8):
        chain[row, row + 1] = chain[row + 1, row] = True
    assert suppression_by_rounds(chain, 9).tolist() == [True, False] * 4 + [True]
    assert suppression_by_rounds(chain, 3).tolist() != [True, False] * 4 + [True]


def test_detections() -> None:
    boxes = torch.tensor([
        (20, 20, 10, 4, 0.3), (21, 20, 10, 4, 0.3), (60, 60, 4, 10, 0.0), (math.nan, 1, 2, 2, 0), (90, 9, 4, 4, 0),
    ])  # fmt: skip
    scores = torch.tensor([[0.8, 0.2], [0.9, 0.04], [0.1, 0.6], [0.99, 0.99], [0.01, 0.05]])
    found = detected(boxes, scores, DetectionOptions())
    # The worse of two of one class goes, also a low score and what is no number; sides are renamed.
    assert found.labels.tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6, 0.2, 0.1]))
    torch.testing.assert_close(found.boxes[1], torch.tensor([60, 60, 10, 4, -math.pi / 2]))
    assert len(detected(boxes, scores, DetectionOptions(most=2))) == 2
    assert len(detected(boxes, scores, DetectionOptions(nms=1.0))) == 5
    assert detected(boxes[:0], scores[:0], DetectionOptions()).boxes.shape == (0, 5)
    with pytest.raises(ValueError, match="score, nms, most"):
        DetectionOptions(nms=1.5)
