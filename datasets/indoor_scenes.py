"""Generated indoor scans: fragments and pairs that look like 3DMatch, made from integer seeds with nothing to download.

A room is furnished from parametric solids (`indoor_room`), a depth camera walks through it (`camera_track`), its frames
get the noise of a structured-light sensor and are fused into one cloud (`depth_camera`). As in 3DMatch, a fragment lies
in the frame of its first camera (x right, y down, z forward, metres), is cut to a cube of 3 m in front of it and keeps
the first point of each 2.5 cm voxel.

The same seed gives the same bytes on one machine and installed numpy, whatever the number of threads or processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .camera_track import camera_path, drifted, first_pose, nearby_pose
from .depth_camera import DepthCamera, cast_view, draw_warp, first_of_voxel, fuse_frames, measure_depth
from .indoor_room import Room, furnished_room
from .solids import Array

# Metres. A source point counts as overlapping if the target has a point this near: 1.5 voxels, as in Predator.
OVERLAP_DISTANCE = 0.0375
# The cube that 3DMatch fuses a fragment in, in the first camera's frame, metres.
VOLUME = np.array([[-1.5, -1.5, 0.5], [1.5, 1.5, 3.5]])
# First cameras per room, second poses per first camera, and full renderings per first camera a pair may cost.
_START_TRIES = 6
_NEARBY_TRIES = 150
_RENDER_TRIES = 4
# Of the surface that both scans of a pair see: walls and floor alone leave the pose open.
_FURNITURE_SHARE = 0.25
_THUMBNAIL = DepthCamera().scaled(0.2)
# Thumbnails foresee an overlap higher than the scans have by this, with a standard deviation of 0.024 (70 pairs).
_FORESIGHT_BIAS = 0.028


@dataclass(frozen=True)
class Fragment:
    """One scan of a room."""

    # (N, 3), metres, in the frame of the first camera.
    points: NDArray[np.float32]
    # (4, 4), of the first camera; the room's frame has z up and its floor at 0.
    T_world_camera: Array
    name: str


@dataclass(frozen=True)
class RegistrationPair:
    """Two scans and, where they show the same room, the pose between them."""

    # (N, 3) and (M, 3), metres.
    source: NDArray[np.float32]
    target: NDArray[np.float32]
    # (4, 4), maps source coordinates to target; None for scans of different rooms.
    T_target_source: Array | None
    # Share of source points with a target point within `OVERLAP_DISTANCE` at the true pose; 0 for different rooms.
    overlap: float
    name: str


def indoor_fragment(
    room_seed: int,
    camera_seed: int,
    *,
    camera: DepthCamera | None = None,
    frames: int = 10,
    voxel: float | None = 0.025,
) -> Fragment:
    """One scan of the room `room_seed`, taken along the camera path `camera_seed`.

    Args:
        camera: sensor; the default is `DepthCamera()`.
        frames: depth images fused.
        voxel: metres; None keeps every fused pixel, some hundred thousand points.
    Returns:
        A fragment of 10 000 to 25 000 points with the defaults.
    Raises:
        ValueError: a seed is not a non-negative integer, `frames` is not positive, or `voxel` is not positive.
        RuntimeError: the room offers no good view.

    >>> fragment = indoor_fragment(3, 0, frames=4)
    >>> fragment.points.shape[1], bool((fragment.points[:, 2] > 0.4).all())
    (3, True)
    """
    require_seed(room_seed, "room_seed")
    require_seed(camera_seed, "camera_seed")
    require_rendering(frames, voxel)
    room = furnished_room(room_seed)
    pose = first_pose(room, np.random.default_rng([0xCA, room_seed, camera_seed]))
    seeds = [room_seed, camera_seed]
    points = scan(room, camera_walk(pose, seeds, frames), seeds, camera or DepthCamera(), voxel)
    return Fragment(points, pose, f"room{room_seed}-camera{camera_seed}")


def indoor_pair(
    seed: int,
    *,
    overlap: tuple[float, float] = (0.3, 0.7),
    camera: DepthCamera | None = None,
    frames: int = 10,
    voxel: float = 0.025,
) -> RegistrationPair:
    """Two scans of one room whose measured overlap lies in the given range.

    Second camera poses near the first are tried at low resolution, and the promising ones in full, until one fits.

    Args:
        seed: chooses the room and both camera paths.
        overlap: lowest and highest share of source points near the target, in [0, 1].
        camera, frames, voxel: as for `indoor_fragment`.
    Raises:
        ValueError: bad seed, range or rendering option.
        RuntimeError: no pair with such an overlap was found; names the nearest one.

    >>> pair = indoor_pair(0, frames=4)
    >>> 0.3 <= pair.overlap <= 0.7
    True
    """
    require_seed(seed, "seed")
    low, high = _require_range(overlap)
    require_rendering(frames, voxel)
    camera = camera or DepthCamera()
    room = furnished_room(seed)
    nearest = np.inf
    for start in range(_START_TRIES):
        generator = np.random.default_rng([0xAA, seed, start])
        target_path = camera_walk(first_pose(room, generator), [seed, start, 0], frames)
        target: NDArray[np.float32] | None = None
        promising = _promising_paths(room, target_path, generator, (low, high), [seed, start])
        for trial, source_path in islice(promising, _RENDER_TRIES):
            if target is None:
                target = scan(room, target_path, [seed, start, 0], camera, voxel)
            source = scan(room, source_path, [seed, start, trial], camera, voxel)
            pose = np.linalg.inv(target_path[0]) @ source_path[0]
            measured = measured_overlap(source, target, pose)
            if low <= measured <= high:
                return RegistrationPair(source, target, pose, measured, f"indoor-pair-{seed}")
            nearest = min(nearest, measured, key=lambda value: abs(value - 0.5 * (low + high)))
    raise RuntimeError(
        f"indoor_pair: found no two views of room {seed} with an overlap in [{low}, {high}] "
        f"(nearest: {nearest:.3f}); use another seed or a wider range"
    )


def unrelated_pair(
    seed: int, *, camera: DepthCamera | None = None, frames: int = 10, voxel: float = 0.025
) -> RegistrationPair:
    """Scans of two different rooms: nothing but planes in common, so a registration of them should be refused.

    Args:
        seed: chooses both rooms and camera paths.
        camera, frames, voxel: as for `indoor_fragment`.
    Raises:
        ValueError: bad seed or rendering option.

    >>> pair = unrelated_pair(0, frames=4)
    >>> pair.overlap, pair.T_target_source is None
    (0.0, True)
    """
    require_seed(seed, "seed")
    # Seeds of their own, far from those a user of indoor_pair would count up to.
    first, second = (int(value) for value in np.random.SeedSequence([0xDD, seed]).generate_state(2))
    source = indoor_fragment(first, 0, camera=camera, frames=frames, voxel=voxel)
    target = indoor_fragment(second, 1, camera=camera, frames=frames, voxel=voxel)
    return RegistrationPair(source.points, target.points, None, 0.0, f"unrelated-pair-{seed}")


def measured_overlap(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    T_target_source: Array,
    *,
    distance: float = OVERLAP_DISTANCE,
) -> float:
    """Share of source points (N, 3) that lie within `distance` of a point of the target (M, 3) at the given pose.

    >>> cloud = np.zeros((1, 3), np.float32)
    >>> measured_overlap(cloud, cloud, np.eye(4))
    1.0
    """
    moved = source @ T_target_source[:3, :3].T + T_target_source[:3, 3]
    gap, _ = cKDTree(target).query(moved, distance_upper_bound=distance)
    return float(np.mean(np.isfinite(gap)))


class IndoorScenes:
    """Map-style dataset of generated pairs: item i is made when asked for, and always the same.

    Works as it stands in a `torch.utils.data.DataLoader` with a `collate_fn`; rendering uses one core per worker.

    >>> scenes = IndoorScenes(2, seed=7, frames=2)
    >>> len(scenes), scenes[1].name == scenes[-1].name
    (2, True)
    """

    def __init__(
        self,
        pairs: int,
        *,
        seed: int = 0,
        overlap: tuple[float, float] = (0.3, 0.7),
        camera: DepthCamera | None = None,
        frames: int = 10,
        voxel: float = 0.025,
    ) -> None:
        """`pairs` in all; datasets of different `seed` share no room. The rest as for `indoor_pair`."""
        if not isinstance(pairs, int) or pairs < 1:
            raise ValueError(f"pairs: expected a positive integer, got {pairs!r}")
        require_seed(seed, "seed")
        _require_range(overlap)
        require_rendering(frames, voxel)
        self.pairs, self.seed, self.overlap = pairs, seed, overlap
        self.camera, self.frames, self.voxel = camera, frames, voxel

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, index: int) -> RegistrationPair:
        """Pair `index`; where a room has no pair in the range, the next room of this item's own sequence."""
        if not -self.pairs <= index < self.pairs:
            raise IndexError(f"index: expected a value in [{-self.pairs}, {self.pairs}), got {index}")
        rooms = np.random.SeedSequence([0xDA, self.seed, int(index) % self.pairs]).generate_state(8)
        for room in rooms[:-1]:
            try:
                return self._pair(int(room))
            except RuntimeError:
                continue
        return self._pair(int(rooms[-1]))

    def _pair(self, seed: int) -> RegistrationPair:
        return indoor_pair(seed, overlap=self.overlap, camera=self.camera, frames=self.frames, voxel=self.voxel)


def camera_walk(pose: Array, seeds: list[int], frames: int) -> Array:
    return camera_path(pose, frames, np.random.default_rng([0x9A, *seeds]))


def _promising_paths(
    room: Room, target_path: Array, generator: np.random.Generator, overlap: tuple[float, float], seeds: list[int]
) -> Iterator[tuple[int, Array]]:
    """Numbered paths beside the target's whose overlap, foreseen from thumbnails, fits and shows some furniture."""
    target, _ = _foresight(room, target_path)
    tree = cKDTree(target)
    for trial in range(1, 1 + _NEARBY_TRIES):
        source_pose = nearby_pose(room, target_path[0], generator)
        if source_pose is None:
            continue
        source_path = camera_walk(source_pose, [*seeds, trial], len(target_path))
        moved = np.linalg.inv(target_path[0]) @ source_pose
        source, is_furniture = _foresight(room, source_path)
        gap, _ = tree.query(source @ moved[:3, :3].T + moved[:3, 3], distance_upper_bound=0.08)
        is_shared = np.isfinite(gap)
        foreseen = max(float(np.mean(is_shared)) - _FORESIGHT_BIAS, 0.0)
        if overlap[0] <= foreseen <= overlap[1] and is_furniture[is_shared].sum() > _FURNITURE_SHARE * is_shared.sum():
            yield trial, source_path


def _foresight(room: Room, path: Array) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N, 3) roughly what a scan along `path` covers, from three clean thumbnails, and which of it is furniture."""
    few = path[[0, len(path) // 2, -1]]
    views = [cast_view(room.solids, T, _THUMBNAIL) for T in few]
    depth, solid = np.stack([view.depth for view in views]), np.stack([view.solid for view in views])
    is_met = depth < _THUMBNAIL.max_range
    points = fuse_frames(np.where(is_met, depth, 0.0), np.linalg.inv(path[0]) @ few, _THUMBNAIL, min_support=0)
    is_furniture = room.piece[solid[is_met]] > 0
    is_inside = _is_in_volume(points)
    points, is_furniture = points[is_inside], is_furniture[is_inside]
    kept = first_of_voxel(points, 0.06)
    return points[kept], is_furniture[kept]


def scan(room: Room, path: Array, seeds: list[int], camera: DepthCamera, voxel: float | None) -> NDArray[np.float32]:
    """Render, measure, fuse, cut and thin."""
    generator = np.random.default_rng([0x5C, *seeds])
    warp = draw_warp(camera, generator)
    views = (cast_view(room.solids, T, camera, generator) for T in path)
    depth = np.stack([measure_depth(view, room.solids, camera, generator, warp) for view in views])
    reported = drifted(np.linalg.inv(path[0]) @ path, generator, translation=0.001, angle=0.0007)
    points = fuse_frames(depth, reported, camera, min_support=min(1, len(path) - 1))
    points = points[_is_in_volume(points)]
    return points if voxel is None else points[first_of_voxel(points, voxel)]


def _is_in_volume(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.all((points >= VOLUME[0]) & (points < VOLUME[1]), axis=1)


def require_seed(seed: int, name: str) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"{name}: expected a non-negative integer, got {seed!r}")


def require_rendering(frames: int, voxel: float | None) -> None:
    if not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames: expected a positive integer, got {frames!r}")
    if voxel is not None and not voxel > 0:
        raise ValueError(f"voxel: expected a positive number of metres, got {voxel!r}")


def _require_range(overlap: tuple[float, float]) -> tuple[float, float]:
    if len(overlap) != 2 or not 0 <= overlap[0] < overlap[1] <= 1:
        raise ValueError(f"overlap: expected (low, high) with 0 <= low < high <= 1, got {overlap!r}")
    return overlap
