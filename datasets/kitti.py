"""Pairs of Velodyne scans of KITTI odometry, chosen as FCGF and all later tables of registration on KITTI choose them.

The rule: in the sequences 8, 9 and 10 start at frame 0. Among the next 100 frames find the first whose camera is more
than 10 m from that of the current one; the frame *before* it is the partner, so pairs are as far apart as 10 m allows.
The next pair starts one frame after the partner; where no frame is that far, one frame later. The pair (8, 15, 58)
is left out. The source is the earlier scan.

The pose is that of the odometry ground truth, in the frame of the scanner through the calibration of the sequence:
`inv(T_camera_velodyne) inv(T_world_camera1) T_world_camera0 T_camera_velodyne`. The tables refine it by ICP first, with
one calibration for all sequences. We do not: the result depends on the version of Open3D, and the published code
multiplies the correction from the wrong side. So errors hold those of the odometry as well, and medians of the errors
are not to be compared with published ones.
Source: Choy et al., "Fully Convolutional Geometric Features", ICCV 2019, `KITTINMPairDataset` of the released code;
Geiger et al., "Are we ready for autonomous driving?", CVPR 2012.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .poses import published_pose
from .solids import Array

TEST_SEQUENCES = ("08", "09", "10")
_DISTANCE = 10.0
_FRAMES_AHEAD = 100
_LEFT_OUT = {"08": {(15, 58)}}


def frame_pairs(poses: Array, sequence: str = "") -> list[tuple[int, int]]:
    """Pairs (earlier, later) of frames of a sequence by the rule of this file.

    Args:
        poses: (F, 4, 4) T_world_camera, metres.
        sequence: its number, `"08"`, for the pair that is left out.

    >>> straight = np.tile(np.eye(4), (30, 1, 1))
    >>> straight[:, 0, 3] = np.arange(30)
    >>> frame_pairs(straight)
    [(0, 10), (11, 21)]
    """
    places = poses[:, :3, 3]
    pairs = []
    current = 0
    while current < len(places):
        ahead = places[current : current + _FRAMES_AHEAD]
        far = np.flatnonzero(np.linalg.norm(ahead - places[current], axis=1) > _DISTANCE)
        if len(far):
            partner = current + int(far[0]) - 1
            pairs.append((current, partner))
            current = partner
        current += 1
    return [pair for pair in pairs if pair not in _LEFT_OUT.get(sequence, ())]


def read_poses(path: Path) -> Array:
    """(F, 4, 4) T_world_camera of a file `poses/XX.txt`: 12 numbers a line, metres.

    Raises:
        OSError: it cannot be opened.
        ValueError: not of that form; names the line.
    """
    lines = _text(path).splitlines()
    if not lines:
        raise ValueError(f"{path}: expected lines of 12 numbers, found none")
    return np.array([_matrix(line.split(), f"{path}, line {number}") for number, line in enumerate(lines, 1)])


def read_calibration(path: Path) -> Array:
    """(4, 4) T_camera_velodyne: the line `Tr:` of a file `sequences/XX/calib.txt`.

    Raises:
        OSError: it cannot be opened.
        ValueError: no such line, or not 12 numbers of a pose in it.
    """
    for line in _text(path).splitlines():
        key, _, values = line.partition(":")
        if key.strip() == "Tr":
            return _matrix(values.split(), f"{path}, Tr")
    raise ValueError(f"{path}: expected a line 'Tr: ' with 12 numbers, found none")


def velodyne_pose(poses: Array, calibration: Array, source: int, target: int) -> Array:
    """(4, 4) T_target_source between the scans of two frames, in the frame of the scanner.

    >>> velodyne_pose(np.stack([np.eye(4), np.diag([-1.0, -1, 1, 1])]), np.eye(4), 0, 1).diagonal().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    T_target_world: Array = np.linalg.inv(poses[target] @ calibration)
    return T_target_world @ poses[source] @ calibration


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text, got something else") from None


def _matrix(words: list[str], where: str) -> Array:
    try:
        values = np.array([float(word) for word in words]).reshape(3, 4)
    except ValueError:
        raise ValueError(f"{where}: expected 12 numbers, got {' '.join(words)[:80]!r}") from None
    return published_pose(values[:, :3], values[:, 3], where)
