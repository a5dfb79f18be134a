"""Global search: correspondences, hypotheses, and the evidence that ranks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.spatial.transform import Rotation

from .canonical import invert
from .descriptors import mutual_matches
from .estimators import (
    Matches,
    distinct,
    hypotheses,
    inliers,
    places,
    pose_difference,
    same_pose,
    support,
)
from .learned import learned_matches
from .refine import Refiner
from .roitr import RoITr
from .verify import Evidence, Observability, gather_evidence, observability
from .view import View

# Poses per correspondence set whose surfaces are compared.
HYPOTHESES = 24
# Certainty that unrelated scans do not come near: the other side need not be tried.
SETTLED = 8.0
# Guarded refinement: a pose further than this (voxels, radians) from where it started has left its basin.
MAX_SHIFT = 4.0
MAX_TURN = np.radians(12.0)
# Poses nearer than this (voxels, radians) to the best may lie in its basin.
NEAR_SHIFT = 12.0
NEAR_TURN = np.radians(25.0)
# Information per matched point (unit noise) that correspondences are worth against surfaces. Where little overlaps, ICP
# alone slides along it: real fragments bend, and surfaces can fit better off the truth.
PRIOR = 0.1
# Share of surface evidence and of correspondence support that a refined pose must keep.
KEEP_EVIDENCE = 0.98
KEEP_SUPPORT = 0.87


@dataclass(frozen=True)
class Engines:
    """Where correspondences come from: histograms of point pair features, a network, or both."""

    classic: bool = True
    network: RoITr | None = None


@dataclass(frozen=True)
class Putative:
    """Matches between two views, and the rows they came from."""

    matches: Matches
    source_rows: np.ndarray
    target_rows: np.ndarray
    turned: bool
    # How many each engine found, in the order of the rows: "classic", "network".
    counts: Mapping[str, int]

    def by_engine(self) -> dict[str, Matches]:
        """The matches of each engine."""
        ends = np.cumsum(list(self.counts.values()))
        return {
            engine: Matches(*(getattr(self.matches, field.name)[end - count : end] for field in fields(Matches)))
            for (engine, count), end in zip(self.counts.items(), ends, strict=True)
        }


@dataclass(frozen=True)
class Candidate:
    """A pose (voxels, canonical frames) with what speaks for and against it."""

    pose: np.ndarray
    support: float  # correspondences that agree, weighted
    places: float  # the same, counted once per place
    evidence: Evidence
    putative: Putative
    refine: str = "none"

    @property
    def score(self) -> float:
        """Support, discounted by free-space conflicts; surfaces decide where correspondences are silent."""
        return (self.support + 1e-3 * self.evidence.matched) * self.evidence.agreement

    @property
    def certainty(self) -> float:
        """Independent places that agree, discounted by conflicts and by surfaces that cross instead of coincide."""
        return self.places * self.evidence.coherence**2 * self.evidence.agreement

    @property
    def rank(self) -> float:
        """Order of refined candidates: certainty, and the score where no correspondence speaks."""
        return self.certainty + 1e-3 * self.score


def putative_matches(source: View, target: View, engines: Engines, *, turned: bool) -> list[Putative]:
    """Matches of each engine; `source` already turned over if `turned`."""
    found = []
    if engines.classic:
        rows, partners, similarity = mutual_matches(source.descriptors, target.descriptors)
        weights = similarity * np.minimum(source.distinctiveness[rows], target.distinctiveness[partners])
        found.append(_putative(source, target, rows, partners, weights, turned, {"classic": len(rows)}))
    if engines.network is not None:
        rows, partners, weights = learned_matches(source, target, engines.network)
        found.append(_putative(source, target, rows, partners, weights, turned, {"network": len(rows)}))
    return found


def _putative(
    source: View,
    target: View,
    rows: np.ndarray,
    partners: np.ndarray,
    weights: np.ndarray,
    turned: bool,
    counts: Mapping[str, int],
) -> Putative:
    matches = Matches(
        source.points[rows],
        target.points[partners],
        source.normals[rows],
        target.normals[partners],
        weights.astype(np.float64),
    )
    return Putative(matches, rows, partners, turned, counts)


def together(source: View, target: View, parts: list[Putative]) -> Putative:
    """All matches as one set, on which poses are compared whatever engine they come from."""
    if len(parts) == 1:
        return parts[0]
    rows, partners, weights = (
        np.concatenate(each)
        for each in zip(*((part.source_rows, part.target_rows, part.matches.weights) for part in parts), strict=True)
    )
    counts = {engine: count for part in parts for engine, count in part.counts.items()}
    return _putative(source, target, rows, partners, weights, parts[0].turned, counts)


def search(source: View, target: View, engines: Engines) -> list[Candidate]:
    """Candidate poses, best first.

    If a cloud may have been seen from either side, the source is matched as it is and, unless that settles the
    matter, turned over.
    """
    both_sides = len(source.sensors) > 1 or len(target.sensors) > 1
    found: list[Candidate] = []
    for turned in (False, True) if both_sides else (False,):
        if any(each.certainty > SETTLED for each in found):
            break
        view = source.turned() if turned else source
        parts = putative_matches(view, target, engines, turned=turned)
        putative = together(view, target, parts)
        poses = [pose for part in parts for pose in hypotheses(part.matches, HYPOTHESES)[0]]
        found += [candidate(view, target, pose, putative) for pose in [*poses, *axis_alignments(view, target)]]
    order = sorted(range(len(found)), key=lambda c: -found[c].score)
    stacked = np.stack([found[c].pose for c in order])
    return [found[order[k]] for k in distinct(stacked, source.centre, len(order))]


def axis_alignments(source: View, target: View) -> list[np.ndarray]:
    """The four rotations that lay principal axes on each other: all there is to say about shapes without features."""
    poses = []
    for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
        pose = np.diag([*map(float, signs), 1.0])
        pose[:3, 3] = target.centre - pose[:3, :3] @ source.centre
        poses.append(pose)
    return poses


def candidate(source: View, target: View, pose: np.ndarray, putative: Putative) -> Candidate:
    """A pose with its support and evidence; `source` turned over like `putative`."""
    evidence = gather_evidence(source, target, pose, turned=putative.turned)
    matches = putative.matches
    return Candidate(pose, support(matches, pose), places(matches, pose), evidence, putative)


def firmness_of(source: View, target: View, found: Candidate) -> Observability | None:
    """How firmly the common surfaces hold the pose; `source` as it is, whether or not the pose turns it over."""
    view = source.turned() if found.putative.turned else source
    return observability(view, target, found.pose, found.evidence)


def refined(source: View, target: View, coarse: Candidate, refiner: Refiner, *, prior: float = PRIOR) -> Candidate:
    """`coarse` after local refinement, or `coarse` itself where refinement lost evidence or left the basin.

    `prior` 0 takes the refinement as it is: for a start that no correspondences stand behind.
    """
    aligned = refiner(coarse.pose)
    if aligned is coarse.pose:
        return coarse
    view = source.turned() if coarse.putative.turned else source
    firmness = firmness_of(source, target, coarse)
    if firmness is None:
        return replace(coarse, refine="rejected, nothing overlaps")
    turn, shift = _motion(coarse.pose, aligned, firmness.centre)
    if np.linalg.norm(shift) > MAX_SHIFT or np.linalg.norm(turn) > MAX_TURN:
        return replace(coarse, refine="rejected, left the basin")
    fine = candidate(view, target, _damped(coarse.pose, turn, shift, firmness, prior), coarse.putative)
    before, after = coarse.evidence, fine.evidence
    if after.matched * after.agreement < KEEP_EVIDENCE * before.matched * before.agreement:
        return replace(coarse, refine="rejected, overlap fell")
    if fine.support < KEEP_SUPPORT * coarse.support:
        return replace(coarse, refine="rejected, slid off the correspondences")
    return replace(fine, refine="accepted")


def without_neighbors(chosen: list[Candidate], centre: np.ndarray, refiner: Refiner) -> list[Candidate]:
    """Candidates, best first, without those that lie in the basin of the best.

    A pose a little off explains much of what the right one explains, and is no answer of its own: refinement, left to
    itself, leads from it to the best.
    """
    best = chosen[0]
    kept = [best]
    for other in chosen[1:]:
        angle, shift = pose_difference(best.pose, other.pose, centre)
        is_near = angle < NEAR_TURN and shift < NEAR_SHIFT
        if not (is_near and same_pose(refiner(other.pose), best.pose, centre)):
            kept.append(other)
    return kept


def _motion(before: np.ndarray, after: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation vector and shift, both (3,), that lead from one pose to another, about `centre` in the target frame."""
    step = after @ invert(before)
    turn = Rotation.from_matrix(step[:3, :3]).as_rotvec()
    return turn, step[:3, :3] @ centre + step[:3, 3] - centre


def _damped(pose: np.ndarray, turn: np.ndarray, shift: np.ndarray, firmness: Observability, prior: float) -> np.ndarray:
    """`pose` moved as far as the surfaces can tell: along directions they hold weakly, correspondences have the say.

    Posterior mean of a step whose prior, from the correspondences, is the same in all directions (arc length at the
    overlap's radius): each principal direction keeps the share information / (information + prior).
    """
    scaling = np.repeat([1.0 / firmness.radius, 1.0], 3)
    count = len(firmness.residual)
    values, vectors = np.linalg.eigh(firmness.information * scaling[:, None] * scaling / count)
    step = np.concatenate([turn, shift]) / scaling
    step = scaling * (
        vectors @ (np.maximum(values, 0.0) / (np.maximum(values, 0.0) + prior + 1e-12) * (vectors.T @ step))
    )
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(step[:3]).as_matrix()
    moved[:3, 3] = firmness.centre + step[3:] - moved[:3, :3] @ firmness.centre
    return moved @ pose


def inlier_mask(found: Candidate) -> np.ndarray:
    """(M,) bool: correspondences that the pose explains."""
    return inliers(found.putative.matches, found.pose)
