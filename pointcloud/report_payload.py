"""The numbers behind the report page, as JSON that its scripts read: quantised clouds, poses, correspondences."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .rasteriser import RAMP, best_view, look_from
from .report_scene import Scene, SceneCloud, format_length, middle, radius, transform, verdict_title
from .result import Correspondences, Registration

_MAX_LINES = 4000
# Quantised residuals: 254 steps up to this many colour limits; 255 means beyond.
_RESIDUAL_STEPS = 254
# Quantised confidence of a point: 1 to 255; 0 means that there is no correspondence near it.
_CONFIDENCE_STEPS = 254


def payload_json(
    registration: Registration, scene: Scene, source: ArrayLike, target: ArrayLike, source_name: str, target_name: str
) -> str:
    """JSON for a script element of the page; it can neither end the element nor open a comment inside it.

    Args:
        registration: the result.
        scene: what `build_scene` made of it.
        source: (N, 3), the rows given to `register`, which the correspondences index.
        target: (M, 3), the same.
        source_name: shown as given.
        target_name: the same.
    """
    before = transform(scene.start, scene.source.points)
    after = transform(scene.poses[0].matrix, scene.source.points) if scene.poses else before
    shown = np.concatenate([after, scene.target.points])
    view = best_view(shown, scene.up) if len(shown) else np.array([1.0, 1.0, 1.0]) / np.sqrt(3.0)
    axes = look_from(view, scene.up)
    payload = {
        "status": registration.status,
        "verdict": verdict_title(registration),
        "names": {"source": source_name, "target": target_name},
        "unit": scene.unit,
        "source": _cloud(scene.source),
        "target": _cloud(scene.target),
        "center": middle(scene.source.points).tolist(),
        "start": scene.start.ravel().tolist(),
        "startShifted": scene.start_shifted,
        "poses": [
            {
                "label": pose.label,
                "caption": f"rotation {pose.rotation_deg:.1f}°, moved {format_length(pose.translation, scene.unit)}",
                "score": pose.score,
                "matrix": pose.matrix.ravel().tolist(),
                "text": matrix_text(pose.matrix),
                "residual": {
                    "source": _residual_bytes(pose.residual, scene.residual_limit),
                    "target": _residual_bytes(pose.residual_target, scene.residual_limit),
                },
            }
            for pose in scene.poses
        ],
        "residualLimit": scene.residual_limit,
        "correspondences": _lines(registration.correspondences, np.asarray(source), np.asarray(target)),
        "fit": {"before": _bounds(np.concatenate([before, scene.target.points]), axes), "after": _bounds(shown, axes)},
        "up": scene.up.tolist(),
        "view": view.tolist(),
        "heights": np.percentile(shown @ scene.up, (1.0, 99.0)).tolist() if len(shown) else [0.0, 1.0],
        "ramp": RAMP,
    }
    text = json.dumps(payload, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def matrix_text(matrix: np.ndarray) -> str:
    """The matrix with every digit, columns aligned.

    >>> print(matrix_text(np.array([[1.0, 0.1], [0.0, -2.0]])))
    1  0.10000000000000001
    0                   -2
    """
    cells = [[f"{value:.17g}" for value in row] for row in matrix]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in cells)


def _cloud(cloud: SceneCloud) -> dict[str, Any]:
    known = np.isfinite(cloud.confidence)
    steps = np.rint(1 + _CONFIDENCE_STEPS * np.clip(np.where(known, cloud.confidence, 0.0), 0, 1))
    return _quantise(cloud.points) | {
        "total": cloud.total,
        "spacing": cloud.spacing,
        "confidence": _base64(np.where(known, steps, 0).astype(np.uint8)),
        "colors": None if cloud.colors is None else _base64(cloud.colors),
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


def _residual_bytes(residual: np.ndarray, limit: float) -> str:
    return _base64(np.clip(np.rint(residual / limit * _RESIDUAL_STEPS), 0, 255).astype(np.uint8))


def _lines(matches: Correspondences, source: np.ndarray, target: np.ndarray) -> dict[str, Any]:
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
        "confidence": _base64(np.rint(65535 * np.clip(matches.confidence[order][kept], 0, 1)).astype("<u2")),
        "inlier": _base64(np.where(matches.inlier[order][kept], 255, 0).astype(np.uint8)),
    }


def _bounds(points: np.ndarray, axes: np.ndarray) -> dict[str, Any]:
    if len(points) == 0:
        return {"center": [0.0, 0.0, 0.0], "half": [1.0, 1.0, 1.0], "radius": 1.0}
    # The middle of what the first view shows: the middle of the box along the world's axes would sit off to a side.
    low, high = np.percentile(points @ axes.T, (0.5, 99.5), axis=0)
    half = np.maximum((high - low) / 2, 1e-9)
    center = axes.T @ ((low + high) / 2)
    return {"center": center.tolist(), "half": half.tolist(), "radius": radius(points) or 1.0}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
