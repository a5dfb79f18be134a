"""Scans on disk, a stand-in for the registration engine, and a way to run commands inside the process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotaware import pointcloud
from rotaware.cli import main
from rotaware.pointcloud import PointCloud, Registration, write_point_cloud
from rotaware.pointcloud.result import (
    Check,
    CloudSummary,
    Correspondences,
    Hypothesis,
    Metrics,
    Notice,
    Stage,
)

# A quarter turn about z and a shift: every digit of the expected output can be checked by hand.
POSE = np.array([[0.0, -1.0, 0.0, 0.3], [1.0, 0.0, 0.0, 0.4], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Run:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Sequence[object]], Run]:
    """Run `rotaware ...` in this process, from inside an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: Sequence[object]) -> Run:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, Path]:
    """Two small ply files with colours and a label; the engine that reads them in earnest is tested elsewhere."""
    generator = np.random.default_rng(0)
    paths = tmp_path / "scan_b.ply", tmp_path / "scan_a.ply"
    for path in paths:
        points = generator.uniform(size=(60, 3)).astype(np.float32)
        attributes = {
            "red": generator.integers(0, 255, 60).astype(np.uint8),
            "label": np.arange(60, dtype=np.int32),
        }
        write_point_cloud(path, PointCloud(points, attributes))
    return paths


def registration(**changes: Any) -> Registration:
    """A plausible result; `changes` replace its fields."""
    summary = CloudSummary(
        points=60,
        used=60,
        dropped_nonfinite=0,
        dropped_duplicates=0,
        extent=(1.0, 1.0, 1.0),
        spacing=0.1,
        unit="m",
        unit_source="guessed",
        sensor_origin=None,
        sensor_source="none",
        normals="estimated",
    )
    result = Registration(
        status="registered",
        T_target_source=POSE,
        confidence=0.97,
        reason="all checks passed",
        checks=(Check("overlap", 0.47, 0.1, True, "share of points that meet a partner"),),
        evidence={"overlap": 0.47},
        metrics=Metrics(
            overlap_source=0.47,
            overlap_target=0.5,
            inlier_ratio=0.6,
            n_inliers=40,
            residual_median=0.018,
            residual_p95=float("nan"),
            coverage=0.8,
            runner_up_ratio=0.2,
            information=np.eye(6),
            covariance=None,
            covariance_reason="fake",
            free_directions=(),
        ),
        alternatives=(Hypothesis(np.eye(4), 0.2),),
        symmetry=None,
        source=summary,
        target=summary,
        correspondences=Correspondences(
            source_index=np.arange(5),
            target_index=np.arange(5)[::-1].copy(),
            confidence=np.full(5, 0.5, dtype=np.float32),
            inlier=np.ones(5, dtype=bool),
        ),
        voxel=0.05,
        scale=1.0,
        engine="classic",
        why="the only engine",
        refine="gicp",
        seed=0,
        parameters={"accept": "balanced", "voxel": None, "scale": "auto", "threads": 2, "radius": np.float32(0.25)},
        timings={"clean": 0.3, "match": 0.4},
        warnings=(Notice("W001", "dropped 3 points", "check the export"),),
    )
    return replace(result, **changes)


@dataclass
class Engine:
    """Stands in for `register`: remembers its arguments, reports two stages, returns `result` or raises `error`."""

    result: Registration
    error: BaseException | None = None
    arguments: dict[str, Any] | None = None

    def __call__(self, source: PointCloud, target: PointCloud, **arguments: Any) -> Registration:
        self.arguments = {"source": source, "target": target, **arguments}
        on_stage = arguments.get("on_stage", lambda stage: None)
        for index, name in enumerate(("clean", "match"), start=1):
            on_stage(Stage(index, 2, name, "", 0.0, False))
            on_stage(Stage(index, 2, name, "a note", 0.25, True))
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The stand-in, installed where the command line looks the engine up."""
    stand_in = Engine(registration())
    monkeypatch.setattr(pointcloud, "register", stand_in)
    return stand_in


@pytest.fixture
def make_registration() -> Callable[..., Registration]:
    """Builds results that differ from the usual one in the given fields."""
    return registration
