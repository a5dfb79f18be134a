"""What the registration of many scans keeps of each pair: its hypotheses, ready for the pose graph, and their file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.spatial.transform import Rotation

from rotaware.geo.files import write_whole

from .canonical import apply, canonical_frame, clean, invert
from .cloud import PointCloud
from .estimators import pose_from_pairs
from .result import Registration, Status

# Of the files; another meaning of what they hold needs another number.
SCHEMA_VERSION = 1
# Hypotheses less likely than this are not kept.
HOPE = 0.1
# A guess that fails one of these checks, too weak or one of several, may still be confirmed by other scans.
MAY_FAIL = ("confidence", "runner_up")
# Surface points that a correspondence of confidence 1 is worth. Scans bend, and where little overlaps their surfaces
# fit best beside the truth; correspondences cannot slide. Of the kitchen of 3DMatch, the fragment that overlaps least
# came 8 instead of 13 cm off in the graph.
WORTH = 5.0
# Deviation of what a surface point says, in voxels, and the least of a pose, in radians and voxels: the poses of those
# fragments are off by 0.4 to 2.3 degrees and 2 to 9 cm, several times what independent residuals would leave.
POINT_DEVIATION = 2.0
LEAST_TURN = float(np.radians(1.0))
LEAST_SHIFT = 1.0
# Correspondences that fix a pose.
ENOUGH = 3


@dataclass(frozen=True)
class PairResult:
    """A registered pair, in the frames and the unit of the clouds."""

    status: Status
    confidence: float
    reason: str
    overlap: float  # the smaller of the two shares
    poses: np.ndarray  # (H, 4, 4) hypotheses, source to target, the best first; none may be worth keeping
    shares: np.ndarray  # (H,) probability of each
    covariance: np.ndarray  # (6, 6) of the best one's error: a turn about `centre`, and a shift, in the target's frame
    centre: np.ndarray  # (3,) of the correspondences, target's frame
    seconds: float  # it took


def pair_result(registration: Registration, source: PointCloud, target: PointCloud) -> PairResult:
    """What the graph may use of a registration.

    A registered pair gives one hypothesis. One that was too weak, or ambiguous, gives as many as share its confidence,
    if nothing else spoke against it. The best pose is moved to where surfaces and correspondences together want it.
    """
    poses, shares = _hypotheses(registration)
    covariance, centre = np.eye(6), np.zeros(3)
    metrics, matches = registration.metrics, registration.correspondences
    assert metrics is not None
    if len(poses):
        good = matches.inlier
        rows = target.points[matches.target_index[good]]
        centre = rows.mean(axis=0)
        # The canonical axes, in which the registration states what surfaces know.
        axes = np.kron(np.eye(2), canonical_frame(clean(target.points, "target").points)[:3, :3])
        surfaces = axes.T @ metrics.information @ axes
        weights = matches.confidence[good].astype(np.float64)
        poses[0], information = _balanced(
            poses[0], surfaces, source.points[matches.source_index[good]], rows, weights, centre
        )
        voxel = registration.voxel
        least = np.repeat([LEAST_TURN, LEAST_SHIFT * voxel], 3)
        covariance = (POINT_DEVIATION * voxel) ** 2 * np.linalg.inv(information) + np.diag(least**2)
    return PairResult(
        registration.status,
        registration.confidence,
        registration.reason,
        min(metrics.overlap_source, metrics.overlap_target),
        poses,
        shares,
        covariance,
        centre,
        sum(registration.timings.values()),
    )


def _hypotheses(registration: Registration) -> tuple[np.ndarray, np.ndarray]:
    """Poses (H, 4, 4) and their probabilities (H,)."""
    best, metrics = registration.T_target_source, registration.metrics
    spoiled = any(not check.passed for check in registration.checks if check.name not in MAY_FAIL)
    unknown = metrics is None or metrics.covariance is None or metrics.n_inliers < ENOUGH
    if best is None or spoiled or unknown:
        return np.zeros((0, 4, 4)), np.zeros(0)
    if registration.ok:
        return best[None].copy(), np.array([registration.confidence])
    poses = np.stack([best, *(other.T_target_source for other in registration.alternatives)])
    scores = np.array([1.0, *(other.score for other in registration.alternatives)])
    shares = registration.confidence * scores / scores.sum()
    return poses[shares > HOPE], shares[shares > HOPE]


def _balanced(
    pose: np.ndarray,
    surfaces: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    centre: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Pose and information (6, 6) where `surfaces`, the information behind `pose`, and correspondences agree best."""
    arms = target - centre
    cross = np.cross(np.eye(3), arms[:, None])  # (M, 3, 3): rows e x arm, the velocity of a turn about each axis
    jacobian = np.concatenate([cross.transpose(0, 2, 1), np.broadcast_to(np.eye(3), cross.shape)], axis=2)
    matched = WORTH * np.einsum("m,mki,mkj->ij", weights, jacobian, jacobian)
    step = pose_from_pairs(source, target, weights) @ invert(pose)
    turn = Rotation.from_matrix(step[:3, :3]).as_rotvec()
    wanted = np.concatenate([turn, apply(step, centre[None])[0] - centre])
    motion = np.linalg.solve(surfaces + matched, matched @ wanted)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(motion[:3]).as_matrix()
    moved[:3, 3] = centre + motion[3:] - moved[:3, :3] @ centre
    return moved @ pose, surfaces + matched


def write_pair(path: Path, pair: PairResult) -> None:
    """Write a pair as JSON, whole or not at all; numbers come back bit for bit."""
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(pair).items()}
    write_whole(path, json.dumps(plain, allow_nan=False))


def read_pair(path: Path) -> PairResult | None:
    """The pair in a file of `write_pair`; None if there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {
            name: np.array(found.pop(name), dtype=np.float64).reshape(shape)
            for name, shape in (("poses", (-1, 4, 4)), ("shares", (-1,)), ("covariance", (6, 6)), ("centre", (3,)))
        }
        pair = PairResult(**found, **arrays)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return pair if pair.status in get_args(Status) and len(pair.poses) == len(pair.shares) else None
