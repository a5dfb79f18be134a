"""Generated fragments and pairs: the truth they claim, their repeatability, and how alike rooms are."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import small_gicp
from scipy.spatial import cKDTree

from rotaware.datasets import (
    DepthCamera,
    IndoorScenes,
    RegistrationPair,
    indoor_fragment,
    indoor_pair,
    measured_overlap,
    unrelated_pair,
)
from rotaware.datasets.camera_track import camera_path, camera_pose, drifted
from rotaware.datasets.indoor_room import furnished_room
from rotaware.datasets.solids import rotation

QUICK = DepthCamera(width=160, height=120, focal=146.25)
# Typed so that a checker lets it through to the function that must refuse it.
NO_INTEGER: Any = 1.5


@pytest.fixture(scope="module")
def pair() -> RegistrationPair:
    return indoor_pair(0)


def test_a_pair_is_what_it_says(pair: RegistrationPair) -> None:
    assert pair.source.dtype == pair.target.dtype == np.float32
    assert 8_000 < min(len(pair.source), len(pair.target)) < max(len(pair.source), len(pair.target)) < 40_000
    assert 0.3 <= pair.overlap <= 0.7
    assert pair.T_target_source is not None and pair.T_target_source.dtype == np.float64
    R = pair.T_target_source[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) > 0
    assert pair.overlap == measured_overlap(pair.source, pair.target, pair.T_target_source)


def test_the_overlap_needs_the_true_pose(pair: RegistrationPair) -> None:
    assert pair.T_target_source is not None
    wrong = pair.T_target_source.copy()
    wrong[:3, :3] = rotation(0.5, 0.3, -0.4) @ wrong[:3, :3]
    assert measured_overlap(pair.source, pair.target, wrong) < 0.3 * pair.overlap
    inverse = np.linalg.inv(pair.T_target_source).astype(np.float64)
    assert measured_overlap(pair.source, pair.target, inverse) < 0.5 * pair.overlap


@pytest.mark.parametrize("seed", [0, 4])
def test_icp_started_at_the_truth_stays_there(seed: int, pair: RegistrationPair) -> None:
    pair = pair if seed == 0 else indoor_pair(seed, camera=QUICK)
    truth = pair.T_target_source
    assert truth is not None
    found = small_gicp.align(
        pair.target.astype(np.float64),
        pair.source.astype(np.float64),
        truth,
        registration_type="GICP",
        downsampling_resolution=0.05,
        max_correspondence_distance=0.1,
    )
    away = np.linalg.inv(truth) @ found.T_target_source
    angle = np.degrees(np.arccos(np.clip((np.trace(away[:3, :3]) - 1) / 2, -1, 1)))
    # Tracking drift and sensor warp leave a bias of this size in real fragments as well.
    assert angle < 1.0
    assert np.linalg.norm(away[:3, 3]) < 0.03
    moved = pair.source @ truth[:3, :3].T + truth[:3, 3]
    gap, _ = cKDTree(pair.target).query(moved)
    assert np.median(gap[gap < 0.0375]) < 0.02


def test_a_seed_is_a_scan_whatever_runs_beside_it() -> None:
    def scan(room: int) -> bytes:
        return indoor_fragment(room, 1, camera=QUICK, frames=3).points.tobytes()

    alone = [scan(room) for room in (1, 2, 1, 2)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(scan, (1, 2, 1, 2)))
    assert alone == together
    assert alone[0] == alone[2] != alone[1]


def test_a_pair_repeats_byte_for_byte_and_seeds_differ() -> None:
    first, again, other = (indoor_pair(seed, camera=QUICK, frames=3) for seed in (5, 5, 6))
    assert again.source.tobytes() == first.source.tobytes() and again.target.tobytes() == first.target.tobytes()
    np.testing.assert_array_equal(again.T_target_source, first.T_target_source)
    assert other.source.tobytes() != first.source.tobytes()
    assert other.name != first.name


def test_camera_seeds_show_one_room_from_different_places() -> None:
    first, second = (indoor_fragment(6, seed, camera=QUICK, frames=2) for seed in (0, 1))
    assert not np.allclose(first.T_world_camera, second.T_world_camera)
    room = furnished_room(6)
    for fragment in (first, second):
        world = fragment.points @ fragment.T_world_camera[:3, :3].T + fragment.T_world_camera[:3, 3]
        inside = np.all(np.abs(world[:, :2]) < room.half + 0.4, axis=1) & (world[:, 2] > -0.08)
        assert inside.mean() > 0.97
        # The floor is in view and lies at height 0.
        assert np.mean(np.abs(world[:, 2]) < 0.05) > 0.03


def test_points_lie_in_front_of_the_first_camera() -> None:
    fragment = indoor_fragment(8, 0, camera=QUICK, frames=1)
    x, y, z = fragment.points.T
    assert z.min() >= 0.5 and z.max() < 3.5
    assert np.abs(x / z).max() < 0.5 * QUICK.width / QUICK.focal
    assert np.abs(y / z).max() < 0.5 * QUICK.height / QUICK.focal
    # The camera is held upright: its y axis points down.
    assert fragment.T_world_camera[2, 1] < -0.7


def test_voxels_hold_one_point_and_dense_scans_hold_more() -> None:
    thinned = indoor_fragment(8, 0, camera=QUICK, frames=2, voxel=0.05).points
    dense = indoor_fragment(8, 0, camera=QUICK, frames=2, voxel=None).points
    assert len(np.unique(np.floor(thinned.astype(np.float64) / 0.05), axis=0)) == len(thinned)
    assert len(dense) > 5 * len(thinned)
    assert {row.tobytes() for row in thinned} <= {row.tobytes() for row in dense}


def test_low_overlap_on_request() -> None:
    low = indoor_pair(3, overlap=(0.1, 0.3), camera=QUICK, frames=4)
    assert 0.1 <= low.overlap <= 0.3


def test_unrelated_scans_have_no_pose() -> None:
    pair = unrelated_pair(0, camera=QUICK, frames=3)
    assert pair.T_target_source is None and pair.overlap == 0.0
    assert len(pair.source) > 3_000 and len(pair.target) > 3_000


def test_rooms_hold_furniture_of_their_own() -> None:
    rooms = [furnished_room(seed) for seed in range(4)]
    sizes: set[tuple[float, ...]] = set()
    for room in rooms:
        assert 8 <= room.piece.max() <= 25
        assert np.all(room.half >= 1.5) and np.all(room.half <= 3.5)
        assert np.all(np.isfinite(room.solids.center)) and np.all(room.solids.half > 0)
        assert np.all(np.abs(room.solids.taper) < 1)
        np.testing.assert_allclose(
            room.solids.axes @ room.solids.axes.transpose(0, 2, 1),
            np.tile(np.eye(3), (len(room.solids), 1, 1)),
            atol=1e-9,
        )
        mine = {tuple(half) for half in room.solids.half.round(6)[room.solids.half.max(axis=1) > 0.25]}
        assert len(mine) > 30 and not sizes & mine
        sizes |= mine


def test_furniture_stays_inside_the_walls() -> None:
    for seed in range(2):
        room = furnished_room(seed)
        center = room.solids.center[room.piece > 0]
        assert np.all(np.abs(center[:, :2]) < room.half)
        assert center[:, 2].min() > -0.05


def test_paths_start_at_the_first_pose_and_move_smoothly() -> None:
    pose = camera_pose(np.array([0.3, -0.2, 1.5]), 0.4, -0.3)
    for seed in range(5):
        path = camera_path(pose, 10, np.random.default_rng(seed))
        np.testing.assert_array_equal(path[0], pose)
        steps = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
        assert steps.max() < 0.25 and 0.05 < steps.sum() < 1.5
    reported = drifted(path, np.random.default_rng(0), translation=1e-3, angle=1e-3)
    np.testing.assert_array_equal(reported[0], path[0])
    assert 0 < np.abs(reported - path).max() < 0.02


def test_a_camera_looks_where_it_is_told() -> None:
    pose = camera_pose(np.array([1.0, 2.0, 1.5]), np.pi / 2, -np.pi / 4)
    np.testing.assert_allclose(pose[:3, 2], [0, np.sqrt(0.5), -np.sqrt(0.5)], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(pose[:3, :3]), 1.0)


def test_the_dataset_makes_items_on_demand() -> None:
    scenes = IndoorScenes(3, seed=1, camera=QUICK, frames=3)
    item = scenes[2]
    assert len(scenes) == 3
    assert scenes[-1].source.tobytes() == item.source.tobytes()
    assert IndoorScenes(3, seed=2, camera=QUICK, frames=3)[2].name != item.name
    with pytest.raises(IndexError, match=r"index: expected a value in \[-3, 3\), got 3"):
        scenes[3]


def test_an_impossible_overlap_is_an_error_that_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"no two views of room 0 with an overlap in \[0.999, 1.0\]"):
        indoor_pair(0, overlap=(0.999, 1.0), camera=QUICK.scaled(0.5), frames=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: indoor_pair(-1), "seed: expected a non-negative integer, got -1"),
        (lambda: indoor_pair(True), "seed: expected a non-negative integer, got True"),
        (lambda: unrelated_pair(NO_INTEGER), "seed: expected a non-negative integer, got 1.5"),
        (lambda: indoor_fragment(0, -2), "camera_seed: expected"),
        (lambda: indoor_fragment(-2, 0), "room_seed: expected"),
        (lambda: indoor_fragment(0, 0, frames=0), "frames: expected a positive integer, got 0"),
        (lambda: indoor_fragment(0, 0, voxel=0.0), "voxel: expected a positive number of metres, got 0.0"),
        (lambda: indoor_pair(0, overlap=(0.7, 0.3)), "overlap: expected"),
        (lambda: indoor_pair(0, overlap=(0.2, 1.3)), "overlap: expected"),
        (lambda: IndoorScenes(0), "pairs: expected a positive integer, got 0"),
        (lambda: IndoorScenes(1, seed=-1), "seed: expected"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
