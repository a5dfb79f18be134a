"""Transform files: every form is read, every wrong content refused with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.cli.transforms import inverse, pose_error, read_transform, rotation_degrees, scale_of
from rotaware.pointcloud import InputError, UnreadableFileError


def _similarity(seed: int, scale: float = 1.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = (1e5, -2.0, 1 / 3)
    return matrix


def test_every_form_gives_the_same_matrix(tmp_path: Path) -> None:
    matrix = _similarity(1)
    np.save(tmp_path / "a.npy", matrix)
    np.savetxt(tmp_path / "a.txt", matrix, fmt="%.17g")
    np.savetxt(tmp_path / "b.txt", matrix[:3], fmt="%.17g", delimiter=",  ")
    (tmp_path / "a.json").write_text(json.dumps(matrix.tolist()))
    (tmp_path / "b.json").write_text(json.dumps({"matrix": matrix.tolist()}))
    (tmp_path / "result.json").write_text(json.dumps({"transform": {"matrix": matrix.tolist()}}))
    for name in ("a.npy", "a.txt", "b.txt", "a.json", "b.json", "result.json"):
        np.testing.assert_array_equal(read_transform(tmp_path / name), matrix, err_msg=name)


@pytest.mark.parametrize(
    ("name", "content", "error", "match"),
    [
        ("a.json", '{"transform": null, "status": "not_registered"}', InputError, "not registered"),
        ("a.json", '{"other": 1}', UnreadableFileError, "4x4"),
        ("a.json", "{", UnreadableFileError, "4x4"),
        ("a.txt", "1 2 3", UnreadableFileError, "3 numbers"),
        ("a.txt", "hello", UnreadableFileError, "4x4"),
        ("a.txt", "", UnreadableFileError, "0 numbers"),
        ("a.npy", "hello", UnreadableFileError, "4x4"),
        ("a.npy", "", UnreadableFileError, "4x4"),
        ("a.txt", "1 0 0 0  0 1 0 0  0 0 -1 0  0 0 0 1", InputError, "mirrors"),
        ("a.txt", "1 0 0 nan  0 1 0 0  0 0 1 0  0 0 0 1", InputError, "NaN"),
        ("a.txt", "1 0.5 0 0  0 1 0 0  0 0 1 0  0 0 0 1", InputError, "not a rotation"),
        ("a.txt", "1 0 0 0  0 1 0 0  0 0 1 0  5 6 7 1", InputError, "transposed"),
    ],
)
def test_wrong_content(tmp_path: Path, name: str, content: str, error: type[Exception], match: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=match):
        read_transform(tmp_path / name)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_transform(tmp_path / "none.txt")
    with pytest.raises(InputError, match="folder"):
        read_transform(tmp_path)


@pytest.mark.parametrize("scale", [1.0, 0.001, 30.48])
def test_inverse_and_scale(scale: float) -> None:
    matrix = _similarity(2, scale)
    assert scale_of(matrix) == pytest.approx(scale)
    np.testing.assert_allclose(inverse(matrix) @ matrix, np.eye(4), atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 1.0, 90.0, 179.999999, 180.0])
def test_rotation_degrees(degrees: float) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = 2.0 * Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    assert rotation_degrees(matrix) == pytest.approx(degrees, abs=1e-7)


def test_pose_error() -> None:
    truth, moved = _similarity(3), np.eye(4)
    moved[:3, :3] = Rotation.from_euler("x", 2.0, degrees=True).as_matrix()
    found = truth.copy()
    found[:3, :3] = moved[:3, :3] @ truth[:3, :3]
    found[:3, 3] += (0.0, 3.0, 4.0)
    assert pose_error(found, truth) == pytest.approx((2.0, 5.0))
