"""A registration whose pose is known, and the reports made of it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.report import write_report_html
from rotaware.pointcloud.result import (
    Check,
    CloudSummary,
    Correspondences,
    Hypothesis,
    Metrics,
    Notice,
    Registration,
)

VOXEL = 0.1
MAP_OFFSET = np.array([500_000.0, 5_400_000.0, 120.0])
HOSTILE_NAME = '</script><script>alert("\'ü&点")</script><!--.ply'


def corner(seed: int, count: int = 6000) -> np.ndarray:
    """A floor, two walls and a block on the floor, metres, with 3 mm of noise."""
    generator = np.random.default_rng(seed)
    u = generator.random((count, 2)) * (4.0, 2.5)
    kind = np.arange(count) % 4
    zero = np.zeros(count)
    points = np.select(
        [kind[:, None] == 0, kind[:, None] == 1, kind[:, None] == 2],
        [np.c_[u[:, 0], u[:, 1], zero], np.c_[u[:, 0], zero + 2.5, u[:, 1]], np.c_[zero, u[:, 1], u[:, 0] * 0.6]],
        np.c_[1.5 + u[:, 0] * 0.25, 0.6 + u[:, 1] * 0.4, zero + 0.7],
    )
    return points + generator.normal(size=points.shape) * 0.003


def summary(points: np.ndarray) -> CloudSummary:
    return CloudSummary(len(points), len(points), 0, 0, (4.0, 2.5, 2.5), 0.02, "m", "given", None, "none", "estimated")


def case(
    *, offset: np.ndarray | None = None, status: Any = "registered"
) -> tuple[Registration, np.ndarray, np.ndarray]:
    """A pair with a known pose and a result that reports it."""
    target = corner(1)
    aligned = corner(2)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0.2, -0.3, 0.8]).as_matrix()
    pose[:3, 3] = (0.5, -0.8, 0.3)
    source = (aligned - pose[:3, 3]) @ pose[:3, :3]
    if offset is not None:
        target, pose = target + offset, pose.copy()
        pose[:3, 3] += offset
    other = pose.copy()
    other[:3, 3] += (0.4, 0.0, 0.0)
    index = np.arange(200)
    registration = Registration(
        status=status,
        T_target_source=pose,
        confidence=0.93,
        reason="all checks passed",
        checks=(Check("overlap", 0.9, 0.2, True, "share <b>near</b>"), Check("spread", 0.1, 0.3, False, "wide enough")),
        evidence={"overlap": 0.9},
        metrics=Metrics(0.91, 0.92, 0.5, 100, 0.012, 0.03, 0.8, 0.4, None, np.eye(6) * 1e-6, None, ("shift along x",)),
        alternatives=(Hypothesis(pose, 0.9), Hypothesis(other, 0.3)),
        symmetry=None,
        source=summary(source),
        target=summary(target),
        correspondences=Correspondences(
            index, index[::-1].copy(), np.linspace(0, 1, 200, dtype=np.float32), index < 100
        ),
        voxel=VOXEL,
        scale=1.0,
        engine="classic",
        why="asked for",
        refine="gicp",
        seed=0,
        parameters={"method": "classic", "voxel": None},
        timings={"solve": 0.25},
        warnings=(Notice("W012", "dropped <2> points", "Look & see"),),
    )
    return registration, source, target


def without_pose(registration: Registration) -> Registration:
    none = np.zeros(0, dtype=np.int64)
    return replace(
        registration,
        status="not_registered",
        T_target_source=None,
        metrics=None,
        checks=(),
        alternatives=(),
        warnings=(),
        reason="",
        correspondences=Correspondences(none, none, none.astype(np.float32), none.astype(bool)),
    )


def page(
    tmp_path: Path,
    registration: Registration,
    source: np.ndarray,
    target: np.ndarray,
    name: str = "a.ply",
    **colors: np.ndarray,
) -> str:
    """Writes the report page and returns it; `colors` are source_colors and target_colors."""
    path = tmp_path / "report.html"
    write_report_html(path, registration, source, target, source_name=name, target_name="b.ply", **colors)
    return path.read_text(encoding="utf-8")


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def decode(cloud: dict[str, Any]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(cloud["positions"]), dtype="<i2").reshape(-1, 3)
    return np.array(cloud["offset"]) + (steps + 32768.0) * np.array(cloud["scale"])


def hue_counts(picture: np.ndarray) -> tuple[int, int]:
    """Pixels of the source's and the target's colour, however shaded."""
    rgb = picture.reshape(-1, 3).astype(float)
    strong = np.ptp(rgb, axis=1) > 60
    source = strong & (rgb[:, 0] > 1.5 * rgb[:, 1]) & (rgb[:, 1] > 1.5 * rgb[:, 2])
    target = strong & (rgb[:, 2] > 1.2 * rgb[:, 1]) & (rgb[:, 1] > 2.0 * rgb[:, 0])
    return int(source.sum()), int(target.sum())
