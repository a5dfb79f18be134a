"""Refinement: back to the truth from a start that is a little off, and no harm from one that is lost."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.canonical import apply, canonical_frame, invert
from rotaware.pointcloud.estimators import pose_difference
from rotaware.pointcloud.refine import Refinement, Refiner
from rotaware.pointcloud.view import View, view_of

KINDS: tuple[Refinement, ...] = ("gicp", "point", "plane")


def corner(seed: int, count: int = 12_000) -> np.ndarray:
    """Samples of a room's corner with a box in it, in voxels."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0, 1, (2, count // 4))
    zero = np.zeros(count // 4)
    floor = np.stack([40 * u, 30 * v, zero], axis=1)
    left = np.stack([zero, 30 * u, 20 * v], axis=1)
    right = np.stack([40 * u, zero, 20 * v], axis=1)
    box = np.stack([15 + 10 * u, 12 + 6 * v, zero + 8], axis=1)
    return np.concatenate([floor, left, right, box])


def seen_corner(seed: int, motion: np.ndarray) -> tuple[View, np.ndarray]:
    """The corner, moved, as the pipeline sees it, and its canonical frame."""
    points = apply(motion, corner(seed))
    frame = canonical_frame(points)
    sensor = apply(frame @ motion, np.array([[30.0, 25.0, 18.0]]))[0]
    return view_of(apply(frame, points), 1.0, sensor), frame


def turn_about(centre: np.ndarray, seed: int, degrees: float, shift: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    axis, direction = (each / np.linalg.norm(each) for each in rng.normal(size=(2, 3)))
    out = np.eye(4)
    out[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    out[:3, 3] = centre - out[:3, :3] @ centre + shift * direction
    return out


@pytest.fixture(scope="module")
def views() -> tuple[View, View, np.ndarray]:
    """Two samplings of one corner in different places, and the pose between their canonical frames."""
    moved = turn_about(np.zeros(3), 5, 120.0, 60.0)
    source, source_frame = seen_corner(0, moved)
    target, target_frame = seen_corner(1, np.eye(4))
    return source, target, target_frame @ invert(moved) @ invert(source_frame)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_disturbed_start_returns_to_the_truth(
    views: tuple[View, View, np.ndarray], kind: Refinement, seed: int
) -> None:
    source, target, truth = views
    start = truth @ turn_about(source.centre, seed, 5.0, 2.0)
    angle, shift = pose_difference(Refiner(source, target, kind)(start), truth, source.centre)
    assert np.degrees(angle) < 0.3
    assert shift < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_truth_stays_where_it_is(views: tuple[View, View, np.ndarray], kind: Refinement) -> None:
    source, target, truth = views
    angle, shift = pose_difference(Refiner(source, target, kind)(truth), truth, source.centre)
    assert np.degrees(angle) < 0.3
    assert shift < 0.2


def test_refined_pose_is_rigid_and_the_start_unchanged(views: tuple[View, View, np.ndarray]) -> None:
    source, target, truth = views
    start = truth @ turn_about(source.centre, 1, 4.0, 1.0)
    before = start.copy()
    pose = Refiner(source, target, "gicp")(start)
    np.testing.assert_array_equal(start, before)
    assert pose.dtype == np.float64
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
    np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])


def test_none_is_the_identity(views: tuple[View, View, np.ndarray]) -> None:
    source, target, truth = views
    assert Refiner(source, target, "none")(truth) is truth


@pytest.mark.parametrize("kind", KINDS)
def test_refinement_is_deterministic_and_does_not_remember(
    views: tuple[View, View, np.ndarray], kind: Refinement
) -> None:
    source, target, truth = views
    starts = [truth @ turn_about(source.centre, seed, 5.0, 2.0) for seed in range(2)]
    refiner = Refiner(source, target, kind)
    first, _, again = refiner(starts[0]), refiner(starts[1]), refiner(starts[0])
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(Refiner(source, target, kind)(starts[0]), first)


@pytest.mark.parametrize("kind", KINDS)
def test_start_without_overlap_is_given_back(views: tuple[View, View, np.ndarray], kind: Refinement) -> None:
    source, target, truth = views
    lost = truth.copy()
    lost[:3, 3] += 500.0
    np.testing.assert_array_equal(Refiner(source, target, kind)(lost), lost)
