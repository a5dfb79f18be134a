"""`result.json`: the whole outcome of a registration as strict, reproducible JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotaware.geo import matrix_to_quaternion
from rotaware.pointcloud import CloudSummary, Hypothesis, Metrics, Registration
from rotaware.pointcloud.result import SCHEMA_VERSION

from .transforms import rotation_degrees, scale_of

# Parameters that may differ between two runs without changing the answer.
_NOT_RECORDED = frozenset({"threads", "on_stage"})
# An indented list of numbers and nulls. Strings in JSON hold no raw line breaks, so none can look like one.
_NUMBER_LIST = re.compile(r"\[\n[-+0-9.eE,\sul]*?(?:[0-9]|null)\n\s*\]")


def result_document(registration: Registration, source_path: str | Path, target_path: str | Path) -> dict[str, Any]:
    """The content of `result.json`, ready for `dump`; only `timings` may differ between two equal runs.

    Lengths are in the unit of the input files. `transform` is null unless the pose was accepted; a rejected best
    guess stays first in `alternatives`.
    """
    matrix = registration.T_target_source
    accepted = registration.status != "not_registered"
    return {
        "schema_version": SCHEMA_VERSION,
        "status": registration.status,
        "transform": _pose(matrix) | {"direction": "p_tgt = s R p_src + t"}
        if accepted and matrix is not None
        else None,
        "confidence": registration.confidence,
        "reason": registration.reason,
        "checks": [
            {
                "name": check.name,
                "value": check.value,
                "threshold": check.threshold,
                "pass": check.passed,
                "meaning": check.meaning,
            }
            for check in registration.checks
        ],
        "evidence": dict(registration.evidence),
        "metrics": _metrics(registration.metrics),
        "alternatives": [
            _pose(other.T_target_source) | {"score": other.score} for other in _alternatives(registration)
        ],
        "symmetry": registration.symmetry,
        "inputs": [
            _input("source", source_path, registration.source),
            _input("target", target_path, registration.target),
        ],
        "parameters": {key: value for key, value in registration.parameters.items() if key not in _NOT_RECORDED},
        "voxel": registration.voxel,
        "scale": registration.scale,
        "engine": registration.engine,
        "why": registration.why,
        "refine": registration.refine,
        "seed": registration.seed,
        "warnings": [
            {"code": notice.code, "text": notice.text, "hint": notice.hint} for notice in registration.warnings
        ],
        "tool": {"name": "rotaware", **tool_version()},
        "timings": dict(registration.timings),
    }


def dump(document: dict[str, Any]) -> str:
    """Strict JSON text: NaN and infinity become null, arrays become lists, order is kept, a matrix row is one line.

    >>> dump({"a": float("nan"), "b": np.arange(2)}).replace("\\n", "").replace(" ", "")
    '{"a":null,"b":[0,1]}'
    """
    text = json.dumps(_plain(document), indent=2, allow_nan=False)
    return _NUMBER_LIST.sub(lambda match: " ".join(match[0].split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def tool_version() -> dict[str, str | None]:
    """Version of the package, and the commit when it was installed from a repository."""
    try:
        distribution = Distribution.from_name("rotaware")
    except PackageNotFoundError:
        return {"version": None, "commit": None}
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return {"version": distribution.version, "commit": origin.get("vcs_info", {}).get("commit_id")}


def _pose(matrix: np.ndarray) -> dict[str, Any]:
    scale = scale_of(matrix)
    quaternion = matrix_to_quaternion(torch.from_numpy(matrix[:3, :3] / scale))
    return {
        "matrix": matrix,
        "quaternion_wxyz": quaternion.numpy(),
        "rotation_deg": rotation_degrees(matrix),
        "translation": matrix[:3, 3],
        "scale": scale,
    }


def _alternatives(registration: Registration) -> list[Hypothesis]:
    """Other poses, best first; a rejected best guess joins them so that it is not lost."""
    best = registration.T_target_source
    others = list(registration.alternatives)
    if registration.status != "not_registered" or best is None:
        return others
    if not any(np.array_equal(other.T_target_source, best) for other in others):
        others.insert(0, Hypothesis(best, registration.confidence))
    return others


def _metrics(metrics: Metrics | None) -> dict[str, Any] | None:
    if metrics is None:
        return None
    return {
        "overlap_src": metrics.overlap_source,
        "overlap_tgt": metrics.overlap_target,
        "inlier_ratio": metrics.inlier_ratio,
        "n_inliers": metrics.n_inliers,
        "residual_median": metrics.residual_median,
        "residual_p95": metrics.residual_p95,
        "coverage": metrics.coverage,
        "runner_up_ratio": metrics.runner_up_ratio,
        "information": metrics.information,
        "covariance": metrics.covariance,
        "covariance_reason": metrics.covariance_reason,
        "free_directions": metrics.free_directions,
    }


def _input(role: str, path: str | Path, cloud: CloudSummary) -> dict[str, Any]:
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "role": role,
        "path": str(path),
        "sha256": sha256,
        "points": cloud.points,
        "used": cloud.used,
        "dropped": {"nonfinite": cloud.dropped_nonfinite, "duplicates": cloud.dropped_duplicates},
        "extent": cloud.extent,
        "spacing": cloud.spacing,
        "unit": cloud.unit,
        "unit_source": cloud.unit_source,
        "sensor_origin": cloud.sensor_origin,
        "sensor_source": cloud.sensor_source,
        "normals": cloud.normals,
    }


def _plain(value: Any) -> Any:
    """Python numbers, strings, lists and dicts only."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
