"""The two losses of RoITr, of one pair of clouds: superpoints that look alike, and points that match."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rotaware.geo.checks import require_floating, require_same_dtype, require_shape
from rotaware.geo.numerics import matmul, upcast

from .supervision import NodeOverlaps, PointLabels

# Squared distances of descriptors are at least this, which keeps the gradient of the root finite.
_LEAST_SQUARE = 1e-12


def circle_loss(
    target_features: Tensor,
    source_features: Tensor,
    overlaps: NodeOverlaps,
    *,
    masked: bool = False,
    positive_overlap: float = 0.1,
    positive_optimum: float = 0.1,
    negative_optimum: float = 1.4,
    scale: float = 24.0,
) -> Tensor:
    """Overlap-aware circle loss between the superpoints of two clouds.

    Pairs of superpoints whose overlap is above `positive_overlap` are pulled together, the more the larger their
    overlap; pairs without overlap are pushed apart; the rest is left alone.

    Args:
        target_features: (T, D) unit rows.
        source_features: (S, D) unit rows, same dtype.
        overlaps: of the superpoints.
        masked: False for the published loss, which counts every pair of no interest as exp(0) = 1 in both sums over a
            row. That adds about 2 log(S) / scale to the value (0.47 for 298 superpoints) and weakens the gradient of
            rows with few positive pairs. True leaves these pairs out.
        positive_overlap: see above.
        positive_optimum: distance of descriptors aimed at for positive pairs; also the margin.
        negative_optimum: the same for negative pairs.
        scale: gamma of the paper.
    Returns:
        A scalar, at least float32: the mean over the rows with both a positive and a negative pair, averaged with that
        over the columns. Where no row or no column has both, that mean is 0, with a gradient of 0.
    Raises:
        TypeError, ValueError: a tensor that does not fit.
    Source: Sun et al., "Circle Loss", CVPR 2020; overlap weights: Qin et al., GeoTransformer, CVPR 2022, section 3.4.

    >>> pair = NodeOverlaps(torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))
    >>> alike, different = torch.eye(2), torch.eye(2)[[1, 0]]
    >>> bool(circle_loss(alike, alike, pair, masked=True) < circle_loss(alike, different, pair, masked=True))
    True
    """
    require_floating("target_features", target_features)
    require_shape("target_features", target_features, "T", "D")
    require_shape("source_features", source_features, "S", target_features.shape[1])
    require_same_dtype({"target_features": target_features, "source_features": source_features})
    target, source = upcast(target_features), upcast(source_features)
    squared = target.square().sum(1)[:, None] + source.square().sum(1) - 2 * matmul(target, source.T)
    distance = squared.clamp(min=_LEAST_SQUARE).sqrt()
    overlap = overlaps.matrix(*distance.shape).to(distance.dtype)
    is_positive, is_negative = overlap > positive_overlap, overlap == 0
    fixed = distance.detach()
    pull = torch.where(is_positive, overlap.sqrt() * (fixed - positive_optimum).clamp(min=0), 0)
    push = torch.where(is_negative, (negative_optimum - fixed).clamp(min=0), 0)
    positive = scale * pull * (distance - positive_optimum)
    negative = scale * push * (negative_optimum - distance)
    if masked:
        # As good as minus infinity, which would put NaN into the gradient of a row that has nothing else.
        lowest = torch.finfo(distance.dtype).min / 4
        positive = positive.masked_fill(~is_positive, lowest)
        negative = negative.masked_fill(~is_negative, lowest)
    means = []
    for axis in (1, 0):
        qualifies = is_positive.any(axis) & is_negative.any(axis)
        losses = softplus(positive.logsumexp(axis) + negative.logsumexp(axis)) / scale
        means.append(torch.where(qualifies, losses, 0).sum() / qualifies.sum().clamp(min=1))
    return (means[0] + means[1]) / 2


def point_loss(log_plan: Tensor, labels: PointLabels) -> Tensor:
    """Negative log-likelihood of the labelled entries of transport plans, one mean over all of them.

    Args:
        log_plan: (P, R + 1, C + 1), rows of the target and the slack, columns of the source and the slack, as of
            `rotaware.kernels.log_optimal_transport`.
        labels: of the same patches, from `point_labels`.
    Returns:
        A scalar, at least float32; 0, with a gradient of 0, without any label.
    Raises:
        TypeError, ValueError: a tensor that does not fit.
    Source: Qin et al., GeoTransformer, CVPR 2022, section 3.4.

    >>> never = torch.zeros(1, 1, dtype=torch.bool)
    >>> point_loss(torch.full((1, 2, 2), -0.5), PointLabels(~never[None], never, never))
    tensor(0.5000)
    """
    require_floating("log_plan", log_plan)
    require_shape("log_plan", log_plan, "P", "R + 1", "C + 1")
    pairs, rows, columns = len(log_plan), log_plan.shape[1] - 1, log_plan.shape[2] - 1
    require_shape("labels.match", labels.match, pairs, rows, columns)
    require_shape("labels.row_slack", labels.row_slack, pairs, rows)
    require_shape("labels.column_slack", labels.column_slack, pairs, columns)
    label = torch.zeros_like(log_plan, dtype=torch.bool)
    label[:, :-1, :-1] = labels.match
    label[:, :-1, -1] = labels.row_slack
    label[:, -1, :-1] = labels.column_slack
    return -torch.where(label, upcast(log_plan), 0).sum() / label.sum().clamp(min=1)
