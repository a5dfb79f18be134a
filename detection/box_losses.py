"""Losses of whole boxes, decoded: distances of Gaussians with their published shapes, and the overlap itself.

All take boxes (N, 5) as predicted and as wanted and give a loss for each pair, with gradients to both that are finite
for boxes of any size. They see no border of an angle convention: names of one box have one loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from rotaware.geo.box_iou import differentiable_box_iou
from rotaware.geo.boxes import boxes_to_hulls
from rotaware.geo.checks import require_choice, require_floating, require_shape
from rotaware.geo.gaussian_boxes import (
    gaussian_bhattacharyya_distance,
    gaussian_jeffreys_divergence,
    gaussian_kl_divergence,
    gaussian_wasserstein_distance,
    kfiou,
    probiou,
)
from rotaware.geo.numerics import safe_sqrt, upcast

GaussianDistance = Literal["gwd", "kld", "kld_retinanet", "jd", "bhattacharyya"]
KFIoUForm = Literal["linear", "log", "exp"]
IoULossForm = Literal["linear", "square", "log"]
# Of an overlap below, the logarithm is that of this.
LEAST_OVERLAP = 1e-6


class _Published(NamedTuple):
    distance: Callable[[Tensor, Tensor], Tensor]
    root: bool
    tau: float


_PUBLISHED: dict[str, _Published] = {
    "gwd": _Published(lambda boxes, targets: gaussian_wasserstein_distance(boxes, targets, normalized=True), False, 0),
    "kld": _Published(gaussian_kl_divergence, True, 1),
    "kld_retinanet": _Published(lambda boxes, targets: 2 * gaussian_kl_divergence(targets, boxes), False, 1),
    "jd": _Published(gaussian_jeffreys_divergence, True, 1),
    "bhattacharyya": _Published(gaussian_bhattacharyya_distance, True, 1),
}


def gaussian_loss(
    boxes: Tensor,
    targets: Tensor,
    distance: GaussianDistance = "gwd",
    *,
    root: bool | None = None,
    tau: float | None = None,
) -> Tensor:
    """Loss made of a distance d of Gaussians: log(1 + d), or 1 - 1 / (tau + log(1 + d)), which is bounded.

    Args:
        boxes: (N, 5), predicted.
        targets: (N, 5).
        distance: "gwd", normalised Wasserstein (published with weight 5); "kld", Kullback-Leibler (weight 1);
            "kld_retinanet", its earlier form, twice the divergence the other way round and no root, as in RetinaNet
            with KLD; "jd", Jeffreys; "bhattacharyya".
        root: take the square root of the distance first; as published by default: no for "gwd" and "kld_retinanet".
        tau: 0 for the unbounded form, or at least 1; as published by default: 0 for "gwd", else 1.
    Returns:
        (N,).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shapes, an unknown distance, or a tau that is neither 0 nor at least 1.
    Reference: Yang et al., ICML 2021 (GWD) and NeurIPS 2021 (KLD).

    >>> box = torch.tensor([[50.0, 50.0, 40.0, 20.0, 0.3]])
    >>> round(gaussian_loss(box, torch.tensor([[52.0, 49.0, 44.0, 18.0, 0.5]]), "kld").item(), 4)
    0.2117
    """
    _require_pairs(boxes, targets)
    require_choice("distance", distance, get_args(GaussianDistance))
    published = _PUBLISHED[distance]
    root, tau = published.root if root is None else root, published.tau if tau is None else tau
    if tau != 0 and not tau >= 1:
        raise ValueError(f"tau: expected 0 or at least 1, got {tau}")
    apart = published.distance(upcast(boxes), upcast(targets))
    apart = torch.log1p(safe_sqrt(apart) if root else apart)
    return (1 - 1 / (tau + apart) if tau else apart).to(boxes.dtype)


def kfiou_loss(boxes: Tensor, targets: Tensor, center_errors: Tensor, *, form: KFIoUForm = "log") -> Tensor:
    """KFIoU for size and direction, smooth L1 (beta 1/9) for the centres, to which KFIoU is blind.

    Args:
        boxes: (N, 5), predicted.
        targets: (N, 5).
        center_errors: (N, 2) predicted less wanted offsets of the centre, in the units of the coder.
        form: with the overlap x, at most 1/3: "linear" 1 - x, "log" -ln x, "exp" exp(1 - x) - 1.
    Returns:
        (N,). Published with weight 5.
    Raises:
        TypeError, ValueError: as `gaussian_loss`, or an unknown form.
    Reference: Yang et al., "The KFIoU Loss for Rotated Object Detection", ICLR 2023.

    >>> box = torch.tensor([[50.0, 50.0, 40.0, 20.0, 0.3]])
    >>> round(kfiou_loss(box, box, torch.zeros(1, 2), form="linear").item(), 4)
    0.6667
    """
    _require_pairs(boxes, targets)
    require_shape("center_errors", center_errors, len(boxes), 2)
    require_choice("form", form, get_args(KFIoUForm))
    overlap = kfiou(upcast(boxes), upcast(targets))
    if form == "linear":
        shape = 1 - overlap
    elif form == "log":
        shape = -(overlap + LEAST_OVERLAP).log()
    else:
        shape = torch.expm1(1 - overlap)
    errors = upcast(center_errors)
    place = functional.smooth_l1_loss(errors, torch.zeros_like(errors), beta=1 / 9, reduction="none").sum(dim=1)
    return (place + shape).to(boxes.dtype)


def probiou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - ProbIoU: (N,) of boxes (N, 5) and (N, 5).

    >>> box = torch.tensor([[50.0, 50.0, 40.0, 20.0, 0.3]])
    >>> probiou_loss(box, box).item()
    0.0
    """
    _require_pairs(boxes, targets)
    return (1 - probiou(upcast(boxes), upcast(targets))).to(boxes.dtype)


def iou_loss(boxes: Tensor, targets: Tensor, *, form: IoULossForm = "linear", center_term: bool = True) -> Tensor:
    """Loss of the exact overlap x.

    Args:
        boxes: (N, 5), predicted.
        targets: (N, 5).
        form: "linear" 1 - x, "square" 1 - x^2, "log" -ln x (of at least 1e-6).
        center_term: add the squared distance of the centres over the squared diagonal of the axis-aligned hull of both
            (Zheng et al., "Distance-IoU Loss", AAAI 2020): without it boxes that do not meet get no gradient.
    Returns:
        (N,).
    Raises:
        TypeError, ValueError: as `gaussian_loss`, or an unknown form.

    >>> box = torch.tensor([[1.0, 1.0, 2.0, 2.0, 0.0]])
    >>> round(iou_loss(box, torch.tensor([[2.0, 1.0, 2.0, 2.0, 0.0]]), center_term=False).item(), 4)
    0.6667
    """
    _require_pairs(boxes, targets)
    require_choice("form", form, get_args(IoULossForm))
    first, second = upcast(boxes), upcast(targets)
    overlap = differentiable_box_iou(first, second)
    if form == "linear":
        loss = 1 - overlap
    elif form == "square":
        loss = 1 - overlap.square()
    else:
        loss = -overlap.clamp_min(LEAST_OVERLAP).log()
    if center_term:
        hull, other = boxes_to_hulls(first), boxes_to_hulls(second)
        extent = torch.maximum(hull[:, 2:], other[:, 2:]) - torch.minimum(hull[:, :2], other[:, :2])
        apart = (first[:, :2] - second[:, :2]).square().sum(dim=1)
        loss = loss + apart / extent.square().sum(dim=1).clamp_min(torch.finfo(first.dtype).tiny)
    return loss.to(boxes.dtype)


def _require_pairs(boxes: Tensor, targets: Tensor) -> None:
    require_floating("boxes", boxes)
    require_shape("boxes", boxes, "N", 5)
    require_floating("targets", targets)
    require_shape("targets", targets, len(boxes), 5)
