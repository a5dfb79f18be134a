"""Convolutions of S2A-Net: aligned with boxes, and in eight orientations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rotaware.detection.retina_head import RetinaHeadOptions
from rotaware.detection.s2a_head import ActiveRotatingConv, AlignConv, S2AHead


def grid_of(height: int, width: int, stride: int) -> Tensor:
    """(H W, 2) centres of anchors, row by row."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2) * stride


def some(height: int = 6, width: int = 5, stride: int = 8) -> tuple[AlignConv, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = AlignConv(3)
    torch.nn.init.normal_(layer.weight)
    boxes = torch.cat([grid_of(height, width, stride), torch.rand(height * width, 3)], dim=1)
    boxes[:, :2] += 10 * torch.randn(height * width, 2)
    boxes[:, 2:] = boxes[:, 2:] * torch.tensor([60.0, 30.0, 3.0]) + torch.tensor([4.0, 4.0, -1.5])
    return layer, torch.randn(1, 3, height, width), boxes[None]


@pytest.mark.parametrize("shape", [(6, 5), (1, 4), (1, 1)])
def test_on_anchors_of_three_strides_it_is_a_convolution(shape: tuple[int, int]) -> None:
    layer, features, _ = some(*shape)
    upright = torch.tensor([24.0, 24.0, 0.0]).expand(shape[0] * shape[1], 3)
    boxes = torch.cat([grid_of(*shape, 8), upright], dim=1)[None]
    expected = functional.conv2d(features, layer.weight, padding=1)
    torch.testing.assert_close(layer(features, boxes, 8), expected, atol=1e-4, rtol=1e-4)


def test_samples_lie_on_the_box() -> None:
    layer, _, boxes = some()
    # A plane of slopes, far from the border: bilinear samples are exact.
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    plane = (2 * x + 3 * y + 1).expand(1, 3, 6, 5)
    boxes[0] = torch.tensor([17.0, 20.0, 12.0, 6.0, 0.5])
    found = layer(plane, boxes, 8)[0, :, 2, 3]
    expected = torch.zeros(3)
    for row in range(3):
        for column in range(3):
            along, across = (column - 1) * 12 / 3, (row - 1) * 6 / 3
            px = (17 + along * math.cos(0.5) - across * math.sin(0.5)) / 8
            py = (20 + along * math.sin(0.5) + across * math.cos(0.5)) / 8
            expected += layer.weight[:, :, row, column].sum(dim=1) * (2 * px + 3 * py + 1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_turns_with_the_image() -> None:
    layer, features, boxes = some()
    found = layer(features, boxes, 8)
    # A quarter turn clockwise takes pixel (x, y) to (H - 1 - y, x).
    turned = boxes.unflatten(1, (6, 5)).rot90(-1, (1, 2)).flatten(1, 2)
    x, y, w, h, theta = turned.unbind(-1)
    turned = torch.stack([(6 - 1) * 8 - y, x, w, h, theta + math.pi / 2], dim=-1)
    again = layer(features.rot90(-1, (2, 3)), turned, 8)
    torch.testing.assert_close(again, found.rot90(-1, (2, 3)), atol=1e-4, rtol=1e-4)


def test_alignment_has_gradients() -> None:
    layer, features, boxes = some(3, 4)
    layer.double()
    features = features.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda each, _: layer(each, boxes, 8), (features, layer.weight), atol=1e-4)


def test_filters_in_eight_orientations() -> None:
    torch.manual_seed(0)
    layer = ActiveRotatingConv(3, 4).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    found = layer(x).unflatten(1, (4, 8))
    # The first orientation is the filter itself.
    plain = functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(found[:, :, 0], plain)
    # A turned image is seen by the filter two eighths on; the strongest one does not change.
    again = layer(x.rot90(-1, (2, 3))).unflatten(1, (4, 8))
    torch.testing.assert_close(again, found.rot90(-1, (3, 4)).roll(2, 2))
    torch.testing.assert_close(again.amax(2), found.amax(2).rot90(-1, (2, 3)))
    # An eighth moves the top left cell to the top.
    torch.nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 0, 0] = 1.0
    eighth = functional.pad(x[:, 0], (1, 1, 1, 1))[:, :-2, 1:-1]
    torch.testing.assert_close(layer(x).unflatten(1, (4, 8))[:, 0, 1], eighth + layer.bias[0])


def test_second_head_starts_from_the_boxes_of_the_first() -> None:
    torch.manual_seed(0)
    head = S2AHead(16, 2, (8, 16), 1, RetinaHeadOptions())
    levels = [torch.randn(2, 16, 4, 5), torch.randn(2, 16, 2, 3)]
    references = [
        functional.pad(grid_of(*level.shape[2:], stride), (0, 2), value=4.0 * stride)
        for level, stride in zip(levels, (8, 16), strict=True)
    ]
    references = [functional.pad(each, (0, 1)).expand(2, -1, -1) for each in references]
    with torch.no_grad():
        head.first.correct.bias.copy_(torch.tensor([0.25, -0.5, 0.1, 0.2, 0.3]))
        head.first.correct.weight.zero_()
        head.second.correct.weight.zero_()
        seen: dict[str, list[Tensor]] = {"box": [], "class": []}
        head.second.box_tower.register_forward_pre_hook(lambda _, given: seen["box"].append(given[0]))
        head.second.class_tower.register_forward_pre_hook(lambda _, given: seen["class"].append(given[0]))
        _, boxes, (logits, offsets) = head(levels, references)
    for box, reference, logit, offset in zip(boxes, references, logits, offsets, strict=True):
        side = reference[..., 2]
        torch.testing.assert_close(box[..., 0], reference[..., 0] + 0.25 * side)
        torch.testing.assert_close(box[..., 1], reference[..., 1] - 0.5 * side)
        # Sides keep their names, though the second is the longer one.
        torch.testing.assert_close(box[..., 3], side * math.exp(0.2))
        torch.testing.assert_close(box[..., 4], torch.full_like(side, 0.3))
        assert logit.shape == (*reference.shape[:2], 2) and offset.shape == reference.shape
    # Classes are read from the strongest orientation of each filter, boxes from all of them.
    for every, strongest in zip(seen["box"], seen["class"], strict=True):
        assert every.shape[1] == 16 and torch.equal(strongest, every.unflatten(1, (2, 8)).amax(dim=2))
    with pytest.raises(ValueError, match="channels: expected a multiple of 8, got 12"):
        S2AHead(12, 2, (8, 16), 1, RetinaHeadOptions())
