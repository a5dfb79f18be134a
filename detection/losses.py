"""Losses of dense and two-stage detectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


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
