"""The whole pipeline: the truth is found, a wrong pose is refused, and options do what they say."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rotaware.datasets import DepthCamera, RegistrationPair, indoor_pair, unrelated_pair
from rotaware.pointcloud import InputError, PointCloud, Registration, Stage, register
from rotaware.pointcloud.registration import STAGES
from rotaware.pointcloud.verdict import THRESHOLDS

# Scans coarse enough for a call to take a second.
CAMERA = DepthCamera(width=160, height=120, focal=146.25)
COARSE: dict[str, Any] = {"camera": CAMERA, "frames": 3, "voxel": 0.045}


def rigid(seed: int, shift: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(rng=rng).as_matrix()
    T[:3, 3] = shift * rng.normal(size=3)
    return T


def moved(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points.astype(np.float64) @ T[:3, :3].T + T[:3, 3]


def pose_error(got: np.ndarray | None, expected: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Degrees between two poses, and the mean distance between the places where they put `points`."""
    assert got is not None
    linear = got[:3, :3] @ np.linalg.inv(expected[:3, :3])
    cosine = (np.trace(linear / np.cbrt(np.linalg.det(linear))) - 1.0) / 2.0
    gap = np.linalg.norm(moved(got, points) - moved(expected, points), axis=1).mean()
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))), float(gap)


def assert_same_pose(got: Registration, expected: np.ndarray, points: np.ndarray) -> None:
    """Accepted, and within 0.1 degree and 0.1 voxel of what was expected."""
    assert got.ok, got.explain()
    degrees, gap = pose_error(got.T, expected, points)
    assert degrees < 0.1
    assert gap < 0.1 * got.voxel


@pytest.fixture(scope="module")
def pair() -> RegistrationPair:
    return indoor_pair(2, **COARSE)


@pytest.fixture(scope="module")
def found(pair: RegistrationPair) -> Registration:
    return register(pair.source, pair.target)


@pytest.fixture(scope="module")
def stranger() -> np.ndarray:
    return unrelated_pair(0, **COARSE).source


def warned(result: Registration) -> list[str]:
    return [notice.code for notice in result.warnings]


def test_truth_is_found(pair: RegistrationPair, found: Registration) -> None:
    assert pair.T_target_source is not None
    assert found.ok
    assert found.status == "registered"
    assert found.confidence > 0.95
    assert all(check.passed for check in found.checks)
    degrees, gap = pose_error(found.T, pair.T_target_source, pair.source)
    assert degrees < 1.5
    assert gap < found.voxel


@pytest.mark.parametrize("seed", [1, 3])
def test_truth_is_found_in_other_rooms(seed: int) -> None:
    pair = indoor_pair(seed, **COARSE)
    assert pair.T_target_source is not None
    result = register(pair.source, pair.target)
    assert result.ok
    degrees, gap = pose_error(result.T, pair.T_target_source, pair.source)
    assert degrees < 2.0
    assert gap < result.voxel


def test_result_tells_what_was_done(pair: RegistrationPair, found: Registration) -> None:
    assert found.source.points == found.source.used == len(pair.source)
    np.testing.assert_allclose(found.target.extent, np.ptp(pair.target, axis=0), rtol=1e-6)
    assert (found.source.unit, found.source.unit_source) == ("m", "guessed")
    assert (found.engine, found.scale, found.seed) == ("roitr + classic", 1.0, 0)
    assert found.refine == "accepted"
    assert list(found.timings) == list(STAGES)
    assert warned(found) == []
    json.dumps(found.parameters, allow_nan=False)
    assert found.T is found.T_target_source
    np.testing.assert_allclose(found.T[:3, :3] @ found.T[:3, :3].T, np.eye(3), atol=1e-9)
    np.testing.assert_array_equal(found.T[3], [0, 0, 0, 1])


def test_correspondences_are_rows_of_the_inputs(pair: RegistrationPair, found: Registration) -> None:
    matches = found.correspondences
    assert len(matches.source_index) == len(matches.target_index) == len(matches.confidence) == len(matches.inlier)
    gap = np.linalg.norm(moved(found.T, pair.source[matches.source_index]) - pair.target[matches.target_index], axis=1)
    # A match is measured between centroids of voxels, and the rows are near those.
    assert gap[matches.inlier].max() < 4.5 * found.voxel
    assert np.median(gap[matches.inlier]) < 2.0 * found.voxel < np.median(gap[~matches.inlier])
    assert found.metrics is not None
    assert found.metrics.n_inliers == matches.inlier.sum() > 100
    assert found.metrics.inlier_ratio == pytest.approx(matches.inlier.mean())


def test_metrics_are_in_the_unit_of_the_target(pair: RegistrationPair, found: Registration) -> None:
    metrics = found.metrics
    assert metrics is not None
    assert abs(metrics.overlap_source - pair.overlap) < 0.2
    assert 0 < metrics.residual_median < metrics.residual_p95 < 1.5 * found.voxel
    assert metrics.free_directions == ()
    assert metrics.covariance_reason is None
    assert metrics.information is not None
    assert metrics.covariance is not None
    for matrix in (metrics.information, metrics.covariance):
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-6, atol=1e-12)
        assert np.linalg.eigvalsh(matrix).min() > 0
    # Standard deviations of a good pose: well under a degree and a voxel.
    turns, shifts = np.sqrt(np.diag(metrics.covariance)).reshape(2, 3)
    assert np.degrees(turns.max()) < 1.0
    assert shifts.max() < found.voxel


def test_alternatives_are_other_poses(pair: RegistrationPair, found: Registration) -> None:
    for other in found.alternatives:
        assert 0.0 <= other.score <= 1.0
        degrees, gap = pose_error(other.T_target_source, found.T, pair.source)
        assert degrees > 5.0 or gap > 2.0 * found.voxel


def test_same_cloud_twice_is_the_identity(pair: RegistrationPair) -> None:
    result = register(pair.source, pair.source.copy())
    assert result.ok, result.explain()
    np.testing.assert_allclose(result.T, np.eye(4), atol=1e-6)


def test_unrelated_scans_are_refused(pair: RegistrationPair, stranger: np.ndarray) -> None:
    stages: list[Stage] = []
    result = register(stranger, pair.target, on_stage=stages.append)
    assert result.status == "not_registered"
    assert not result.ok
    assert result.confidence < 0.5
    assert result.T is not None
    assert "W006" not in warned(result)
    assert "not registered" in result.explain()
    # A second look, if any, starts from the cleaned clouds; the mirror image is tried last.
    assert [stage.index for stage in stages if stage.done] in ([1, 2, 3, 4, 5, 5], [1, 2, 3, 4, 5, 2, 3, 4, 5, 5])


@pytest.mark.parametrize("seed", range(4))
def test_mirrored_scan_is_refused_and_named(seed: int) -> None:
    pair = indoor_pair(seed, **COARSE)
    result = register(pair.source * np.array([-1, 1, 1], dtype=np.float32), pair.target)
    assert result.status == "not_registered"
    assert "W006" in warned(result)
    assert result.reason == "a reflection fits better than any rotation"


def plane(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (2500, 3)) * [3.0, 2.0, 0.0]


def sphere(seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(2500, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def cylinder(seed: int) -> np.ndarray:
    angle, height = np.random.default_rng(seed).uniform(0, [[2 * np.pi], [4.0]], (2, 2500))
    return np.stack([0.5 * np.cos(angle), 0.5 * np.sin(angle), height], axis=1)


def box(seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).uniform(0, 1, (6, 500, 3))
    for face in range(6):
        points[face, :, face // 2] = face % 2
    return points.reshape(-1, 3) * [2.0, 1.5, 1.0]


@pytest.mark.parametrize(
    ("shape", "free"),
    [
        (sphere, ["rotation about"] * 3),
        (plane, ["rotation about", "translation along", "translation along"]),
        (cylinder, ["rotation about", "translation along"]),
        (box, []),
    ],
)
def test_shape_with_many_poses_is_ambiguous(shape: Any, free: list[str]) -> None:
    # Another sampling of the same surface: nothing but the surface itself to hold on to.
    result = register(moved(rigid(7, 10.0), shape(0)), shape(1))
    assert result.status == "ambiguous", result.explain()
    assert result.metrics is not None
    names = result.metrics.free_directions
    assert [name.split(" (")[0] for name in names] == free
    if free:
        assert result.metrics.covariance is None
        assert result.metrics.covariance_reason == f"not observable: {', '.join(names)}"
    else:
        assert result.symmetry is not None
        assert len(result.alternatives) >= 1


def test_same_plane_twice_is_ambiguous() -> None:
    result = register(plane(0), plane(0))
    assert result.status == "ambiguous"
    assert result.metrics is not None
    names = result.metrics.free_directions
    assert names[0] == "rotation about (0.00, 0.00, 1.00)"
    assert [name.startswith("translation along") and name.endswith(" 0.00)") for name in names[1:]] == [True, True]


@pytest.mark.parametrize("seed", range(2))
def test_free_directions_are_in_the_frame_of_the_target(seed: int) -> None:
    pose = rigid(seed, 10.0)
    result = register(cylinder(0), moved(pose, cylinder(1)))
    assert result.metrics is not None
    names = result.metrics.free_directions
    assert [name.split(" (")[0] for name in names] == ["rotation about", "translation along"]
    for name in names:
        axis = np.array([float(word) for word in name[name.index("(") + 1 : -1].split(",")])
        assert abs(axis @ pose[:3, 2]) / np.linalg.norm(axis) > np.cos(np.radians(1.0))


def test_accept_changes_the_threshold_and_not_the_pose(pair: RegistrationPair, found: Registration) -> None:
    results = [
        register(pair.source, pair.target, method="refine", init=found.T, accept=accept)  # type: ignore[arg-type]
        for accept in ("loose", "strict")
    ]
    assert results[0].checks[0].threshold < found.checks[0].threshold < results[1].checks[0].threshold
    np.testing.assert_array_equal(results[0].T, results[1].T)
    assert results[0].confidence == results[1].confidence


def test_millimetres_on_metres_are_scaled_and_said_so(pair: RegistrationPair, found: Registration) -> None:
    source = 1000.0 * pair.source.astype(np.float64)
    result = register(source, pair.target)
    assert result.ok, result.explain()
    assert result.scale == 0.001
    assert "W004" in warned(result)
    expected = found.T @ np.diag([0.001, 0.001, 0.001, 1.0])
    assert_same_pose(result, expected, source)
    assert np.cbrt(np.linalg.det(result.T[:3, :3])) == pytest.approx(0.001)
    assert (result.source.unit, result.target.unit) == ("mm", "m")
    np.testing.assert_allclose(result.source.extent, np.ptp(source, axis=0))
    assert result.source.spacing == pytest.approx(1000.0 * found.source.spacing, rel=0.01)


def test_rigid_never_scales(pair: RegistrationPair) -> None:
    result = register(1000.0 * pair.source.astype(np.float64), pair.target, scale="rigid")
    assert result.status == "not_registered"
    assert result.scale == 1.0
    assert "W004" not in warned(result)


def test_part_of_a_scan_keeps_its_scale() -> None:
    # Small is not another unit: a cube of 1 m cut from a scan of 3 m.
    whole = indoor_pair(2, camera=CAMERA, frames=3, voxel=0.02).target
    centre = whole[np.linalg.norm(whole - np.median(whole, axis=0), axis=1).argmin()]
    result = register(whole[np.abs(whole - centre).max(axis=1) < 0.5], whole)
    assert result.scale == 1.0
    np.testing.assert_allclose(result.T, np.eye(4), atol=0.02)


def test_voxel_is_used_as_given(pair: RegistrationPair, found: Registration) -> None:
    result = register(pair.source, pair.target, voxel=0.08)
    assert result.voxel == result.parameters["voxel"] == 0.08
    assert found.parameters["voxel"] is None
    assert result.ok
    degrees, gap = pose_error(result.T, found.T, pair.source)
    assert degrees < 2.0
    assert gap < 0.08


def test_given_voxel_means_no_second_look(pair: RegistrationPair, monkeypatch: pytest.MonkeyPatch) -> None:
    # Never sure enough, so that a finer look follows wherever it may.
    monkeypatch.setitem(THRESHOLDS, "strict", 1.0 - 1e-12)
    looks = {}
    for voxel in (None, 0.08):
        stages: list[Stage] = []
        result = register(pair.source, pair.target, voxel=voxel, accept="strict", on_stage=stages.append)
        assert result.status == "not_registered"
        looks[voxel] = [stage.index for stage in stages if stage.done]
        if voxel is not None:
            assert result.voxel == voxel
    assert looks == {None: [1, 2, 3, 4, 5, 2, 3, 4, 5, 5], 0.08: [1, 2, 3, 4, 5, 5]}


def test_parameters_are_named_like_the_options(pair: RegistrationPair, found: Registration) -> None:
    options = set(inspect.signature(register).parameters)
    assert set(found.parameters) == options - {"source", "target", "threads", "seed", "on_stage"}
    given: dict[str, Any] = {
        "method": "refine", "voxel": 0.1, "scale": "rigid", "refine": "none", "accept": "loose", "hypotheses": 2,
        "init": found.T, "unit": "m", "source_sensor": np.array([0.0, 0.0, 1.0]), "target_sensor": np.zeros(3),
    }  # fmt: skip
    recorded = register(pair.source, pair.target, **given).parameters
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in given.items()}
    assert recorded == plain | {"network": None}
    defaults = {key: each.default for key, each in inspect.signature(register).parameters.items() if key in recorded}
    assert found.parameters == defaults


def test_spacing_is_the_median_distance_of_nearest_neighbors(pair: RegistrationPair, found: Registration) -> None:
    for summary, points in ((found.source, pair.source), (found.target, pair.target)):
        points = points.astype(np.float64)
        nearest = cKDTree(points).query(points, 2)[0][:, 1]
        assert summary.spacing == pytest.approx(np.median(nearest), rel=1e-6)
    # Of the points themselves, not of the voxels.
    grid = 0.1 * np.stack(np.meshgrid(np.arange(30.0), np.arange(20.0), [0.0]), axis=-1).reshape(-1, 3)
    result = register(np.concatenate([grid, grid[:7]]), 5.0 * grid, voxel=0.3, scale="rigid")
    assert (result.source.spacing, result.target.spacing) == (pytest.approx(0.1), pytest.approx(0.5))


def test_hypotheses_bound_the_alternatives(pair: RegistrationPair, found: Registration) -> None:
    assert len(found.alternatives) < 5
    result = register(pair.source, pair.target, voxel=0.08, hypotheses=1)
    assert result.ok
    assert result.alternatives == ()


@pytest.mark.parametrize("kind", ["none", "gicp", "point", "plane"])
def test_refinement_improves_a_start_near_the_truth(pair: RegistrationPair, found: Registration, kind: Any) -> None:
    off = np.eye(4)
    off[:3, :3] = Rotation.from_rotvec(np.radians(3.0) * np.array([0.0, 0.6, 0.8])).as_matrix()
    off[:3, 3] = 0.05, -0.03, 0.02
    start = found.T @ off
    given = start.copy()
    result = register(pair.source, pair.target, method="refine", init=start, refine=kind)
    np.testing.assert_array_equal(start, given)
    assert result.engine == "refine"
    degrees, gap = pose_error(result.T, found.T, pair.source)
    if kind == "none":
        np.testing.assert_allclose(result.T, start, atol=1e-9)
        assert result.refine == "none"
    else:
        assert result.refine == "accepted"
        assert degrees < 1.0
        assert gap < 0.5 * found.voxel


def test_refinement_far_from_the_truth_is_no_success(pair: RegistrationPair) -> None:
    lost = np.eye(4)
    lost[:3, 3] = 50.0
    result = register(pair.source, pair.target, method="refine", init=lost)
    assert result.status == "not_registered"
    assert "W005" in warned(result)
    np.testing.assert_allclose(result.T, lost, atol=1e-9)
    assert result.metrics is not None
    assert result.metrics.covariance_reason == "no overlap"


def test_known_sensors_are_used_and_reported(pair: RegistrationPair, found: Registration) -> None:
    move = rigid(3, 10.0)
    target = PointCloud(pair.target.astype(np.float64), viewpoint=np.zeros(3))
    result = register(moved(move, pair.source), target, source_sensor=move[:3, 3])
    assert result.ok
    assert (result.source.sensor_source, result.target.sensor_source) == ("given", "file")
    np.testing.assert_allclose(result.source.sensor_origin, move[:3, 3], atol=1e-9)
    np.testing.assert_allclose(result.target.sensor_origin, 0.0, atol=1e-9)
    degrees, gap = pose_error(result.T, found.T @ np.linalg.inv(move), moved(move, pair.source))
    assert degrees < 0.5
    assert gap < 0.5 * result.voxel


def test_unit_is_recorded_as_given() -> None:
    few = np.random.default_rng(0).normal(size=(60, 3))
    result = register(few, few[::-1], unit="inch", seed=5)
    assert (result.source.unit, result.target.unit, result.source.unit_source) == ("inch", "inch", "given")
    assert result.seed == 5
    assert warned(result).count("W002") == 2


@pytest.mark.parametrize("count", [3, 4, 7, 30])
def test_tiny_clouds_get_an_answer(count: int) -> None:
    rng = np.random.default_rng(count)
    result = register(rng.normal(size=(count, 3)), rng.normal(size=(count, 3)))
    assert not result.ok
    assert "W002" in warned(result)


SOME = np.random.default_rng(0).normal(size=(50, 3))
SHEARED = np.eye(4) + 0.1 * np.eye(4, k=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "^method: expected"),
        ({"scale": "sim3"}, "^scale: expected"),
        ({"refine": "icp"}, "^refine: expected"),
        ({"accept": "always"}, "^accept: expected"),
        ({"voxel": 0.0}, "^voxel: expected a positive length, got 0"),
        ({"voxel": -1.0}, "^voxel: expected a positive length, got -1"),
        ({"voxel": float("nan")}, "^voxel: expected a positive length, got nan"),
        ({"voxel": float("inf")}, "^voxel: expected a positive length, got inf"),
        ({"hypotheses": 0}, "^hypotheses: expected at least 1, got 0"),
        ({"threads": 0}, "^threads: expected at least 1, got 0"),
        ({"init": np.eye(4)}, "^init: expected None unless method is 'refine'"),
        ({"init": np.eye(4), "method": "classic"}, "^init: expected None unless method is 'refine'"),
        ({"init": np.eye(3), "method": "refine"}, r"^init: expected a finite \(4, 4\) matrix, got shape \(3, 3\)"),
        ({"init": np.full((4, 4), np.nan), "method": "refine"}, r"^init: expected a finite \(4, 4\) matrix"),
        ({"init": SHEARED, "method": "refine"}, "^init: expected a rotation without scale or reflection"),
        ({"init": np.diag([1.0, 1, -1, 1]), "method": "refine"}, "^init: expected a rotation without scale"),
        ({"init": np.diag([2.0, 2, 2, 1]), "method": "refine"}, "^init: expected a rotation without scale"),
        ({"source_sensor": [0.0, 0.0]}, "^source_sensor: expected 3 finite numbers"),
        ({"target_sensor": [0.0, 0.0, np.nan]}, "^target_sensor: expected 3 finite numbers"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register(SOME, SOME, **options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 3)), "source is empty"),
        (SOME[:2], "source has 2 usable points"),
        (np.full((9, 3), np.nan), "source: all 9 points are NaN"),
        (np.ones((9, 3)), "source: all 9 points are at 1 place"),
        (np.linspace(0, 1, 9)[:, None] * np.ones(3), "source: all points lie on one line"),
    ],
)
def test_clouds_without_a_pose_are_refused(bad: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        register(bad, SOME)
    with pytest.raises(InputError, match=message.replace("source", "target")):
        register(SOME, bad)


def test_wrong_shape_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        register(np.zeros((5, 2)), SOME)
    with pytest.raises(FileNotFoundError, match="missing"):
        register(tmp_path / "missing.ply", SOME)


def test_exception_in_a_callback_leaves_the_threads_alone() -> None:
    def stop(stage: Stage) -> None:
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        register(SOME, SOME, threads=1, on_stage=stop)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_raw_kitchen_scans_meet_the_ground_truth(shared_data: Path) -> None:
    folder = shared_data / "3dmatch"
    listed = json.loads((folder / "pairs.json").read_text())["pairs"]
    truth = next(each for each in listed if each["name"] == "3DMatch/7-scenes-redkitchen/0_4")
    expected = np.array(truth["T_target_from_source"])
    dense = folder / "dense"
    result = register(dense / "redkitchen_cloud_bin_4.ply", dense / "redkitchen_cloud_bin_0.ply")
    assert result.ok, result.explain()
    got = result.T
    cosine = (np.trace(got[:3, :3] @ expected[:3, :3].T) - 1.0) / 2.0
    assert np.degrees(np.arccos(min(cosine, 1.0))) < 2.5
    assert np.linalg.norm(got[:3, 3] - expected[:3, 3]) < 0.06
