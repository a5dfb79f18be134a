"""The canonical frame: what turns with the cloud, what does not depend on unit, origin, pose, density or row order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotaware.geo import make_transform, sample_rotations
from rotaware.pointcloud import InputError
from rotaware.pointcloud.canonical import (
    apply,
    automatic_voxel,
    canonical_frame,
    clean,
    invert,
    voxel_centroids,
)


def lopsided(seed: int, count: int = 800) -> np.ndarray:
    """Three different widths and a heavy side along each: a cloud with one canonical frame."""
    return np.random.default_rng(seed).gamma(1.5, size=(count, 3)) * [5.0, 3.0, 1.0]


def surface(count: int, seed: int = 0) -> np.ndarray:
    """Uniform samples of a bowl and the floor beside it."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[:, 2] = -np.abs(directions[:, 2])
    floor = np.stack([rng.uniform(1, 4, count), rng.uniform(-2, 1, count), np.zeros(count)], axis=1)
    return np.where((rng.random(count) < 0.5)[:, None], directions, floor)


def motion(kind: str, seed: int, shift: float) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    translation = shift * torch.randn(3, dtype=torch.float64, generator=generator)
    return make_transform(sample_rotations(kind, generator=generator), translation).numpy()


@pytest.mark.parametrize("kind", ["uniform", "near_identity", "near_pi"])
@pytest.mark.parametrize("shift", [0.0, 1e5])
def test_frame_turns_with_the_cloud(kind: str, shift: float) -> None:
    for seed in range(5):
        points, moved = lopsided(seed), motion(kind, seed, shift)
        frame = canonical_frame(apply(moved, points))
        np.testing.assert_allclose(
            apply(frame, apply(moved, points)), apply(canonical_frame(points), points), atol=1e-9 + 1e-13 * shift
        )


def test_frame_is_a_rigid_motion_to_principal_axes() -> None:
    for seed in range(5):
        points = lopsided(seed) + 1e4
        frame = canonical_frame(points)
        np.testing.assert_allclose(frame[:3, :3] @ frame[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(frame[:3, :3]) == pytest.approx(1.0)
        inside = apply(frame, points)
        np.testing.assert_allclose(inside.mean(axis=0), 0.0, atol=1e-9)
        covariance = np.cov(inside.T)
        np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-8)
        assert (np.diff(np.diag(covariance)) < 0).all()
        # The third axis has no choice left once the frame must be right-handed.
        assert ((inside**3).sum(axis=0)[:2] > 0).all()


def test_frame_of_scaled_cloud_keeps_its_axes() -> None:
    points = lopsided(3)
    frame, scaled = canonical_frame(points), canonical_frame(1000.0 * points)
    np.testing.assert_allclose(scaled[:3, :3], frame[:3, :3], atol=1e-12)
    np.testing.assert_allclose(scaled[:3, 3], 1000.0 * frame[:3, 3], atol=1e-8)


def test_frame_and_centroids_do_not_depend_on_row_order() -> None:
    points = lopsided(1)
    shuffled = np.random.default_rng(0).permutation(points)
    np.testing.assert_allclose(canonical_frame(shuffled), canonical_frame(points), atol=1e-10)
    np.testing.assert_allclose(voxel_centroids(shuffled, 0.7), voxel_centroids(points, 0.7), atol=1e-12)


def test_centroids_are_the_means_of_the_cells() -> None:
    points = lopsided(2, 300)
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points:
        cells.setdefault(tuple(np.floor(point / 0.9).astype(int)), []).append(point)
    means = np.array([np.mean(cell, axis=0) for cell in cells.values()])
    got = voxel_centroids(points, 0.9)
    assert got.shape == means.shape
    np.testing.assert_allclose(got[np.lexsort(got.T)], means[np.lexsort(means.T)], atol=1e-12)


def test_apply_and_invert_are_matrix_products() -> None:
    T = motion("uniform", 4, 10.0)
    T[:3, :3] *= 2.5
    points = lopsided(0, 20)
    homogeneous = np.concatenate([points, np.ones((20, 1))], axis=1)
    np.testing.assert_allclose(apply(T, points), (homogeneous @ T.T)[:, :3], atol=1e-12)
    np.testing.assert_allclose(invert(T) @ T, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(invert(T)[3], [0, 0, 0, 1])


def test_automatic_voxel_scales_with_the_unit() -> None:
    points = surface(20_000)
    size = automatic_voxel([points])
    assert automatic_voxel([1024.0 * points]) == 1024.0 * size
    for factor in (1000.0, 0.0254, 0.0173):
        assert automatic_voxel([factor * points]) == pytest.approx(factor * size, rel=1e-9)


def test_automatic_voxel_does_not_depend_on_density() -> None:
    size = automatic_voxel([surface(60_000)])
    assert automatic_voxel([surface(600_000, seed=1)]) == pytest.approx(size, rel=0.05)


def test_automatic_voxel_leaves_the_cells_it_was_asked_for() -> None:
    points = surface(40_000)
    for occupied in (500, 2000):
        size = automatic_voxel([points], occupied)
        assert len(voxel_centroids(points, size)) == pytest.approx(occupied, rel=0.03)
    assert automatic_voxel([points], 2000) < automatic_voxel([points], 500)


def test_automatic_voxel_is_that_of_the_larger_cloud() -> None:
    room, cup = surface(20_000), 0.1 * surface(20_000)
    assert automatic_voxel([room, cup]) == automatic_voxel([cup, room]) == automatic_voxel([room])


def test_automatic_voxel_leaves_several_points_per_cell_of_a_sparse_cloud() -> None:
    points = surface(300)
    assert len(voxel_centroids(points, automatic_voxel([points]))) <= 150


def test_clean_keeps_the_map_to_the_original_rows() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 3))
    points[10] = points[3]
    points[20] = points[3]
    points[30, 1] = np.nan
    points[40, 2] = -np.inf
    given = points.copy()
    cloud = clean(points, "source")
    np.testing.assert_array_equal(points, given)
    assert cloud.dropped_nonfinite == 2
    assert cloud.dropped_duplicates == 2
    np.testing.assert_array_equal(cloud.points, points[cloud.rows])
    # In file order, and the first of equal rows stays.
    np.testing.assert_array_equal(cloud.rows, np.setdiff1d(np.arange(200), [10, 20, 30, 40]))


def test_clean_takes_both_zeros_for_the_same_place() -> None:
    points = np.array([[0.0, 0, 0], [-0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert clean(points, "source").dropped_duplicates == 1


def test_clean_accepts_a_triangle() -> None:
    assert len(clean(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), "source").points) == 3


LINE = np.linspace(0, 1, 50)[:, None] * [1.0, 2.0, -0.5]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 3)), "scan is empty: expected at least 3 points, got 0"),
        (np.full((4, 3), np.nan), "scan: all 4 points are NaN or infinite"),
        (np.full((4, 3), np.inf), "scan: all 4 points are NaN or infinite"),
        (np.where(np.arange(10)[:, None] < 6, np.nan, lopsided(0, 10)), "scan: 6 of 10 points are NaN.*first rows"),
        (np.eye(3)[:2], "scan has 2 usable points; 3 are needed"),
        (np.concatenate([np.eye(3)[:2], [[np.nan] * 3]]), "scan has 2 usable points; 3 are needed"),
        (np.ones((5, 3)), r"scan: all 5 points are at 1 place"),
        (np.eye(3)[[0, 1, 1, 0, 0]], r"scan: all 5 points are at 2 place"),
        (LINE, "scan: all points lie on one line"),
        (np.array([5e5, 5.4e6, 0.0]) + LINE, "scan: all points lie on one line"),
        (1e-9 * LINE, "scan: all points lie on one line"),
    ],
)
def test_clean_refuses_clouds_without_a_pose(points: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clean(points, "scan")


def test_clean_accepts_half_of_the_rows_missing() -> None:
    points = np.where(np.arange(10)[:, None] < 5, np.nan, lopsided(0, 10))
    assert clean(points, "source").dropped_nonfinite == 5
