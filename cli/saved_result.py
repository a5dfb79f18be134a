"""A result folder read back: the registration of `result.json`, and the scans it was made from."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotaware.pointcloud import (
    Check,
    CloudSummary,
    Correspondences,
    Hypothesis,
    InputError,
    Metrics,
    Notice,
    PointCloud,
    Registration,
    UnreadableFileError,
    read_point_cloud,
)
from rotaware.pointcloud.result import SCHEMA_VERSION


@dataclass(frozen=True)
class SavedResult:
    """What `rotaware register` found, with the clouds as it read them."""

    registration: Registration
    source: PointCloud
    target: PointCloud
    source_name: str
    target_name: str

    def shown(self, *, colors: bool = True) -> dict[str, Any]:
        """Arguments of the functions that show a result; the overview takes no colours."""
        arguments = {
            "registration": self.registration,
            "source_points": self.source.points,
            "target_points": self.target.points,
            "source_name": self.source_name,
            "target_name": self.target_name,
        }
        if colors:
            arguments |= {"source_colors": self.source.colors, "target_colors": self.target.colors}
        return arguments


def read_result(folder: Path) -> SavedResult:
    """The result in `folder` and its two scans, which must be where they were and unchanged.

    A relative path in the result is sought from the working folder, then from the folder that holds `folder`: that is
    where `rotaware register` was most likely called.

    Raises:
        FileNotFoundError: no result in the folder, or a scan was moved.
        InputError: a scan was changed since.
        UnreadableFileError: the files of the result are damaged or of another version.
    """
    document = read_document(folder)
    matches = _read_correspondences(folder / "correspondences.npz")
    try:
        registration = _registration(document, matches)
        inputs = [(item["role"], item["path"], item["sha256"]) for item in document["inputs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"{_quoted(folder)} is damaged: {type(error).__name__} {error}") from error
    clouds = [
        read_point_cloud(_find_scan(folder, role, path, sha256), seed=registration.seed)
        for role, path, sha256 in inputs
    ]
    for cloud, rows in zip(clouds, (matches.source_index, matches.target_index), strict=True):
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(cloud):
            raise UnreadableFileError(f"{str(folder / 'correspondences.npz')!r} names rows that the scans do not have")
    names = [os.path.basename(path) for _, path, _ in inputs]
    return SavedResult(registration, clouds[0], clouds[1], names[0], names[1])


def read_document(folder: Path) -> dict[str, Any]:
    """The content of `result.json`, known to be ours and of this version."""
    path = folder / "result.json"
    if not path.is_file():
        raise FileNotFoundError(f"cannot open {str(path)!r}: no such file; name a folder that rotaware register wrote")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        tool, version = document["tool"]["name"], document["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableFileError(f"{_quoted(folder)} is not a result of rotaware register") from error
    if tool != "rotaware" or version != SCHEMA_VERSION:
        raise UnreadableFileError(
            f"{_quoted(folder)}: expected version {SCHEMA_VERSION} of a result of rotaware, got {version} of {tool}"
        )
    return dict(document)


def _find_scan(folder: Path, role: str, path: str, sha256: str) -> Path:
    places = [Path(path), folder.resolve().parent / path]
    found = [place for place in dict.fromkeys(places) if place.is_file()]
    for place in found:
        with open(place, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return place
    if found:
        raise InputError(f"the {role} {str(found[0])!r} was changed since it was registered; register it again")
    looked = ", ".join(repr(str(place)) for place in dict.fromkeys(places))
    raise FileNotFoundError(
        f"cannot find the {role} of this result; looked for {looked}. Put it back; report.html opens without it"
    )


def _quoted(folder: Path) -> str:
    return repr(str(folder / "result.json"))


def _read_correspondences(path: Path) -> Correspondences:
    try:
        # Opened here, as numpy leaves a damaged archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Correspondences(
                arrays["source_index"].astype(np.int64),
                arrays["target_index"].astype(np.int64),
                arrays["confidence"].astype(np.float32),
                arrays["inlier"].astype(bool),
            )
    except FileNotFoundError:
        raise
    except Exception as error:
        # A damaged archive fails in as many ways as it has layers: zip, deflate, header, dtype.
        raise UnreadableFileError(f"{str(path)!r} is damaged: {error}") from error


def _registration(document: dict[str, Any], matches: Correspondences) -> Registration:
    poses = [Hypothesis(_pose(item["matrix"]), _number(item["score"])) for item in document["alternatives"]]
    reported = document["transform"]
    # A rejected best guess stands first among the alternatives.
    best = poses[0].T_target_source if poses else None
    source, target = (_summary(item) for item in document["inputs"])
    return Registration(
        status=document["status"],
        T_target_source=best if reported is None else _pose(reported["matrix"]),
        confidence=_number(document["confidence"]),
        reason=document["reason"],
        checks=tuple(
            Check(c["name"], _number(c["value"]), _number(c["threshold"]), c["pass"], c["meaning"])
            for c in document["checks"]
        ),
        evidence={name: _number(value) for name, value in document["evidence"].items()},
        metrics=None if document["metrics"] is None else _metrics(document["metrics"]),
        alternatives=tuple(poses),
        symmetry=document["symmetry"],
        source=source,
        target=target,
        correspondences=matches,
        voxel=_number(document["voxel"]),
        scale=_number(document["scale"]),
        engine=document["engine"],
        why=document["why"],
        refine=document["refine"],
        seed=document["seed"],
        parameters=document["parameters"],
        timings=document["timings"],
        warnings=tuple(Notice(w["code"], w["text"], w["hint"]) for w in document["warnings"]),
    )


def _summary(item: dict[str, Any]) -> CloudSummary:
    origin = item["sensor_origin"]
    return CloudSummary(
        points=item["points"],
        used=item["used"],
        dropped_nonfinite=item["dropped"]["nonfinite"],
        dropped_duplicates=item["dropped"]["duplicates"],
        extent=_triple(item["extent"]),
        spacing=_number(item["spacing"]),
        unit=item["unit"],
        unit_source=item["unit_source"],
        sensor_origin=None if origin is None else _triple(origin),
        sensor_source=item["sensor_source"],
        normals=item["normals"],
    )


def _metrics(item: dict[str, Any]) -> Metrics:
    return Metrics(
        overlap_source=_number(item["overlap_src"]),
        overlap_target=_number(item["overlap_tgt"]),
        inlier_ratio=_number(item["inlier_ratio"]),
        n_inliers=item["n_inliers"],
        residual_median=_number(item["residual_median"]),
        residual_p95=_number(item["residual_p95"]),
        coverage=_number(item["coverage"]),
        runner_up_ratio=_number(item["runner_up_ratio"]),
        information=_square(item["information"]),
        covariance=_square(item["covariance"]),
        covariance_reason=item["covariance_reason"],
        free_directions=tuple(item["free_directions"]),
    )


def _number(value: float | None) -> float:
    """JSON has no NaN: it was written as null."""
    return float("nan") if value is None else float(value)


def _triple(values: list[float | None]) -> tuple[float, float, float]:
    x, y, z = map(_number, values)
    return x, y, z


def _square(rows: list[list[float]] | None) -> np.ndarray | None:
    return None if rows is None else np.array(rows, dtype=np.float64)


def _pose(rows: list[list[float]]) -> np.ndarray:
    matrix = np.array(rows, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"expected a 4x4 matrix of finite numbers, got {rows}")
    return matrix
