"""Estimators: the pose is found among wrong correspondences, whatever their order, and nothing breaks on a few."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.canonical import apply
from rotaware.pointcloud.estimators import (
    PLACE,
    Matches,
    distinct,
    hypotheses,
    inliers,
    places,
    pose_difference,
    pose_from_pairs,
    support,
)


def random_pose(seed: int, shift: float = 20.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(rng=rng).as_matrix()
    T[:3, 3] = shift * rng.normal(size=3)
    return T


def directions(rng: np.random.Generator, count: int) -> np.ndarray:
    normals = rng.normal(size=(count, 3))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def noisy_matches(seed: int, pose: np.ndarray, *, count: int = 500, share: float = 0.1, noise: float = 0.3) -> Matches:
    """Matches in voxels, of which the first `share` agree with `pose`, the others are random."""
    rng = np.random.default_rng(seed)
    good = round(share * count)
    source, target = rng.uniform(-40, 40, (2, count, 3))
    source_normals, target_normals = directions(rng, count), directions(rng, count)
    target[:good] = apply(pose, source[:good]) + noise * rng.normal(size=(good, 3))
    tilted = source_normals[:good] @ pose[:3, :3].T + 0.1 * rng.normal(size=(good, 3))
    target_normals[:good] = tilted / np.linalg.norm(tilted, axis=1, keepdims=True)
    return Matches(source, target, source_normals, target_normals, rng.uniform(0.5, 1, count))


def reordered(matches: Matches, order: np.ndarray) -> Matches:
    return Matches(
        matches.source[order],
        matches.target[order],
        matches.source_normals[order],
        matches.target_normals[order],
        matches.weights[order],
    )


def assert_same_pose(got: np.ndarray, expected: np.ndarray, *, degrees: float, shift: float) -> None:
    angle, moved = pose_difference(got, expected, np.zeros(3))
    assert np.degrees(angle) < degrees
    assert moved < shift


@pytest.mark.parametrize("seed", range(5))
def test_pose_is_found_from_one_match_in_ten(seed: int) -> None:
    truth = random_pose(seed)
    matches = noisy_matches(seed, truth)
    poses, scores = hypotheses(matches, 5)
    assert_same_pose(poses[0], truth, degrees=1.0, shift=0.5)
    assert len(poses) == len(scores) <= 5
    # By far the best, since nothing else is hidden in the noise.
    assert (scores[1:] < 0.5 * scores[0]).all()
    good = inliers(matches, poses[0])
    assert good[:50].mean() > 0.9
    assert good[50:].mean() < 0.02


def test_two_hidden_poses_are_both_found() -> None:
    first, second = random_pose(1), random_pose(2)
    one, two = noisy_matches(1, first, count=400, share=0.15), noisy_matches(2, second, count=100, share=0.3)
    both = Matches(*(np.concatenate([getattr(one, name), getattr(two, name)]) for name in one.__dataclass_fields__))
    poses, scores = hypotheses(both, 5)
    assert_same_pose(poses[0], first, degrees=1.0, shift=0.5)
    assert_same_pose(poses[1], second, degrees=1.0, shift=0.5)
    assert scores[0] > scores[1]


def test_hypotheses_do_not_depend_on_the_frames_of_the_clouds() -> None:
    matches, moved_source, moved_target = noisy_matches(3, random_pose(3)), random_pose(4), random_pose(5)
    moved = Matches(
        apply(moved_source, matches.source),
        apply(moved_target, matches.target),
        matches.source_normals @ moved_source[:3, :3].T,
        matches.target_normals @ moved_target[:3, :3].T,
        matches.weights,
    )
    pose, score = (each[0] for each in hypotheses(matches, 3))
    moved_pose, moved_score = (each[0] for each in hypotheses(moved, 3))
    np.testing.assert_allclose(moved_pose, moved_target @ pose @ np.linalg.inv(moved_source), atol=1e-8)
    assert moved_score == pytest.approx(score)


def test_hypotheses_do_not_depend_on_the_order_of_the_matches() -> None:
    matches = noisy_matches(6, random_pose(6))
    shuffled = reordered(matches, np.random.default_rng(0).permutation(len(matches)))
    np.testing.assert_allclose(hypotheses(shuffled, 3)[0][0], hypotheses(matches, 3)[0][0], atol=1e-9)


def test_hypotheses_are_deterministic_and_leave_their_input_alone() -> None:
    matches = noisy_matches(7, random_pose(7))
    before = {name: getattr(matches, name).copy() for name in matches.__dataclass_fields__}
    first, second = hypotheses(matches, 5), hypotheses(matches, 5)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(matches, name), values)


def test_hypotheses_are_rigid_distinct_and_sorted() -> None:
    matches = noisy_matches(8, random_pose(8))
    poses, scores = hypotheses(matches, 8)
    assert (np.diff(scores) <= 0).all()
    for pose, score in zip(poses, scores, strict=True):
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(pose) == pytest.approx(1.0)
        np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])
        assert support(matches, pose) == pytest.approx(score)
    assert distinct(poses, matches.source.mean(axis=0), len(poses)) == list(range(len(poses)))


def test_mirrored_matches_agree_on_no_pose() -> None:
    flip = np.array([1.0, 1.0, -1.0])
    matches = noisy_matches(9, np.eye(4), count=100, share=1.0)
    mirrored = Matches(
        matches.source, matches.target * flip, matches.source_normals, matches.target_normals * flip, matches.weights
    )
    assert hypotheses(mirrored, 1)[1][0] < 0.3 * hypotheses(matches, 1)[1][0]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_matches_give_no_hypothesis(count: int) -> None:
    poses, scores = hypotheses(noisy_matches(0, np.eye(4), count=count, share=1.0), 5)
    assert poses.shape == (0, 4, 4)
    assert scores.shape == (0,)


def test_three_matches_are_enough() -> None:
    truth = random_pose(10)
    poses, _ = hypotheses(noisy_matches(10, truth, count=3, share=1.0, noise=0.0), 5)
    assert len(poses) == 1
    assert_same_pose(poses[0], truth, degrees=1e-5, shift=1e-5)


def test_incompatible_matches_give_no_hypothesis() -> None:
    matches = noisy_matches(0, np.eye(4), count=50, share=1.0)
    stretched = Matches(
        matches.source, 9 * matches.target, matches.source_normals, matches.target_normals, matches.weights
    )
    assert len(hypotheses(stretched, 5)[0]) == 0


def test_duplicated_matches_do_no_harm() -> None:
    truth = random_pose(11)
    matches = noisy_matches(11, truth, count=60, share=1.0)
    one_place = reordered(matches, np.zeros(100, dtype=np.int64))
    assert len(hypotheses(one_place, 5)[0]) == 0
    thrice = reordered(matches, np.tile(np.arange(60), 3))
    assert_same_pose(hypotheses(thrice, 5)[0][0], truth, degrees=1.0, shift=0.5)


def test_matches_without_weight_do_no_harm() -> None:
    matches = noisy_matches(12, random_pose(12), count=60, share=1.0)
    silent = Matches(
        matches.source, matches.target, matches.source_normals, matches.target_normals, np.zeros(len(matches))
    )
    poses, scores = hypotheses(silent, 5)
    assert np.isfinite(poses).all()
    np.testing.assert_array_equal(scores, 0.0)


def test_inliers_need_both_place_and_normal() -> None:
    truth = random_pose(13)
    matches = noisy_matches(13, truth, count=40, share=1.0, noise=0.0)
    assert inliers(matches, truth).all()
    turned = Matches(matches.source, matches.target, matches.source_normals, -matches.target_normals, matches.weights)
    assert not inliers(turned, truth).any()
    away = truth.copy()
    away[0, 3] += 3.0
    assert not inliers(matches, away).any()
    assert inliers(matches, away, distance=3.5).all()


def test_support_is_the_sum_over_inliers() -> None:
    truth = random_pose(14)
    matches = noisy_matches(14, truth, count=200, share=0.5, noise=0.8)
    residual = np.linalg.norm(apply(truth, matches.source) - matches.target, axis=1)
    good = inliers(matches, truth)
    expected = (matches.weights * (1 - (residual / 2.5) ** 2))[good].sum()
    assert support(matches, truth) == pytest.approx(expected)
    assert support(noisy_matches(0, truth, count=0), truth) == 0.0


def test_pose_difference_is_angle_and_shift_of_the_centre() -> None:
    pose, centre = random_pose(15), np.array([3.0, -4.0, 12.0])
    for angle in (0.0, 1e-3, 0.5, np.pi):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_rotvec([0, angle, 0]).as_matrix()
        got, shift = pose_difference(pose, pose @ turn, centre)
        assert got == pytest.approx(angle, abs=1e-7)
        assert shift == pytest.approx(np.linalg.norm(turn[:3, :3] @ centre - centre), abs=1e-9)
        assert pose_difference(pose @ turn, pose, centre) == pytest.approx((got, shift))
    # A turn about the centre itself moves nothing there, however far the origin is.
    about = np.eye(4)
    about[:3, :3] = Rotation.from_rotvec([0.3, 0, 0]).as_matrix()
    about[:3, 3] = centre - about[:3, :3] @ centre
    assert pose_difference(np.eye(4), about, centre)[1] == pytest.approx(0.0, abs=1e-12)


def test_distinct_keeps_the_first_of_each_kind() -> None:
    pose = random_pose(16)
    near, far = pose.copy(), pose.copy()
    near[:3, 3] += 0.5
    far[:3, 3] += 50.0
    poses = np.stack([pose, near, far, near, far])
    assert distinct(poses, np.zeros(3), 5) == [0, 2]
    assert distinct(poses, np.zeros(3), 1) == [0]
    assert distinct(poses[:0], np.zeros(3), 5) == []


def test_pose_from_pairs_ignores_rows_without_weight() -> None:
    truths = np.stack([random_pose(seed) for seed in (17, 18)])
    source = np.random.default_rng(0).normal(size=(2, 8, 3))
    target = np.stack([apply(T, points) for T, points in zip(truths, source, strict=True)])
    target[:, -2:] += 100.0
    weights = np.tile([1.0] * 6 + [0.0] * 2, (2, 1))
    np.testing.assert_allclose(pose_from_pairs(source, target, weights), truths, atol=1e-9)


def matches_at(source: np.ndarray, pose: np.ndarray, weights: np.ndarray, off: float = 0.0) -> Matches:
    """Matches that `pose` explains up to a shift of `off` voxels."""
    normals = directions(np.random.default_rng(0), len(source))
    return Matches(source, apply(pose, source) + np.array([off, 0, 0]), normals, normals @ pose[:3, :3].T, weights)


# Middles of cells, 4 cells apart.
APART = PLACE * (4.0 * np.stack(np.meshgrid(*[np.arange(-2, 2)] * 3), axis=-1).reshape(-1, 3) + 0.5)


@pytest.mark.parametrize("off", [0.0, 1.0, 2.0])
def test_places_of_matches_far_from_each_other_are_their_support(off: float) -> None:
    pose, weights = random_pose(0), np.random.default_rng(1).uniform(0.5, 1, len(APART))
    matches = matches_at(APART, pose, weights, off)
    assert places(matches, pose) == pytest.approx(weights.sum() * (1.0 - (off / 2.5) ** 2))
    assert places(matches, pose) == pytest.approx(support(matches, pose))


def test_matches_at_one_place_count_once_and_the_best_of_them() -> None:
    pose, rng = random_pose(1), np.random.default_rng(1)
    weights = rng.uniform(0.5, 1, (len(APART), 20))
    around = APART[:, None] + rng.uniform(-0.49 * PLACE, 0.49 * PLACE, (len(APART), 20, 3))
    matches = matches_at(around.reshape(-1, 3), pose, weights.ravel())
    assert places(matches, pose) == pytest.approx(weights.max(axis=1).sum())
    assert support(matches, pose) == pytest.approx(weights.sum())
    one_place = reordered(matches, np.arange(20))
    assert places(one_place, pose) == pytest.approx(weights[0].max())
    # The best is the one with the largest weight after the discount for its distance.
    near, far = matches_at(APART[:1], pose, np.array([0.6])), matches_at(APART[:1], pose, np.array([1.0]), off=2.0)
    both = Matches(*(np.concatenate([getattr(near, name), getattr(far, name)]) for name in near.__dataclass_fields__))
    assert places(both, pose) == pytest.approx(0.6)


def test_places_do_not_depend_on_duplicates_order_or_wrong_matches() -> None:
    pose = random_pose(2)
    matches = noisy_matches(2, pose)
    value = places(matches, pose)
    assert 0.0 < value < support(matches, pose)
    rows = np.arange(len(matches))
    assert places(reordered(matches, np.tile(rows, 3)), pose) == pytest.approx(value)
    assert places(reordered(matches, rows[::-1]), pose) == pytest.approx(value)
    assert places(reordered(matches, np.flatnonzero(inliers(matches, pose))), pose) == pytest.approx(value)


def test_wrong_matches_have_no_place() -> None:
    pose, ones = random_pose(3), np.ones(len(APART))
    matches = matches_at(APART, pose, ones)
    assert places(matches_at(APART, pose, ones, off=2.6), pose) == 0.0
    against = Matches(matches.source, matches.target, matches.source_normals, -matches.target_normals, ones)
    assert places(against, pose) == 0.0
    assert places(reordered(matches, np.zeros(0, dtype=np.int64)), pose) == 0.0
