"""From two clouds to a pose with its evidence, or a plain "not registered"."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from rotaware.geo.checks import require_choice
from rotaware.kernels import knn

from . import canonical
from .cloud import PointCloud
from .io import as_point_cloud
from .refine import Refinement, Refiner
from .result import CloudSummary, Correspondences, Hypothesis, Metrics, Notice, OnStage, Registration, Stage
from .search import Candidate, candidate, inlier_mask, putative_matches, refined, search
from .units import guess_unit, unit_factor
from .verdict import Accept, Verdict, judge, rivals
from .verify import Observability, describe_free, observability
from .view import View, view_of

Method = Literal["auto", "classic", "refine"]
Scale = Literal["auto", "rigid"]

STAGES = ("clean + canonicalise", "describe", "match + solve", "refine", "verify")
FEW_POINTS = 500
# A second, finer look when the first was not convincing: low overlaps need more points.
SECOND_LOOK = 1.5
WORTH_REFINING = 0.6


@dataclass(frozen=True)
class _Input:
    """A cleaned cloud in its canonical frame, in the target's unit."""

    name: str
    cloud: PointCloud
    clean: canonical.CleanCloud
    frame: np.ndarray  # (4, 4) user's frame to canonical frame, including `factor`
    points: np.ndarray  # (N, 3) canonical
    sensor: np.ndarray | None  # (3,) canonical
    sensor_source: Literal["given", "file", "none"]
    factor: float


def register(
    source: Any,
    target: Any,
    *,
    method: Method = "auto",
    voxel: float | None = None,
    scale: Scale = "auto",
    refine: Literal["auto", "none", "gicp", "point", "plane"] = "auto",
    accept: Accept = "balanced",
    hypotheses: int = 5,
    init: np.ndarray | None = None,
    source_sensor: np.ndarray | None = None,
    target_sensor: np.ndarray | None = None,
    unit: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    on_stage: OnStage | None = None,
) -> Registration:
    """Find where `source` lies in the frame of `target`, or say that it could not be found.

    The answer does not depend on the unit, the origin, the pose or the row order in which the clouds arrive, nor on
    the number of threads. Not finding a pose is a result, not an exception.

    Args:
        source, target: a path, (N, 3) array or tensor, `PointCloud`, or Open3D cloud, in any common unit.
        method: "classic" searches globally; "refine" only improves `init`; "auto" is "classic" in this version.
        voxel: working resolution in the unit of the target; None chooses about 6000 voxels for the larger cloud.
        scale: "auto" also tries the ratio of two known units (mm against m) when the sizes call for it, and says so;
            "rigid" never does.
        refine: local refinement; "auto" is GICP. Kept only if the evidence does not fall.
        accept: how sure to be: confidence of 0.95 (strict), 0.80 (balanced), 0.50 (loose).
        hypotheses: poses that are refined and compared.
        init: (4, 4) start for `method="refine"`, source to target.
        source_sensor, target_sensor: (3,) where the scanner stood; None takes it from the file or estimates it from
            the cloud.
        unit: name of the unit of the files, for the report; "auto" guesses.
        threads: CPU threads; None leaves torch's setting.
        seed: recorded, and used to sample meshes; the search itself draws nothing.
        on_stage: called at the start and end of every stage.
    Raises:
        InputError: a cloud with fewer than 3 usable points, on one line, or at one place.
        FileNotFoundError, UnreadableFileError: as `read_point_cloud`.
        ValueError: an option with a bad value.

    >>> from rotaware.datasets import indoor_pair
    >>> pair = indoor_pair(0)
    >>> result = register(pair.source, pair.target)
    >>> result.ok, bool(np.abs(result.T - pair.T_target_source).max() < 0.1)
    (True, True)
    """
    require_choice("method", method, ("auto", "classic", "refine"))
    require_choice("scale", scale, ("auto", "rigid"))
    require_choice("refine", refine, ("auto", "none", "gicp", "point", "plane"))
    require_choice("accept", accept, ("strict", "balanced", "loose"))
    if voxel is not None and not (np.isfinite(voxel) and voxel > 0):
        raise ValueError(f"voxel: expected a positive length, got {voxel}")
    if hypotheses < 1:
        raise ValueError(f"hypotheses: expected at least 1, got {hypotheses}")
    start_pose = _start(method, init)
    with _threads(threads):
        run = _Run(on_stage)
        options: dict[str, Any] = {
            "method": method, "voxel_given": voxel, "scale_mode": scale, "refine": refine, "accept": accept,
            "hypotheses": hypotheses, "init": init, "unit": unit,
            "source_sensor": source_sensor, "target_sensor": target_sensor,
        }  # fmt: skip
        return _register(source, target, start_pose, options, seed, run)


def _register(
    source: Any, target: Any, start: np.ndarray | None, options: dict[str, Any], seed: int, run: _Run
) -> Registration:
    with run.stage(1):
        moving = _prepare("source", source, options["source_sensor"], 1.0, seed)
        fixed = _prepare("target", target, options["target_sensor"], 1.0, seed)
        sizes = [canonical.automatic_voxel([each.points]) for each in (moving, fixed)]
        factor = unit_factor(*sizes) if options["scale_mode"] == "auto" and start is None else 1.0
        if factor != 1.0:
            moving = _prepare("source", source, options["source_sensor"], factor, seed)
        size = options["voxel_given"] or max(sizes[0] * factor, sizes[1])
        run.note = f"dropped {moving.clean.dropped_nonfinite + fixed.clean.dropped_nonfinite} NaN, voxel {size:.3g}"
    attempts = [size] if options["voxel_given"] or start is not None else [size, size / SECOND_LOOK]
    kind: Refinement = "gicp" if options["refine"] == "auto" else options["refine"]
    best: _Attempt | None = None
    for voxel in attempts:
        attempt = _attempt(moving, fixed, voxel, start, kind, options, run)
        if best is None or attempt.verdict.confidence > best.verdict.confidence:
            best = attempt
        if best.verdict.status != "not_registered":
            break
    assert best is not None
    return _result(best, moving, fixed, factor, options, seed, run)


@dataclass(frozen=True)
class _Attempt:
    """One pass of the pipeline at one voxel size."""

    voxel: float
    source: View
    target: View
    candidates: list[Candidate]
    firmness: Observability | None
    verdict: Verdict


def _attempt(
    moving: _Input,
    fixed: _Input,
    voxel: float,
    start: np.ndarray | None,
    kind: Refinement,
    options: dict[str, Any],
    run: _Run,
) -> _Attempt:
    with run.stage(2):
        source = view_of(moving.points, voxel, moving.sensor)
        target = view_of(fixed.points, voxel, fixed.sensor)
        run.note = f"{len(source.points)} and {len(target.points)} keypoints"
    with run.stage(3):
        if start is None:
            candidates = search(source, target)
        else:
            pose = fixed.frame @ start @ canonical.invert(moving.frame)
            pose[:3, 3] /= voxel
            candidates = [_started(source, target, pose)]
        run.note = f"{len(candidates[0].putative.matches)} correspondences, {len(candidates)} hypotheses"
    with run.stage(4):
        refiner = Refiner(source, target, kind)
        chosen = candidates[: options["hypotheses"]]
        # Far behind the best, refinement could not change the outcome, and it costs most where the start is wrong.
        worth = WORTH_REFINING * chosen[0].score
        chosen = [refined(source, target, each, refiner) if each.score >= worth else each for each in chosen]
        chosen.sort(key=lambda each: -each.score)
        run.note = f"{len(chosen)} poses, best {chosen[0].refine}"
    with run.stage(5):
        view = source.turned() if chosen[0].putative.turned else source
        firmness = observability(view, target, chosen[0].pose, chosen[0].evidence)
        verdict = judge(chosen, firmness, source.centre, options["accept"])
        run.note = f"{verdict.status.replace('_', ' ')}, confidence {verdict.confidence:.2f}"
    return _Attempt(voxel, source, target, chosen, firmness, verdict)


def _started(source: View, target: View, pose: np.ndarray) -> Candidate:
    """The given start, with the source's normals turned over if that fits the target better."""
    sides = [candidate(source, target, pose, putative_matches(source, target, turned=False))]
    if len(source.sensors) > 1 or len(target.sensors) > 1:
        view = source.turned()
        sides.append(candidate(view, target, pose, putative_matches(view, target, turned=True)))
    return max(sides, key=lambda each: each.score)


def _start(method: Method, init: np.ndarray | None) -> np.ndarray | None:
    if method != "refine":
        if init is not None:
            raise ValueError(f"init: expected None unless method is 'refine', got a pose with method {method!r}")
        return None
    if init is None:
        return np.eye(4)
    start = np.asarray(init, dtype=np.float64)
    if start.shape != (4, 4) or not np.isfinite(start).all():
        raise ValueError(f"init: expected a finite (4, 4) matrix, got shape {start.shape}")
    if np.abs(start[:3, :3] @ start[:3, :3].T - np.eye(3)).max() > 1e-3 or np.linalg.det(start[:3, :3]) < 0:
        raise ValueError("init: expected a rotation without scale or reflection in the upper left 3x3")
    return start


def _prepare(name: str, given: Any, sensor: np.ndarray | None, factor: float, seed: int) -> _Input:
    cloud = as_point_cloud(given, seed=seed)
    clean = canonical.clean(cloud.points, name)
    scaling = np.diag([factor, factor, factor, 1.0])
    frame = canonical.canonical_frame(clean.points * factor) @ scaling
    origin: np.ndarray | None = None
    source: Literal["given", "file", "none"] = "none"
    if sensor is not None:
        origin, source = np.asarray(sensor, dtype=np.float64), "given"
        if origin.shape != (3,) or not np.isfinite(origin).all():
            raise ValueError(f"{name}_sensor: expected 3 finite numbers, got shape {origin.shape}")
    elif cloud.viewpoint is not None:
        origin, source = cloud.viewpoint, "file"
    seen_from = None if origin is None else canonical.apply(frame, origin[None])[0]
    return _Input(name, cloud, clean, frame, canonical.apply(frame, clean.points), seen_from, source, factor)


def _result(
    attempt: _Attempt, moving: _Input, fixed: _Input, factor: float, options: dict[str, Any], seed: int, run: _Run
) -> Registration:
    best, verdict = attempt.candidates[0], attempt.verdict
    correspondences = _correspondences(attempt, moving, fixed)
    metrics = _metrics(attempt, correspondences)
    others = rivals(attempt.candidates, attempt.source.centre)
    recorded = {key: _plain(value) for key, value in options.items()}
    return Registration(
        status=verdict.status,
        T_target_source=_in_user_frames(best.pose, attempt.voxel, moving, fixed),
        confidence=verdict.confidence,
        reason=verdict.reason,
        checks=verdict.checks,
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
        engine="refine" if options["method"] == "refine" else "classic",
        why="asked for" if options["method"] != "auto" else "the only global engine of this version",
        refine=best.refine,
        seed=seed,
        parameters=recorded,
        timings=run.timings,
        warnings=tuple(_warnings(attempt, moving, fixed, factor, options)),
    )


def _relative(other: Candidate, best: Candidate) -> float:
    return float(min(1.0, other.score / max(best.score, 1e-9)))


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | tuple) else value


def _in_user_frames(pose: np.ndarray, voxel: float, moving: _Input, fixed: _Input) -> np.ndarray:
    scaled = pose.copy()
    scaled[:3, 3] *= voxel
    return canonical.invert(fixed.frame) @ scaled @ moving.frame


def _correspondences(attempt: _Attempt, moving: _Input, fixed: _Input) -> Correspondences:
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


def _metrics(attempt: _Attempt, correspondences: Correspondences) -> Metrics:
    best, firmness, voxel = attempt.candidates[0], attempt.firmness, attempt.voxel
    evidence = best.evidence
    information = covariance = None
    reason: str | None = "no overlap"
    residual = np.zeros(1)
    coverage, free = 0.0, ()
    if firmness is not None:
        residual = firmness.residual * voxel
        coverage = _coverage(attempt)
        free = describe_free(firmness.free)
        # Rotation rows carry a length, translation rows none: back to the user's unit.
        units = np.repeat([voxel, 1.0], 3)
        information = firmness.information * units[:, None] * units
        if free:
            reason = f"not observable: {', '.join(free)}"
        else:
            # Neighboring residuals share their error: one independent measurement per voxel-sized normal patch.
            correlation = 40.0
            variance = correlation * float(np.mean(np.square(residual)))
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
        runner_up_ratio=attempt.verdict.runner_up,
        information=information,
        covariance=covariance,
        covariance_reason=reason,
        free_directions=free,
    )


def _coverage(attempt: _Attempt) -> float:
    """Share of the eight octants about the source's centre that hold matched points."""
    matched = attempt.source.points[attempt.candidates[0].evidence.matched_source]
    octants = ((matched > attempt.source.centre) @ np.array([1, 2, 4])).astype(np.int64)
    return len(np.unique(octants)) / 8.0


def _summary(side: _Input, view: View, voxel: float, unit: str) -> CloudSummary:
    extent = np.ptp(side.clean.points, axis=0)
    sensor = view.sensors[0]
    origin = canonical.apply(canonical.invert(side.frame), sensor.origin[None] * voxel)[0]
    stored = side.cloud.normals is not None
    nearest = knn(torch.from_numpy(view.fine), 1, exclude_self=True).distance.numpy()
    return CloudSummary(
        points=len(side.cloud.points),
        used=len(side.clean.points),
        dropped_nonfinite=side.clean.dropped_nonfinite,
        dropped_duplicates=side.clean.dropped_duplicates,
        extent=(float(extent[0]), float(extent[1]), float(extent[2])),
        spacing=float(np.median(nearest)) * voxel / side.factor,
        unit=guess_unit(extent.tolist()) if unit == "auto" else unit,
        unit_source="guessed" if unit == "auto" else "given",
        sensor_origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        sensor_source="estimated" if side.sensor_source == "none" else side.sensor_source,
        normals="given" if stored else "estimated",
    )


def _warnings(
    attempt: _Attempt, moving: _Input, fixed: _Input, factor: float, options: dict[str, Any]
) -> Iterator[Notice]:
    for side in (moving, fixed):
        clean, total = side.clean, len(side.cloud.points)
        if clean.dropped_nonfinite:
            share = 100.0 * clean.dropped_nonfinite / total
            yield Notice(
                "W001", f"{side.name}: dropped {clean.dropped_nonfinite} of {total} points ({share:.1f} %) that were NaN or infinite",
                "nothing to do if the scanner marks missing returns this way",
            )  # fmt: skip
        if len(clean.points) < FEW_POINTS:
            yield Notice(
                "W002", f"{side.name} has {len(clean.points)} usable points; about {FEW_POINTS} are advisable",
                "use a denser scan if there is one",
            )  # fmt: skip
        extent = float(np.ptp(clean.points, axis=0).max())
        if (
            side.cloud.layout.coordinate_step > 0.02 * attempt.voxel / side.factor
            and side.cloud.layout.coordinate_step > 1e-4 * extent
        ):
            yield Notice(
                "W003", f"{side.name}: coordinates are quantised to {side.cloud.layout.coordinate_step:.2g} in this file",
                "export again with float64 coordinates or a local origin",
            )  # fmt: skip
    if factor != 1.0:
        yield Notice(
            "W004", f"source looks {1.0 / factor:g}x larger than target; tried x{factor:g}",
            "confirm the units, or forbid it with --scale rigid",
        )  # fmt: skip
    if options["method"] == "refine" and attempt.candidates[0].evidence.overlap_source < 0.1:
        yield Notice(
            "W005", "the start is outside the basin of local refinement: under 10 % of the source lies on the target",
            "run without --method refine to search globally",
        )  # fmt: skip
    if attempt.verdict.status == "not_registered" and options["method"] != "refine" and _mirror_fits(attempt):
        yield Notice(
            "W006", "a reflection fits better than any rotation",
            "check axis order and handedness: one of the two clouds is mirrored",
        )  # fmt: skip


def _mirror_fits(attempt: _Attempt) -> bool:
    mirrored = search(attempt.source.mirrored(), attempt.target)
    return judge(mirrored[:1], None, attempt.source.centre, "balanced").confidence >= 0.8


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set torch's thread count for the kernels, and keep BLAS to one thread, whose sums then have a fixed order."""
    if count is not None and count < 1:
        raise ValueError(f"threads: expected at least 1, got {count}")
    before = torch.get_num_threads()
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            if count is not None:
                torch.set_num_threads(count)
            yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """Stage by stage progress and timings."""

    def __init__(self, on_stage: OnStage | None) -> None:
        self._on_stage = on_stage
        self.timings: dict[str, float] = {}
        self.note = ""

    @contextmanager
    def stage(self, index: int) -> Iterator[None]:
        """Report the start and the end of stage `index`; set `note` inside."""
        name = STAGES[index - 1]
        began = time.perf_counter()
        self.note = ""
        self._say(Stage(index, len(STAGES), name, "", 0.0, False))
        yield
        seconds = time.perf_counter() - began
        self.timings[name] = self.timings.get(name, 0.0) + seconds
        self._say(Stage(index, len(STAGES), name, self.note, seconds, True))

    def _say(self, stage: Stage) -> None:
        if self._on_stage is not None:
            self._on_stage(stage)
