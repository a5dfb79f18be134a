"""Is this pose right? Evidence from the surfaces themselves, and the verdict drawn from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canonical import apply, invert
from .normals import in_free_space
from .view import View

# A point is matched when the other cloud has a point this near (voxels) with a normal within 37 degrees.
MATCH_DISTANCE = 1.5
MATCH_COSINE = 0.8
# A point in the other cloud's free space counts as a conflict unless that cloud has a point this near.
CONFLICT_DISTANCE = 3.0
# One point in free space speaks against a pose as much as this many matched points speak for it.
CONFLICT_WEIGHT = 10.0


@dataclass(frozen=True)
class Evidence:
    """What the two surfaces say about one pose."""

    matched_source: np.ndarray  # (N,) bool
    matched_target: np.ndarray  # (M,) bool
    partner: np.ndarray  # (N,) int64 nearest target point of each source point
    near: int  # points of both clouds with the other cloud within CONFLICT_DISTANCE
    conflicts: int

    @property
    def matched(self) -> int:
        """Matched points of both clouds."""
        return int(self.matched_source.sum() + self.matched_target.sum())

    @property
    def overlap_source(self) -> float:
        """Share of source points with a matching target point."""
        return float(self.matched_source.mean())

    @property
    def overlap_target(self) -> float:
        """Share of target points with a matching source point."""
        return float(self.matched_target.mean())

    @property
    def agreement(self) -> float:
        """In [0, 1]: 1 when nothing stands in the other cloud's free space, falling with every point that does."""
        return self.matched / (self.matched + CONFLICT_WEIGHT * self.conflicts + 1e-9)

    @property
    def coherence(self) -> float:
        """In [0, 1]: matched among the points near the other cloud; surfaces that merely cross score low."""
        return self.matched / max(self.near, 1)


def gather_evidence(source: View, target: View, pose: np.ndarray, *, turned: bool) -> Evidence:
    """Overlap with agreeing normals in both directions, and free-space conflicts.

    Args:
        source, target: views in voxels; the source's normals already turned over if `turned`.
        pose: (4, 4) source to target, canonical frames, voxels.
        turned: the pose holds for the source seen from behind; decides which viewpoints go together.
    """
    back = invert(pose)
    moved, moved_normals = apply(pose, source.points), source.normals @ pose[:3, :3].T
    returned, returned_normals = apply(back, target.points), target.normals @ back[:3, :3].T
    near_target, partner = target.tree.query(moved, distance_upper_bound=CONFLICT_DISTANCE)
    near_source, partner_back = source.tree.query(returned, distance_upper_bound=CONFLICT_DISTANCE)
    matched_source = _matched(near_target, partner, moved_normals, target.normals)
    matched_target = _matched(near_source, partner_back, returned_normals, source.normals)
    lonely_source, lonely_target = moved[np.isinf(near_target)], returned[np.isinf(near_source)]
    conflicts = None
    for s, source_sensor in enumerate(source.sensors):
        # Both seen from the front, or both from behind; the other way round if the source was turned over.
        t = (1 - s) if turned else s
        if t >= len(target.sensors):
            continue
        count = in_free_space(lonely_source, target.sensors[t].origin, target.depths[t]).sum()
        count += in_free_space(lonely_target, source_sensor.origin, source.depths[s]).sum()
        conflicts = int(count) if conflicts is None else min(conflicts, int(count))
    near = int(np.isfinite(near_target).sum() + np.isfinite(near_source).sum())
    partner = np.minimum(partner, len(target.points) - 1)
    return Evidence(matched_source, matched_target, partner, near, conflicts or 0)


def _matched(distance: np.ndarray, partner: np.ndarray, normals: np.ndarray, other: np.ndarray) -> np.ndarray:
    near = distance < MATCH_DISTANCE
    out = np.zeros(len(distance), dtype=bool)
    out[near] = (normals[near] * other[partner[near]]).sum(axis=1) > MATCH_COSINE
    return out


@dataclass(frozen=True)
class Observability:
    """How firmly matched surfaces hold the pose: turns about, and shifts along, the axes of the target frame."""

    information: np.ndarray  # (6, 6) of unit-noise point-to-plane residuals, (rotation, translation), about `centre`
    centre: np.ndarray  # (3,) centroid of the overlap, target's canonical frame, voxels
    radius: float  # root mean square distance of the overlap from its centroid
    free: tuple[np.ndarray, ...]  # (6,) unit motions (arc length at `radius`, shift) that leave residuals unchanged
    strength: float  # smallest eigenvalue per point, rotations scaled by `radius`
    residual: np.ndarray  # (K,) point-to-plane distances of the matches, voxels


# Information per matched point below which a direction counts as free: normals scatter by about 5 degrees on a plane.
FREE_DIRECTION = 0.012
# Turning share above which a free motion is called a rotation.
TURNING = 0.5


def observability(source: View, target: View, pose: np.ndarray, evidence: Evidence) -> Observability | None:
    """Point-to-plane information of the overlap (Gelfand et al., 3DIM 2003); None without an overlap."""
    rows = np.flatnonzero(evidence.matched_source)
    if len(rows) < 6:
        return None
    moved = apply(pose, source.points[rows])
    partner = evidence.partner[rows]
    normals = target.normals[partner]
    centre = moved.mean(axis=0)
    arms = moved - centre
    radius = float(np.sqrt(np.square(arms).sum(axis=1).mean()))
    jacobian = np.concatenate([np.cross(arms, normals), normals], axis=1)  # (K, 6)
    information = jacobian.T @ jacobian
    scaling = np.repeat([1.0 / max(radius, 1e-9), 1.0], 3)
    values, vectors = np.linalg.eigh(information * scaling[:, None] * scaling / len(rows))
    free = tuple(vectors[:, k] for k in range(6) if values[k] < FREE_DIRECTION)
    residual = np.abs(((moved - target.points[partner]) * normals).sum(axis=1))
    return Observability(information, centre, radius, free, float(values[0]), residual)


def describe_free(free: tuple[np.ndarray, ...], to_user: np.ndarray) -> tuple[str, ...]:
    """Free directions in words: as many rotations as the turning parts span, translations for the rest.

    Args:
        free: (6,) unit motions, as in `Observability`.
        to_user: (3, 3) rotation from the target's canonical frame into its own.

    >>> describe_free((np.eye(6)[5], (np.eye(6)[3] + np.eye(6)[0]) / 2**0.5), np.eye(3))
    ('rotation about (1.00, 0.00, 0.00)', 'translation along (0.00, 0.00, 1.00)')
    """
    if not free:
        return ()
    motions = np.stack(free)
    mixing, sizes, turning = np.linalg.svd(motions[:, :3])
    turns = int((sizes > TURNING).sum())
    # The mixtures of free motions that do not turn are the free shifts.
    _, _, shifting = np.linalg.svd(mixing.T[turns:] @ motions[:, 3:])
    names = [f"rotation about {_axis(to_user @ turning[k])}" for k in range(turns)]
    return tuple(names + [f"translation along {_axis(to_user @ shifting[k])}" for k in range(len(free) - turns)])


def _axis(direction: np.ndarray) -> str:
    """An axis has no sign: the largest component is shown positive."""
    direction = direction * np.sign(direction[np.argmax(np.abs(direction))]) + 0.0
    return "(" + ", ".join(f"{part if abs(part) >= 0.005 else 0.0:.2f}" for part in direction) + ")"
