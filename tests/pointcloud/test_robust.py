"""Estimators against the truth they were given."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.robust import local_to_global_registration, ransac, weighted_procrustes

SIGMA = 0.005


def correspondences(count: int, outliers: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Source, target, true pose, and which are right."""
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    pose[:3, 3] = rng.normal(size=3)
    source = rng.uniform(-2, 2, (count, 3))
    target = source @ pose[:3, :3].T + pose[:3, 3] + rng.normal(scale=SIGMA, size=(count, 3))
    right = np.ones(count, dtype=bool)
    right[: int(outliers * count)] = False
    target[~right] = rng.uniform(-4, 4, ((~right).sum(), 3))
    return source, target, pose, right


def gap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    turn = Rotation.from_matrix(found[:3, :3] @ truth[:3, :3].T).magnitude()
    return float(np.degrees(turn)), float(np.linalg.norm(found[:3, 3] - truth[:3, 3]))


def test_weighted_procrustes_agrees_with_scipy_and_ignores_weightless_rows() -> None:
    source, target, truth, right = correspondences(200, 0.5, 1)
    found = weighted_procrustes(source, target, right.astype(float))
    centred = source[right] - source[right].mean(0), target[right] - target[right].mean(0)
    oracle = Rotation.align_vectors(centred[1], centred[0])[0].as_matrix()
    np.testing.assert_allclose(found[:3, :3], oracle, atol=1e-9)
    assert gap(weighted_procrustes(source, target), truth)[0] > 1.0


@pytest.mark.parametrize("seed", range(3))
def test_ransac_finds_the_pose_among_four_fifths_of_outliers(seed: int) -> None:
    source, target, truth, right = correspondences(300, 0.8, seed)
    found = ransac(source, target, radius=5 * SIGMA, iterations=5000, seed=seed)
    turn, shift = gap(found.T_target_source, truth)
    assert turn < 0.3 and shift < 0.01
    assert (found.inlier[right]).mean() > 0.95 and found.inlier[~right].mean() < 0.02
    assert found.residual < 3 * SIGMA


def test_ransac_repeats_with_its_seed_and_uses_it() -> None:
    source, target, _, _ = correspondences(100, 0.9, 4)
    few = {"radius": 0.1, "iterations": 5, "edge_ratio": 0.0}
    first, again = (ransac(source, target, seed=3, **few).T_target_source for _ in range(2))  # type: ignore[arg-type]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, ransac(source, target, seed=4, **few).T_target_source)  # type: ignore[arg-type]


def test_ransac_without_a_plausible_sample_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(6, 3)), 100 * rng.normal(size=(6, 3))
    found = ransac(source, target, radius=1e-6, iterations=20)
    np.testing.assert_allclose(found.T_target_source, weighted_procrustes(source, target))
    assert not found.inlier.any() and found.residual == float("inf")


def test_ransac_moves_with_the_clouds() -> None:
    source, target, _, _ = correspondences(200, 0.6, 5)
    turn = Rotation.random(random_state=9).as_matrix()
    found = ransac(source, target, radius=0.05, iterations=2000).T_target_source
    moved = ransac(source, target @ turn.T + 3.0, radius=0.05, iterations=2000).T_target_source
    np.testing.assert_allclose(moved[:3, :3], turn @ found[:3, :3], atol=1e-9)


def test_local_to_global_takes_the_group_that_all_support() -> None:
    source, target, truth, right = correspondences(120, 0.7, 6)
    # Groups of 6, outliers first: most groups are wholly wrong, the last ones wholly right.
    found = local_to_global_registration(source, target, np.ones(120), np.arange(120) // 6, radius=0.05)
    turn, shift = gap(found.T_target_source, truth)
    assert turn < 0.5 and shift < 0.02
    assert found.inlier[right].all()


def test_local_to_global_without_a_large_group_falls_back_to_all() -> None:
    source, target, truth, _ = correspondences(40, 0.0, 7)
    found = local_to_global_registration(source, target, np.ones(40), np.arange(40))
    assert gap(found.T_target_source, truth)[0] < 0.5


def test_groups_of_different_size_equal_each_alone() -> None:
    source, target, _, _ = correspondences(9, 0.0, 8)
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    both = local_to_global_registration(source, target, np.ones(9), groups, radius=1e-9, rounds=0)
    alone = [weighted_procrustes(source[groups == k], target[groups == k]) for k in (0, 1)]
    assert min(np.abs(both.T_target_source - each).max() for each in alone) < 1e-9


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"radius": 0.0}, "radius: expected a number above 0"),
        ({"iterations": 0}, "iterations: expected at least 1"),
        ({"edge_ratio": 1.0}, r"edge_ratio: expected a number in \[0, 1\)"),
    ],
)
def test_bad_options_are_named(change: dict[str, float], match: str) -> None:
    points = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(ValueError, match=match):
        ransac(points, points, **({"radius": 0.1} | change))  # type: ignore[arg-type]


def test_bad_correspondences_are_named() -> None:
    points = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(ValueError, match=r"expected the same shape \(M, 3\), got \(5, 3\) and \(4, 3\)"):
        weighted_procrustes(points, points[:4])
    with pytest.raises(ValueError, match="expected at least 3 with weight, got 2"):
        weighted_procrustes(points, points, np.array([1.0, 1, 0, 0, 0]))
    with pytest.raises(ValueError, match="not negative"):
        weighted_procrustes(points, points, -np.ones(5))
    with pytest.raises(ValueError, match=r"weights: expected shape \(5,\), got \(4,\)"):
        weighted_procrustes(points, points, np.ones(4))
    with pytest.raises(ValueError, match="groups: expected integers"):
        local_to_global_registration(points, points, np.ones(5), np.ones(5))
