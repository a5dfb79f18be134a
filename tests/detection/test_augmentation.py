"""Augmentation moves objects as it moves pixels: what is drawn under a quad is there afterwards."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rotaware.detection.augmentation import FILL, Augmentation, Sample, crop_map, cropped


def drawn(height: int = 40, width: int = 60) -> Sample:
    """Bright rectangles on dark ground, and their quads, clockwise."""
    image = torch.full((3, height, width), 20, dtype=torch.uint8)
    quads = []
    for left, top, right, bottom in ((5, 4, 17, 9), (30, 20, 36, 38), (44, 6, 56, 16)):
        image[:, top:bottom, left:right] = 220
        quads.append([[left, top], [right, top], [right, bottom], [left, bottom]])
    return Sample(image, torch.tensor(quads, dtype=torch.float64), torch.tensor([0, 1, 2]), "drawn")


def under(image: Tensor, quad: Tensor) -> Tensor:
    """Mean value of the pixels whose centres are in a convex quad, and just outside it."""
    y, x = torch.meshgrid(torch.arange(image.shape[1]) + 0.5, torch.arange(image.shape[2]) + 0.5, indexing="ij")
    points = torch.stack([x, y], dim=-1).double()
    edges = quad.roll(-1, dims=0) - quad
    normals = torch.stack([-edges[:, 1], edges[:, 0]], dim=-1) / edges.norm(dim=1, keepdim=True)
    depth = ((points[..., None, :] - quad) * normals).sum(-1).amin(-1)
    values = image.float().mean(0)
    return torch.stack([values[depth > 1.2].mean(), values[(depth < -1.5) & (depth > -3)].mean()])


def signed_area(quads: Tensor) -> Tensor:
    x, y = quads.unbind(-1)
    return (x * y.roll(-1, dims=1) - x.roll(-1, dims=1) * y).sum(1) / 2


@pytest.mark.parametrize("mirrored", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("quarter", range(4))
def test_flips_and_quarter_turns_move_whole_pixels(mirrored: tuple[bool, bool], quarter: int) -> None:
    sample = drawn(48, 48)
    expected = sample.image
    for axis, flip in ((2, mirrored[0]), (1, mirrored[1])):
        expected = expected.flip(axis) if flip else expected
    # Clockwise on the screen.
    expected = torch.rot90(expected, -quarter, (1, 2))
    found = cropped(sample, crop_map((48, 48), 48, mirrored=mirrored, turn=quarter * math.pi / 2), 48)
    assert torch.equal(found.image, expected)
    assert (signed_area(found.quads) > 0).all()
    for quad in found.quads:
        inside, outside = under(found.image, quad).tolist()
        assert inside == 220 and outside < 100


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.9, -2.5])
@pytest.mark.parametrize("scale", [0.75, 1.0, 1.7])
def test_objects_go_where_their_pixels_go(turn: float, scale: float) -> None:
    sample = drawn(80, 80)
    for mirrored in ((False, False), (True, False)):
        found = cropped(sample, crop_map((80, 80), 160, mirrored=mirrored, turn=turn, scale=scale), 160, least_side=0)
        assert len(found.quads) == 3
        assert (signed_area(found.quads) > 0).all()
        torch.testing.assert_close(signed_area(found.quads), scale**2 * signed_area(sample.quads))
        for quad in found.quads:
            inside, outside = under(found.image, quad).tolist()
            assert inside > 200 and outside < 130


def test_crop_and_padding() -> None:
    sample = drawn()
    first = cropped(sample, crop_map((40, 60), 32, place=(0.0, 0.0)), 32)
    assert torch.equal(first.image, sample.image[:, :32, :32]) and first.labels.tolist() == [0]
    last = cropped(sample, crop_map((40, 60), 32, place=(1.0, 1.0)), 32)
    assert torch.equal(last.image, sample.image[:, 8:, 28:])
    # The third object loses 2 of its 10 rows.
    assert last.labels.tolist() == [1, 2]
    assert cropped(sample, crop_map((40, 60), 32, place=(1.0, 1.0)), 32, keep=0.9).labels.tolist() == [1]
    padded = cropped(sample, crop_map((40, 60), 100, place=(0.0, 0.0)), 100)
    assert torch.equal(padded.image[:, :40, :60], sample.image)
    assert (padded.image[:, 40:] == torch.tensor(FILL)[:, None, None]).all()
    torch.testing.assert_close(padded.quads, sample.quads)


def test_narrow_objects_are_dropped() -> None:
    sample = drawn()
    assert cropped(sample, crop_map((40, 60), 64), 64, least_side=5.5).labels.tolist() == [1, 2]
    assert len(cropped(sample, crop_map((40, 60), 64, scale=0.1), 64).labels) == 0


def test_draws_depend_on_the_generator_alone() -> None:
    options = Augmentation(50, turn=0.5, scale=(0.5, 1.5))
    results = [options(drawn(), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(results[0].image, results[1].image) and torch.equal(results[0].quads, results[1].quads)
    assert not torch.equal(results[0].image, results[2].image)
    assert all(result.image.shape == (3, 50, 50) for result in results)


def test_images_with_round_objects_turn_by_right_angles() -> None:
    options = Augmentation(60, turn=1.0, right_only=(1,))
    colors = set()
    for seed in range(12):
        found = options(drawn(60, 60), torch.Generator().manual_seed(seed))
        colors |= set(found.image.unique().tolist())
    assert colors == {20, 220}
    blurred = Augmentation(60, turn=1.0)(drawn(60, 60), torch.Generator().manual_seed(0))
    assert len(blurred.image.unique()) > 5


def test_no_objects_and_bad_options() -> None:
    empty = Sample(drawn().image, torch.zeros(0, 4, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))
    assert Augmentation(32, turn=1.0)(empty, torch.Generator().manual_seed(1)).quads.shape == (0, 4, 2)
    with pytest.raises(ValueError, match="angles"):
        Augmentation(32, angles="some")
    with pytest.raises(ValueError, match="scale"):
        Augmentation(32, scale=(2.0, 1.0))
    with pytest.raises(ValueError, match="size"):
        Augmentation(0)
