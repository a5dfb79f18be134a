"""`rotaware apply`: the stated motion, nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotaware.pointcloud import read_point_cloud

POSE = np.array([[0.0, -1.0, 0.0, 0.25], [1.0, 0.0, 0.0, 0.5], [0.0, 0.0, 1.0, -2.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def pose(tmp_path: Path) -> Path:
    np.savetxt(tmp_path / "T.txt", POSE)
    return tmp_path / "T.txt"


def test_moves_points_and_keeps_attributes(cli: Any, scans: tuple[Path, Path], pose: Path) -> None:
    run = cli(["apply", pose, scans[0], "-o", "moved.ply"])
    assert run.code == 0 and run.out == "wrote moved.ply   60 pts\n" and run.err == ""
    before, after = read_point_cloud(scans[0]), read_point_cloud(Path("moved.ply"))
    np.testing.assert_allclose(after.points, before.points @ POSE[:3, :3].T + POSE[:3, 3], atol=1e-6)
    for name, values in before.attributes.items():
        np.testing.assert_array_equal(after.attributes[name], values)


def test_inverse_brings_it_back(cli: Any, scans: tuple[Path, Path], pose: Path) -> None:
    cli(["apply", pose, scans[0], "-o", "moved.ply"])
    cli(["apply", pose, "moved.ply", "-o", "back.ply", "--inverse"])
    np.testing.assert_allclose(read_point_cloud(Path("back.ply")).points, read_point_cloud(scans[0]).points, atol=1e-6)


def test_result_of_register_is_a_transform(cli: Any, engine: Any, scans: tuple[Path, Path]) -> None:
    cli(["register", *scans, "-o", "out", "--report", "none"])
    assert cli(["apply", "out/result.json", scans[0], "-o", "moved.ply"]).code == 0
    assert Path("moved.ply").read_bytes() == Path("out/aligned.ply").read_bytes()


def test_an_existing_file_needs_force(cli: Any, scans: tuple[Path, Path], pose: Path) -> None:
    before = scans[0].read_bytes()
    run = cli(["apply", pose, scans[0], "-o", scans[0]])
    assert run.code == 4 and "--force" in run.err and scans[0].read_bytes() == before
    assert cli(["apply", pose, scans[0], "-o", scans[0], "--force"]).code == 0
    assert scans[0].read_bytes() != before


@pytest.mark.parametrize(
    ("out", "code", "words"), [("none/moved.ply", 4, "folder"), ("moved.obj", 5, ".obj"), (".", 4, "folder")]
)
def test_bad_output(cli: Any, scans: tuple[Path, Path], pose: Path, out: str, code: int, words: str) -> None:
    run = cli(["apply", pose, scans[0], "-o", out, "--force"])
    assert run.code == code and len(run.error_lines) == 1 and words in run.err
    assert {path.name for path in Path().iterdir()} == {"scan_a.ply", "scan_b.ply", "T.txt"}
