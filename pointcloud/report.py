"""The report page of a registration: one self-contained HTML file with a viewer, the evidence and the verdict."""

from __future__ import annotations

import base64
import json
import os
import re
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from .overview import write_atomically, write_overview_png
from .rasteriser import NEUTRAL_COLOR, RAMP, SOURCE_COLOR, TARGET_COLOR, Color, best_view, look_from
from .report_scene import (
    Scene,
    build_scene,
    format_length,
    headline,
    middle,
    radius,
    reason_sentence,
    transform,
    verdict_title,
)
from .result import CloudSummary, Correspondences, Metrics, Registration

__all__ = ["write_overview_png", "write_report_html"]

_POINT_BUDGET = 80_000
_MAX_POSES = 12
_MAX_LINES = 3000
# Quantised residuals: 254 steps up to this many colour limits; 255 means beyond.
_RESIDUAL_STEPS = 254
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def write_report_html(
    path: str | os.PathLike[str],
    registration: Registration,
    source_points: ArrayLike,
    target_points: ArrayLike,
    *,
    source_name: str,
    target_name: str,
) -> None:
    """Writes the report page: a WebGL viewer, checks, metrics, warnings and parameters in one file of about 2 MB.

    It opens from disk and asks the network for nothing. Clouds are thinned to an even sample and quantised to 16 bits
    per axis about a float64 offset, so map coordinates keep their detail. The file appears whole or not at all; same
    input, same bytes.

    Args:
        path: of the HTML file.
        registration: the result to show; pose, metrics and correspondences may be missing.
        source_points: (N, 3), the rows given to `register`, user units.
        target_points: (M, 3), the same.
        source_name: shown as given.
        target_name: the same.
    Raises:
        ValueError: an array is not (N, 3).
    """
    scene = build_scene(registration, source_points, target_points, budget=_POINT_BUDGET, max_poses=_MAX_POSES)
    lines = _correspondence_payload(registration.correspondences, np.asarray(source_points), np.asarray(target_points))
    payload = _payload(registration, scene, lines)
    payload["names"] = {"source": source_name, "target": target_name}
    folder = resources.files("rotaware.pointcloud")
    parts = {
        "title": escape(f"{verdict_title(registration)}: {source_name} to {target_name}"),
        "status": registration.status,
        "verdict": escape(verdict_title(registration)),
        "reason": escape(reason_sentence(registration)),
        "source_name": escape(source_name),
        "target_name": escape(target_name),
        "source_color": _css(SOURCE_COLOR),
        "target_color": _css(TARGET_COLOR),
        "ramp": ", ".join(_css(color) for color in RAMP),
        "tiles": "".join(
            f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>"
            for name, value in headline(registration, scene)
        ),
        "checks": _checks_table(registration),
        "metrics": _pairs_table(_metric_rows(registration.metrics, scene.unit)),
        "matrix": escape(_matrix_text(scene.poses[0].matrix) if scene.poses else "no pose could be formed"),
        "alternatives": _alternatives_table(scene),
        "warnings": _warnings_list(registration),
        "inputs": _inputs_table(registration),
        "parameters": _pairs_table(_parameter_rows(registration)),
        "timings": _pairs_table([(name, f"{seconds:.2f} s") for name, seconds in registration.timings.items()]),
        "motion": folder.joinpath("report_motion.js").read_text(encoding="utf-8"),
        "script": folder.joinpath("report.js").read_text(encoding="utf-8"),
        "payload": _script_json(payload),
    }
    template = folder.joinpath("report.html").read_text(encoding="utf-8")
    # One pass over the template: what is filled in is never searched for placeholders again.
    page = _PLACEHOLDER.sub(lambda match: parts[match[1]], template)
    # File names may hold bytes that are no text; they arrive as lone surrogates.
    write_atomically(Path(path), page.encode("utf-8", errors="replace"))


def _payload(registration: Registration, scene: Scene, lines: dict[str, Any]) -> dict[str, Any]:
    before = transform(scene.start, scene.source)
    after = transform(scene.poses[0].matrix, scene.source) if scene.poses else before
    shown = np.concatenate([after, scene.target])
    view = best_view(shown, scene.up) if len(shown) else np.array([1.0, 1.0, 1.0]) / np.sqrt(3.0)
    axes = look_from(view, scene.up)
    heights = shown @ scene.up
    return {
        "status": registration.status,
        "verdict": verdict_title(registration),
        "unit": scene.unit,
        "source": _quantise(scene.source) | {"total": scene.source_total},
        "target": _quantise(scene.target) | {"total": scene.target_total},
        "center": middle(scene.source).tolist(),
        "start": scene.start.ravel().tolist(),
        "startShifted": scene.start_shifted,
        "poses": [
            {
                "label": pose.label,
                "matrix": pose.matrix.ravel().tolist(),
                "text": _matrix_text(pose.matrix),
                "residual": _base64(_residual_bytes(pose.residual, scene.residual_limit)),
            }
            for pose in scene.poses
        ],
        "residualLimit": scene.residual_limit,
        "correspondences": lines,
        "fit": {"before": _bounds(np.concatenate([before, scene.target]), axes), "after": _bounds(shown, axes)},
        "up": scene.up.tolist(),
        "view": view.tolist(),
        "heights": np.percentile(heights, (1.0, 99.0)).tolist() if len(shown) else [0.0, 1.0],
        "spacing": _typical_spacing(scene.target if len(scene.target) else scene.source),
        "colors": {"neutral": NEUTRAL_COLOR, "ramp": RAMP},
    }


def _quantise(points: np.ndarray) -> dict[str, Any]:
    """int16 per axis: a point is `offset + (q + 32768) * scale`, right to half a step of `scale`."""
    low = points.min(axis=0) if len(points) else np.zeros(3)
    span = np.ptp(points, axis=0) if len(points) else np.zeros(3)
    scale = np.where(span > 0, span / 65535, 1.0)
    steps = np.clip(np.rint((points - low) / scale), 0, 65535) - 32768
    return {
        "count": len(points),
        "offset": low.tolist(),
        "scale": scale.tolist(),
        "positions": _base64(steps.astype("<i2")),
    }


def _residual_bytes(residual: np.ndarray, limit: float) -> np.ndarray:
    return np.clip(np.rint(residual / limit * _RESIDUAL_STEPS), 0, 255).astype(np.uint8)


def _correspondence_payload(matches: Correspondences, source: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """The most confident lines; a row that points at a coordinate that is not finite is left out."""
    order = np.argsort(-matches.confidence, kind="stable")
    ends_source = source[matches.source_index[order]].astype(np.float64)
    ends_target = target[matches.target_index[order]].astype(np.float64)
    finite = np.isfinite(ends_source).all(axis=1) & np.isfinite(ends_target).all(axis=1)
    kept = np.flatnonzero(finite)[:_MAX_LINES]
    return {
        "total": len(order),
        "source": _quantise(ends_source[kept]),
        "target": _quantise(ends_target[kept]),
        "confidence": _base64(np.rint(255 * np.clip(matches.confidence[order][kept], 0, 1)).astype(np.uint8)),
        "inlier": _base64(matches.inlier[order][kept].astype(np.uint8)),
    }


def _bounds(points: np.ndarray, axes: np.ndarray) -> dict[str, Any]:
    if len(points) == 0:
        return {"center": [0.0, 0.0, 0.0], "half": [1.0, 1.0, 1.0], "radius": 1.0}
    # The middle of what the first view shows: the middle of the box along the world's axes would sit off to a side.
    low, high = np.percentile(points @ axes.T, (1.0, 99.0), axis=0)
    half = np.maximum((high - low) / 2, 1e-9)
    center = axes.T @ ((low + high) / 2)
    return {"center": center.tolist(), "half": half.tolist(), "radius": radius(points) or 1.0}


def _typical_spacing(points: np.ndarray) -> float:
    """Distance within which three of four points have a neighbour, over a sample."""
    if len(points) < 2:
        return 1.0
    nearest = cKDTree(points).query(points[:2000], k=2)[0][:, 1]
    return float(np.percentile(nearest, 75.0)) or (radius(points) or 1.0) / 200


def _checks_table(registration: Registration) -> str:
    if not registration.checks:
        return '<p class="empty">No check was run.</p>'
    rows = "".join(
        f'<tr class="{"pass" if check.passed else "fail"}">'
        f'<td><span class="mark">{"&#10003; pass" if check.passed else "&#10007; fail"}</span></td>'
        f'<th scope="row">{escape(check.name.replace("_", " "))}</th><td class="num">{check.value:.3g}</td>'
        f'<td class="num">{check.threshold:.3g}</td><td>{escape(check.meaning)}</td></tr>'
        for check in registration.checks
    )
    heads = (("", "Result"), ("", "Check"), ("num", "Value"), ("num", "Needs"), ("", "Meaning"))
    return _table(heads, rows)


def _alternatives_table(scene: Scene) -> str:
    if len(scene.poses) < 2:
        return '<p class="empty">No other pose was kept.</p>'
    rows = "".join(
        f'<tr><th scope="row">{escape(pose.label)}</th><td class="num">{pose.rotation_deg:.1f}&deg;</td>'
        f'<td class="num">{escape(format_length(pose.translation, scene.unit))}</td>'
        f'<td class="num">{escape(_median(pose.residual, scene))}</td>'
        f'<td class="num">{"" if pose.score is None else f"{pose.score:.2f}"}</td></tr>'
        for pose in scene.poses
        if len(pose.residual)
    )
    heads = (("", "Pose"), ("num", "Rotation"), ("num", "Translation"), ("num", "Median, all points"), ("num", "Score"))
    return _table(heads, rows)


def _median(residual: np.ndarray, scene: Scene) -> str:
    value = float(np.median(residual))
    if np.isfinite(value):
        return format_length(value, scene.unit)
    return f"over {format_length(scene.residual_limit, scene.unit)}"


def _warnings_list(registration: Registration) -> str:
    if not registration.warnings:
        return '<p class="empty">None.</p>'
    items = "".join(
        f"<li><code>{escape(notice.code)}</code> {escape(notice.text)}<br><small>{escape(notice.hint)}</small></li>"
        for notice in registration.warnings
    )
    return f"<ul>{items}</ul>"


def _inputs_table(registration: Registration) -> str:
    left, right = _input_rows(registration.source), _input_rows(registration.target)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="num">{escape(a)}</td><td class="num">{escape(b)}</td></tr>'
        for (name, a), (_, b) in zip(left, right, strict=True)
    )
    return _table((("", ""), ("num", "Source"), ("num", "Target")), rows)


def _input_rows(cloud: CloudSummary) -> list[tuple[str, str]]:
    extent = " x ".join(f"{side:.3g}" for side in cloud.extent)
    sensor = "" if cloud.sensor_origin is None else ", ".join(f"{value:.6g}" for value in cloud.sensor_origin)
    return [
        ("Points", _count(cloud.points)),
        ("Used", _count(cloud.used)),
        ("Dropped, not finite", _count(cloud.dropped_nonfinite)),
        ("Dropped, duplicates", _count(cloud.dropped_duplicates)),
        ("Extent", f"{extent} {cloud.unit}"),
        ("Spacing", format_length(cloud.spacing, cloud.unit)),
        ("Unit", f"{cloud.unit} ({cloud.unit_source})"),
        ("Sensor origin", f"{sensor} ({cloud.sensor_source})".strip()),
        ("Normals", cloud.normals),
    ]


def _metric_rows(metrics: Metrics | None, unit: str) -> list[tuple[str, str]]:
    if metrics is None:
        return []
    rows = [
        ("Overlap, share of the source", f"{100 * metrics.overlap_source:.1f} %"),
        ("Overlap, share of the target", f"{100 * metrics.overlap_target:.1f} %"),
        ("Inliers", f"{_count(metrics.n_inliers)} ({100 * metrics.inlier_ratio:.1f} %)"),
        ("Residual, median", format_length(metrics.residual_median, unit)),
        ("Residual, 95th percentile", format_length(metrics.residual_p95, unit)),
        ("Coverage", f"{metrics.coverage:.2f}"),
        ("Runner-up ratio", f"{metrics.runner_up_ratio:.2f}"),
        ("Free directions", ", ".join(metrics.free_directions) or "none"),
    ]
    if metrics.covariance is not None:
        deviations = np.sqrt(np.clip(np.diag(metrics.covariance), 0.0, None))
        rows.append(("Deviation of rotation", " / ".join(f"{value:.2g}" for value in np.degrees(deviations[:3])) + "°"))
        rows.append(("Deviation of translation", f"{' / '.join(f'{value:.2g}' for value in deviations[3:])} {unit}"))
    else:
        rows.append(("Covariance", metrics.covariance_reason or "not available"))
    return rows


def _parameter_rows(registration: Registration) -> list[tuple[str, str]]:
    unit = registration.target.unit
    rows = [
        ("Engine", f"{registration.engine} ({registration.why})" if registration.why else registration.engine),
        ("Refinement", registration.refine),
        ("Voxel", format_length(registration.voxel, unit)),
        ("Scale", f"{registration.scale:.9g}"),
        ("Symmetry", registration.symmetry or "none found"),
        ("Seed", str(registration.seed)),
    ]
    rows += [
        (f"Option: {name.replace('_', ' ')}", "not given" if value is None else str(value))
        for name, value in registration.parameters.items()
    ]
    return rows


def _pairs_table(rows: list[tuple[str, str]]) -> str:
    if not rows:
        return '<p class="empty">Not measured.</p>'
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="num">{escape(value)}</td></tr>' for name, value in rows
    )
    return f"<table><tbody>{body}</tbody></table>"


def _table(heads: tuple[tuple[str, str], ...], rows: str) -> str:
    head = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for kind, name in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _matrix_text(matrix: np.ndarray) -> str:
    cells = [[f"{value:.17g}" for value in row] for row in matrix]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in cells)


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _script_json(payload: dict[str, Any]) -> str:
    """JSON that cannot end the script element or open a comment inside it."""
    text = json.dumps(payload, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
