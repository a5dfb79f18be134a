"""Oriented boxes: conversions lose nothing, and boxes move as their corners do."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from rotaware.geo.boxes import (
    Convention,
    boxes_to_hulls,
    boxes_to_quads,
    convert_boxes,
    flip_boxes,
    hulls_to_boxes,
    normalize_boxes,
    quads_to_boxes,
    resize_boxes,
    rotate_boxes,
)

# Angles (radians, clockwise) that a convention may return: first and last, and whether the last is one of them.
INTERVALS = {
    "le90": (-math.pi / 2, math.pi / 2),
    "le135": (-math.pi / 4, 3 * math.pi / 4),
    "opencv_old": (-math.pi / 2, 0.0),
    "arc": (-math.pi / 2, math.pi / 2),
    "ultralytics": (0.0, math.pi / 2),
    "detectron2": (-180.0, 180.0),
}


def some_boxes(count: int = 500, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    sides = 1 + 50 * torch.rand(count, 2, generator=generator, dtype=dtype)
    # Right and half right angles among them, where every rule has its border.
    angles = (torch.rand(count, 1, generator=generator, dtype=dtype) - 0.5) * 10
    angles[::5] = (angles[::5] / (math.pi / 4)).round() * math.pi / 4
    return torch.cat([100 * torch.rand(count, 2, generator=generator, dtype=dtype), sides, angles], dim=1)


def corner_sets(quads: Tensor) -> Tensor:
    """Corners in an order that does not depend on where they begin."""
    key = (quads - quads.mean(dim=-2, keepdim=True)) @ quads.new_tensor([1.0, 1e-3])
    return quads.gather(-2, key.argsort(dim=-1)[..., None].expand_as(quads))


def assert_same_boxes(a: Tensor, b: Tensor) -> None:
    """Each corner of one is near a corner of the other."""
    gaps = torch.cdist(boxes_to_quads(a), boxes_to_quads(b))
    assert gaps.amin(dim=-1).max() < 1e-5 * 100 if a.dtype == torch.float32 else gaps.amin(dim=-1).max() < 1e-9
    assert gaps.amin(dim=-2).max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("source", get_args(Convention))
@pytest.mark.parametrize("target", get_args(Convention))
def test_conversions_keep_the_box_and_their_promise(source: Convention, target: Convention, dtype: torch.dtype) -> None:
    boxes = some_boxes(dtype=dtype)
    there = convert_boxes(convert_boxes(boxes, "le90", source), source, target)
    theta = there[:, 4]
    if target == "opencv_new":
        assert (theta > 0).all() and (theta <= math.pi / 2).all()
    else:
        low, high = INTERVALS[target]
        assert (theta >= theta.new_tensor(low)).all()
        below = theta <= high if target == "detectron2" else theta < theta.new_tensor(high)
        assert below.all()
    if target in ("le90", "le135", "arc"):
        assert (there[:, 2] >= there[:, 3]).all()
    assert_same_boxes(convert_boxes(there, target, "le90"), boxes)


def test_known_conversions() -> None:
    # Old and new OpenCV: (h, w, theta + pi/2), or (w, h, pi/2) of theta = -pi/2.
    old = torch.tensor([[5.0, 6.0, 3.0, 7.0, -0.4], [5.0, 6.0, 3.0, 7.0, -math.pi / 2]], dtype=torch.float64)
    new = convert_boxes(old, "opencv_old", "opencv_new")
    expected = [[5.0, 6.0, 7.0, 3.0, -0.4 + math.pi / 2], [5.0, 6.0, 3.0, 7.0, math.pi / 2]]
    torch.testing.assert_close(new, torch.tensor(expected, dtype=torch.float64))
    box = torch.tensor([1.0, 2.0, 8.0, 4.0, 0.3], dtype=torch.float64)
    assert convert_boxes(box, "le90", "arc").tolist() == [1.0, 2.0, 8.0, 4.0, -0.3]
    assert convert_boxes(box, "le90", "detectron2")[4].item() == pytest.approx(-math.degrees(0.3))


def test_normalised_angles_never_reach_the_upper_end() -> None:
    for dtype in (torch.float32, torch.float64):
        near = torch.tensor([-math.pi / 2, math.pi / 2, -math.pi / 2 - 1e-9, math.pi / 2 - 1e-17, 1e6], dtype=dtype)
        angles = torch.cat([near, near.nextafter(near + 1), near.nextafter(near - 1)])
        sides = torch.tensor([0.0, 0.0, 2.0, 1.0], dtype=dtype).expand(len(angles), 4)
        wrapped = normalize_boxes(torch.cat([sides, angles[:, None]], dim=1))[:, 4]
        # The interval of the numbers themselves, which are rounded.
        start = torch.tensor(-math.pi / 2, dtype=dtype)
        assert (wrapped >= start).all() and (wrapped < start + torch.tensor(math.pi, dtype=dtype)).all()
    square = torch.tensor([0.0, 0.0, 3.0, 3.0, 0.7])
    assert normalize_boxes(square).tolist() == square.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quads_round_trip(dtype: torch.dtype) -> None:
    boxes = some_boxes(dtype=dtype)
    again = quads_to_boxes(boxes_to_quads(boxes))
    assert_same_boxes(again, boxes)
    assert (again[:, 2] >= again[:, 3]).all() and again.dtype == dtype
    x, y = boxes_to_quads(boxes).unbind(-1)
    assert ((x * y.roll(-1, 1) - x.roll(-1, 1) * y).sum(1) > 0).all()  # clockwise on the screen


def test_first_corner_and_width() -> None:
    quad = boxes_to_quads(torch.tensor([10.0, 20.0, 6.0, 2.0, math.pi / 2], dtype=torch.float64))
    # Turned by a right angle clockwise, the top left corner of a box is at its top right.
    torch.testing.assert_close(quad, torch.tensor([[11.0, 17], [11, 23], [9, 23], [9, 17]], dtype=torch.float64))


def test_hulls() -> None:
    boxes = some_boxes()
    quads = boxes_to_quads(boxes)
    torch.testing.assert_close(boxes_to_hulls(boxes), torch.cat([quads.amin(1), quads.amax(1)], dim=1))
    hull = boxes_to_hulls(torch.tensor([10.0, 10.0, 4.0, 4.0, math.pi / 4], dtype=torch.float64))
    expected = [10 - 2 * 2**0.5] * 2 + [10 + 2 * 2**0.5] * 2
    torch.testing.assert_close(hull, torch.tensor(expected, dtype=torch.float64))
    hulls = torch.cat([torch.rand(9, 2), 1 + torch.rand(9, 2)], dim=1).double()
    torch.testing.assert_close(boxes_to_hulls(hulls_to_boxes(hulls)), hulls)


def test_moves_of_the_specification() -> None:
    box = torch.tensor([40.0, 40.0, 20.0, 10.0, math.pi / 6 - math.pi / 2], dtype=torch.float64)
    same = normalize_boxes(torch.tensor([40.0, 40.0, 10.0, 20.0, math.pi / 6], dtype=torch.float64))
    torch.testing.assert_close(same, box)
    for flips, x, y, theta in (((True, False), 45, 40, -1), ((False, True), 40, 10, -1), ((True, True), 45, 10, 1)):
        found = flip_boxes(box, (85, 50), horizontal=flips[0], vertical=flips[1])
        expected = torch.tensor([x, y, 10, 20, theta * math.pi / 6], dtype=torch.float64)
        torch.testing.assert_close(found, normalize_boxes(expected))
    turned = rotate_boxes(box, -math.pi / 3, (50, 40))
    expected = torch.tensor([45, 40 + 5 * 3**0.5, 10, 20, -math.pi / 6], dtype=torch.float64)
    torch.testing.assert_close(turned, normalize_boxes(expected))


def test_boxes_move_as_their_corners() -> None:
    boxes = some_boxes()
    quads = boxes_to_quads(boxes)
    mirrored = quads * torch.tensor([-1.0, 1.0]).double() + torch.tensor([85.0, 0.0]).double()
    assert_same_boxes(flip_boxes(boxes, (85, 50), horizontal=True), quads_to_boxes(mirrored))
    cos, sin = math.cos(0.8), math.sin(0.8)
    turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    centre = torch.tensor([7.0, -3.0], dtype=torch.float64)
    assert_same_boxes(rotate_boxes(boxes, 0.8, (7.0, -3.0)), quads_to_boxes((quads - centre) @ turn.T + centre))
    assert_same_boxes(resize_boxes(boxes, 0.3, 0.3), quads_to_boxes(0.3 * quads))
    stretched = resize_boxes(boxes, 2.0, 0.5)
    corners = quads * torch.tensor([2.0, 0.5]).double()
    # The smallest rectangle holds the parallelogram.
    arms = corners - stretched[:, None, :2]
    cos, sin = stretched[:, 4].cos(), stretched[:, 4].sin()
    along = arms[..., 0] * cos[:, None] + arms[..., 1] * sin[:, None]
    assert (along.abs().amax(1) - stretched[:, 2] / 2).abs().max() < 1e-9


def test_leading_axes_and_empty_input() -> None:
    boxes = some_boxes(12).view(3, 4, 5)
    torch.testing.assert_close(boxes_to_quads(boxes)[1, 2], boxes_to_quads(boxes[1, 2]))
    torch.testing.assert_close(quads_to_boxes(boxes_to_quads(boxes))[1, 2], quads_to_boxes(boxes_to_quads(boxes[1, 2])))
    assert quads_to_boxes(torch.zeros(0, 4, 2)).shape == (0, 5)
    assert convert_boxes(torch.zeros(0, 5), "le90", "opencv_new").shape == (0, 5)


def test_degenerate_quads_are_finite() -> None:
    point = torch.ones(4, 2)
    line = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    found = quads_to_boxes(torch.stack([point, line]))
    assert found.isfinite().all()
    assert found[0].tolist()[:4] == [1.0, 1.0, 0.0, 0.0]
    assert found[1, 2].item() == pytest.approx(18**0.5) and found[1, 3].item() == pytest.approx(0.0, abs=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"boxes: expected shape \(\.\.\., 5\)"):
        boxes_to_quads(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="target"):
        convert_boxes(torch.zeros(3, 5), "le90", "left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        resize_boxes(torch.zeros(3, 5), 0.0, 1.0)
    with pytest.raises(TypeError, match="floating"):
        normalize_boxes(torch.zeros(3, 5, dtype=torch.int64))
