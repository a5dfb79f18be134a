"""From the boxes and scores of a network to detections, and suppression in operations whose shapes are fixed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rotaware.geo.boxes import normalize_boxes
from rotaware.geo.nms import nms_rotated

from .structures import Detections


@dataclass(frozen=True)
class DetectionOptions:
    """What counts as a detection, as published for DOTA.

    Args:
        score: boxes with a lower one are left out.
        nms: overlap above which the worse of two boxes of a class goes.
        most: detections of an image.
    """

    score: float = 0.05
    nms: float = 0.1
    most: int = 2000

    def __post_init__(self) -> None:
        if not (0 <= self.score <= 1 and 0 <= self.nms <= 1 and self.most >= 1):
            raise ValueError(
                f"score, nms, most: expected shares and a positive count, got {self.score}, {self.nms} and {self.most}"
            )


def detected(boxes: Tensor, scores: Tensor, options: DetectionOptions) -> Detections:
    """Detections of one image; a box can be one of several classes.

    Args:
        boxes: (P, 5); those with a number that is not finite are left out.
        scores: (P, classes).
        options: see `DetectionOptions`.

    >>> boxes = torch.tensor([[10.0, 10, 8, 4, 0], [11.0, 10, 8, 4, 0]])
    >>> detected(boxes, torch.tensor([[0.3, 0.01], [0.9, 0.4]]), DetectionOptions()).labels.tolist()
    [0, 1]
    """
    usable = boxes.isfinite().all(dim=1)
    row, label = ((scores > options.score) & usable[:, None]).nonzero(as_tuple=True)
    boxes, scores = normalize_boxes(boxes[row]), scores[row, label]
    kept = nms_rotated(boxes, scores, options.nms, labels=label, max_detections=options.most)
    return Detections(boxes[kept], scores[kept], label[kept])


def suppression_by_rounds(suppresses: Tensor, rounds: int) -> Tensor:
    """Which rows greedy suppression keeps, without a loop over the rows.

    A row stays if no row before it that stays suppresses it. Each round decides the rows whose suppressors are decided,
    so the result is exact unless chains of rows, each suppressing the next, are longer than `rounds`.

    Args:
        suppresses: (N, N) bool, symmetric, best row first.
        rounds: how often the rule is applied.
    Returns:
        (N,) bool.

    >>> chain = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.bool)
    >>> suppression_by_rounds(chain, 3).tolist()
    [True, False, True]
    """
    before = suppresses.tril(-1).float()
    stays = torch.ones(len(suppresses), 1, device=suppresses.device)
    for _ in range(rounds):
        stays = (before @ stays == 0).float()
    return stays[:, 0] > 0
