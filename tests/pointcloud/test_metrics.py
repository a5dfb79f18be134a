"""Metrics against loops over their definitions, and the published scores of published poses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from rotaware.geo import axis_angle_to_matrix, make_transform
from rotaware.pointcloud.metrics import (
    expected_calibration_error,
    feature_matching_recall,
    information_rmse,
    inlier_ratio,
    is_registered,
    is_registered_3dmatch,
    is_registered_rotated,
    mean_displacement,
    mean_over_scenes,
    nonrigid_feature_matching_recall,
    overlap_rmse,
    patch_inlier_ratio,
    rotation_error_deg,
    scored_pairs,
    translation_error,
)
from rotaware.pointcloud.supervision import NodeOverlaps

RNG = np.random.default_rng(0)


def pose(turn_deg: float, shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """A turn about an oblique axis, and a shift."""
    axis = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    rotation = axis_angle_to_matrix(axis * math.radians(turn_deg))
    return make_transform(rotation, torch.tensor(shift, dtype=torch.float64)).numpy()


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ transform[:3, :3].T + transform[:3, 3]


def test_patch_inlier_ratio_counts_pairs_that_overlap() -> None:
    true = NodeOverlaps(torch.tensor([0, 0, 2]), torch.tensor([1, 2, 0]), torch.tensor([0.9, 0.01, 0.3]))
    target, source = torch.tensor([0, 0, 2, 1, 0]), torch.tensor([2, 1, 0, 2, 0])
    assert patch_inlier_ratio(target, source, true) == 3 / 5
    assert patch_inlier_ratio(target[:0], source[:0], true) == 0.0
    assert patch_inlier_ratio(target, source, NodeOverlaps(*(part[:0] for part in true))) == 0.0


def test_inlier_ratio_is_the_share_below_the_radius() -> None:
    truth, source = pose(70, (1, 2, 3)), RNG.normal(size=(200, 3))
    target = apply(truth, source)
    direction = RNG.normal(size=(200, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    far = np.linspace(0, 0.2, 200, endpoint=False)
    assert inlier_ratio(source, target + far[:, None] * direction, truth) == pytest.approx(
        (far < 0.1).mean(), abs=0.006
    )
    assert inlier_ratio(source, target + far[:, None] * direction, truth, radius=0.04) == pytest.approx(0.2, abs=0.006)
    assert inlier_ratio(source[:0], target[:0], truth) == 0.0
    # Strictly below.
    assert inlier_ratio(np.zeros((1, 3)), np.array([[0.5, 0, 0]]), np.eye(4), radius=0.5) == 0.0


def test_inlier_ratio_of_a_deforming_scene() -> None:
    truth, source = pose(20, (0, 0, 1)), RNG.normal(size=(50, 3))
    flow = 0.5 * np.sin(source)
    target = apply(truth, source + flow)
    assert inlier_ratio(source, target, truth, radius=0.04, flow=flow) == 1.0
    assert inlier_ratio(torch.from_numpy(source), target, truth, radius=0.04) < 0.5


def test_feature_matching_recall_is_strict() -> None:
    assert feature_matching_recall([0.05, 0.0500001, 1.0, 0.0]) == 0.5
    assert feature_matching_recall([]) == 0.0


def naive_nfmr(
    source: np.ndarray, target: np.ndarray, points: np.ndarray, flow: np.ndarray, truth: np.ndarray
) -> float:
    """Section 13 of the specification, point by point."""
    hits = 0
    for x, shift in zip(points, flow, strict=True):
        distance = np.linalg.norm(source - x, axis=1)
        nearest = np.argsort(distance, kind="stable")[:3]
        weights = []
        for row in nearest:
            floored = max(distance[row], 1e-10)
            weights.append(1 / (1e10 if floored > 0.1 else floored))
        motion = sum(w * (target[row] - source[row]) for w, row in zip(weights, nearest, strict=True)) / sum(weights)
        hits += np.linalg.norm(x + motion - apply(truth, (x + shift)[None])[0]) < 0.04
    return hits / len(points)


@pytest.mark.parametrize("matches", [1, 2, 3, 40, 400])
def test_nonrigid_recall_is_the_naive_one(matches: int) -> None:
    points = RNG.random((300, 3))
    flow, truth = 0.2 * np.sin(3 * points), pose(3, (0.02, 0, 0))
    rows = RNG.integers(300, size=matches)
    source = points[rows]
    target = apply(truth, source + flow[rows]) + RNG.normal(size=(matches, 3)) * 0.02
    found = nonrigid_feature_matching_recall(source, target, points, flow, truth)
    assert found == naive_nfmr(source, target, points, flow, truth)
    assert found < 1


def test_nonrigid_recall_of_perfect_and_of_no_matches() -> None:
    points = RNG.random((300, 3))
    flow, truth = 0.2 * np.sin(3 * points), pose(40, (1, 0, 0))
    assert nonrigid_feature_matching_recall(points, apply(truth, points + flow), points, flow, truth) == 1.0
    assert nonrigid_feature_matching_recall(points[:0], points[:0], points, flow, truth) == 0.0
    assert nonrigid_feature_matching_recall(points, points, points[:0], flow[:0], truth) == 0.0


@pytest.mark.parametrize("turn_deg", [0.0, 1e-6, 1e-3, 15.0, 90.0, 179.999, 180.0])
def test_rotation_error_is_exact_at_both_ends(turn_deg: float) -> None:
    truth = pose(70, (1, 2, 3))
    assert rotation_error_deg(truth @ pose(turn_deg), truth) == pytest.approx(turn_deg, abs=1e-9)


def test_rotation_error_forgives_published_rotations_that_are_not_quite() -> None:
    truth = pose(70)
    stretched = np.diag([1 + 1e-3, 1, 1 - 1e-3, 1]) @ truth
    assert rotation_error_deg(pose(20) @ truth, stretched) == pytest.approx(20, abs=1e-9)
    assert rotation_error_deg(torch.from_numpy(truth).float(), truth) == pytest.approx(0, abs=1e-5)


def test_translation_error_and_displacement() -> None:
    truth = pose(70, (1, 2, 3))
    assert translation_error(pose(10, (1, 2, 7)), truth) == 4.0
    points = RNG.normal(size=(30, 3))
    estimate = truth @ pose(5, (0, 0.1, 0))
    expected = np.linalg.norm(apply(estimate, points) - apply(truth, points), axis=1).mean()
    assert mean_displacement(points, estimate, truth) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="points: expected at least one, got none"):
        mean_displacement(points[:0], estimate, truth)


def information(points: np.ndarray) -> np.ndarray:
    """The sum over points of G'G, G the derivative of a point by translation and rotation vector."""
    total = np.zeros((6, 6))
    for x, y, z in points:
        motion = np.hstack([np.eye(3), [[0, z, -y], [-z, 0, x], [y, -x, 0]]])
        total += motion.T @ motion
    return total


def test_the_corrected_rmse_is_the_true_one() -> None:
    source, truth = RNG.normal(loc=(0, 0, 3), size=(200, 3)), pose(70, (1, 2, 3))
    matrix = information(apply(truth, source))
    for turn_deg, shift in ((0, (0.1, 0, 0)), (0.5, (0, 0, 0)), (0.3, (0.02, 0.01, 0))):
        estimate = pose(turn_deg, shift) @ truth
        moves = apply(estimate, source) - apply(truth, source)
        true = np.sqrt(np.square(moves).sum(1).mean())
        assert information_rmse(estimate, truth, matrix, corrected=True) == pytest.approx(true, rel=5e-3)
    # The official form is right for a pure shift in the frame of the source.
    estimate = truth @ pose(0, (0.1, 0, 0))
    assert information_rmse(estimate, truth, matrix) == pytest.approx(0.1, rel=1e-9)
    assert information_rmse(truth, truth, matrix) == pytest.approx(0, abs=1e-6)


def test_the_official_rmse_is_its_formula() -> None:
    matrix, truth, turn_deg = RNG.random((6, 6)), pose(70, (1, 2, 3)), 40.0
    matrix = matrix @ matrix.T
    # The error is in the frame of the source, with half of the rotation vector, about.
    estimate = truth @ pose(turn_deg, (0.3, 0.2, -0.1))
    both = np.array([0.3, 0.2, -0.1, *(np.sin(np.radians(turn_deg / 2)) * np.array([2, -1, 2]) / 3)])
    expected = np.sqrt(both @ matrix @ both / matrix[0, 0])
    assert information_rmse(estimate, truth, matrix) == pytest.approx(expected, rel=1e-9)
    # The quaternion with a real part that is not negative: a turn by 320 degrees is one by -40.
    estimate = truth @ pose(turn_deg - 360, (0.3, 0.2, -0.1))
    assert information_rmse(estimate, truth, matrix) == pytest.approx(expected, rel=1e-9)


def test_the_rmse_over_the_overlap_is_taken_where_points_have_a_partner() -> None:
    truth = pose(70, (1, 2, 3))
    shared, alone = RNG.normal(size=(60, 3)), RNG.normal(loc=(50, 0, 0), size=(40, 3))
    target = apply(truth, shared) + 0.01 * RNG.uniform(size=(60, 3))
    estimate = pose(3, (0.1, 0, 0)) @ truth
    moves = apply(estimate, shared) - apply(truth, shared)
    expected = np.sqrt(np.square(moves).sum(1).mean())
    assert overlap_rmse(np.vstack([shared, alone]), target, estimate, truth) == pytest.approx(expected, rel=1e-9)
    assert overlap_rmse(shared, target, truth, truth) == pytest.approx(0, abs=1e-12)
    assert math.isnan(overlap_rmse(alone, target, truth, truth))
    assert math.isnan(overlap_rmse(shared, target, truth, truth, radius=1e-9))
    with pytest.raises(ValueError, match="source, target: expected at least one point each, got 60 and 0"):
        overlap_rmse(shared, target[:0], truth, truth)


def test_what_the_official_rmse_makes_of_real_scans(shared_data: Path) -> None:
    """Specification 12.2: of a turn by 5 degrees about the overlap 1.7 times the truth, corrected the truth."""
    folder = shared_data / "3dmatch"
    official, corrected = [], []
    for pair in json.loads((folder / "pairs.json").read_text())["pairs"]:
        source, target = (np.load(folder / pair[name]).astype(np.float64) for name in ("source", "target"))
        truth, matrix = np.array(pair["T_target_from_source"]), np.array(pair["information_6x6"])
        placed = apply(truth, source)
        centre = placed[cKDTree(target).query(placed)[0] < 0.0375].mean(axis=0)
        generator = torch.Generator().manual_seed(0)
        for axis in torch.randn(10, 3, dtype=torch.float64, generator=generator):
            turn = axis_angle_to_matrix(math.radians(5) * axis / axis.norm())
            estimate = make_transform(turn, torch.from_numpy(centre) - turn @ torch.from_numpy(centre)).numpy() @ truth
            true = overlap_rmse(source, target, estimate, truth)
            official.append(information_rmse(estimate, truth, matrix) / true)
            corrected.append(information_rmse(estimate, truth, matrix, corrected=True) / true)
        shifted = pose(0, (0.06, 0, 0.08)) @ truth
        assert overlap_rmse(source, target, shifted, truth) == pytest.approx(0.1, rel=1e-9)
        for form in (False, True):
            assert information_rmse(shifted, truth, matrix, corrected=form) == pytest.approx(0.1, rel=1e-3)
    assert 1.5 < np.median(official) < 2.2 and np.quantile(official, 0.9) > 2.5
    assert 0.98 < np.median(corrected) < 1.06
    assert np.quantile(corrected, 0.1) > 0.9 and np.quantile(corrected, 0.9) < 1.25


def test_calibration_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.random(20_000)
    right = generator.random(20_000) < confidence
    assert expected_calibration_error(confidence.tolist(), right.tolist()) < 0.02
    assert expected_calibration_error((1 - confidence).tolist(), right.tolist()) == pytest.approx(0.5, abs=0.01)
    # Two bins, one of which holds three of four answers; 1 is in the last bin.
    assert expected_calibration_error([0.95, 1.0, 0.99, 0.35], [True, True, False, True]) == pytest.approx(
        (abs(2.94 - 2) + 0.65) / 4
    )
    assert math.isnan(expected_calibration_error([], []))
    with pytest.raises(ValueError, match="right: expected one for each of 2 confidences, got 1"):
        expected_calibration_error([0.5, 0.5], [True])
    with pytest.raises(ValueError, match=r"confidence: expected numbers in \[0, 1\]"):
        expected_calibration_error([1.5], [True])


def test_consecutive_fragments_and_the_first_pair_are_not_scored() -> None:
    pairs = [(0, 2), (0, 1), (1, 2), (1, 3), (4, 9)]
    assert scored_pairs(pairs) == [False, False, False, True, True]
    assert scored_pairs(pairs, official=False) == [True, False, False, True, True]
    assert scored_pairs([]) == []


def test_success_at_the_bounds_and_of_poses_that_are_not_numbers() -> None:
    truth, points = pose(70, (1, 2, 3)), RNG.normal(size=(30, 3))
    assert is_registered(truth @ pose(14.99), truth)
    assert not is_registered(truth @ pose(15.01), truth)
    assert is_registered(pose(70, (1, 2, 3.299)), truth)
    assert not is_registered(pose(70, (1, 2, 3.301)), truth)
    assert is_registered(truth @ pose(25), truth, rotation_deg=30)
    weights = np.diag([100.0] * 3 + [1.0] * 3)
    assert is_registered_3dmatch(truth @ pose(0, (0.1999, 0, 0)), truth, weights)
    assert not is_registered_3dmatch(truth @ pose(0, (0.2001, 0, 0)), truth, weights)
    assert is_registered_rotated(points, truth @ pose(0, (0.1999, 0, 0)), truth)
    assert not is_registered_rotated(points, truth @ pose(0, (0.2001, 0, 0)), truth)
    nothing = np.full((4, 4), np.nan)
    assert not is_registered(nothing, truth)
    assert not is_registered_3dmatch(nothing, truth, weights)
    assert not is_registered_3dmatch(truth, truth, np.zeros((6, 6)))
    assert not is_registered_rotated(points, nothing, truth)


def blocks(path: Path, rows: int) -> dict[tuple[int, int], np.ndarray]:
    """Matrices of a log file by pair of fragments, in file order."""
    lines = path.read_text().splitlines()
    found = {}
    for start in range(0, len(lines) - rows, rows + 1):
        first, second = (int(word) for word in lines[start].split()[:2])
        found[first, second] = np.array([line.split() for line in lines[start + 1 : start + 1 + rows]], dtype=float)
    return found


def test_published_poses_get_their_published_recall(shared_data: Path) -> None:
    folder = shared_data / "3dmatch" / "benchmark"
    hits: list[bool] = []
    scenes: list[str] = []
    for scene in sorted(path.name for path in (folder / "3DMatch").iterdir()):
        truth, matrices = (
            blocks(folder / "3DMatch" / scene / f"gt.{end}", rows) for end, rows in (("log", 4), ("info", 6))
        )
        estimates = blocks(folder / "est_ngenet" / "3DMatch-pred" / scene / "est.log", 4)
        for pair, scored in zip(truth, scored_pairs(list(truth)), strict=True):
            if scored:
                hits.append(is_registered_3dmatch(estimates[pair], truth[pair], matrices[pair]))
                scenes.append(scene)
    found = mean_over_scenes(hits, scenes)
    assert sum(found.counts.values()) == len(hits) == 1279
    assert found.counts["7-scenes-redkitchen"] == 449
    assert found.mean == pytest.approx(0.92921, abs=5e-6)
    assert found.pair_mean == pytest.approx(0.93901, abs=5e-6)


def test_the_official_scorer_loses_first_pairs(shared_data: Path) -> None:
    folder = shared_data / "3dmatch" / "benchmark"
    for benchmark, official, all_of_them in (("3DMatch", 1279, 1279), ("3DLoMatch", 1719, 1726)):
        pairs = [list(blocks(path, 4)) for path in (folder / benchmark).glob("*/gt.log")]
        assert sum(sum(scored_pairs(each)) for each in pairs) == official
        assert sum(sum(scored_pairs(each, official=False)) for each in pairs) == all_of_them


def test_means_over_scenes() -> None:
    values, scenes = [1.0, 2.0, 9.0, 5.0], ["a", "b", "a", "a"]
    found = mean_over_scenes(values, scenes)
    assert found == (3.5, 4.25, {"a": 5.0, "b": 2.0}, {"a": 3, "b": 1})
    assert mean_over_scenes([1.0, 2.0, 9.0, 6.0], scenes, statistic="median").scenes == {"a": 6.0, "b": 2.0}
    assert math.isnan(mean_over_scenes([], []).mean)


def test_what_does_not_fit_is_named() -> None:
    three = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"target: expected shape \(3, 3\), got \(2, 3\)"):
        inlier_ratio(three, three[:2], np.eye(4))
    with pytest.raises(ValueError, match=r"flow: expected shape \(3, 3\), got \(2, 3\)"):
        inlier_ratio(three, three, np.eye(4), flow=three[:2])
    with pytest.raises(ValueError, match=r"transform: expected shape \(4, 4\), got \(3, 3\)"):
        nonrigid_feature_matching_recall(three, three, three, three, np.eye(3))
    with pytest.raises(ValueError, match=r"estimate: expected shape \(4, 4\), got \(3, 3\)"):
        rotation_error_deg(np.eye(3), np.eye(4))
    with pytest.raises(ValueError, match=r"information: expected shape \(6, 6\), got \(4, 4\)"):
        information_rmse(np.eye(4), np.eye(4), np.eye(4))
    with pytest.raises(ValueError, match=r"source: expected shape \(2,\), got \(1,\)"):
        patch_inlier_ratio(torch.tensor([0, 1]), torch.tensor([0]), NodeOverlaps(*[torch.zeros(0)] * 3))
    with pytest.raises(ValueError, match="scenes: expected one for each of 2 values, got 1"):
        mean_over_scenes([1, 2], ["a"])
    with pytest.raises(ValueError, match="statistic: expected one of 'mean', 'median', got 'mode'"):
        mean_over_scenes([1], ["a"], statistic="mode")  # type: ignore[arg-type]
