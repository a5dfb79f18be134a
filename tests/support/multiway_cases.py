"""Scans whose rows belong together, and a stand-in for `register` that needs no search to find their pose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from rotaware.pointcloud import CloudSummary, Correspondences, Metrics, PointCloud, Registration
from rotaware.pointcloud.estimators import pose_from_pairs
from rotaware.pointcloud.result import Status


def random_pose(generator: np.random.Generator, spread: float = 2.0) -> np.ndarray:
    """(4, 4) with any rotation."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(generator.normal(size=4)).as_matrix()
    pose[:3, 3] = spread * generator.normal(size=3)
    return pose


def moved_copies(count: int, rows: int = 300, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """`count` copies (rows, 3) of one cloud in frames of their own, and the poses (count, 4, 4) back into one frame."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(-1.0, 1.0, (rows, 3))
    poses = np.stack([random_pose(generator) for _ in range(count)])
    return [(points - pose[:3, 3]) @ pose[:3, :3] for pose in poses], poses


def registration(source: PointCloud, target: PointCloud, **changes: Any) -> Registration:
    """A plausible result for clouds whose rows belong together; `changes` replace its fields."""
    rows = np.arange(len(source))
    summary = CloudSummary(len(rows), len(rows), 0, 0, (2, 2, 2), 0.1, "m", "guessed", None, "none", "estimated")
    metrics = Metrics(0.8, 0.7, 1.0, len(rows), 0.01, 0.02, 1.0, 0.1, 500.0 * np.eye(6), 1e-6 * np.eye(6), None, ())
    fields: dict[str, Any] = {
        "status": "registered",
        "T_target_source": pose_from_pairs(source.points, target.points, np.ones(len(rows))),
        "confidence": 0.99,
        "reason": "all checks passed",
        "checks": (),
        "evidence": {},
        "metrics": metrics,
        "alternatives": (),
        "symmetry": None,
        "source": summary,
        "target": summary,
        "correspondences": Correspondences(rows, rows, np.ones(len(rows), np.float32), np.ones(len(rows), bool)),
        "voxel": 0.05,
        "scale": 1.0,
        "engine": "stand-in",
        "why": "",
        "refine": "none",
        "seed": 0,
        "parameters": {},
        "timings": {"all": 0.5},
    }
    return Registration(**fields | changes)


class StandIn:
    """Registers such clouds, counts how often, and may be told what to say or when to fail."""

    def __init__(
        self, status: Callable[[PointCloud, PointCloud], Status] = lambda source, target: "registered"
    ) -> None:
        self.calls = 0
        self.fail_at: int | None = None
        self._status = status

    def __call__(self, source: PointCloud, target: PointCloud, **options: Any) -> Registration:
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        status = self._status(source, target)
        return registration(source, target, status=status, confidence=0.99 if status == "registered" else 0.01)
