"""Region proposal networks: the first stage of two-stage detectors.

Ren et al., "Faster R-CNN", NeurIPS 2015; with `MidpointCoder` that of Oriented R-CNN, Xie et al., ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rotaware.geo.box_iou import hull_iou
from rotaware.geo.boxes import boxes_to_hulls
from rotaware.geo.nms import nms_hulls

from .anchors import Anchors
from .assignment import MaxIoUAssigner, sampled
from .box_coders import HullCoder, MidpointCoder
from .losses import offset_loss
from .structures import Targets
from .suppression import suppression_by_rounds

Sizes = Sequence[tuple[int, int]]
# Of `suppression_by_rounds`: chains of proposals are shorter by far.
ROUNDS = 32


@dataclass(frozen=True)
class RPNOptions:
    """Settings of the first stage, as published.

    Args:
        batch: anchors per image that take part in a step; `positive_share` of them at most are objects.
        before: best proposals of a level that are looked at, `after`: those that are kept of all.
        nms: overlap of hulls above which the worse proposal of a level goes; None as published, 0.8 for oriented
            proposals and 0.7 for upright ones.
    """

    batch: int = 256
    positive_share: float = 0.5
    before: int = 2000
    after: int = 2000
    nms: float | None = None

    def __post_init__(self) -> None:
        if min(self.batch, self.before, self.after) < 1 or not 0 < self.positive_share <= 1:
            raise ValueError(f"rpn: expected positive counts and a share, got {self}")


class RPN(nn.Module):
    """Objectness and offsets for every anchor, and proposals made of them.

    Args:
        channels: of the levels.
        anchors: of the levels.
        coder: "midpoint" for oriented proposals, "hull" for upright ones.
        options: see `RPNOptions`.
    """

    def __init__(self, channels: int, anchors: Anchors, coder: MidpointCoder | HullCoder, options: RPNOptions) -> None:
        super().__init__()
        self.anchors, self.coder, self.options = anchors, coder, options
        published = 0.8 if isinstance(coder, MidpointCoder) else 0.7
        self.nms = published if options.nms is None else options.nms
        self.assigner = MaxIoUAssigner(0.7, 0.3, 0.3)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors.per_cell, 1)
        self.offsets = nn.Conv2d(channels, anchors.per_cell * coder.size, 1)
        for layer in (self.convolution, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, logits (B, A) and offsets (B, A, coder.size), in the order of the anchors."""
        logits, offsets = [], []
        for level in levels:
            seen = functional.relu(self.convolution(level), inplace=True)
            logits.append(self.objectness(seen).permute(0, 2, 3, 1).flatten(1).float())
            found = self.offsets(seen).permute(0, 2, 3, 1)
            offsets.append(found.reshape(len(found), -1, self.coder.size).float())
        return logits, offsets

    def anchors_of(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """(A, 4) of each level."""
        return self.anchors([(level.shape[2], level.shape[3]) for level in levels], levels[0].device)

    def losses(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        offsets: Sequence[Tensor],
        targets: Sequence[Targets],
        sizes: Sizes,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Objectness and offsets, both over the number of anchors that take part."""
        references = torch.cat(list(anchors))
        all_logits, all_offsets = torch.cat(list(logits), dim=1), torch.cat(list(offsets), dim=1)
        objectness, regression, count = all_logits.new_zeros(()), all_logits.new_zeros(()), 0
        for number, (target, size) in enumerate(zip(targets, sizes, strict=True)):
            # Anchors that leave the image see too little of it.
            inside = (references[:, :2] >= 0).all(1) & (references[:, 2] <= size[1]) & (references[:, 3] <= size[0])
            rows = inside.nonzero()[:, 0]
            assigned = self.assigner(references[rows], boxes_to_hulls(target.boxes), hull_iou)
            chosen = sampled(assigned, self.options.batch, self.options.positive_share, generator)
            owner, rows = assigned[chosen], rows[chosen]
            positive = owner >= 0
            objectness = objectness + functional.binary_cross_entropy_with_logits(
                all_logits[number, rows], positive.to(all_logits.dtype), reduction="sum"
            )
            wanted = self.coder.encode(references[rows[positive]], target.boxes[owner[positive]])
            regression = regression + offset_loss(all_offsets[number, rows[positive]], wanted, 1 / 9)
            count += len(rows)
        return {"rpn_objectness": objectness / max(1, count), "rpn_offsets": regression / max(1, count)}

    @torch.no_grad()
    def proposals(self, anchors: Sequence[Tensor], logits: Sequence[Tensor], offsets: Sequence[Tensor]) -> list[Tensor]:
        """(P, 5) boxes per image, best first; upright ones keep their width along x."""
        found = []
        for number in range(len(logits[0])):
            levels = self._best(anchors, logits, offsets, number)
            boxes, scores = (torch.cat(parts) for parts in zip(*levels, strict=True))
            level_of = torch.cat([torch.full((len(level),), k) for k, (level, _) in enumerate(levels)])
            hulls = boxes_to_hulls(boxes)
            labels = level_of.to(boxes.device)
            kept = nms_hulls(hulls, scores, self.nms, labels=labels, max_detections=self.options.after)
            found.append(boxes[kept])
        return found

    def fixed_proposals(
        self, anchors: Sequence[Tensor], logits: Sequence[Tensor], offsets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """`proposals` by operations whose shapes are fixed: boxes (B, P, 5), and which of them are any, (B, P) bool."""
        every, real = [], []
        for number in range(len(logits[0])):
            boxes, scores = [], []
            for level, score in self._best(anchors, logits, offsets, number):
                hulls = boxes_to_hulls(level)
                stays = suppression_by_rounds(hull_iou(hulls, hulls) > self.nms, ROUNDS)
                boxes.append(level)
                scores.append(score.where(stays, -torch.inf))
            joined = torch.cat(scores)
            top = joined.topk(min(self.options.after, len(joined)))
            every.append(torch.cat(boxes)[top.indices])
            real.append(top.values > -torch.inf)
        return torch.stack(every), torch.stack(real)

    def _best(
        self, anchors: Sequence[Tensor], logits: Sequence[Tensor], offsets: Sequence[Tensor], number: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Per level, the best boxes of an image (P, 5) and their logits, descending."""
        decode = self.coder.decode_hulls if isinstance(self.coder, HullCoder) else self.coder.decode
        found = []
        for references, level_logits, level_offsets in zip(anchors, logits, offsets, strict=True):
            score, rows = level_logits[number].topk(min(self.options.before, len(references)))
            found.append((decode(references[rows], level_offsets[number, rows]), score))
        return found
