"""`rotaware doctor`: a healthy installation passes, a broken one is named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rotaware import datasets, pointcloud
from rotaware.datasets import RegistrationPair


@pytest.fixture
def tiny_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the tests with a stand-in engine the rendering of real scans."""
    points = np.zeros((3, 3), dtype=np.float32)
    monkeypatch.setattr(
        datasets, "indoor_pair", lambda seed, overlap: RegistrationPair(points, points, np.eye(4), 1.0, "tiny")
    )


def test_healthy(cli: Any) -> None:
    run = cli(["doctor", "--json"])
    report = json.loads(run.out)
    assert run.code == 0 and report["ok"] and report["problems"] == [], report
    assert {"python", "torch", "numba", "small_gicp", "open3d", "cpu", "gpu", "numba cache", "self-test"} <= set(
        report["findings"]
    )
    assert run.err == ""


@pytest.mark.usefixtures("tiny_pair")
def test_broken_engine_is_named(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("the library is gone")

    monkeypatch.setattr(pointcloud, "register", broken)
    run = cli(["doctor"])
    assert run.code == 70
    assert "self-test: RuntimeError: the library is gone" in run.out and "1 problem(s) found" in run.out
    assert run.err == ""


@pytest.mark.usefixtures("tiny_pair")
def test_wrong_pose_is_noticed(cli: Any, engine: Any) -> None:
    run = cli(["doctor"])
    assert run.code == 70 and "wrong pose" in run.out


def test_missing_package_is_named(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotaware.cli.versions._version", lambda name: "missing" if name == "torch" else "1.0")
    run = cli(["doctor"])
    assert run.code == 70 and "torch is not installed" in run.out
