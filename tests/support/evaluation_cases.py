"""Pairs of tiny scans whose rows correspond, and methods that are told so; picklable, for processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from rotaware.datasets.benchmark_pairs import BenchmarkPair
from rotaware.pointcloud.methods import Answer, MatchedPoints
from rotaware.pointcloud.robust import weighted_procrustes

POINTS = 200


def random_pose(generator: np.random.Generator) -> np.ndarray:
    """(4, 4), uniform in rotation."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=generator).as_matrix()
    pose[:3, 3] = generator.normal(size=3)
    return pose


def moved(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) under a pose."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def scan_pair(
    folder: Path, scene: str, target_id: int, source_id: int, *, points: int = POINTS, disjoint: bool = False
) -> BenchmarkPair:
    """Row k of the source is the place of row k of the target; the number of points tells methods what to do."""
    generator = np.random.default_rng([*scene.encode(), target_id, source_id])
    truth = random_pose(generator)
    source = generator.uniform(-1, 1, (points, 3))
    files = [folder / scene / f"{target_id}_{source_id}_{name}.npy" for name in ("source", "target")]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for file, cloud in zip(files, (source, moved(truth, source)), strict=True):
        np.save(file, cloud)
    information = np.diag([points, points, points, 1.0, 1.0, 1.0])
    if disjoint:
        return BenchmarkPair(scene, *files, source_id, target_id, None, 0.0)
    return BenchmarkPair(scene, *files, source_id, target_id, truth, generator.uniform(0.1, 0.9), information)


def scan_pairs(folder: Path) -> list[BenchmarkPair]:
    """Two scenes, with a consecutive pair and one that the official scorer loses, and a pair that does not overlap."""
    numbers = [("den", 0, 2), ("den", 0, 1), ("den", 1, 3), ("hall", 0, 1), ("hall", 0, 4)]
    pairs = [scan_pair(folder, scene, i, j) for scene, i, j in numbers]
    return [*pairs, scan_pair(folder, "hall+den", 0, 0, disjoint=True)]


@dataclass(frozen=True)
class RowByRow:
    """The pose that lays row on row, and what a test wants beside it."""

    shift: float = 0.0  # of the pose, along x of the target's frame
    wrong: float = 0.0  # share of the correspondences that are moved by a metre
    confidence: float | None = 0.75
    # Scans of so many points end the process, raise, interrupt, or get no pose.
    dies_of: int = -1
    raises_at: int = -1
    interrupts_at: int = -1
    silent_at: int = -1
    log: Path | None = None  # a file that gets a line per call

    def settings(self) -> Mapping[str, Any]:
        return {"shift": self.shift, "wrong": self.wrong}

    def __call__(self, source: np.ndarray, target: np.ndarray) -> Answer:
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write("called\n")
        if len(source) == self.dies_of:
            os._exit(7)
        if len(source) == self.raises_at:
            raise ValueError(f"{len(source)} points are\ntoo many")
        if len(source) == self.interrupts_at:
            raise KeyboardInterrupt
        if len(source) == self.silent_at:
            return Answer(None, False, 0.0)
        pose = weighted_procrustes(source, target)
        pose[0, 3] += self.shift
        partners = target.copy()
        partners[: round(self.wrong * len(target))] += 1.0
        matches = MatchedPoints(source, partners, np.linspace(0.1, 1.0, len(source)))
        accepted = None if self.confidence is None else self.confidence >= 0.5
        return Answer(pose, accepted, self.confidence, matches)


@dataclass(frozen=True)
class QuarterTurns:
    """Turns the source of even pairs by a quarter about z, the target of odd ones about x."""

    def __call__(self, number: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        if number % 2:
            return None, Rotation.from_euler("x", 90, degrees=True).as_matrix()
        return Rotation.from_euler("z", 90, degrees=True).as_matrix(), None


def square_unless(job: int) -> int:
    """The square; a negative job ends the process with its number."""
    if job < 0:
        os._exit(-job)
    return job * job


def report_threads(job: None) -> tuple[int, int]:
    """Threads of torch and of numba."""
    return torch.get_num_threads(), numba.get_num_threads()
