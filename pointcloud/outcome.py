"""What `register` tells its caller: metrics, correspondences, summaries and warnings of the chosen attempt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from rotaware.kernels import knn

from . import canonical
from .cloud import PointCloud
from .result import CloudSummary, Correspondences, Hypothesis, Metrics, Notice, Registration
from .search import Candidate, inlier_mask
from .units import guess_unit
from .verdict import Verdict, rivals
from .verify import Observability, describe_free
from .view import View

FEW_POINTS = 500
# Residuals of neighboring points share their error: about this many of them make one independent measurement.
CORRELATED = 40.0


@dataclass(frozen=True)
class Prepared:
    """A cleaned cloud in its canonical frame, in the target's unit."""

    name: str
    cloud: PointCloud
    clean: canonical.CleanCloud
    frame: np.ndarray  # (4, 4) user's frame to canonical frame, including `factor`
    points: np.ndarray  # (N, 3) canonical
    sensor: np.ndarray | None  # (3,) canonical
    sensor_source: Literal["given", "file", "none"]
    factor: float


@dataclass(frozen=True)
class Attempt:
    """One pass of the pipeline at one voxel size."""

    voxel: float
    source: View
    target: View
    candidates: list[Candidate]
    firmness: Observability | None
    verdict: Verdict
    mirrored: bool = False


def outcome(
    attempt: Attempt,
    moving: Prepared,
    fixed: Prepared,
    factor: float,
    options: dict[str, Any],
    seed: int,
    timings: dict[str, float],
) -> Registration:
    best, verdict = attempt.candidates[0], attempt.verdict
    correspondences = _correspondences(attempt, moving, fixed)
    metrics = _metrics(attempt, fixed, correspondences)
    others = rivals(attempt.candidates, attempt.source.centre)
    recorded = {key: _plain(value) for key, value in options.items()}
    return Registration(
        status=verdict.status,
        T_target_source=_in_user_frames(best.pose, attempt.voxel, moving, fixed),
        confidence=verdict.confidence,
        reason=verdict.reason,
        checks=verdict.checks,
        evidence=verdict.evidence,
        metrics=metrics,
        alternatives=tuple(
            Hypothesis(_in_user_frames(other.pose, attempt.voxel, moving, fixed), _relative(other, best))
            for other in others
        ),
        symmetry=verdict.symmetry,
        source=_summary(moving, attempt.source, attempt.voxel, options["unit"]),
        target=_summary(fixed, attempt.target, attempt.voxel, options["unit"]),
        correspondences=correspondences,
        voxel=attempt.voxel,
        scale=factor,
        engine="roitr + classic" if options["method"] == "auto" else options["method"],
        why="asked for" if options["method"] != "auto" else "poses of both engines, compared by the evidence",
        refine=best.refine,
        seed=seed,
        parameters=recorded,
        timings=timings,
        warnings=tuple(_warnings(attempt, moving, fixed, factor, options)),
    )


def _relative(other: Candidate, best: Candidate) -> float:
    return float(min(1.0, other.rank / max(best.rank, 1e-9)))


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | tuple) else value


def _in_user_frames(pose: np.ndarray, voxel: float, moving: Prepared, fixed: Prepared) -> np.ndarray:
    scaled = pose.copy()
    scaled[:3, 3] *= voxel
    return canonical.invert(fixed.frame) @ scaled @ moving.frame


def _correspondences(attempt: Attempt, moving: Prepared, fixed: Prepared) -> Correspondences:
    """Matches expressed as rows of the original inputs: the point nearest to each voxel's centroid."""
    best = attempt.candidates[0]
    putative = best.putative
    rows = []
    for side, view, chosen in (
        (moving, attempt.source, putative.source_rows),
        (fixed, attempt.target, putative.target_rows),
    ):
        nearest = np.zeros(0, dtype=np.int64)
        if len(chosen):
            queries = torch.from_numpy(view.points[chosen] * attempt.voxel)
            nearest = knn(torch.from_numpy(side.points), 1, queries=queries).index.numpy()[:, 0]
        rows.append(side.clean.rows[nearest])
    confidence = putative.matches.weights.astype(np.float32)
    return Correspondences(rows[0], rows[1], confidence, inlier_mask(best))


def _metrics(attempt: Attempt, fixed: Prepared, correspondences: Correspondences) -> Metrics:
    best, firmness, voxel = attempt.candidates[0], attempt.firmness, attempt.voxel
    evidence = best.evidence
    information = covariance = None
    reason: str | None = "no overlap"
    residual = np.zeros(1)
    coverage = 0.0
    free: tuple[str, ...] = ()
    if firmness is not None:
        residual = firmness.residual * voxel
        coverage = _coverage(attempt)
        free = describe_free(firmness.free, fixed.frame[:3, :3].T)
        # Rotation rows carry a length, translation rows none: back to the user's unit.
        units = np.repeat([voxel, 1.0], 3)
        information = firmness.information * units[:, None] * units
        if free:
            reason = f"not observable: {', '.join(free)}"
        else:
            variance = CORRELATED * float(np.mean(np.square(residual)))
            covariance, reason = np.linalg.inv(information) * variance, None
    total = len(correspondences.inlier)
    return Metrics(
        overlap_source=evidence.overlap_source,
        overlap_target=evidence.overlap_target,
        inlier_ratio=float(correspondences.inlier.mean()) if total else 0.0,
        n_inliers=int(correspondences.inlier.sum()),
        residual_median=float(np.median(residual)),
        residual_p95=float(np.percentile(residual, 95)),
        coverage=coverage,
        runner_up_ratio=attempt.verdict.evidence["rival"],
        information=information,
        covariance=covariance,
        covariance_reason=reason,
        free_directions=free,
    )


def _coverage(attempt: Attempt) -> float:
    """Share of the eight octants about the source's centre that hold matched points."""
    matched = attempt.source.points[attempt.candidates[0].evidence.matched_source]
    octants = ((matched > attempt.source.centre) @ np.array([1, 2, 4])).astype(np.int64)
    return len(np.unique(octants)) / 8.0


def _summary(side: Prepared, view: View, voxel: float, unit: str) -> CloudSummary:
    extent = np.ptp(side.clean.points, axis=0)
    sensor = view.sensors[0]
    origin = canonical.apply(canonical.invert(side.frame), sensor.origin[None] * voxel)[0]
    nearest = knn(torch.from_numpy(side.clean.points), 1, exclude_self=True).distance.numpy()
    return CloudSummary(
        points=len(side.cloud.points),
        used=len(side.clean.points),
        dropped_nonfinite=side.clean.dropped_nonfinite,
        dropped_duplicates=side.clean.dropped_duplicates,
        extent=(float(extent[0]), float(extent[1]), float(extent[2])),
        spacing=float(np.median(nearest)),
        unit=guess_unit(extent.tolist()) if unit == "auto" else unit,
        unit_source="guessed" if unit == "auto" else "given",
        sensor_origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        sensor_source="estimated" if side.sensor_source == "none" else side.sensor_source,
        normals="estimated",
    )


def _warnings(
    attempt: Attempt, moving: Prepared, fixed: Prepared, factor: float, options: dict[str, Any]
) -> Iterator[Notice]:
    for side in (moving, fixed):
        yield from _cloud_warnings(side, attempt.voxel / side.factor)
    if factor != 1.0:
        text = f"source looks {1.0 / factor:g}x larger than target; tried x{factor:g}"
        yield Notice("W004", text, "confirm the units, or forbid it with --scale rigid")
    if options["method"] == "refine" and attempt.candidates[0].evidence.overlap_source < 0.1:
        text = "the start is outside the basin of local refinement: under 10 % of the source lies on the target"
        yield Notice("W005", text, "run without --method refine to search globally")
    if attempt.mirrored:
        hint = "check axis order and handedness: one of the two clouds is mirrored"
        yield Notice("W006", "a reflection fits better than any rotation", hint)


def _cloud_warnings(side: Prepared, voxel: float) -> Iterator[Notice]:
    clean, total = side.clean, len(side.cloud.points)
    if clean.dropped_nonfinite:
        share = 100.0 * clean.dropped_nonfinite / total
        count = f"{clean.dropped_nonfinite} of {total} points ({share:.1f} %)"
        hint = "nothing to do if the scanner marks missing returns this way"
        yield Notice("W001", f"{side.name}: dropped {count} that were NaN or infinite", hint)
    if len(clean.points) < FEW_POINTS:
        text = f"{side.name} has {len(clean.points)} usable points; about {FEW_POINTS} are advisable"
        yield Notice("W002", text, "use a denser scan if there is one")
    step = side.cloud.layout.coordinate_step
    if step > max(0.02 * voxel, 1e-4 * float(np.ptp(clean.points, axis=0).max())):
        text = f"{side.name}: coordinates are quantised to {step:.2g} in this file"
        yield Notice("W003", text, "export again with float64 coordinates or a local origin")
