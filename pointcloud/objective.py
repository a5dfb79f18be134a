"""The losses of RoITr over a batch of pairs, as one module: what a training step needs, and nothing of inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .losses import circle_loss, point_loss
from .metrics import inlier_ratio, patch_inlier_ratio
from .pairs import PairBatch
from .patches import Patches
from .roitr import RoITr, RoITrOutput
from .supervision import NodeOverlaps, moved_patches, node_overlaps, point_labels, sample_node_pairs


class Losses(NamedTuple):
    """Means over the pairs of a batch."""

    total: Tensor  # coarse + fine
    coarse: Tensor  # circle loss of the superpoints
    fine: Tensor  # negative log-likelihood of the points


class Quality(NamedTuple):
    """What a pair's predicted matches are worth."""

    patch_inlier_ratio: float  # share of the matched superpoints that overlap (PIR)
    inlier_ratio: float  # share of the matched points within `inlier_radius` (IR)
    matches: int


class RoITrObjective(nn.Module):
    """A network and its losses.

    One module, so that parallel training wraps forward pass and losses together.

    Args:
        model: the network to train.
        radius: points nearer than this belong together, in the network's unit (0.05 m as published).
        patch_pairs: patch pairs per pair of clouds that are matched point by point, drawn among those that overlap by
            more than `patch_overlap`.
        patch_overlap: see above.
        masked: whether the circle loss leaves out what is neither positive nor negative (see `circle_loss`).
    """

    def __init__(
        self,
        model: RoITr,
        *,
        radius: float = 0.05,
        patch_pairs: int = 128,
        patch_overlap: float = 0.1,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.radius, self.masked = model, radius, masked
        self.patch_pairs, self.patch_overlap = patch_pairs, patch_overlap

    def forward(self, batch: PairBatch, seeds: Sequence[int]) -> Losses:
        """Losses of a batch with transforms; `seeds`, one per pair, choose the patches."""
        output = self.model(batch)
        coarse, fine = [], []
        for pair, seed in enumerate(seeds):
            of_pair = self.pair_losses(batch, output, pair, torch.Generator().manual_seed(seed))
            coarse.append(of_pair[0])
            fine.append(of_pair[1])
        means = torch.stack(coarse).mean(), torch.stack(fine).mean()
        return Losses(means[0] + means[1], *means)

    def pair_losses(
        self, batch: PairBatch, output: RoITrOutput, pair: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Coarse and fine loss of one pair."""
        overlaps, target, source = self.truth(batch, pair)
        features = output.node_features
        coarse = circle_loss(
            features[batch.node_rows(pair, "target")],
            features[batch.node_rows(pair, "source")],
            overlaps,
            masked=self.masked,
        )
        chosen = sample_node_pairs(overlaps, count=self.patch_pairs, least=self.patch_overlap, generator=generator)
        plan = self.model.transport(batch, output, pair, chosen.target, chosen.source)
        labels = point_labels(
            target.patch_points()[chosen.target],
            source.patch_points()[chosen.source],
            target.mask[chosen.target],
            source.mask[chosen.source],
            radius=self.radius,
        )
        return coarse, point_loss(plan, labels)

    def truth(self, batch: PairBatch, pair: int) -> tuple[NodeOverlaps, Patches, Patches]:
        """Overlaps of the superpoints, and the patches of target and source in the frame of the target."""
        if batch.transforms is None:
            raise ValueError("batch: expected pairs with a transform, got none")
        flow = None if batch.flow is None else batch.flow[batch.rows(pair, "source")]
        target, source = batch.patches(pair, "target"), batch.patches(pair, "source")
        transform = batch.transforms[pair]
        overlaps = node_overlaps(target, source, transform, radius=self.radius, flow=flow)
        return overlaps, target, moved_patches(source, transform, flow)

    @torch.no_grad()
    def quality(self, batch: PairBatch, output: RoITrOutput, *, inlier_radius: float = 0.1) -> list[Quality]:
        """What the matches that the network predicts are worth, for each pair."""
        found = []
        for pair, matches in enumerate(self.model.match(batch, output)):
            overlaps, target, source = self.truth(batch, pair)
            # The source is in the frame of the target already.
            inliers = inlier_ratio(
                source.points[matches.source],
                target.points[matches.target],
                torch.eye(4),
                radius=inlier_radius,
            )
            nodes = matches.nodes
            found.append(
                Quality(patch_inlier_ratio(nodes.target, nodes.source, overlaps), inliers, len(matches.source))
            )
        return found
