"""The head of Rotated RetinaNet: class and box of every anchor, in one stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rotaware.geo.box_iou import box_iou_rotated

from .anchors import Anchors
from .assignment import BACKGROUND, MaxIoUAssigner
from .box_coders import RotatedCoder
from .losses import offset_loss, sigmoid_focal_loss
from .roi_head import suppressed
from .structures import Detections, Targets


@dataclass(frozen=True)
class RetinaHeadOptions:
    """Settings as published.

    Args:
        convolutions: of each of the two towers.
        before: best boxes of a level that are looked at.
        score: detections below are left out; `nms`: overlap above which the worse of a class goes; `most`: detections.
    """

    convolutions: int = 4
    before: int = 2000
    score: float = 0.05
    nms: float = 0.1
    most: int = 2000


class RetinaHead(nn.Module):
    """Two towers of convolutions, shared by the levels: class scores and offsets (Lin et al., ICCV 2017).

    Args:
        channels: of the levels.
        classes: number of classes.
        anchors: of the levels.
        options: see `RetinaHeadOptions`.
    """

    def __init__(self, channels: int, classes: int, anchors: Anchors, options: RetinaHeadOptions) -> None:
        super().__init__()
        self.classes, self.anchors, self.options = classes, anchors, options
        self.coder, self.assigner = RotatedCoder(), MaxIoUAssigner(0.5, 0.4)
        self.class_tower, self.box_tower = (self._tower(channels, options.convolutions) for _ in range(2))
        self.classify = nn.Conv2d(channels, anchors.per_cell * classes, 3, padding=1)
        self.correct = nn.Conv2d(channels, anchors.per_cell * 5, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        # At first nothing is an object: one anchor in a hundred.
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))

    @staticmethod
    def _tower(channels: int, count: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(count):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, logits (B, A, classes) and offsets (B, A, 5), in the order of the anchors."""
        logits, offsets = [], []
        for level in levels:
            found = self.classify(self.class_tower(level)).permute(0, 2, 3, 1)
            logits.append(found.reshape(len(found), -1, self.classes).float())
            found = self.correct(self.box_tower(level)).permute(0, 2, 3, 1)
            offsets.append(found.reshape(len(found), -1, 5).float())
        return logits, offsets

    def references(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """(A, 5) boxes of each level, width along x."""
        hulls = self.anchors([(level.shape[2], level.shape[3]) for level in levels], levels[0].device)
        return [
            torch.cat([(each[:, :2] + each[:, 2:]) / 2, each[:, 2:] - each[:, :2], torch.zeros_like(each[:, :1])], 1)
            for each in hulls
        ]

    def losses(
        self,
        references: Sequence[Tensor],
        logits: Sequence[Tensor],
        offsets: Sequence[Tensor],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Focal loss and L1 of the offsets, both over the number of anchors that belong to objects."""
        boxes = torch.cat(list(references))
        all_logits, all_offsets = torch.cat(list(logits), dim=1), torch.cat(list(offsets), dim=1)
        classes, regression, count = all_logits.new_zeros(()), all_logits.new_zeros(()), 0
        for number, target in enumerate(targets):
            owner = self.assigner(boxes, target.boxes, box_iou_rotated)
            positive, used = owner >= 0, (owner >= 0) | (owner == BACKGROUND)
            wanted = torch.zeros_like(all_logits[number])
            wanted[positive.nonzero()[:, 0], target.labels[owner[positive]]] = 1.0
            classes = classes + (sigmoid_focal_loss(all_logits[number], wanted) * used[:, None]).sum()
            encoded = self.coder.encode(boxes[positive], target.boxes[owner[positive]])
            regression = regression + offset_loss(all_offsets[number, positive], encoded, 0.0)
            # Each image counts at least one.
            count += max(1, int(positive.sum()))
        return {"class": classes / count, "box": regression / count}

    def detections(
        self, references: Sequence[Tensor], logits: Sequence[Tensor], offsets: Sequence[Tensor], number: int
    ) -> Detections:
        """Of one image of the batch."""
        boxes, scores, labels = [], [], []
        for level, level_logits, level_offsets in zip(references, logits, offsets, strict=True):
            probability = level_logits[number].sigmoid()
            _, rows = probability.amax(dim=1).topk(min(self.options.before, len(level)))
            probability = probability[rows]
            row, label = (probability > self.options.score).nonzero(as_tuple=True)
            boxes.append(self.coder.decode(level[rows[row]], level_offsets[number, rows[row]]))
            scores.append(probability[row, label])
            labels.append(label)
        return suppressed(torch.cat(boxes), torch.cat(scores), torch.cat(labels), self.options.nms, self.options.most)
