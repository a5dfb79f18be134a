"""Where a hand-held camera goes in a room: a first pose with something to see, and a short smooth path from there."""

from __future__ import annotations

import numpy as np

from .clutter import Generator
from .depth_camera import DepthCamera, cast_view
from .indoor_room import Room
from .solids import Array, rotation

# Poses drawn before a room is given up.
_POSE_TRIES = 200


def camera_pose(eye: Array, yaw: float, pitch: float, roll: float = 0.0) -> Array:
    """(4, 4) T_world_camera of a camera at `eye` (3,) that looks along `yaw`, `pitch` above the horizon; radians.

    >>> camera_pose(np.zeros(3), 0.0, 0.0)[:3, 2].round(6).tolist()  # z, forward, is the world's x
    [1.0, 0.0, 0.0]
    >>> camera_pose(np.zeros(3), 0.0, 0.0)[:3, 1].round(6).tolist()  # y, down, is minus the world's z
    [0.0, 0.0, -1.0]
    """
    # Columns: right, down and forward of a level camera that looks along the world's x.
    level = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    pose = np.eye(4)
    pose[:3, :3] = rotation(yaw, -pitch) @ level @ rotation(roll)
    pose[:3, 3] = eye
    return pose


def first_pose(room: Room, generator: Generator) -> Array:
    """A pose in free space from which several pieces of furniture are in good view.

    Raises:
        RuntimeError: no such pose among `_POSE_TRIES` draws.
    """
    for _ in range(_POSE_TRIES):
        eye = np.array([*(generator.uniform(-1.0, 1.0, 2) * (room.half - 0.3)), generator.uniform(1.0, 1.75)])
        pose = camera_pose(
            eye, generator.uniform(-np.pi, np.pi), generator.uniform(-0.65, 0.0), generator.normal(0.0, 0.05)
        )
        if is_good_view(room, pose):
            return pose
    raise RuntimeError(f"camera pose: none of {_POSE_TRIES} poses in this room has a good view; use another room seed")


def nearby_pose(room: Room, pose: Array, generator: Generator) -> Array | None:
    """A pose moved and turned from `pose` by up to about 2 m and 100 degrees, or None if the draw has no good view."""
    forward = pose[:3, 2]
    spread = generator.uniform(0.15, 1.0)
    yaw = np.arctan2(forward[1], forward[0]) + spread * generator.uniform(-1.75, 1.75)
    eye = pose[:3, 3] + spread * generator.uniform([-2.0, -2.0, -0.4], [2.0, 2.0, 0.4])
    eye[2] = np.clip(eye[2], 0.9, 1.85)
    if np.any(np.abs(eye[:2]) > room.half - 0.3):
        return None
    moved = camera_pose(eye, yaw, generator.uniform(-0.65, 0.0), generator.normal(0.0, 0.05))
    return moved if is_good_view(room, moved) else None


def is_good_view(room: Room, pose: Array) -> bool:
    """Whether a thumbnail shows at least four pieces of furniture at working distance and nothing in the way."""
    view = cast_view(room.solids, pose, DepthCamera(width=40, height=30, focal=36.5))
    seen = view.solid >= 0
    furniture = np.where(seen, room.piece[view.solid], 0)
    pieces = np.unique(furniture[(view.depth > 0.5) & (view.depth < 3.5)])
    return bool(
        np.mean((view.depth > 0.6) & (view.depth < 3.4)) > 0.75
        and np.mean(view.depth < 0.7) < 0.04
        and 1.2 < np.median(view.depth) < 2.7
        and np.mean(furniture > 0) > 0.3
        and np.count_nonzero(pieces) >= 4
    )


def camera_path(pose: Array, frames: int, generator: Generator) -> Array:
    """(frames, 4, 4) T_world_camera along a smooth path that starts at `pose`.

    The hand moves 0.3 to 0.9 m in all, mostly sideways, while the view pans and tilts the other way or further.
    """
    time = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    ease = time * time * (3.0 - 2.0 * time)
    # Camera axes: x right, y down, z forward.
    shift = generator.uniform([-1.0, -0.25, -0.35], [1.0, 0.25, 0.25])
    shift *= generator.uniform(0.3, 0.9) / max(float(np.linalg.norm(shift)), 0.2)
    sway = generator.normal(0.0, 0.03, 3)
    pan, tilt, roll = generator.uniform([-0.35, -0.15, -0.06], [0.35, 0.15, 0.06])
    path = np.repeat(pose[None], frames, axis=0)
    for k in range(frames):
        path[k, :3, 3] = pose[:3, 3] + pose[:3, :3] @ (ease[k] * shift + np.sin(np.pi * time[k]) * sway)
        # Pan about the camera's y, tilt about its x, roll about its z.
        path[k, :3, :3] = pose[:3, :3] @ rotation(ease[k] * roll, ease[k] * pan, ease[k] * tilt)
    return path


def drifted(T_first_frame: Array, generator: Generator, *, translation: float, angle: float) -> Array:
    """Frame poses as a tracker would report them: a random walk away from the truth that starts at the first frame.

    Args:
        T_first_frame: (F, 4, 4).
        translation: metres, standard deviation per step and axis.
        angle: radians, standard deviation per step and axis.
    """
    steps = generator.standard_normal((len(T_first_frame), 6)) * np.repeat([translation, angle], 3)
    steps[0] = 0.0
    walk = np.cumsum(steps, axis=0)
    reported = T_first_frame.copy()
    for k, (x, y, z, a, b, c) in enumerate(walk):
        reported[k, :3, :3] = rotation(c, b, a) @ T_first_frame[k, :3, :3]
        reported[k, :3, 3] += [x, y, z]
    return reported
