"""Losses of dense and two-stage detectors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rotaware.geo.box_iou import differentiable_box_iou
from rotaware.geo.boxes import boxes_to_hulls

from .box_coders import BoxCoder

RegressionLoss = Literal["offsets", "iou"]


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss of independent classes (Lin et al., ICCV 2017), element by element.

    Args:
        logits: (..., K).
        targets: (..., K) in [0, 1].
        gamma: how much well classified elements are discounted.
        alpha: weight of positives; of negatives, 1 - alpha.

    >>> import torch
    >>> round(sigmoid_focal_loss(torch.zeros(1), torch.ones(1)).item(), 4)
    0.0433
    """
    probability = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = probability * (1 - targets) + (1 - probability) * targets
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * miss.pow(gamma) * entropy


def offset_loss(offsets: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Smooth L1 summed over offsets and boxes (N, D); `beta` 0 is L1."""
    if beta == 0:
        return (offsets - targets).abs().sum()
    return functional.smooth_l1_loss(offsets, targets, beta=beta, reduction="sum")


def regression_loss(
    kind: RegressionLoss, coder: BoxCoder, references: Tensor, offsets: Tensor, boxes: Tensor, beta: float
) -> Tensor:
    """How far the boxes that `offsets` (N, D) lead to are from `boxes` (N, 5), summed.

    "offsets" compares the offsets (`offset_loss`), "iou" the boxes that they lead to (`box_iou_loss`).
    """
    if kind == "offsets":
        return offset_loss(offsets, coder.encode(references, boxes), beta)
    return box_iou_loss(coder.decode(references, offsets), boxes).sum()


def box_iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - IoU of oriented boxes, plus the squared distance of their centres over that of the corners of a common hull.

    The second term, of Zheng et al., "Distance-IoU Loss", AAAI 2020, also leads boxes that do not meet to each other.

    Args:
        boxes, targets: (N, 5).
    Returns:
        (N,) in [0, 2).

    >>> box = torch.tensor([[4.0, 4.0, 4.0, 2.0, 0.5]])
    >>> box_iou_loss(box, box).item() < 1e-5
    True
    """
    a, b = boxes_to_hulls(boxes), boxes_to_hulls(targets)
    span = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    apart = (boxes[:, :2] - targets[:, :2]).square().sum(dim=1)
    # A constant span: a box must not grow to come closer.
    nearness = apart / span.detach().square().sum(dim=1).clamp_min(1e-6)
    return 1 - differentiable_box_iou(boxes, targets) + nearness
