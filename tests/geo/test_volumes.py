"""Turning volumes and images: laws of the group, exact moves, and known functions turned by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rotaware.geo import random_rotations
from rotaware.geo.volumes import (
    Method,
    ball_mask,
    cube_rotation_products,
    cube_rotations,
    equivariance_error,
    is_cube_rotation,
    rotate_image,
    rotate_volume,
)

GROUP = cube_rotations()


def blobs(places: Tensor, size: int = 32, width: float = 1.5) -> Tensor:
    """A sum of Gaussians at places (N, 3), measured from the middle."""
    along = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    grid = torch.stack(torch.meshgrid(along, along, along, indexing="ij"), dim=-1)
    return sum((torch.exp(-((grid - place) ** 2).sum(dim=-1) / (2 * width**2)) for place in places), torch.zeros(()))


PLACES = torch.tensor([[4.0, -3, 5], [-6, 2, 1], [0, 7, -3]], dtype=torch.float64)


def test_the_group_has_24_different_members_and_is_closed() -> None:
    assert GROUP.shape == (24, 3, 3) and len(torch.unique(GROUP.flatten(1), dim=0)) == 24
    torch.testing.assert_close(torch.linalg.det(GROUP), torch.ones(24, dtype=torch.float64))
    table = cube_rotation_products()
    for row in (table, table.T):
        assert all(sorted(each.tolist()) == list(range(24)) for each in row)


@pytest.mark.parametrize("number", range(24))
def test_exact_moves_whole_voxels_and_all_methods_agree(number: int) -> None:
    volume = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = rotate_volume(volume, GROUP[number])
    assert torch.equal(moved.flatten(2).sort(dim=2).values, volume.flatten(2).sort(dim=2).values)
    place = torch.tensor([2.5, -1.5, 0.5], dtype=torch.float64)
    d, h, w = (GROUP[number] @ place + 3.5).long().tolist()
    assert torch.equal(moved[..., d, h, w], volume[..., 6, 2, 4])
    assert torch.equal(rotate_volume(moved, GROUP[number].T), volume)
    for method in ("trilinear", "nearest", "shear"):
        found = rotate_volume(volume.double(), GROUP[number], method)  # type: ignore[arg-type]
        torch.testing.assert_close(found, moved.double(), atol=1e-9, rtol=0)


def test_products_bit_by_bit() -> None:
    volume = torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(0))
    table = cube_rotation_products()
    for i in range(24):
        for j in range(0, 24, 5):
            twice = rotate_volume(rotate_volume(volume, GROUP[j]), GROUP[i])
            assert torch.equal(twice, rotate_volume(volume, GROUP[table[i, j]]))


@pytest.mark.parametrize(("method", "bound"), [("trilinear", 0.09), ("nearest", 0.3), ("shear", 1e-4)])
def test_known_functions_turn_as_they_should(method: Method, bound: float) -> None:
    for rotation in random_rotations(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        found, wanted = rotate_volume(blobs(PLACES), rotation, method), blobs(PLACES @ rotation.T)
        assert float((found - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("middle", [0.0, 1e-12, math.pi])
def test_shears_where_two_axes_are_one(middle: float) -> None:
    half = torch.tensor(
        [[1.0, 0, 0], [0, math.cos(middle), math.sin(middle)], [0, -math.sin(middle), math.cos(middle)]]
    )
    turn = torch.tensor([[math.cos(0.7), 0, math.sin(0.7)], [0, 1, 0], [-math.sin(0.7), 0, math.cos(0.7)]])
    rotation = (turn @ half).double()
    found, wanted = rotate_volume(blobs(PLACES), rotation, "shear"), blobs(PLACES @ rotation.T)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4


def test_a_batch_has_a_rotation_each() -> None:
    volumes = torch.randn(3, 2, 6, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotations = random_rotations(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for method in ("trilinear", "shear"):
        found = rotate_volume(volumes, rotations, method)  # type: ignore[arg-type]
        for each, volume, rotation in zip(found, volumes, rotations, strict=True):
            torch.testing.assert_close(each, rotate_volume(volume, rotation, method))  # type: ignore[arg-type]
    single = rotate_volume(volumes[:, 0], rotations, "trilinear")
    torch.testing.assert_close(single, rotate_volume(volumes, rotations, "trilinear")[:, 0])


def test_unequal_sides_turn_in_voxels() -> None:
    volume = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    about_d = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
    wanted = torch.stack([rotate_volume(each.expand(6, 6, 6), about_d)[0] for each in volume])
    torch.testing.assert_close(rotate_volume(volume, about_d), wanted)


@pytest.mark.parametrize("method", ["auto", "trilinear", "shear"])
def test_gradients(method: Method) -> None:
    volume = torch.randn(4, 4, 4, dtype=torch.float64, requires_grad=True)
    for rotation in (GROUP[5], random_rotations(1, dtype=torch.float64)[0]):
        assert torch.autograd.gradcheck(lambda v, r=rotation: rotate_volume(v, r, method), (volume,))


def test_turned_images_are_turned_clockwise() -> None:
    image = torch.zeros(9, 9)
    image[1, 4] = 1.0  # at the top
    assert rotate_image(image, math.pi / 2)[4, 7] == 1 and rotate_image(image, math.pi)[7, 4] == 1
    eighth = rotate_image(image, math.pi / 4)
    assert eighth[2, 6] == eighth.max() > 0.5
    tall = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rotate_image(tall, math.pi), tall.flip(1, 2))
    wide = torch.zeros(5, 9)
    wide[2, 6] = 1.0
    assert float(rotate_image(wide, math.pi / 2)[4, 4]) == pytest.approx(1.0, abs=1e-5)


def test_errors_of_equivariance() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 5, 8, 16, 16, 16, generator=generator)
    mask = ball_mask(16)
    assert float(equivariance_error(one, one, mask).max()) == 0
    torch.testing.assert_close(equivariance_error(one, other, mask), torch.full((5,), 2**0.5), rtol=0.02, atol=0)
    outside = one + torch.where(mask, 0.0, 1.0)
    assert float(equivariance_error(outside, one, mask).max()) == 0


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"volume: expected floats of shape \(\.\.\., D, H, W\)"):
        rotate_volume(torch.zeros(3, 3), torch.eye(3))
    with pytest.raises(ValueError, match="expected a cubic volume and one of the 24"):
        rotate_volume(torch.zeros(3, 3, 4), torch.eye(3), "exact")
    with pytest.raises(ValueError, match="expected a batch of 2"):
        rotate_volume(torch.zeros(3, 4, 4, 4), torch.eye(3).expand(2, 3, 3))
    with pytest.raises(ValueError, match="method"):
        rotate_volume(torch.zeros(3, 3, 3), torch.eye(3), "cubic")  # type: ignore[arg-type]
    assert not is_cube_rotation(random_rotations(1)[0]) and is_cube_rotation(GROUP[7] + 1e-7)
    assert not is_cube_rotation(torch.diag(torch.tensor([1.0, 1, -1])))
