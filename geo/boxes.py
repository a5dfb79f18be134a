"""Oriented boxes: one convention inside, every other one by name, and how boxes move with their image.

A box is `(cx, cy, w, h, theta)` in continuous pixel coordinates: pixel i covers [i, i + 1), x to the right, y down. The
width points along (cos theta, sin theta): clockwise on the screen for theta > 0. Normalised boxes are "le90": w >= h
and theta in [-pi/2, pi/2). Corners come in the order (-, -), (+, -), (+, +), (-, +) of width and height, clockwise on
the screen.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from .checks import require_choice, require_floating, require_shape
from .planar import BoxConvention, box_convert_angle, wrap_angle
from .polygons import min_area_rectangles_of_quads

Convention = Literal["le90", "le135", "opencv_old", "opencv_new", "arc", "ultralytics", "detectron2"]


def _require_boxes(boxes: Tensor) -> None:
    require_floating("boxes", boxes)
    require_shape("boxes", boxes, ..., 5)


def normalize_boxes(boxes: Tensor) -> Tensor:
    """The same boxes (..., 5) as le90: w >= h, theta in [-pi/2, pi/2). Of a square the sides stay as they are.

    >>> normalize_boxes(torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0])).tolist()
    [0.0, 0.0, 2.0, 1.0, -1.5707963705062866]
    """
    _require_boxes(boxes)
    return _renamed(boxes, "le90")


def _renamed(boxes: Tensor, convention: BoxConvention) -> Tensor:
    """Sides and angle by the rule of a convention of `planar`, clockwise."""
    w, h, theta = boxes[..., 2:].unbind(-1)
    shape = box_convert_angle(w, h, theta, "le90", convention)
    return torch.cat([boxes[..., :2], torch.stack(shape, dim=-1)], dim=-1)


def boxes_to_quads(boxes: Tensor) -> Tensor:
    """Corners (..., 4, 2) of boxes (..., 5), clockwise on the screen.

    >>> boxes_to_quads(torch.tensor([5.0, 5.0, 4.0, 2.0, 0.0])).tolist()
    [[3.0, 4.0], [7.0, 4.0], [7.0, 6.0], [3.0, 6.0]]
    """
    _require_boxes(boxes)
    centre, (w, h, theta) = boxes[..., None, :2], boxes[..., 2:].unbind(-1)
    cos, sin = theta.cos(), theta.sin()
    along, across = torch.stack([cos * w, sin * w], dim=-1) / 2, torch.stack([-sin * h, cos * h], dim=-1) / 2
    return centre + torch.stack([-along - across, along - across, along + across, across - along], dim=-2)


def quads_to_boxes(quads: Tensor) -> Tensor:
    """Smallest boxes (..., 5), le90, around quads (..., 4, 2). float64 inside.

    >>> quads_to_boxes(torch.tensor([[3.0, 4.0], [7.0, 4.0], [7.0, 6.0], [3.0, 6.0]])).tolist()
    [5.0, 5.0, 4.0, 2.0, 0.0]
    """
    require_floating("quads", quads)
    require_shape("quads", quads, ..., 4, 2)
    corners = min_area_rectangles_of_quads(quads.double())
    along, across = corners[..., 1, :] - corners[..., 0, :], corners[..., 3, :] - corners[..., 0, :]
    centre = corners.mean(dim=-2)
    theta = torch.atan2(along[..., 1], along[..., 0])
    boxes = torch.stack([*centre.unbind(-1), along.norm(dim=-1), across.norm(dim=-1), theta], dim=-1)
    # In the precision of the result: a right angle must not leave its interval by rounding.
    return _renamed(boxes.to(quads.dtype), "le90")


def boxes_to_hulls(boxes: Tensor) -> Tensor:
    """Axis-aligned hulls (..., 4), x1 y1 x2 y2, of boxes (..., 5).

    >>> boxes_to_hulls(torch.tensor([10.0, 10.0, 4.0, 2.0, 0.0])).tolist()
    [8.0, 9.0, 12.0, 11.0]
    """
    _require_boxes(boxes)
    centre, (w, h, theta) = boxes[..., :2], boxes[..., 2:].unbind(-1)
    cos, sin = theta.cos().abs(), theta.sin().abs()
    half = torch.stack([w * cos + h * sin, w * sin + h * cos], dim=-1) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def hulls_to_boxes(hulls: Tensor) -> Tensor:
    """Boxes (..., 5), le90, of axis-aligned ones (..., 4), x1 y1 x2 y2.

    >>> hulls_to_boxes(torch.tensor([0.0, 0.0, 2.0, 4.0])).tolist()
    [1.0, 2.0, 4.0, 2.0, -1.5707963705062866]
    """
    require_floating("hulls", hulls)
    require_shape("hulls", hulls, ..., 4)
    low, high = hulls[..., :2], hulls[..., 2:]
    return _renamed(torch.cat([(low + high) / 2, high - low, torch.zeros_like(hulls[..., :1])], dim=-1), "le90")


def convert_boxes(boxes: Tensor, source: Convention, target: Convention) -> Tensor:
    """The same boxes (..., 5) in the convention of another tool.

    "le90", "le135", "opencv_old", "opencv_new": clockwise, the rules of `box_convert_angle`; mmrotate calls those of
    OpenCV "oc". "arc": le90 counter-clockwise, the code of the ARC paper and OBBDetection. "ultralytics": theta in
    [0, pi/2), clockwise, what YOLO-OBB returns. "detectron2": degrees in [-180, 180], counter-clockwise, no rule for
    the sides. Any angle is understood; what comes out keeps the rule of `target`.

    >>> convert_boxes(torch.tensor([0.0, 0.0, 4.0, 2.0, 0.5]), "le90", "arc").tolist()
    [0.0, 0.0, 4.0, 2.0, -0.5]
    """
    _require_boxes(boxes)
    require_choice("source", source, get_args(Convention))
    require_choice("target", target, get_args(Convention))
    if source == "detectron2":
        boxes = torch.cat([boxes[..., :4], torch.deg2rad(boxes[..., 4:])], dim=-1)
    if source in ("arc", "detectron2"):
        boxes = _mirrored(boxes)
    if target == "detectron2":
        return torch.cat([boxes[..., :4], wrap_angle(-torch.rad2deg(boxes[..., 4:]), 360.0)], dim=-1)
    if target == "arc":
        return _renamed(_mirrored(boxes), "le90")
    if target == "ultralytics":
        # The range of old OpenCV, a quarter turn on: the sides change places once more.
        old = _renamed(torch.cat([boxes[..., :4], boxes[..., 4:] - math.pi / 2], dim=-1), "opencv_old")
        return torch.cat([old[..., :4], old[..., 4:] + math.pi / 2], dim=-1)
    return _renamed(boxes, target)


def _mirrored(boxes: Tensor) -> Tensor:
    """With the other sense of rotation."""
    return torch.cat([boxes[..., :4], -boxes[..., 4:]], dim=-1)


def flip_boxes(boxes: Tensor, size: tuple[float, float], *, horizontal: bool = False, vertical: bool = False) -> Tensor:
    """Boxes (..., 5), le90, of an image of `size` (width, height) that is mirrored.

    >>> flip_boxes(torch.tensor([40.0, 40.0, 20.0, 10.0, 0.5]), (85, 50), horizontal=True).tolist()
    [45.0, 40.0, 20.0, 10.0, -0.5]
    """
    _require_boxes(boxes)
    x, y, w, h, theta = boxes.unbind(-1)
    if horizontal:
        x, theta = size[0] - x, -theta
    if vertical:
        y, theta = size[1] - y, -theta
    return normalize_boxes(torch.stack([x, y, w, h, theta], dim=-1))


def rotate_boxes(boxes: Tensor, angle: float, center: tuple[float, float]) -> Tensor:
    """Boxes (..., 5), le90, of an image that is turned by `angle` (radians, clockwise on the screen) about `center`.

    >>> rotate_boxes(torch.tensor([2.0, 1.0, 2.0, 1.0, 0.25]), math.pi / 2, (1.0, 1.0))[:2].tolist()
    [1.0, 2.0]
    """
    _require_boxes(boxes)
    x, y, w, h, theta = boxes.unbind(-1)
    cos, sin = math.cos(angle), math.sin(angle)
    arm_x, arm_y = x - center[0], y - center[1]
    x, y = center[0] + cos * arm_x - sin * arm_y, center[1] + sin * arm_x + cos * arm_y
    return normalize_boxes(torch.stack([x, y, w, h, theta + angle], dim=-1))


def resize_boxes(boxes: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Boxes (..., 5), le90, of an image that is scaled; with two factors, the smallest around the parallelogram.

    >>> resize_boxes(torch.tensor([2.0, 1.0, 4.0, 2.0, 0.0]), 0.5, 0.5).tolist()
    [1.0, 0.5, 2.0, 1.0, 0.0]
    """
    _require_boxes(boxes)
    if not (scale_x > 0 and scale_y > 0):
        raise ValueError(f"scale_x, scale_y: expected positive factors, got {scale_x} and {scale_y}")
    if scale_x == scale_y:
        return normalize_boxes(torch.cat([boxes[..., :4] * scale_x, boxes[..., 4:]], dim=-1))
    return quads_to_boxes(boxes_to_quads(boxes) * boxes.new_tensor([scale_x, scale_y]))
