"""Coders: the vectors of the specification, and decoding undoes encoding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rotaware.detection.box_coders import HorizontalCoder, HullCoder, MidpointCoder, RotatedCoder
from rotaware.geo.box_iou import box_iou_rotated
from rotaware.geo.boxes import boxes_to_hulls, normalize_boxes

ONES = (1.0,) * 6


def boxes(count: int, seed: int, least: float = 4.0) -> Tensor:
    draw = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = torch.cat([100 * draw[:, :2], least + 60 * draw[:, 2:4], 7 * draw[:, 4:] - 3.5], dim=1)
    # Upright ones and squares among them.
    found[::7, 4] = (found[::7, 4] / (math.pi / 2)).round() * math.pi / 2
    found[::5, 3] = found[::5, 2]
    return normalize_boxes(found)


def hulls(count: int, seed: int) -> Tensor:
    return boxes_to_hulls(boxes(count, seed))


@pytest.mark.parametrize(
    ("coder", "references"),
    [
        (RotatedCoder(), boxes(400, 1)),
        (RotatedCoder((0.1, 0.1, 0.2, 0.2, 0.1)), boxes(400, 1)),
        (HorizontalCoder(), hulls(400, 2)),
        (MidpointCoder(), hulls(400, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoding_undoes_encoding(coder: RotatedCoder, references: Tensor, dtype: torch.dtype) -> None:
    target, references = boxes(400, 9).to(dtype), references.to(dtype)
    offsets = coder.encode(references, target)
    assert offsets.shape == (400, coder.size) and offsets.isfinite().all()
    again = coder.decode(references, offsets)
    # Near the border between two names corners lie on the hull "within rounding", and a little is lost.
    assert box_iou_rotated(again, target, aligned=True).min() > (0.99 if isinstance(coder, MidpointCoder) else 0.9999)
    assert (again[:, 2] >= again[:, 3]).all()


def test_hull_coder_gives_the_hull() -> None:
    coder, references, target = HullCoder(), hulls(50, 3), boxes(50, 4)
    again = coder.decode(references, coder.encode(references, target))
    torch.testing.assert_close(boxes_to_hulls(again), boxes_to_hulls(target))
    wide = coder.decode_hulls(references, coder.encode(references, target))
    assert (wide[:, 4] == 0).all()
    torch.testing.assert_close(boxes_to_hulls(wide), boxes_to_hulls(target))


def test_turn_is_never_more_than_an_eighth() -> None:
    references, target = boxes(500, 5), boxes(500, 6)
    turn = RotatedCoder().encode(references, target)[:, 4]
    assert turn.abs().max() <= math.pi / 4 + 1e-12
    # It does not matter by which of its names a box is called.
    swapped = target[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2])
    generic = (turn.abs() - math.pi / 4).abs() > 1e-6
    found = RotatedCoder().encode(references, swapped)[generic]
    torch.testing.assert_close(found, RotatedCoder().encode(references, target)[generic])


def test_midpoint_encodings_of_the_specification() -> None:
    references = torch.tensor([[0, 0, 1, 1], [5, 5, 10, 10]], dtype=torch.float64)
    target = torch.tensor([[0, 0, 1, 1, 0], [5, 5, 5, 5, 0.3]], dtype=torch.float64)
    expected = [[-0.5, -0.5, 0, 0, 0.5, 0.5], [-0.5, -0.5, 0.2238, 0.2238, -0.2637, -0.2637]]
    np.testing.assert_allclose(MidpointCoder(ONES).encode(references, target), expected, atol=6e-5)


def test_midpoint_decodings_of_the_specification() -> None:
    references = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 5, 5], [5, 5, 10, 10]], dtype=torch.float64)
    offsets = torch.tensor(
        [[0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0], [0, 0, 2, -1, 1, 1], [0.7, -1.9, -0.5, 0.3, 1, 0]],
        dtype=torch.float64,
    )
    expected = torch.tensor(
        [(0.5, 0.5, 1.3066, 0.5412, 1.1781), (3, 3, 3.8442, 3.8442, 0.7854), (2.5, 2.5, 36.9453, 1.8394, 0),
         (11, -2, 6.2125, 4.0194, -0.5743)], dtype=torch.float64,
    )  # fmt: skip
    found = MidpointCoder(ONES).decode(references, offsets)
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=6e-5)
    assert box_iou_rotated(found, expected, aligned=True).min() > 0.9995


def test_rotated_decoding_of_the_specification() -> None:
    # Without projection: the reference's own turn only adds up.
    offsets = torch.tensor([[0.7, -1.9, -0.5, 0.3, 1.0]], dtype=torch.float64)
    upright = torch.tensor([[5, 5, 5, 5, 0]], dtype=torch.float64)
    found = RotatedCoder().decode(upright, offsets)
    expected = torch.tensor([[8.5, -4.5, 3.0327, 6.7493, 1.0]], dtype=torch.float64)
    assert box_iou_rotated(found, expected, aligned=True).item() > 0.9999


@pytest.mark.parametrize("coder", [RotatedCoder(), HorizontalCoder(), MidpointCoder(), HullCoder()])
def test_nothing_is_infinite(coder: RotatedCoder) -> None:
    odd = torch.tensor([(5, 5, 0, 0, 0.3), (5, 5, 1e-9, 4, 0), (5, 5, 1e7, 1e-7, 1), (-1e6, 1e6, 3, 2, -1)])
    references = odd if coder.size == 5 and isinstance(coder, RotatedCoder) else boxes_to_hulls(odd)
    assert coder.encode(references, odd.flip(0)).isfinite().all()
    extreme = torch.full((4, coder.size), 1e4) * torch.tensor([[1], [-1], [0], [1]])
    extreme.requires_grad_()
    decoded = coder.decode(references, extreme)
    assert decoded.isfinite().all()
    decoded.sum().backward()
    assert extreme.grad is not None and extreme.grad.isfinite().all()


def test_decoding_has_gradients() -> None:
    offsets = 0.1 * torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for coder, references in (
        (RotatedCoder(), boxes(20, 1)),
        (HorizontalCoder(), hulls(20, 2)),
        (MidpointCoder(), hulls(20, 3)),
    ):
        leaf = offsets[:, : coder.size].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda each, c=coder, r=references: c.decode(r, each)[:, :4], leaf)
