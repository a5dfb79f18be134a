"""From evidence to a word: registered, ambiguous, or not registered, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .estimators import pose_difference
from .result import Check, Status
from .search import Candidate
from .verify import FREE_DIRECTION, Observability

Accept = Literal["strict", "balanced", "loose"]

THRESHOLDS: dict[str, float] = {"strict": 0.95, "balanced": 0.80, "loose": 0.50}
# Confidence = logistic(SLOPE * log(score / MIDDLE)), fitted on generated pairs: examples/benchmarks/verdict.py.
MIDDLE = 24.0
SLOPE = 7.0
# A shape without corners offers no correspondences: then the surfaces alone must agree this widely.
WHOLE_OVERLAP = 0.6
# Another pose with this share of the best one's evidence is as good an answer.
RIVAL = 0.8
RIVAL_ANGLE = np.radians(10.0)
RIVAL_SHIFT = 5.0


@dataclass(frozen=True)
class Verdict:
    """The decision on the best of several candidates."""

    status: Status
    confidence: float
    reason: str
    checks: tuple[Check, ...]
    runner_up: float
    symmetry: str | None


def confidence_of(score: float) -> float:
    """Probability that a pose with this score is right."""
    return float(1.0 / (1.0 + (MIDDLE / max(score, 1e-9)) ** SLOPE))


def score_for(confidence: float) -> float:
    """Score at which `confidence_of` reaches `confidence`."""
    return float(MIDDLE * (confidence / (1.0 - confidence)) ** (1.0 / SLOPE))


def rivals(candidates: list[Candidate], centre: np.ndarray) -> list[Candidate]:
    """Candidates, after the best, that are poses of their own."""
    best = candidates[0]
    out = []
    for other in candidates[1:]:
        angle, shift = pose_difference(best.pose, other.pose, centre)
        if angle > RIVAL_ANGLE or shift > RIVAL_SHIFT:
            out.append(other)
    return out


def judge(candidates: list[Candidate], firmness: Observability | None, centre: np.ndarray, accept: Accept) -> Verdict:
    """Decide on `candidates[0]`.

    Args:
        candidates: refined candidates, best first.
        firmness: observability of the first, None if nothing overlaps.
        centre: (3,) of the source, to tell poses apart.
        accept: how sure to be.
    """
    best = candidates[0]
    threshold = THRESHOLDS[accept]
    confidence = confidence_of(best.score)
    evidence = best.evidence
    others = rivals(candidates, centre)
    strength = firmness.strength if firmness else 0.0
    free = len(firmness.free) if firmness else 6
    # Without features, surfaces that lie on each other everywhere and cannot hold the pose are an answer too: many.
    overlap = min(evidence.overlap_source, evidence.overlap_target)
    lies_on_it = overlap >= WHOLE_OVERLAP and evidence.agreement > 0.9
    runner_up = max((_weight(other) / max(_weight(best), 1e-9) for other in others), default=0.0)

    checks = (
        Check(
            "score",
            best.score,
            score_for(threshold),
            best.score >= score_for(threshold),
            "correspondences that agree on the pose, less conflicts",
        ),
        Check(
            "free_space",
            evidence.agreement,
            0.5,
            evidence.agreement >= 0.5,
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
    accepted = confidence >= threshold and evidence.agreement >= 0.5
    if accepted and free == 0 and runner_up < RIVAL:
        return Verdict("registered", confidence, "all checks passed", checks, runner_up, None)
    if (accepted or lies_on_it) and free:
        what = "the common surfaces leave the pose free to move"
        return Verdict("ambiguous", confidence, what, checks, runner_up, None)
    if (accepted or lies_on_it) and runner_up >= RIVAL:
        same = sum(_weight(other) >= RIVAL * _weight(best) for other in others)
        return Verdict(
            "ambiguous", confidence, f"{same + 1} poses explain the scans equally well", checks, runner_up,
            f"{same + 1} equivalent poses",
        )  # fmt: skip
    failed = [check.meaning for check in checks[:2] if not check.passed]
    reason = "no pose with enough evidence: not enough of " + "; ".join(failed or [checks[0].meaning])
    return Verdict("not_registered", confidence, reason, checks, runner_up, None)


def _weight(candidate: Candidate) -> float:
    """What speaks for a pose when two of them are compared: correspondences and surfaces, less conflicts."""
    return (candidate.support + 0.05 * candidate.evidence.matched) * candidate.evidence.agreement
