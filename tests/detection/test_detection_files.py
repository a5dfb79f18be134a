"""Files for the server are read as they are written, and damage is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from rotaware.detection.detection_files import NONE, ClassDetections, read_detections, write_detections


def some(count: int = 20) -> ClassDetections:
    generator = np.random.default_rng(count)
    images = tuple(f"P{number:04d}" for number in generator.integers(0, 5, count))
    quads = generator.uniform(-20, 4000, (count, 4, 2)).round(2)
    return ClassDetections(images, generator.uniform(0.01, 1, count).round(4), quads)


@pytest.mark.parametrize("name", ["folder", "file.zip"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    given = {"ship": some(), "small-vehicle": some(3), "plane": NONE}
    write_detections(tmp_path / name, given)
    found = read_detections(tmp_path / name)
    assert sorted(found) == sorted(given)
    for key, each in given.items():
        assert found[key].images == each.images
        np.testing.assert_allclose(found[key].scores, each.scores)
        np.testing.assert_allclose(found[key].quads, each.quads)
    if name.endswith(".zip"):
        # Where the server wants them, and the same bytes every time.
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.namelist() == ["Task1_ship.txt", "Task1_small-vehicle.txt", "Task1_plane.txt"]
        before = (tmp_path / name).read_bytes()
        write_detections(tmp_path / name, given)
        assert (tmp_path / name).read_bytes() == before


def test_hulls(tmp_path: Path) -> None:
    quad = np.array([[[5.0, 1], [9, 4], [6, 8], [2, 5]]])
    write_detections(tmp_path, {"ship": ClassDetections(("P1",), np.array([0.5]), quad)}, task=2)
    assert (tmp_path / "Task2_ship.txt").read_text() == "P1 0.5 2.00 1.00 9.00 8.00\n"


@pytest.mark.parametrize(
    "line", ["P1 0.5 1 2 3 4 5 6 7", "P1 0.5 1 2 3 4 5 6 7 8 9", "P1 high 1 2 3 4 5 6 7 8", "P1 0.5 1 2 3 4 5 6 7 nan"]
)
def test_damaged_lines_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "Task1_ship.txt").write_text(f"P0 0.5 1 2 3 4 5 6 7 8\n\n{line}\n")
    with pytest.raises(ValueError, match=r"Task1_ship\.txt, line 3: expected image, score"):
        read_detections(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none"):
        read_detections(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder or a zip"):
        read_detections(tmp_path / "nothing.zip")
    with pytest.raises(ValueError, match="task"):
        write_detections(tmp_path, {}, task=3)
    with pytest.raises(ValueError, match="expected shapes"):
        ClassDetections(("a",), np.zeros(2), np.zeros((1, 4, 2)))
