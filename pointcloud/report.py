"""The report page of a registration: one self-contained HTML file with a viewer, the evidence and the verdict."""

from __future__ import annotations

import os
import re
from html import escape
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike

from rotaware.geo.files import write_whole

from .overview import write_overview_png
from .rasteriser import (
    INLIER_COLOR,
    NEUTRAL_COLOR,
    OUTLIER_COLOR,
    RAMP,
    SHARED_COLOR,
    SOURCE_COLOR,
    TARGET_COLOR,
    Color,
)
from .report_payload import matrix_text, payload_json
from .report_scene import Scene, build_scene, format_length, headline, reason_sentence, verdict_title
from .result import Check, CloudSummary, Metrics, Registration

__all__ = ["write_overview_png", "write_report_html"]

_POINT_BUDGET = 100_000
_MAX_POSES = 12
_COLORS = {
    "source": SOURCE_COLOR,
    "target": TARGET_COLOR,
    "neutral": NEUTRAL_COLOR,
    "shared": SHARED_COLOR,
    "inlier": INLIER_COLOR,
    "outlier": OUTLIER_COLOR,
}
_SCRIPTS = ("report_motion.js", "report_canvas.js", "report_state.js", "report.js")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def write_report_html(
    path: str | os.PathLike[str],
    registration: Registration,
    source_points: ArrayLike,
    target_points: ArrayLike,
    *,
    source_name: str,
    target_name: str,
    source_colors: ArrayLike | None = None,
    target_colors: ArrayLike | None = None,
) -> None:
    """Writes the report page: a WebGL viewer, checks, metrics, warnings and parameters in one file of a few MB.

    It opens from disk and asks the network for nothing. Clouds are thinned to an even sample and quantised to 16 bits
    per axis about a float64 offset, so map coordinates keep their detail. The part of the address after `#` says what
    is shown, such as `#color=residual&pose=1&lines=inliers&threshold=0.5`; "Copy link" makes one. The file appears
    whole or not at all; same input, same bytes.

    Args:
        path: of the HTML file.
        registration: the result to show; pose, metrics and correspondences may be missing.
        source_points: (N, 3), the rows given to `register`, user units.
        target_points: (M, 3), the same.
        source_name: shown as given.
        target_name: the same.
        source_colors: (N, 3) uint8 red, green, blue of the source, to be shown on request.
        target_colors: (M, 3), the same.
    Raises:
        ValueError: an array is not (N, 3), or colours and points differ in number.
    """
    scene = build_scene(
        registration,
        source_points,
        target_points,
        source_colors=source_colors,
        target_colors=target_colors,
        budget=_POINT_BUDGET,
        max_poses=_MAX_POSES,
    )
    folder = resources.files("rotaware.pointcloud")
    parts = {
        "title": escape(f"{verdict_title(registration)}: {source_name} to {target_name}"),
        "status": registration.status,
        "verdict": escape(verdict_title(registration)),
        "reason": escape(reason_sentence(registration)),
        "source_name": escape(source_name),
        "target_name": escape(target_name),
        **{f"{name}_color": _css(color) for name, color in _COLORS.items()},
        "ramp": ", ".join(_css(color) for color in RAMP),
        "tiles": "".join(
            f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>"
            for name, value in headline(registration, scene)
        ),
        "checks": _checks_table(registration),
        "metrics": _pairs_table(_metric_rows(registration.metrics, scene.unit)),
        "matrix": escape(matrix_text(scene.poses[0].matrix) if scene.poses else "no pose could be formed"),
        "alternatives": _poses_table(scene),
        "warnings": _warnings_list(registration),
        "inputs": _inputs_table(registration),
        "parameters": _pairs_table(_parameter_rows(registration)),
        "timings": _pairs_table([(name, f"{seconds:.2f} s") for name, seconds in registration.timings.items()]),
        "scripts": "\n".join(
            f"<script>\n{folder.joinpath(name).read_text(encoding='utf-8')}</script>" for name in _SCRIPTS
        ),
        "payload": payload_json(registration, scene, source_points, target_points, source_name, target_name),
    }
    template = folder.joinpath("report.html").read_text(encoding="utf-8")
    # One pass over the template: what is filled in is never searched for placeholders again.
    page = _PLACEHOLDER.sub(lambda match: parts[match[1]], template)
    # File names may hold bytes that are no text; they arrive as lone surrogates.
    write_whole(path, page.encode("utf-8", errors="replace"))


def _checks_table(registration: Registration) -> str:
    if not registration.checks:
        return '<p class="empty">No check was run.</p>'
    rows = "".join(
        f'<tr class="{"pass" if check.passed else "fail"}">'
        f'<td><span class="mark">{"&#10003; pass" if check.passed else "&#10007; fail"}</span></td>'
        f'<th scope="row">{escape(check.name.replace("_", " "))}</th><td class="num">{check.value:.3g}</td>'
        f'<td class="num">{_needs(check)}</td><td>{escape(check.meaning)}</td></tr>'
        for check in registration.checks
    )
    heads = (("", "Result"), ("", "Check"), ("num", "Value"), ("num", "Needs"), ("", "Meaning"))
    return _table(heads, rows)


def _needs(check: Check) -> str:
    """The condition of a check, read off its outcome: a check does not say in which direction it compares."""
    at_least = check.passed == (check.value >= check.threshold)
    return f"{'&ge;' if at_least else '&lt;'} {check.threshold:.3g}"


def _poses_table(scene: Scene) -> str:
    if not scene.poses:
        return '<p class="empty">No pose was kept.</p>'
    rows = "".join(
        f'<tr><th scope="row"><button class="choose" data-pose="{index}">{escape(pose.label)}</button></th>'
        f'<td class="num">{pose.rotation_deg:.1f}&deg;</td>'
        f'<td class="num">{escape(format_length(pose.translation, scene.unit))}</td>'
        f'<td class="num">{escape(_median(pose.residual, scene))}</td>'
        f'<td class="num">{"" if pose.score is None else f"{pose.score:.2f}"}</td></tr>'
        for index, pose in enumerate(scene.poses)
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


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
