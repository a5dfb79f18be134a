"""Laws of the whole pipeline: pose, unit, origin, row order, damage and threads change nothing."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rotaware.datasets import DepthCamera, RegistrationPair, indoor_pair
from rotaware.pointcloud import PointCloud, Registration, Stage, register
from rotaware.pointcloud.registration import STAGES

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


def differences(first: Any, second: Any, path: str = "result") -> list[str]:
    """Where two results differ, bit for bit; timings aside."""
    if type(first) is not type(second):
        return [f"{path}: {type(first)} and {type(second)}"]
    if is_dataclass(first):
        names = [field.name for field in fields(first) if field.name != "timings"]
        return [line for name in names for line in differences(getattr(first, name), getattr(second, name), name)]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [f"{path}: {list(first)} and {list(second)}"]
        return [line for key in first for line in differences(first[key], second[key], f"{path}[{key!r}]")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{path}: {len(first)} and {len(second)} entries"]
        pairs = enumerate(zip(first, second, strict=True))
        return [line for k, (a, b) in pairs for line in differences(a, b, f"{path}[{k}]")]
    if isinstance(first, np.ndarray):
        same = first.dtype == second.dtype and np.array_equal(first, second)
    else:
        same = first == second
    return [] if same else [f"{path}: {first} and {second}"]


@pytest.fixture(scope="module")
def pair() -> RegistrationPair:
    return indoor_pair(2, **COARSE)


@pytest.fixture(scope="module")
def found(pair: RegistrationPair) -> Registration:
    return register(pair.source, pair.target)


@pytest.mark.parametrize("seed", range(3))
def test_moving_both_clouds_and_the_answer_changes_nothing(
    pair: RegistrationPair, found: Registration, seed: int
) -> None:
    move_source, move_target = rigid(2 * seed, 100.0), rigid(2 * seed + 1, 100.0)
    result = register(moved(move_source, pair.source), moved(move_target, pair.target))
    expected = move_target @ found.T @ np.linalg.inv(move_source)
    assert_same_pose(result, expected, moved(move_source, pair.source))
    assert result.confidence == pytest.approx(found.confidence, abs=0.01)
    assert result.voxel == pytest.approx(found.voxel, rel=0.01)
    for T, there, here in ((move_source, result.source, found.source), (move_target, result.target, found.target)):
        assert there.sensor_source == here.sensor_source == "estimated"
        gap = moved(T, np.array([here.sensor_origin]))[0] - np.array(there.sensor_origin)
        assert np.linalg.norm(gap) < found.voxel
    assert result.metrics is not None
    assert found.metrics is not None
    assert result.metrics.overlap_source == pytest.approx(found.metrics.overlap_source, abs=0.02)


def test_swapping_the_clouds_inverts_the_answer(pair: RegistrationPair, found: Registration) -> None:
    result = register(pair.target, pair.source)
    assert result.ok
    degrees, gap = pose_error(np.linalg.inv(result.T), found.T, pair.source)
    # Not a symmetry of GICP, whose residuals live in the target.
    assert degrees < 0.5
    assert gap < 0.5 * found.voxel


def test_row_order_does_not_matter(pair: RegistrationPair, found: Registration) -> None:
    rng = np.random.default_rng(0)
    result = register(rng.permutation(pair.source), rng.permutation(pair.target))
    assert_same_pose(result, found.T, pair.source)


def test_unit_does_not_matter(pair: RegistrationPair, found: Registration) -> None:
    result = register(1000.0 * pair.source.astype(np.float64), 1000.0 * pair.target.astype(np.float64))
    expected = found.T.copy()
    expected[:3, 3] *= 1000.0
    assert_same_pose(result, expected, 1000.0 * pair.source)
    assert result.scale == 1.0
    assert result.voxel == pytest.approx(1000.0 * found.voxel, rel=1e-3)
    assert result.source.unit == "mm"
    assert result.source.spacing == pytest.approx(1000.0 * found.source.spacing, rel=1e-2)
    assert result.metrics is not None
    assert found.metrics is not None
    assert result.metrics.residual_median == pytest.approx(1000.0 * found.metrics.residual_median, rel=0.05)


def test_map_coordinates_do_not_matter(pair: RegistrationPair, found: Registration) -> None:
    offset = np.eye(4)
    offset[:3, 3] = 5e5, 5.4e6, 120.0
    result = register(moved(offset, pair.source), moved(offset, pair.target))
    assert_same_pose(result, offset @ found.T @ np.linalg.inv(offset), moved(offset, pair.source))
    assert result.source.unit == "m"


def test_missing_returns_and_duplicates_do_not_matter(pair: RegistrationPair, found: Registration) -> None:
    rng = np.random.default_rng(0)
    copies = rng.integers(0, len(pair.source), len(pair.source) // 2)
    holes = np.full((len(pair.source) // 100, 3), np.nan, dtype=np.float32)
    order = rng.permutation(len(pair.source) + len(copies) + len(holes))
    dirty = np.concatenate([pair.source, pair.source[copies], holes])[order]
    result = register(dirty, pair.target)
    assert_same_pose(result, found.T, pair.source)
    assert (result.source.dropped_nonfinite, result.source.dropped_duplicates) == (len(holes), len(copies))
    assert [notice.code for notice in result.warnings] == ["W001"]
    # Rows of the file, not of what was left of it.
    assert np.isfinite(dirty[result.correspondences.source_index]).all()
    gap = moved(result.T, dirty[result.correspondences.source_index])
    gap = np.linalg.norm(gap - pair.target[result.correspondences.target_index], axis=1)
    assert np.median(gap[result.correspondences.inlier]) < 2.0 * result.voxel


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_repetition_do_not_change_a_bit(pair: RegistrationPair, found: Registration, threads: int) -> None:
    before = torch.get_num_threads()
    result = register(pair.source, pair.target, threads=threads)
    assert torch.get_num_threads() == before
    assert differences(found, result) == []


def test_tensors_and_clouds_are_like_arrays_and_nothing_is_changed(pair: RegistrationPair, found: Registration) -> None:
    tensor, cloud = torch.from_numpy(pair.source.copy()), PointCloud(pair.target.astype(np.float64))
    arrays = pair.source.copy(), pair.target.copy()
    stages: list[Stage] = []
    result = register(tensor, cloud, on_stage=stages.append)
    assert differences(found, result) == []
    np.testing.assert_array_equal(tensor.numpy(), arrays[0])
    np.testing.assert_array_equal(cloud.points, arrays[1].astype(np.float64))
    np.testing.assert_array_equal(pair.source, arrays[0])
    np.testing.assert_array_equal(pair.target, arrays[1])
    assert [(stage.index, stage.name, stage.done) for stage in stages] == [
        (index, name, done) for index, name in enumerate(STAGES, 1) for done in (False, True)
    ]
    assert {stage.total for stage in stages} == {len(STAGES)}
    assert all(stage.note and stage.seconds >= 0 for stage in stages if stage.done)
