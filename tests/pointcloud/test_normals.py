"""Normals: exact on planes and spheres, and turned towards where the sensor really was."""

from __future__ import annotations

import numpy as np
import pytest
from lattice_cases import wavy_sheet
from scipy.spatial.transform import Rotation

from rotaware.datasets import DepthCamera, indoor_fragment
from rotaware.pointcloud.canonical import apply, automatic_voxel, canonical_frame, voxel_centroids
from rotaware.pointcloud.normals import (
    DEPTH_RESOLUTION,
    depth_cell,
    depth_map,
    estimate_normals,
    estimate_sensors,
    in_free_space,
    orient_normals,
)

CAMERA = DepthCamera(width=160, height=120, focal=146.25)
FRAGMENTS = [(0, 0), (1, 0), (2, 1)]


def random_pose(seed: int, shift: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(rng=rng).as_matrix()
    T[:3, 3] = shift * rng.normal(size=3)
    return T


def ball(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def scaled_scan(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scan as the pipeline sees it: keypoints and fine points in voxels, and its camera, which was at the origin."""
    frame = canonical_frame(points)
    inside = apply(frame, points)
    voxel = automatic_voxel([inside], 3000)
    return voxel_centroids(inside / voxel, 1.0), voxel_centroids(inside / voxel, 0.5), frame[:3, 3] / voxel


@pytest.fixture(scope="module", params=FRAGMENTS, ids=str)
def scan(request: pytest.FixtureRequest) -> np.ndarray:
    return indoor_fragment(*request.param, camera=CAMERA, frames=3).points.astype(np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_normals_of_a_plane_are_exact(seed: int) -> None:
    rng, pose = np.random.default_rng(seed), random_pose(seed, 100.0)
    flat = np.concatenate([rng.uniform(0, 20, (400, 2)), np.zeros((400, 1))], axis=1)
    normals, variation = estimate_normals(apply(pose, flat), apply(pose, flat))
    np.testing.assert_allclose(np.abs(normals @ pose[:3, 2]), 1.0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-12)
    assert variation.max() < 1e-9


def test_normals_of_a_sphere_point_to_its_centre() -> None:
    directions = ball(20_000)
    normals, variation = estimate_normals(50 * directions[:500] + 7, 50 * directions + 7)
    assert np.degrees(np.arccos(np.abs((normals * directions[:500]).sum(axis=1)))).max() < 2.0
    assert 0 < variation.max() < 0.01


def test_variation_tells_a_plane_from_a_solid() -> None:
    solid = np.random.default_rng(0).normal(size=(2000, 3))
    # As many neighbors as points: the whole ball, alike in all directions.
    variation = estimate_normals(solid[:3], solid, 2000)[1]
    np.testing.assert_allclose(variation, 1 / 3, atol=0.02)


def test_normals_turn_with_the_points() -> None:
    points, pose = np.random.default_rng(1).normal(size=(300, 3)), random_pose(1, 10.0)
    normals, variation = estimate_normals(points, points, 12)
    turned, turned_variation = estimate_normals(apply(pose, points), apply(pose, points), 12)
    np.testing.assert_allclose(np.abs((turned * (normals @ pose[:3, :3].T)).sum(axis=1)), 1.0, atol=1e-9)
    np.testing.assert_allclose(turned_variation, variation, atol=1e-12)


def test_normals_on_a_lattice_do_not_change_with_its_pose() -> None:
    points = wavy_sheet().numpy()
    normals, variation = estimate_normals(points, points, 33)
    for seed in range(10):
        pose = random_pose(seed, 2.0)
        moved = apply(pose, points)
        for given, tolerance in ((moved, 1e-5), (moved.astype(np.float32).astype(np.float64), 1e-3)):
            turned, turned_variation = estimate_normals(given, given, 33)
            expected = normals @ pose[:3, :3].T
            signs = np.sign((turned * expected).sum(axis=1, keepdims=True))
            np.testing.assert_allclose(signs * turned, expected, rtol=0, atol=tolerance)
            np.testing.assert_allclose(turned_variation, variation, rtol=0, atol=tolerance)


def test_normals_of_fewer_points_than_neighbors() -> None:
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    normals, variation = estimate_normals(triangle, triangle)
    np.testing.assert_allclose(np.abs(normals), [[0, 0, 1]] * 3, atol=1e-12)
    np.testing.assert_allclose(variation, 0.0, atol=1e-15)


def test_oriented_normals_face_the_sensor_whatever_their_signs_were() -> None:
    rng = np.random.default_rng(0)
    points, normals, sensor = rng.normal(size=(200, 3)), ball(200), np.array([3.0, 1, -2])
    oriented = orient_normals(points, normals, sensor)
    assert (((sensor - points) * oriented).sum(axis=1) >= 0).all()
    np.testing.assert_array_equal(np.abs(oriented), np.abs(normals))
    signs = rng.choice([-1.0, 1.0], (200, 1))
    np.testing.assert_array_equal(orient_normals(points, signs * normals, sensor), oriented)
    pose = random_pose(2, 1e3)
    moved = orient_normals(apply(pose, points), normals @ pose[:3, :3].T, apply(pose, sensor[None])[0])
    np.testing.assert_allclose(moved, oriented @ pose[:3, :3].T, atol=1e-12)


def test_sensor_of_a_generated_scan_is_found(scan: np.ndarray) -> None:
    points, fine, camera = scaled_scan(scan)
    normals, _ = estimate_normals(points, fine)
    truth = orient_normals(points, normals, camera)
    agreements = [
        ((orient_normals(points, normals, sensor.origin) * truth).sum(axis=1) > 0).mean()
        for sensor in estimate_sensors(points, normals)
    ]
    assert 1 <= len(agreements) <= 2
    assert max(agreements) >= 0.95


def test_sensor_of_a_generated_scan_is_near_the_camera() -> None:
    # Signs alone hardly tell a viewpoint from another one far behind it; the nearer one is preferred.
    near = 0
    for seed in range(5):
        scan = indoor_fragment(seed, 0, camera=CAMERA, frames=3).points.astype(np.float64)
        points, fine, camera = scaled_scan(scan)
        metres = float(np.linalg.norm(canonical_frame(scan)[:3, 3]) / np.linalg.norm(camera))
        sensors = estimate_sensors(points, estimate_normals(points, fine)[0])
        near += min(np.linalg.norm(sensor.origin - camera) * metres for sensor in sensors) < 1.5
    assert near >= 4


def test_sensor_moves_with_the_scan(scan: np.ndarray) -> None:
    rng, pose = np.random.default_rng(3), random_pose(3, 100.0)
    points, fine, _ = scaled_scan(scan)
    moved_points, moved_fine, _ = scaled_scan(rng.permutation(apply(pose, scan)))
    np.testing.assert_allclose(moved_points, points, atol=1e-6)
    signs = rng.choice([-1.0, 1.0], (len(points), 1))
    sensors = estimate_sensors(points, estimate_normals(points, fine)[0])
    moved_sensors = estimate_sensors(moved_points, signs * estimate_normals(moved_points, moved_fine)[0])
    assert len(moved_sensors) == len(sensors)
    for sensor, moved in zip(sensors, moved_sensors, strict=True):
        np.testing.assert_allclose(moved.origin, sensor.origin, atol=1e-3)
        assert moved.inconsistent == pytest.approx(sensor.inconsistent, abs=2e-3)


def test_sphere_is_explained_from_inside() -> None:
    points = 15 * ball(3000)
    sensors = estimate_sensors(points, ball(3000))
    assert np.linalg.norm(sensors[0].origin) < 15
    assert sensors[0].inconsistent < 0.01


def test_second_sensor_sees_most_from_behind() -> None:
    # A wall may have been seen from either side: nothing in the cloud can tell.
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-20, 20, (3000, 2)), 0.1 * rng.normal(size=(3000, 1))], axis=1)
    front, back = estimate_sensors(points, np.tile([0.0, 0.0, 1.0], (3000, 1)))
    assert front.origin[2] * back.origin[2] < 0


def test_depth_cells_partition_the_directions() -> None:
    cells = [depth_cell(*direction, DEPTH_RESOLUTION) for direction in ball(2000)]
    far = [depth_cell(*(37.0 * direction), DEPTH_RESOLUTION) for direction in ball(2000)]
    assert cells == far
    assert min(cells) >= 0
    assert max(cells) < 6 * DEPTH_RESOLUTION**2
    axes = [depth_cell(*axis, DEPTH_RESOLUTION) // DEPTH_RESOLUTION**2 for axis in [*np.eye(3), *-np.eye(3)]]
    assert sorted(axes) == list(range(6))
    assert depth_cell(0.0, 0.0, 0.0, DEPTH_RESOLUTION) in range(6 * DEPTH_RESOLUTION**2)


def test_depth_map_holds_the_nearest_distance() -> None:
    shell, origin = ball(60_000), np.array([4.0, -2.0, 9.0])
    depths = depth_map(np.concatenate([20 * shell, 50 * shell]) + origin, origin)
    seen = np.isfinite(depths)
    assert seen.mean() > 0.9
    np.testing.assert_allclose(depths[seen], 20.0, atol=1e-9)


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_free_space_ends_before_the_surface(margin: float) -> None:
    origin = np.array([4.0, -2.0, 9.0])
    upper = ball(200_000)
    upper[:, 2] = np.abs(upper[:, 2])
    depths = depth_map(40 * upper + origin, origin)
    probes = ball(500, seed=1)
    probes = probes[np.abs(probes[:, 2]) > 0.2]
    seen = probes[:, 2] > 0
    assert 100 < seen.sum() < len(probes) - 100

    def free(distance: float) -> np.ndarray:
        return in_free_space(distance * probes + origin, origin, depths, margin)

    for distance in (1.0, 15.0, (40.0 - margin) / 1.05 - 0.1):
        np.testing.assert_array_equal(free(distance), seen)
    for distance in ((40.0 - margin) / 1.05 + 0.1, 40.0, 41.0, 400.0):
        assert not free(distance).any()


def test_no_point_of_a_scan_is_in_its_own_free_space(scan: np.ndarray) -> None:
    points, _, camera = scaled_scan(scan)
    # But for rays that pass an edge within their cell.
    assert in_free_space(points, camera, depth_map(points, camera)).mean() == 0.0
