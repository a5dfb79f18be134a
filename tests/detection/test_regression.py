"""Every loss, with every way to write an angle, leads boxes to where they belong."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from rotaware.detection.box_coders import BoxCoder, HorizontalCoder
from rotaware.detection.regression import AngleCode, AngleCodedCoder, RegressionLoss, coder_of, regression_loss
from rotaware.geo.box_iou import box_iou_rotated
from rotaware.geo.boxes import boxes_to_hulls, normalize_boxes

CODES = [code for code in get_args(AngleCode) if code != "offset"]


def some_boxes(count: int = 40) -> tuple[Tensor, Tensor]:
    """Anchors without a turn and objects near them, at all angles."""
    draw = torch.rand(count, 10, generator=torch.Generator().manual_seed(0))
    anchors = torch.cat([100 * draw[:, :2], 20 + 20 * draw[:, 2:4], torch.zeros(count, 1)], dim=1)
    sides = torch.stack([30 + 20 * draw[:, 5], 10 + 10 * draw[:, 6]], dim=1)
    centres = anchors[:, :2] + 10 * draw[:, 7:9] - 5
    return anchors, normalize_boxes(torch.cat([centres, sides, math.pi * draw[:, 9:] - math.pi / 2], dim=1))


def descended(kind: RegressionLoss, coder: BoxCoder, references: Tensor, boxes: Tensor) -> Tensor:
    """Overlaps after many steps on the offsets alone."""
    offsets = torch.zeros(len(boxes), coder.size).add_(0.05).requires_grad_()
    optimizer = torch.optim.Adam([offsets], lr=0.05)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 250)
        loss = regression_loss(kind, coder, references, offsets, boxes, beta=1.0)
        if isinstance(coder, AngleCodedCoder):
            loss = loss + coder.angle_loss(offsets, boxes).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return box_iou_rotated(coder.decode(references, offsets.detach()), boxes, aligned=True)


@pytest.mark.parametrize("kind", get_args(RegressionLoss))
def test_losses_lead_to_the_boxes(kind: RegressionLoss) -> None:
    anchors, boxes = some_boxes()
    overlaps = descended(kind, coder_of("offset"), anchors, boxes)
    # Some losses may keep a box where a quarter turn is the other way.
    assert overlaps.median() > 0.97 and (overlaps > 0.9).float().mean() > 0.9


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", ["offsets", "kfiou"])
def test_codes_lead_to_the_boxes(kind: RegressionLoss, code: AngleCode) -> None:
    overlaps = descended(kind, coder_of(code), *some_boxes())
    # The focal loss of soft labels draws the neighbors of the best class as high as itself: CSL is coarse.
    least = 0.7 if code == "csl" else 0.97
    assert overlaps.median() > least and (overlaps > 0.7).float().mean() > 0.9


def test_horizontal_references_too() -> None:
    anchors, boxes = some_boxes()
    assert descended("gwd", HorizontalCoder(), boxes_to_hulls(anchors), boxes).median() > 0.97


@pytest.mark.parametrize("code", CODES)
def test_coded_boxes_come_back(code: AngleCode) -> None:
    coder = coder_of(code)
    assert isinstance(coder, AngleCodedCoder)
    anchors, boxes = some_boxes()
    other_name = boxes[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2])
    offsets = coder.encode(anchors, boxes)
    torch.testing.assert_close(coder.encode(anchors, other_name), offsets)
    # What puts out the codes: their inverse.
    codes = coder.angle.encode(boxes[:, 4])
    raw = {"csl": codes.logit(1e-6), "psc": ((codes + 1) / 2).logit(1e-6), "vector": codes}[code]
    whole = torch.cat([offsets, raw], dim=1)
    again = coder.decode(anchors, whole)
    torch.testing.assert_close(again[:, :4], boxes[:, :4], atol=1e-3, rtol=1e-4)
    off = (again[:, 4] - boxes[:, 4] + math.pi / 2).remainder(math.pi) - math.pi / 2
    assert off.abs().max() <= (math.radians(2.01) if code == "csl" else 2e-3)
    torch.testing.assert_close(
        coder.angle_loss(whole, other_name), coder.angle_loss(whole, boxes), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(ValueError, match=f"offsets: expected shape \\(N, {coder.size}\\)"):
        coder.decode(anchors, offsets)


def test_weights_as_published() -> None:
    anchors, boxes = some_boxes()
    offsets = torch.zeros(len(boxes), 5)
    weights: tuple[tuple[RegressionLoss, float], ...] = (("offsets", 1.0), ("kld", 1.0), ("gwd", 5.0), ("kfiou", 5.0))
    for kind, weight in weights:
        default, plain = (
            regression_loss(kind, coder_of("offset"), anchors, offsets, boxes, beta=0.0, weight=each)
            for each in (None, 1.0)
        )
        torch.testing.assert_close(default, weight * plain)
