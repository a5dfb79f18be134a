"""From two clouds to a pose with its evidence, or a plain "not registered"."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from rotaware.geo.checks import require_choice

from . import canonical
from .errors import InputError, UnreadableFileError
from .io import as_point_cloud
from .learned import bundled_roitr
from .outcome import Attempt, Prepared, outcome
from .refine import Refinement, Refiner
from .result import Check, OnStage, Registration, Stage
from .roitr import RoITr
from .search import (
    PRIOR,
    Candidate,
    Engines,
    candidate,
    firmness_of,
    putative_matches,
    refined,
    search,
    together,
    without_neighbors,
)
from .units import unit_factor
from .verdict import THRESHOLDS, Accept, judge
from .view import View, view_of

Method = Literal["auto", "roitr", "classic", "refine"]
Scale = Literal["auto", "rigid"]

STAGES = ("clean + canonicalise", "describe", "match + solve", "refine", "verify")
# A second, finer look when the first was not convincing: low overlaps need more points.
SECOND_LOOK = 1.5
# Confidence below which a pose is not worth a second look.
HOPE = 0.1
# Confidence from which a registered pose is not tried against the mirror image, and how much better that must fit.
CLEAR = 0.99
MIRROR_RATIO = 1.3
WORTH_REFINING = 0.6


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
    network: RoITr | str | PathLike[str] | None = None,
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
        method: "roitr" takes correspondences from the network, "classic" from histograms of point pair features, "auto"
            from both, and the evidence decides between their poses; "refine" only improves `init`.
        voxel: working resolution in the unit of the target; None chooses about 6000 voxels for the larger cloud.
        scale: "auto" also tries the ratio of two known units (mm against m) when the sizes call for it, and says so;
            "rigid" never does.
        refine: local refinement; "auto" is GICP. Kept only if the evidence does not fall.
        accept: how sure to be: confidence of 0.95 (strict), 0.80 (balanced), 0.50 (loose).
        hypotheses: poses that are refined and compared.
        init: (4, 4) start for `method="refine"`, source to target.
        network: a RoITr with `config.voxel`, or the folder of one; None takes the one that comes with the package.
        source_sensor, target_sensor: (3,) where the scanner stood; None takes it from the file or estimates it from
            the cloud.
        unit: name of the unit of the files, for the report; "auto" guesses.
        threads: CPU threads; None leaves torch's setting.
        seed: recorded, and used to sample meshes; the search itself draws nothing.
        on_stage: called at the start and end of every stage.
    Raises:
        InputError: a cloud with fewer than 3 usable points, on one line, or at one place; a network for metres.
        FileNotFoundError, UnreadableFileError: as `read_point_cloud`; also for the folder of a network.
        ValueError: an option with a bad value.

    >>> from rotaware.datasets import indoor_pair
    >>> pair = indoor_pair(0)
    >>> result = register(pair.source, pair.target)
    >>> result.ok, bool(np.abs(result.T - pair.T_target_source).max() < 0.1)
    (True, True)
    """
    require_choice("method", method, ("auto", "roitr", "classic", "refine"))
    require_choice("scale", scale, ("auto", "rigid"))
    require_choice("refine", refine, ("auto", "none", "gicp", "point", "plane"))
    require_choice("accept", accept, ("strict", "balanced", "loose"))
    if voxel is not None and not (np.isfinite(voxel) and voxel > 0):
        raise ValueError(f"voxel: expected a positive length, got {voxel}")
    if hypotheses < 1:
        raise ValueError(f"hypotheses: expected at least 1, got {hypotheses}")
    start_pose = _start(method, init)
    learned = load_network(network) if method in ("auto", "roitr") else None
    engines = Engines(classic=method != "roitr", network=learned)
    with _threads(threads):
        run = _Run(on_stage)
        options: dict[str, Any] = {
            "method": method, "voxel": voxel, "scale": scale, "refine": refine, "accept": accept,
            "hypotheses": hypotheses, "init": init, "unit": unit, "network": _network_name(network),
            "source_sensor": source_sensor, "target_sensor": target_sensor,
        }  # fmt: skip
        return _register(source, target, start_pose, engines, options, seed, run)


def _register(
    source: Any,
    target: Any,
    start: np.ndarray | None,
    engines: Engines,
    options: dict[str, Any],
    seed: int,
    run: _Run,
) -> Registration:
    with run.stage(1):
        moving = _prepare("source", source, options["source_sensor"], 1.0, seed)
        fixed = _prepare("target", target, options["target_sensor"], 1.0, seed)
        sizes = [canonical.automatic_voxel([each.points]) for each in (moving, fixed)]
        factor = unit_factor(*sizes) if options["scale"] == "auto" and start is None else 1.0
        if factor != 1.0:
            moving = _prepare("source", source, options["source_sensor"], factor, seed)
        size = options["voxel"] or max(sizes[0] * factor, sizes[1])
        run.note = f"dropped {moving.clean.dropped_nonfinite + fixed.clean.dropped_nonfinite} NaN, voxel {size:.3g}"
    kind: Refinement = "gicp" if options["refine"] == "auto" else options["refine"]
    best = _attempt(moving, fixed, size, start, engines, kind, options, run)
    undecided = best.verdict.status == "not_registered" and best.verdict.confidence > HOPE
    if undecided and start is None and options["voxel"] is None:
        again = _attempt(moving, fixed, size / SECOND_LOOK, start, engines, kind, options, run)
        best = again if again.verdict.confidence > best.verdict.confidence else best
    if start is None and (best.verdict.status != "registered" or best.verdict.confidence < CLEAR):
        with run.stage(5):
            best = _unless_mirrored(best, engines)
            run.note = "the mirror image fits better" if best.mirrored else "the mirror image fits no better"
    return outcome(best, moving, fixed, factor, options, seed, run.timings)


def _unless_mirrored(attempt: Attempt, engines: Engines) -> Attempt:
    """Refuse a pose when the reflected source fits better still."""
    mirrored = attempt.source.mirrored()
    reflected = max(search(mirrored, attempt.target, engines)[:3], key=lambda each: each.certainty)
    ratio = reflected.certainty / max(attempt.candidates[0].certainty, 1e-9)
    keypoints = max(len(attempt.source.points), len(attempt.target.points))
    firmness = firmness_of(mirrored, attempt.target, reflected)
    found = judge([reflected], firmness, mirrored.centre, "balanced", keypoints=keypoints)
    if ratio < MIRROR_RATIO or found.confidence < THRESHOLDS["balanced"]:
        return attempt
    reason = "a reflection fits better than any rotation"
    meaning = "the mirror image of the source fits no better than the source"
    checks = (*attempt.verdict.checks, Check("handedness", ratio, MIRROR_RATIO, False, meaning))
    verdict = replace(attempt.verdict, status="not_registered", reason=reason, checks=checks)
    return replace(attempt, mirrored=True, verdict=verdict)


def _attempt(
    moving: Prepared,
    fixed: Prepared,
    voxel: float,
    start: np.ndarray | None,
    engines: Engines,
    kind: Refinement,
    options: dict[str, Any],
    run: _Run,
) -> Attempt:
    with run.stage(2):
        source = view_of(moving.points, voxel, moving.sensor)
        target = view_of(fixed.points, voxel, fixed.sensor)
        run.note = f"{len(source.points)} and {len(target.points)} keypoints"
    with run.stage(3):
        if start is None:
            candidates = search(source, target, engines)
        else:
            pose = fixed.frame @ start @ canonical.invert(moving.frame)
            pose[:3, 3] /= voxel
            candidates = [_started(source, target, pose, engines)]
        run.note = f"{len(candidates[0].putative.matches)} correspondences, {len(candidates)} hypotheses"
    with run.stage(4):
        refiner = Refiner(source, target, kind)
        chosen = candidates[: options["hypotheses"]]
        # Far behind the best, refinement could not change the outcome, and it costs most where the start is wrong.
        worth = WORTH_REFINING * chosen[0].score
        prior = PRIOR if start is None else 0.0
        chosen = [
            refined(source, target, each, refiner, prior=prior) if each.score >= worth else each for each in chosen
        ]
        chosen.sort(key=lambda each: -each.rank)
        chosen = without_neighbors(chosen, source.centre, refiner)
        run.note = f"{len(chosen)} poses, best {chosen[0].refine}"
    with run.stage(5):
        firmness = firmness_of(source, target, chosen[0])
        keypoints = max(len(source.points), len(target.points))
        verdict = judge(chosen, firmness, source.centre, options["accept"], keypoints=keypoints)
        run.note = f"{verdict.status.replace('_', ' ')}, confidence {verdict.confidence:.2f}"
    return Attempt(voxel, source, target, chosen, firmness, verdict)


def _started(source: View, target: View, pose: np.ndarray, engines: Engines) -> Candidate:
    """The given start, with the source's normals turned over if that fits the target better."""
    views = [source, source.turned()] if len(source.sensors) > 1 or len(target.sensors) > 1 else [source]
    sides = []
    for turned, view in enumerate(views):
        putative = together(view, target, putative_matches(view, target, engines, turned=bool(turned)))
        sides.append(candidate(view, target, pose, putative))
    return max(sides, key=lambda each: each.score)


def load_network(given: RoITr | str | PathLike[str] | None) -> RoITr:
    """The network that `register` would use."""
    if given is None:
        return bundled_roitr()
    try:
        network = given if isinstance(given, RoITr) else RoITr.from_pretrained(given)
    except ValueError as error:
        raise UnreadableFileError(f"network {given}: {error}") from error
    if network.config.voxel is None:
        raise InputError("network: expected one trained with the voxel as its unit (config.voxel), got one for metres")
    return network.eval()


def _network_name(given: RoITr | str | PathLike[str] | None) -> str | None:
    """What a report says about the network; None is the bundled one."""
    return None if given is None else "given" if isinstance(given, RoITr) else str(given)


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


def _prepare(name: str, given: Any, sensor: np.ndarray | None, factor: float, seed: int) -> Prepared:
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
    return Prepared(name, cloud, clean, frame, canonical.apply(frame, clean.points), seen_from, source, factor)


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
