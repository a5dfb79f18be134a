"""The second stage: each proposal is pooled, classified, and its box corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from rotaware.geo.box_iou import box_iou_rotated, hull_iou
from rotaware.geo.boxes import boxes_to_hulls
from rotaware.geo.checks import require_choice
from rotaware.kernels.roi_pooling import pool_rois

from .assignment import MaxIoUAssigner, sampled
from .box_coders import HorizontalCoder, RotatedCoder, upright
from .regression import RegressionLoss, regression_loss
from .structures import Targets


@dataclass(frozen=True)
class RoIHeadOptions:
    """Settings of the second stage, as published.

    Args:
        hidden: width of the two fully connected layers.
        batch: proposals per image that take part in a step; `positive_share` of them at most are objects.
        grid: cells along each side of a pooled box.
        enlarge: factors of width and height before pooling; (1.2, 1.4) in the code of the ARC paper.
        regression, regression_weight: what is compared, offsets or boxes, and how it counts; see `regression_loss`.
    """

    hidden: int = 1024
    batch: int = 512
    positive_share: float = 0.25
    grid: int = 7
    enlarge: tuple[float, float] = (1.0, 1.0)
    regression: RegressionLoss = "offsets"
    regression_weight: float | None = None

    def __post_init__(self) -> None:
        if min(self.hidden, self.batch, self.grid) < 1 or not 0 < self.positive_share <= 1 or min(self.enlarge) <= 0:
            raise ValueError(f"roi_head: expected positive counts and factors and a share, got {self}")
        require_choice("regression", self.regression, get_args(RegressionLoss))


class RoIHead(nn.Module):
    """Two fully connected layers on RoIAlign, a class and five class-agnostic offsets for every proposal.

    Args:
        channels: of the pyramid.
        classes: number of classes; background comes after them.
        strides: of the levels that are pooled from.
        oriented: whether proposals are oriented (Oriented R-CNN) or upright (Rotated Faster R-CNN).
        options: see `RoIHeadOptions`.
    """

    def __init__(
        self, channels: int, classes: int, strides: Sequence[int], oriented: bool, options: RoIHeadOptions
    ) -> None:
        super().__init__()
        self.classes, self.strides, self.oriented, self.options = classes, tuple(strides), oriented, options
        self.coder = RotatedCoder((0.1, 0.1, 0.2, 0.2, 0.1)) if oriented else HorizontalCoder()
        self.assigner = MaxIoUAssigner(0.5, 0.5, 0.5, low_quality=False)
        self.hidden = nn.Sequential(
            nn.Linear(channels * options.grid**2, options.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(options.hidden, options.hidden),
            nn.ReLU(inplace=True),
        )
        self.classify = nn.Linear(options.hidden, classes + 1)
        self.correct = nn.Linear(options.hidden, 5)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.normal_(self.correct.weight, std=0.001)

    def forward(self, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (P, classes + 1) and offsets (P, 5) for the proposals (P_b, 5) of all images."""
        numbered = [functional.pad(boxes, (1, 0), value=float(number)) for number, boxes in enumerate(proposals)]
        pooled = pool_rois(levels, torch.cat(numbered), self.options.grid, self.strides, enlarge=self.options.enlarge)
        seen = self.hidden(pooled.flatten(1))
        return self.classify(seen).float(), self.correct(seen).float()

    def chosen(
        self, proposals: Sequence[Tensor], targets: Sequence[Targets], generator: torch.Generator
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """For each image the proposals that take part, their classes, and the boxes (P, 5) of their objects.

        The objects themselves are proposals as well; rows of background have any box.
        """
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, target in zip(proposals, targets, strict=True):
            boxes = torch.cat([boxes, self.as_proposals(target.boxes)])
            if self.oriented:
                owner = self.assigner(boxes, target.boxes, box_iou_rotated)
            else:
                owner = self.assigner(boxes_to_hulls(boxes), boxes_to_hulls(target.boxes), hull_iou)
            rows = sampled(owner, self.options.batch, self.options.positive_share, generator)
            owner = owner[rows]
            positive = owner >= 0
            label = torch.full_like(owner, self.classes)
            label[positive] = target.labels[owner[positive]]
            own = boxes[rows].clone()
            own[positive] = target.boxes[owner[positive]]
            for part, value in zip(found, (boxes[rows], label, own), strict=True):
                part.append(value)
        return found

    def as_proposals(self, boxes: Tensor) -> Tensor:
        """Boxes as the first stage would propose them: oriented, or as hulls whose width is along x."""
        return boxes if self.oriented else upright(boxes_to_hulls(boxes))

    def losses(self, logits: Tensor, offsets: Tensor, boxes: Tensor, labels: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Class and offsets, both over the number of proposals that take part."""
        positive = labels < self.classes
        references = boxes[positive] if self.oriented else boxes_to_hulls(boxes[positive])
        options = self.options
        regression = regression_loss(
            options.regression, self.coder, references, offsets[positive], own[positive],
            beta=1.0, weight=options.regression_weight,
        )  # fmt: skip
        return {
            "class": functional.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels)),
            "box": regression / max(1, len(labels)),
        }

    def decoded(self, boxes: Tensor, logits: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Corrected boxes (P, 5) and scores (P, classes)."""
        references = boxes if self.oriented else boxes_to_hulls(boxes)
        return self.coder.decode(references, offsets), logits.softmax(dim=1)[:, :-1]
