"""What is known of one method on one pair of scans: its answer, scored against the truth, in a file of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from rotaware.geo.files import write_whole
from rotaware.kernels import knn

from .matching import sample_matches
from .methods import Answer, MatchedPoints
from .metrics import (
    NONRIGID_DISTANCE,
    information_rmse,
    inlier_ratio,
    mean_displacement,
    nonrigid_feature_matching_recall,
    overlap_rmse,
    rotation_error_deg,
    translation_error,
)

# Numbers of correspondences that inlier ratios are reported for.
MATCH_COUNTS = (5000, 2500, 1000, 500, 250)

Array = np.ndarray


class Scans(Protocol):
    """A pair that has been read; a deforming one also has `flow` (N, 3) and `metric_index` (X,) or None."""

    @property
    def source(self) -> Array:
        """(N, 3)."""

    @property
    def target(self) -> Array:
        """(M, 3)."""

    @property
    def T_target_source(self) -> Array | None:
        """(4, 4), or None for scans that do not overlap."""


class ScanPair(Protocol):
    """A pair of a benchmark, such as `rotaware.datasets.BenchmarkPair`."""

    @property
    def scene(self) -> str:
        """What means are taken over first."""

    @property
    def name(self) -> str:
        """Unique, and fit for a file name."""

    @property
    def source(self) -> Path:
        """A file."""

    @property
    def target(self) -> Path:
        """A file."""

    @property
    def source_id(self) -> int:
        """Number of the fragment."""

    @property
    def target_id(self) -> int:
        """Number of the fragment."""

    @property
    def T_target_source(self) -> Array | None:
        """(4, 4) as published; None for scans that do not overlap."""

    @property
    def overlap(self) -> float | None:
        """Share of the source, as listed."""

    @property
    def information(self) -> Array | None:
        """(6, 6) of gt.info, where there is one."""

    @property
    def deforming(self) -> bool:
        """Whether the scene deforms between the scans."""

    def load(self, read: Callable[[Path], Array] | None = None) -> Scans:
        """Read both scans, by `read` if given."""


@dataclass(frozen=True)
class Record:
    """One method on one pair under one condition. All but `cost` is the same in every run."""

    pair: str
    condition: str
    method: str
    # Fingerprint of the pair, the condition and the settings of the method; and of the code that ran.
    key: str
    code: str
    # Rows of the (4, 4) pose in the frames of the published scans, whatever the condition turned.
    T_target_source: list[list[float]] | None = None
    accepted: bool | None = None
    confidence: float | None = None
    evidence: Mapping[str, float] | None = None
    # Errors and shares by name, None where there is no pose to measure or no number comes out.
    scores: Mapping[str, float | None] = field(default_factory=dict)
    # What went wrong, and with what: the pair then counts as not registered.
    failure: str | None = None
    fault: Literal["scan", "method", "log"] | None = None
    # Seconds, seconds of the processor, and megabytes.
    cost: Mapping[str, float | None] = field(default_factory=dict)


def scored(answer: Answer, pair: ScanPair, scans: Scans) -> dict[str, float | None]:
    """Scores of an answer in the frames of the published scans; none for scans that do not overlap.

    Keys of rigid pairs: those of `pose_scores`, `displacement_m`, `rmse_overlap_m` where the scans overlap. Keys of
    matches: `matches`, `ir`, `ir_<count>`; of a deforming pair `matches`, `ir`, `nfmr`.
    """
    truth = scans.T_target_source
    if truth is None:
        return {}
    scores: dict[str, float | None] = {}
    if pair.deforming:
        if answer.matches is not None:
            scores |= _deforming_scores(answer.matches, scans, truth)
        return scores
    pose = answer.T_target_source
    scores |= pose_scores(pose, pair)
    scores["displacement_m"] = None if pose is None else _number(mean_displacement(scans.source, pose, truth))
    # Where nothing overlaps there is no such error, of any pose.
    rmse = overlap_rmse(scans.source, scans.target, truth if pose is None else pose, truth)
    if math.isfinite(rmse):
        scores["rmse_overlap_m"] = None if pose is None else rmse
    if answer.matches is not None:
        scores |= _match_scores(answer.matches, truth)
    return scores


def pose_scores(pose: Array | None, pair: ScanPair) -> dict[str, float | None]:
    """What can be told of a pose without the scans.

    Returns:
        `rotation_deg`, `translation_m`, and, with an information matrix, `rmse_official_m` and `rmse_corrected_m`.
    """
    truth, information = pair.T_target_source, pair.information
    assert truth is not None
    names = ["rotation_deg", "translation_m"]
    if information is not None:
        names += ["rmse_official_m", "rmse_corrected_m"]
    if pose is None:
        return dict.fromkeys(names)
    values = [rotation_error_deg(pose, truth), translation_error(pose, truth)]
    if information is not None:
        values += [information_rmse(pose, truth, information, corrected=corrected) for corrected in (False, True)]
    return dict(zip(names, map(_number, values), strict=True))


def _match_scores(matches: MatchedPoints, truth: Array) -> dict[str, float | None]:
    """Of more matches than wanted, some are drawn by their confidence, as RoITr is evaluated."""
    scores: dict[str, float | None] = {"matches": len(matches.source), "ir": _inlier_ratio(matches, truth)}
    confidence = torch.from_numpy(np.asarray(matches.confidence, dtype=np.float64))
    for count in MATCH_COUNTS:
        # A generator of its own, so that nothing depends on what was drawn before.
        chosen = sample_matches(confidence, count, torch.Generator().manual_seed(0)).numpy()
        scores[f"ir_{count}"] = _inlier_ratio(MatchedPoints(*(part[chosen] for part in matches)), truth)
    return scores


def _inlier_ratio(matches: MatchedPoints, truth: Array) -> float:
    return inlier_ratio(matches.source, matches.target, truth)


def _deforming_scores(matches: MatchedPoints, scans: Any, truth: Array) -> dict[str, float | None]:
    moved = np.zeros((0, 3))
    if len(matches.source):
        nearest = knn(_tensor(scans.source), 1, queries=_tensor(matches.source)).index[:, 0]
        moved = scans.flow[nearest.numpy()]
    scores: dict[str, float | None] = {
        "matches": len(matches.source),
        "ir": inlier_ratio(matches.source, matches.target, truth, radius=NONRIGID_DISTANCE, flow=moved),
    }
    judged = scans.metric_index
    if judged is not None:
        points, flow = scans.source[judged], scans.flow[judged]
        scores["nfmr"] = nonrigid_feature_matching_recall(matches.source, matches.target, points, flow, truth)
    return scores


def _tensor(points: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))


def _number(value: float) -> float | None:
    """JSON has no word for what is not a number."""
    return value if math.isfinite(value) else None


def read_record(path: Path) -> Record | None:
    """The record in a file, None where there is no file or nothing of ours in it."""
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Whole or not at all."""
    write_whole(path, json.dumps(asdict(record), indent=1, allow_nan=False) + "\n")
