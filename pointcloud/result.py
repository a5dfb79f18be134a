"""What a registration found: pose, evidence, verdict. Plain data, no computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Status = Literal["registered", "ambiguous", "not_registered"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Notice:
    """A warning with a stable code and one concrete hint."""

    code: str
    text: str
    hint: str


@dataclass(frozen=True)
class Check:
    """One test of the verdict: `value` compared with `threshold`."""

    name: str
    value: float
    threshold: float
    passed: bool
    meaning: str


@dataclass(frozen=True)
class Hypothesis:
    """A candidate pose; `T_target_source` is (4, 4) float64 in the user's units, `score` in [0, 1]."""

    T_target_source: np.ndarray
    score: float


@dataclass(frozen=True)
class CloudSummary:
    """What the cleaner saw in one cloud. Lengths in the user's units."""

    points: int
    used: int
    dropped_nonfinite: int
    dropped_duplicates: int
    extent: tuple[float, float, float]
    spacing: float
    unit: str
    unit_source: Literal["given", "guessed"]
    sensor_origin: tuple[float, float, float] | None
    sensor_source: Literal["given", "file", "estimated", "none"]
    normals: Literal["estimated"]  # always, so that two clouds are treated alike; normals of the file are kept in it


@dataclass(frozen=True)
class Correspondences:
    """Index pairs into the rows of the original inputs."""

    source_index: np.ndarray  # (M,) int64
    target_index: np.ndarray  # (M,) int64
    confidence: np.ndarray  # (M,) float32 in [0, 1]
    inlier: np.ndarray  # (M,) bool, under the reported pose


@dataclass(frozen=True)
class Metrics:
    """Evidence measured on the refined pose. Lengths in the user's units."""

    overlap_source: float
    overlap_target: float
    inlier_ratio: float
    n_inliers: int
    residual_median: float
    residual_p95: float
    coverage: float
    runner_up_ratio: float
    information: np.ndarray | None  # (6, 6), order (rotation, translation), about the overlap's centroid
    covariance: np.ndarray | None  # (6, 6), or None with the reason in covariance_reason
    covariance_reason: str | None
    free_directions: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Progress of one pipeline stage, passed to the `on_stage` callback of `register`."""

    index: int  # 1-based
    total: int
    name: str
    note: str
    seconds: float
    done: bool


OnStage = Callable[[Stage], None]


@dataclass(frozen=True)
class Registration:
    """Result of `register`: a pose to trust, or a plain "not registered" with the reason.

    `T_target_source` (4, 4) float64 maps source coordinates into the target's frame, p_tgt = R p_src + t, in the
    user's units. It is the best guess even when `status` is "not_registered"; `ok` tells whether to use it. It is
    None only when no hypothesis could be formed at all.
    """

    status: Status
    T_target_source: np.ndarray | None
    confidence: float
    reason: str
    checks: tuple[Check, ...]
    # What the confidence was calculated from, see `calibration.evidence_of`.
    evidence: Mapping[str, float]
    metrics: Metrics | None
    alternatives: tuple[Hypothesis, ...]
    symmetry: str | None
    source: CloudSummary
    target: CloudSummary
    correspondences: Correspondences
    voxel: float
    scale: float
    engine: str
    why: str
    refine: str
    seed: int
    parameters: dict[str, Any]
    timings: dict[str, float]
    warnings: tuple[Notice, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True when the pose passed verification."""
        return self.status == "registered"

    @property
    def T(self) -> np.ndarray | None:
        """Short name of `T_target_source`."""
        return self.T_target_source

    def explain(self) -> str:
        """Verdict, reason and every check in plain words, one per line."""
        lines = [f"{self.status.replace('_', ' ')} (confidence {self.confidence:.2f}): {self.reason}"]
        for check in self.checks:
            mark = "pass" if check.passed else "FAIL"
            lines.append(f"  {mark}  {check.name} = {check.value:.3g} (needs {check.threshold:.3g}): {check.meaning}")
        lines += [f"  {notice.code}  {notice.text}. {notice.hint}" for notice in self.warnings]
        return "\n".join(lines)
