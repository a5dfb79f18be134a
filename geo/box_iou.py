"""How much boxes overlap: oriented ones exactly, with and without a gradient, and axis-aligned ones."""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import boxes_to_quads
from .polygons import Mode, intersection_area, overlaps, ratio_of, require_pair


def box_iou_rotated(a: Tensor, b: Tensor, *, mode: Mode = "iou", aligned: bool = False) -> Tensor:
    """Overlap of oriented boxes: intersection over union, or over the area of the first ("iof"). No gradient.

    Pairs whose hulls are apart cost next to nothing, and nothing is held but the result.

    Args:
        a: (N, 5) (cx, cy, w, h, theta), theta clockwise.
        b: (M, 5), or (N, 5) if `aligned`.
        mode: what the intersection is divided by.
        aligned: only pairs of the same row.
    Returns:
        (N, M), or (N,) if `aligned`, in [0, 1]; 0 where a box has no area or a number that is not finite.

    >>> boxes = torch.tensor([[1.0, 1.0, 2.0, 2.0, 0.0], [1.0, 1.0, 2**0.5, 2**0.5, torch.pi / 4]])
    >>> box_iou_rotated(boxes[:1], boxes).round(decimals=4).tolist()
    [[1.0, 0.5]]
    """
    require_pair("a", a, "b", b, (5,), mode, aligned)
    first, second = (boxes_to_quads(each.detach().double() if each.is_cpu else each.detach()) for each in (a, b))
    return overlaps(first, second, mode, aligned, a.dtype)


def differentiable_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of oriented boxes (N, 5) and (N, 5), row by row, with gradients to both.

    Gradients flow through the corners and the points where edges cross; which of them bound the intersection is taken
    as constant. They are finite everywhere and zero for boxes that do not meet. Half precision is raised to float32.

    Returns:
        (N,) in [0, 1].

    >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]], requires_grad=True)
    >>> differentiable_box_iou(box, box.detach() + torch.tensor([1.0, 0, 0, 0, 0])).sum().backward()
    >>> box.grad[0, 0].item() > 0
    True
    """
    require_pair("a", a, "b", b, (5,), "iou", True)
    dtype = a.dtype
    with torch.autocast(a.device.type, enabled=False):
        first, second = (each if dtype == torch.float64 else each.float() for each in (a, b))
        # About the middle between them; its own gradient cancels.
        middle = ((first + second) / 2).detach() * first.new_tensor([1.0, 1.0, 0.0, 0.0, 0.0])
        quads = [boxes_to_quads(each - middle) for each in (first, second)]
        areas = [each[:, 2].clamp_min(0.0) * each[:, 3].clamp_min(0.0) for each in (first, second)]
        common = torch.minimum(intersection_area(*quads), torch.minimum(*areas))
        return ratio_of(common, areas[0], areas[1], "iou").to(dtype)


def hull_iou(a: Tensor, b: Tensor, *, mode: Mode = "iou", aligned: bool = False) -> Tensor:
    """Overlap of axis-aligned boxes, x1 y1 x2 y2, as `box_iou_rotated`; with gradients.

    Args:
        a: (N, 4).
        b: (M, 4), or (N, 4) if `aligned`.

    >>> hull_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0, 3.0]])).item()
    0.1428571492433548
    """
    require_pair("a", a, "b", b, (4,), mode, aligned)
    if not aligned:
        a, b = a[:, None], b[None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0.0)
    areas = [(each[..., 2:] - each[..., :2]).clamp_min(0.0).prod(dim=-1) for each in (a, b)]
    common = sides.prod(dim=-1)
    first, second = torch.broadcast_tensors(*areas)
    return ratio_of(common, first, second, mode)
