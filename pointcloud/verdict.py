"""From evidence to a word: registered, ambiguous, or not registered, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .calibration import confidence_of, evidence_of
from .canonical import OCCUPIED_VOXELS
from .estimators import inliers, same_pose
from .result import Check, Status
from .search import Candidate
from .verify import FREE_DIRECTION, Observability

Accept = Literal["strict", "balanced", "loose"]

THRESHOLDS: dict[str, float] = {"strict": 0.95, "balanced": 0.80, "loose": 0.50}
# A shape without corners offers no correspondences: then the surfaces alone must agree this widely.
WHOLE_OVERLAP = 0.6
# Another pose with this share of the best one's evidence is as good an answer.
RIVAL = 0.65


@dataclass(frozen=True)
class Verdict:
    """The decision on the best of several candidates."""

    status: Status
    confidence: float
    reason: str
    checks: tuple[Check, ...]
    evidence: Mapping[str, float]  # of `calibration.evidence_of`
    symmetry: str | None


def rivals(candidates: list[Candidate], centre: np.ndarray) -> list[Candidate]:
    """Candidates, after the best, that are poses of their own."""
    return [other for other in candidates[1:] if not same_pose(candidates[0].pose, other.pose, centre)]


def judge(
    candidates: list[Candidate],
    firmness: Observability | None,
    centre: np.ndarray,
    accept: Accept,
    *,
    keypoints: int = OCCUPIED_VOXELS,
) -> Verdict:
    """Decide on `candidates[0]`.

    Args:
        candidates: refined candidates, best first.
        firmness: observability of the first, None if nothing overlaps.
        centre: (3,) of the source, to tell poses apart.
        accept: how sure to be.
        keypoints: of the larger view.
    """
    best = candidates[0]
    threshold = THRESHOLDS[accept]
    surfaces = best.evidence
    others = rivals(candidates, centre)
    strength = firmness.strength if firmness else 0.0
    free = len(firmness.free) if firmness else 6
    # Without features, surfaces that lie on each other everywhere and cannot hold the pose are an answer too: many.
    overlap = min(surfaces.overlap_source, surfaces.overlap_target)
    lies_on_it = firmness is not None and overlap >= WHOLE_OVERLAP and surfaces.agreement > 0.9
    runner_up = max((_rivalry(other, best) for other in others), default=0.0)
    evidence = evidence_of(best, firmness, runner_up, keypoints)
    confidence = confidence_of(evidence)

    checks = (
        Check(
            "confidence",
            confidence,
            threshold,
            confidence >= threshold,
            "correspondences and surfaces together make the pose likely enough to be right",
        ),
        Check(
            "free_space",
            surfaces.agreement,
            0.5,
            surfaces.agreement >= 0.5,
            "neither scan stands where the other one looked through",
        ),
        Check(
            "observability",
            strength,
            FREE_DIRECTION,
            free == 0,
            "the common surfaces hold the pose in every direction",
        ),
        Check("runner_up", runner_up, RIVAL, runner_up < RIVAL, "no other pose explains the scans as well"),
    )
    accepted = confidence >= threshold and surfaces.agreement >= 0.5
    if accepted and free == 0 and runner_up < RIVAL:
        return Verdict("registered", confidence, "all checks passed", checks, evidence, None)
    if (accepted or lies_on_it) and free:
        what = "the common surfaces leave the pose free to move"
        return Verdict("ambiguous", confidence, what, checks, evidence, None)
    if (accepted or lies_on_it) and runner_up >= RIVAL:
        same = sum(_rivalry(other, best) >= RIVAL for other in others)
        return Verdict(
            "ambiguous", confidence, f"{same + 1} poses explain the scans equally well", checks, evidence,
            f"{same + 1} equivalent poses",
        )  # fmt: skip
    if not checks[0].passed:
        matches = best.putative.matches
        agree = f"{int(inliers(matches, best.pose).sum())} of {len(matches)} correspondences agree"
        reason = f"too little speaks for the best pose: {agree}, confidence {confidence:.2f}, needs {threshold:.2f}"
    else:
        reason = "in the best pose, parts of each scan stand where the other one looked through"
    return Verdict("not_registered", confidence, reason, checks, evidence, None)


def _rivalry(other: Candidate, best: Candidate) -> float:
    """How nearly `other` is as good an answer: in rank and in surfaces, whichever says less."""
    surfaces = other.evidence.matched * other.evidence.agreement
    return min(
        other.rank / max(best.rank, 1e-9),
        surfaces / max(best.evidence.matched * best.evidence.agreement, 1e-9),
    )
