"""Dense heads: class and box of every reference on a grid, as in RetinaNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from rotaware.geo.box_iou import box_iou_rotated
from rotaware.geo.checks import require_choice

from .assignment import BACKGROUND, MaxIoUAssigner
from .losses import sigmoid_focal_loss
from .regression import ANGLE_WEIGHTS, AngleCode, AngleCodedCoder, RegressionLoss, coder_of, regression_loss
from .structures import Targets


@dataclass(frozen=True)
class RetinaHeadOptions:
    """Settings of a dense head, as published.

    Args:
        convolutions: of each of the two towers; None as published, 4 in RetinaNet and 2 in both heads of S2A-Net.
        regression, regression_weight: what is compared, offsets or boxes, and how it counts; see `regression_loss`.
            With the code "psc", half as much by default, as published.
        angle: how the angle is predicted, see `coder_of`; codes are for RetinaNet.
        angle_weight: of the loss of a code; None as published, 0.8 for "csl" and 0.2 for "psc" (and "vector").
        positive, negative: overlaps from which a reference belongs to an object, and below which it is background.
        before: best boxes of a level that are looked at.
    """

    convolutions: int | None = None
    regression: RegressionLoss = "offsets"
    regression_weight: float | None = None
    angle: AngleCode = "offset"
    angle_weight: float | None = None
    positive: float = 0.5
    negative: float = 0.4
    before: int = 2000

    def __post_init__(self) -> None:
        if self.before < 1 or (self.convolutions is not None and self.convolutions < 1):
            raise ValueError(f"retina_head: expected positive counts, got {self}")
        require_choice("regression", self.regression, get_args(RegressionLoss))
        require_choice("angle", self.angle, get_args(AngleCode))
        if not 0 <= self.negative <= self.positive <= 1:
            raise ValueError(
                f"negative, positive: expected rising overlaps in [0, 1], got {self.negative}, {self.positive}"
            )


class RetinaHead(nn.Module):
    """Two towers of convolutions, shared by the levels: class scores and offsets (Lin et al., ICCV 2017).

    Args:
        channels: of the levels and the towers.
        classes: number of classes.
        per_cell: references of one cell.
        convolutions: of each tower.
        beta: of the smooth L1 loss of offsets; 0 is L1.
        options: see `RetinaHeadOptions`.
        class_channels: of the levels that the tower of the classes sees, if they differ.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        per_cell: int,
        convolutions: int,
        beta: float,
        options: RetinaHeadOptions,
        class_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.beta, self.options = classes, beta, options
        self.coder, self.assigner = coder_of(options.angle), MaxIoUAssigner(options.positive, options.negative)
        self.class_tower = _tower(class_channels or channels, channels, convolutions)
        self.box_tower = _tower(channels, channels, convolutions)
        self.classify = nn.Conv2d(channels, per_cell * classes, 3, padding=1)
        self.correct = nn.Conv2d(channels, per_cell * self.coder.size, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        # At first nothing is an object: one reference in a hundred.
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))

    def forward(
        self, levels: Sequence[Tensor], class_levels: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, logits (B, A, classes) and offsets (B, A, coder.size), in the order of the anchors."""
        logits, offsets = [], []
        for level, class_level in zip(levels, class_levels or levels, strict=True):
            found = self.classify(self.class_tower(class_level)).permute(0, 2, 3, 1)
            logits.append(found.reshape(len(found), -1, self.classes).float())
            found = self.correct(self.box_tower(level)).permute(0, 2, 3, 1)
            offsets.append(found.reshape(len(found), -1, self.coder.size).float())
        return logits, offsets

    def losses(
        self,
        references: Sequence[Tensor],
        logits: Sequence[Tensor],
        offsets: Sequence[Tensor],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Focal loss and that of the boxes, both over the number of references that belong to objects.

        Args:
            references: per level, (B, A, 5).
            logits, offsets: of `forward`.
            targets: one per image.
        """
        options = self.options
        all_logits, all_offsets = torch.cat(list(logits), dim=1), torch.cat(list(offsets), dim=1)
        classes, positives, count = all_logits.new_zeros(()), [], 0
        for number, target in enumerate(targets):
            boxes = torch.cat([level[number] for level in references])
            owner = self.assigner(boxes, target.boxes, box_iou_rotated)
            positive, used = (owner >= 0).nonzero()[:, 0], (owner >= 0) | (owner == BACKGROUND)
            own = owner[positive]
            wanted = torch.zeros_like(all_logits[number])
            wanted[positive, target.labels[own]] = 1.0
            classes = classes + (sigmoid_focal_loss(all_logits[number], wanted) * used[:, None]).sum()
            positives.append((boxes[positive], all_offsets[number, positive], target.boxes[own]))
            # Each image counts at least one.
            count += max(1, len(own))
        starts, found, objects = (torch.cat(parts) for parts in zip(*positives, strict=True))
        weight = 0.5 if options.regression_weight is None and options.angle == "psc" else options.regression_weight
        box = regression_loss(options.regression, self.coder, starts, found, objects, beta=self.beta, weight=weight)
        losses = {"class": classes / count, "box": box / count}
        if isinstance(self.coder, AngleCodedCoder):
            weight = ANGLE_WEIGHTS[options.angle] if options.angle_weight is None else options.angle_weight
            losses["angle"] = weight * self.coder.angle_loss(found, objects).sum() / count
        return losses

    def candidates(
        self, references: Sequence[Tensor], logits: Sequence[Tensor], offsets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 5) and scores (B, P, classes) of the best references of each level; P is fixed."""
        boxes, scores = [], []
        for level, level_logits, level_offsets in zip(references, logits, offsets, strict=True):
            rows = level_logits.amax(dim=2).topk(min(self.options.before, level.shape[1])).indices[:, :, None]
            level, level_offsets = (each.take_along_dim(rows, dim=1).flatten(0, 1) for each in (level, level_offsets))
            boxes.append(self.coder.decode(level, level_offsets).view(len(rows), -1, 5))
            scores.append(level_logits.take_along_dim(rows, dim=1).sigmoid())
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


def _tower(inputs: int, channels: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [nn.Conv2d(channels if number else inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
