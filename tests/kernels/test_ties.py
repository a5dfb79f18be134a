"""Ties within a tolerance go to the lower row, so that clouds on a lattice give the same tables in every pose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rotaware.geo import random_rotations
from rotaware.kernels import (
    Neighborhood,
    Pyramid,
    farthest_point_sampling,
    group_points_to_nodes,
    interpolation_weights,
    knn,
)

TOLERANCE = 2e-6
BACKENDS = ("numba", "torch")


@pytest.fixture(scope="module")
def lattice() -> Tensor:
    """A bumpy sheet of points, in metres on 2 cm, in random order."""
    rng = np.random.default_rng(0)
    flat = rng.uniform(-1.5, 1.5, (4000, 2))
    height = 0.3 * np.sin(3 * flat[:, :1]) + 0.2 * (rng.uniform(size=(4000, 1)) < 0.3)
    points = np.unique(np.round(np.concatenate([flat, height], axis=1) / 0.02).astype(int), axis=0) * 0.02
    return torch.from_numpy(rng.permutation(points))


def turned(points: Tensor, seed: int) -> Tensor:
    """The cloud in another pose, moved by up to 3 m along each axis, exact up to the rounding to float32."""
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotations(1, generator=generator, dtype=torch.float64)[0]
    return (points @ rotation.T + 6 * torch.rand(3, generator=generator, dtype=torch.float64) - 3).float()


def tied_order(distance: np.ndarray, tolerance: float) -> np.ndarray:
    """The definition: the nearest and all within the tolerance of it, in the order of the rows; then the next group."""
    order = np.argsort(distance, kind="stable")
    groups, opener = [0], distance[order[0]]
    for row in order[1:]:
        opens = distance[row] > opener + tolerance
        opener = distance[row] if opens else opener
        groups.append(groups[-1] + opens)
    return order[np.lexsort((order, groups))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbors_follow_the_definition(lattice: Tensor, backend: str) -> None:
    points = lattice[:700]
    found = knn(points, 9, tie_tolerance=TOLERANCE, backend=backend)
    distance = (points[:, None] - points[None]).norm(dim=-1).numpy()
    expected = np.stack([tied_order(row, TOLERANCE)[:9] for row in distance])
    assert (found.index.numpy() == expected).all()
    assert torch.equal(Neighborhood.knn(points, 9, tie_tolerance=TOLERANCE, backend=backend).idx, found.index)
    assert np.abs(found.distance.numpy() - np.take_along_axis(distance, expected, 1)).max() < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_run_of_ties_is_searched_to_its_end(backend: str) -> None:
    angle = torch.arange(200) * (2 * np.pi / 200)
    circle = torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=1)
    found = knn(circle.flip(0), 5, queries=torch.zeros(1, 3), tie_tolerance=TOLERANCE, backend=backend)
    assert found.index.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_few_points_leave_empty_places(backend: str) -> None:
    found = knn(torch.eye(3), 5, tie_tolerance=TOLERANCE, lengths=[3, 0], backend=backend)
    assert found.index.tolist() == [[0, 1, 2, -1, -1], [1, 0, 2, -1, -1], [2, 0, 1, -1, -1]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_farthest_points_follow_the_definition(lattice: Tensor, backend: str) -> None:
    points = lattice[:600]
    distance = np.full(len(points), np.inf)
    expected = [0]
    for _ in range(99):
        distance = np.minimum(distance, ((points - points[expected[-1]]) ** 2).sum(1).numpy())
        limit = distance.max() - 2 * np.sqrt(distance.max()) * TOLERANCE
        expected.append(int(np.flatnonzero(distance >= limit)[0]))
    assert farthest_point_sampling(points, 100, tie_tolerance=TOLERANCE, backend=backend).tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_choices_are_the_same_in_every_pose(lattice: Tensor, backend: str) -> None:
    def tables(points: Tensor) -> list[Tensor]:
        rows = farthest_point_sampling(points, len(points) // 16, tie_tolerance=TOLERANCE, backend=backend)
        groups = group_points_to_nodes(points, points[rows], max_points=16, tie_tolerance=TOLERANCE, backend=backend)
        near = knn(points, 12, exclude_self=True, tie_tolerance=TOLERANCE, backend=backend)
        up = interpolation_weights(points, points[rows], tie_tolerance=TOLERANCE, backend=backend)
        return [rows, groups.index, groups.node_of_point, near.index, up.index]

    given = tables(lattice.float())
    for seed in range(3):
        for expected, found in zip(given, tables(turned(lattice, seed)), strict=True):
            assert torch.equal(expected, found)


def test_the_lattice_has_ties_that_rounding_breaks(lattice: Tensor) -> None:
    given = knn(lattice.float(), 12).index
    assert not torch.equal(given, knn(turned(lattice, 0), 12).index)


@pytest.mark.parametrize("drop_first", [False, True])
def test_a_pyramid_is_the_same_in_every_pose(lattice: Tensor, drop_first: bool) -> None:
    def build(points: Tensor) -> Pyramid:
        return Pyramid.build(
            points, strides=(1, 4, 4), ks=(8, 8, 8), order=False, drop_first=drop_first, tie_tolerance=TOLERANCE
        )

    given, moved = build(lattice.float()), build(turned(lattice, 5))
    for level, other in zip(given.levels, moved.levels, strict=True):
        assert torch.equal(level.neighborhood.idx, other.neighborhood.idx)
        assert torch.equal(level.down.idx, other.down.idx)
        if level.rows is not None:
            assert torch.equal(level.rows, other.rows)
            assert torch.equal(level.up.idx, other.up.idx)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_length_is_named(tolerance: float) -> None:
    for call in (
        lambda: knn(torch.rand(5, 3), 2, tie_tolerance=tolerance),
        lambda: farthest_point_sampling(torch.rand(5, 3), 2, tie_tolerance=tolerance),
        lambda: group_points_to_nodes(torch.rand(5, 3), torch.rand(2, 3), tie_tolerance=tolerance),
    ):
        with pytest.raises(ValueError, match="tie_tolerance: expected a length"):
            call()
