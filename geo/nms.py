"""Non-maximum suppression of oriented and axis-aligned boxes: greedy, deterministic, class by class if wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import boxes_to_quads
from .checks import require_floating, require_integer, require_same_device, require_shape
from .numba_polygons import greedy_nms
from .polygons import quad_iou


def nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    labels: Tensor | None = None,
    max_detections: int | None = None,
) -> Tensor:
    """Which oriented boxes are left when the best suppress those that overlap them by more than `threshold`.

    Args:
        boxes: (N, 5).
        scores: (N,). Equal ones keep the order of the rows.
        threshold: a box goes when its IoU with a kept one is larger; equal is not.
        labels: (N,) integers; boxes of different labels do not suppress each other.
        max_detections: most rows to return.
    Returns:
        (K,) int64 rows that are kept, by descending score.

    >>> boxes = torch.tensor([[1.0, 1, 2, 2, 0], [1.2, 1, 2, 2, 0], [9, 9, 2, 2, 0]])
    >>> nms_rotated(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    [1, 2]
    """
    require_floating("boxes", boxes)
    require_shape("boxes", boxes, "N", 5)
    quads = boxes_to_quads(boxes.detach().double() if boxes.is_cpu else boxes.detach())
    return _nms("boxes", quads, scores, threshold, labels, max_detections)


def nms_quads(
    quads: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    labels: Tensor | None = None,
    max_detections: int | None = None,
) -> Tensor:
    """`nms_rotated` for quads (N, 4, 2) of any shape."""
    require_floating("quads", quads)
    require_shape("quads", quads, "N", 4, 2)
    return _nms("quads", quads.detach(), scores, threshold, labels, max_detections)


def nms_hulls(
    hulls: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    labels: Tensor | None = None,
    max_detections: int | None = None,
) -> Tensor:
    """`nms_rotated` for axis-aligned boxes (N, 4), x1 y1 x2 y2."""
    require_floating("hulls", hulls)
    require_shape("hulls", hulls, "N", 4)
    corners = hulls.detach()[:, [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(1, (4, 2))
    return _nms("hulls", corners, scores, threshold, labels, max_detections)


def _nms(name: str, quads: Tensor, scores: Tensor, threshold: float, labels: Tensor | None, most: int | None) -> Tensor:
    order, labels = _order(name, quads, scores, labels)
    quads, labels = quads[order], labels[order]
    if not quads.is_cpu:
        suppresses = (quad_iou(quads, quads) > threshold) & (labels[:, None] == labels)
        return order[greedy_of(suppresses, most)]
    most = len(quads) if most is None else most
    if most <= 0 or len(quads) == 0:
        return order[:0]
    kept = greedy_nms(quads.double().contiguous().numpy(), labels.numpy(), threshold, most)
    return order[torch.from_numpy(kept)]


def _order(name: str, boxes: Tensor, scores: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows by descending score, and labels."""
    require_floating("scores", scores)
    if labels is None:
        labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    require_integer("labels", labels)
    require_same_device({name: boxes, "scores": scores, "labels": labels})
    for each, value in (("scores", scores), ("labels", labels)):
        if value.shape != (len(boxes),):
            raise ValueError(f"{each}: expected shape ({len(boxes)},), one per row of {name}, got {tuple(value.shape)}")
    return scores.detach().argsort(descending=True, stable=True), labels.long()


def greedy_of(suppresses: Tensor, most: int | None) -> Tensor:
    """Rows that are kept, of a symmetric (N, N) bool matrix in the order of the scores."""
    rows = suppresses.cpu()
    gone = torch.zeros(len(rows), dtype=torch.bool)
    kept = []
    for row in range(len(rows)):
        if not gone[row]:
            kept.append(row)
            if len(kept) == most:
                break
            gone |= rows[row]
    return torch.tensor(kept, dtype=torch.int64, device=suppresses.device)
