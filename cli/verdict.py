"""The lines that tell the user how it ended."""

from __future__ import annotations

import numpy as np

from rotaware.pointcloud import Check, Registration

from .messages import format_length, format_number
from .transforms import rotation_degrees

_TITLES = {"registered": "REGISTERED", "ambiguous": "AMBIGUOUS", "not_registered": "NOT REGISTERED"}
_MAX_FAILED_CHECKS = 3


def verdict_lines(registration: Registration) -> list[str]:
    """Verdict first: one line when registered, with reason and hints below it when not."""
    title = _TITLES[registration.status]
    if registration.status == "not_registered":
        return [f"{title}   {registration.reason}", *_failed_checks(registration), *_hints(registration)]
    lines = ["   ".join([title, *_figures(registration)])]
    if registration.status == "ambiguous":
        lines.append(f"reason: {registration.reason}")
        if registration.symmetry:
            lines.append(f"symmetry: {registration.symmetry}")
        if registration.metrics is not None and registration.metrics.free_directions:
            lines.append(f"free directions: {', '.join(registration.metrics.free_directions)}")
        lines.append("hint: this is the best pose; the others are in result.json under 'alternatives'")
    return lines


def notice_lines(registration: Registration) -> list[str]:
    """One line per warning: code, text, hint."""
    return [f"warning {item.code}: {item.text} (hint: {item.hint})" for item in registration.warnings]


def _figures(registration: Registration) -> list[str]:
    matrix, unit = registration.T_target_source, registration.target.unit
    figures = []
    if matrix is not None:
        figures.append(f"rotation {rotation_degrees(matrix):.1f} deg")
        figures.append(f"translation {format_length(float(np.linalg.norm(matrix[:3, 3])), unit)}")
    if registration.metrics is not None:
        figures.append(f"overlap {100 * registration.metrics.overlap_source:.0f} %")
        figures.append(f"residual {format_length(registration.metrics.residual_median, unit)}")
    if registration.scale != 1.0:
        figures.append(f"scale x{format_number(registration.scale)}")
    return figures


def _failed_checks(registration: Registration) -> list[str]:
    failed = [check for check in registration.checks if not check.passed]
    return [
        f"  failed: {check.meaning} ({check.name} {format_number(check.value)}, needs {_needs(check)})"
        for check in failed[:_MAX_FAILED_CHECKS]
    ]


def _needs(check: Check) -> str:
    side = "at least" if check.value < check.threshold else "below"
    return f"{side} {format_number(check.threshold)}"


def _hints(registration: Registration) -> list[str]:
    hints = ["do the two clouds show a common part? report.html draws the best guess"]
    if registration.T_target_source is not None:
        hints.append("the best guess is in result.json under 'alternatives'; --force also writes its files")
    return [f"  hint: {hint}" for hint in hints]
