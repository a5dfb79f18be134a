"""`rotaware inspect`: known clouds, known findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotaware.pointcloud import PointCloud, write_point_cloud


def _grid(spacing: float = 0.1) -> np.ndarray:
    axes = [np.arange(side) * spacing for side in (11, 6, 4)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _findings(cli: Any, points: np.ndarray, **attributes: np.ndarray) -> dict[str, Any]:
    write_point_cloud("cloud.ply", PointCloud(points, attributes))
    run = cli(["inspect", "cloud.ply", "--json"])
    assert run.code == 0 and run.err == ""
    return json.loads(run.out)


def test_counts_and_sizes(cli: Any) -> None:
    grid = _grid()
    points = np.concatenate([grid, grid[:7], np.full((3, 3), np.nan)])
    generator = np.random.default_rng(0)
    rows = generator.permutation(len(points))
    label = np.arange(len(points), dtype=np.uint16)
    found = _findings(cli, points[rows], label=label)
    assert (found["points"], found["duplicates"], found["nonfinite"]) == (len(points), 7, 3)
    np.testing.assert_allclose(found["extent"], [1.0, 0.5, 0.3], atol=1e-6)
    assert found["spacing"] == pytest.approx(0.1, abs=1e-6)
    assert found["shape"] == "volume" and found["normals"] is False and found["colors"] is False
    assert found["attributes"] == {"label": "uint16"} and found["bytes"] == Path("cloud.ply").stat().st_size
    assert found["notes"] == []


def test_normals_and_colors(cli: Any) -> None:
    grid = _grid()
    ones = np.ones(len(grid), dtype=np.float32)
    byte = np.ones(len(grid), dtype=np.uint8)
    found = _findings(cli, grid, nx=0 * ones, ny=0 * ones, nz=ones, red=byte, green=byte, blue=byte)
    assert found["normals"] is True and found["colors"] is True


@pytest.mark.parametrize("shift", [0.0, 500_000.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_shape_under_any_pose(cli: Any, shift: float, scale: float) -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    for flatten, shape in (
        ((1, 1, 1), "volume"),
        ((1, 1, 0), "plane"),
        ((1, 0, 0), "line"),
        ((0, 0, 0), "single point"),
    ):
        found = _findings(cli, scale * (_grid() * flatten) @ rotation.T + shift * scale)
        assert found["shape"] == shape


def test_notes_say_what_will_go_wrong(cli: Any) -> None:
    assert "usable points" in _findings(cli, _grid()[:2])["notes"][0]
    assert "on one line" in _findings(cli, _grid() * (1, 0, 0))["notes"][0]
    assert "on one plane" in _findings(cli, _grid() * (1, 1, 0))["notes"][0]
    far = _findings(cli, np.add(_grid(), (500_000, 5_400_000, 0)))
    assert "map coordinates" in far["notes"][0]


def test_empty_and_all_nan(cli: Any) -> None:
    found = _findings(cli, np.full((4, 3), np.nan))
    assert found["shape"] == "empty" and found["extent"] is None and found["spacing"] is None
    assert found["nonfinite"] == 4


def test_coarse_coordinates_are_noticed(cli: Any) -> None:
    np.save("cloud.npy", np.add(_grid(), (500_000, 5_400_000, 0)).astype(np.float32))
    run = cli(["inspect", "cloud.npy"])
    assert run.code == 0 and "export it again as float64" in run.out


def test_text_for_people(cli: Any) -> None:
    write_point_cloud("cloud.ply", PointCloud(_grid(), {"label": np.zeros(len(_grid()), dtype=np.uint8)}))
    run = cli(["inspect", "cloud.ply"])
    lines = {line.split()[0]: line for line in run.out.splitlines()}
    assert lines["points"].split()[1] == "264"
    assert "1 x 0.5 x 0.3" in lines["extent"] and "label uint8" in lines["attributes"]
    assert "none (will be estimated)" in lines["normals"] and lines["spacing"].endswith(" 10 cm")
