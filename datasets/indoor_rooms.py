"""Generated rooms with many scans each, on disk in the layout of 3DMatch: training data from nothing but seeds.

Rendering is what costs, so each scan serves in several pairs: eight scans of a room make about twenty pairs that
overlap.
A folder per room holds `cloud_bin_<k>.pth`, as the OverlapPredator authors distribute 3DMatch; `pairs.pkl` beside the
rooms is their list of pairs, and `rotaware.datasets.ThreeDMatch` reads both.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterable
from os import PathLike, getpid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from rotaware.geo.files import write_whole

from .camera_track import first_pose, nearby_pose
from .depth_camera import DepthCamera
from .indoor_room import furnished_room
from .indoor_scenes import OVERLAP_DISTANCE, Fragment, camera_walk, require_rendering, require_seed, scan
from .solids import Array

PAIR_LIST = "pairs.pkl"
# Draws of a camera pose near another one, per scan wanted.
_TRIES = 25
# A scan with fewer points shows too little to be matched.
_FEWEST_POINTS = 3000
# Every so manieth point is enough to estimate an overlap.
_EVERY = 8


def room_fragments(
    room_seed: int,
    count: int = 8,
    *,
    camera: DepthCamera | None = None,
    frames: int = 10,
    voxel: float = 0.025,
) -> list[Fragment]:
    """Scans of one room, each begun near another one, so that they overlap by anything between nothing and nearly all.

    Args:
        room_seed: chooses the room and the camera's walk.
        count: scans; fewer come back where the room offers no more good views.
        camera, frames, voxel: as for `indoor_fragment`.
    Raises:
        ValueError: a seed, count or rendering option that does not fit.
        RuntimeError: the room offers no good view at all.

    >>> fragments = room_fragments(100005, 2, frames=3)
    >>> [fragment.name for fragment in fragments]
    ['room100005/cloud_bin_0', 'room100005/cloud_bin_1']
    """
    require_seed(room_seed, "room_seed")
    require_rendering(frames, voxel)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count: expected a positive integer, got {count!r}")
    camera = camera or DepthCamera()
    room = furnished_room(room_seed)
    generator = np.random.default_rng([0xBB, room_seed])
    poses = [first_pose(room, generator)]
    for _ in range(_TRIES * count):
        if len(poses) == count:
            break
        pose = nearby_pose(room, poses[generator.integers(len(poses))], generator)
        if pose is not None:
            poses.append(pose)
    found: list[Fragment] = []
    for number, pose in enumerate(poses):
        seeds = [room_seed, number]
        path = camera_walk(pose, seeds, frames)
        points = scan(room, path, seeds, camera, voxel)
        if len(points) > _FEWEST_POINTS:
            found.append(Fragment(points, path[0], f"room{room_seed}/cloud_bin_{len(found)}"))
    return found


def overlaps_among(fragments: list[Fragment]) -> Array:
    """(F, F) share of the points of fragment i that lie near a point of fragment j, estimated on every eighth point.

    >>> cloud = np.random.default_rng(0).uniform(size=(100, 3)).astype(np.float32)
    >>> overlaps_among([Fragment(cloud, np.eye(4), "a"), Fragment(cloud, np.eye(4), "b")])[0, 1].item()
    1.0
    """
    trees = [cKDTree(fragment.points) for fragment in fragments]
    shares = np.eye(len(fragments))
    for i, source in enumerate(fragments):
        for j, target in enumerate(fragments):
            if i != j:
                T = np.linalg.inv(target.T_world_camera) @ source.T_world_camera
                points = source.points[::_EVERY] @ T[:3, :3].T + T[:3, 3]
                gap, _ = trees[j].query(points, distance_upper_bound=OVERLAP_DISTANCE)
                shares[i, j] = np.mean(np.isfinite(gap))
    return shares


def write_room(root: str | PathLike[str], room_seed: int, count: int = 8, **rendering: Any) -> Path | None:
    """One room as a folder below `root`, whole or not at all; a folder that is there already is left as it is.

    Returns:
        The folder, or None if the room offers no good view.
    """
    folder = Path(root) / f"room{room_seed}"
    if folder.is_dir():
        return folder
    try:
        fragments = room_fragments(room_seed, count, **rendering)
    except RuntimeError:
        return None
    shares = overlaps_among(fragments)
    unfinished = folder.with_name(f".{folder.name}.{getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        records = []
        for j, source in enumerate(fragments):
            torch.save(source.points, unfinished / f"cloud_bin_{j}.pth")
            for i, target in enumerate(fragments[:j]):
                T = np.linalg.inv(target.T_world_camera) @ source.T_world_camera
                records.append({"source": j, "target": i, "T": T.tolist(), "overlap": float(shares[j, i])})
        (unfinished / "pairs.json").write_text(json.dumps(records))
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def write_pair_list(root: str | PathLike[str], *, least_overlap: float = 0.1, most_overlap: float = 1.0) -> int:
    """`pairs.pkl` of all rooms below `root`, in the schema of the OverlapPredator authors.

    Args:
        least_overlap, most_overlap: pairs with less, or more, are left out.
    Returns:
        The number of pairs.
    Raises:
        FileNotFoundError: no room below `root`.
    """
    root = Path(root)
    rooms = sorted(root.glob("room*/pairs.json"))
    if not rooms:
        raise FileNotFoundError(f"{root}: expected folders room<seed> with pairs.json, found none")
    columns: dict[str, list[Any]] = {"src": [], "tgt": [], "rot": [], "trans": [], "overlap": []}
    for file in rooms:
        for record in json.loads(file.read_text()):
            if not least_overlap < record["overlap"] <= most_overlap:
                continue
            T = np.array(record["T"])
            columns["src"].append(f"{file.parent.name}/cloud_bin_{record['source']}.pth")
            columns["tgt"].append(f"{file.parent.name}/cloud_bin_{record['target']}.pth")
            columns["rot"].append(T[:3, :3])
            columns["trans"].append(T[:3, 3:])
            columns["overlap"].append(record["overlap"])
    write_whole(root / PAIR_LIST, pickle.dumps(columns))
    return len(columns["src"])


def write_indoor_rooms(
    root: str | PathLike[str],
    room_seeds: Iterable[int],
    count: int = 8,
    *,
    least_overlap: float = 0.1,
    most_overlap: float = 1.0,
    on_room: Callable[[Path | None], None] | None = None,
    **rendering: Any,
) -> int:
    """A dataset of generated rooms; continues where an earlier call, also on other seeds, was stopped.

    Args:
        root: folder, made if it does not exist.
        room_seeds: a room each. Several processes may write different rooms at once.
        count: scans per room.
        least_overlap, most_overlap: of the pairs in the list.
        on_room: called with each folder as it is done.
        rendering: `camera`, `frames`, `voxel`, as for `room_fragments`.
    Returns:
        The number of pairs in `pairs.pkl`, those of all rooms below `root`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pairs = write_indoor_rooms(folder, [100005], 2, frames=2)
    >>> pairs
    1
    """
    for seed in room_seeds:
        folder = write_room(root, seed, count, **rendering)
        if on_room is not None:
            on_room(folder)
    return write_pair_list(root, least_overlap=least_overlap, most_overlap=most_overlap)
