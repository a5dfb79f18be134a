"""Meshes: points lie on the surface, spread by area, the same for the same seed; vertices when there are no faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from rotaware.pointcloud.errors import InputError, UnreadableFileError
from rotaware.pointcloud.io import output_extension, read_point_cloud, write_point_cloud


@pytest.mark.parametrize("kind", ["obj", "stl", "off"])
def test_samples_lie_on_the_surface_and_spread_by_area(tmp_path: Path, kind: str) -> None:
    # A flat box: each of its two large faces has 100/240 of the area.
    trimesh.creation.box((10.0, 10.0, 1.0)).export(tmp_path / f"a.{kind}")
    cloud = read_point_cloud(tmp_path / f"a.{kind}", samples=20_000, seed=1)
    assert len(cloud) == 20_000
    inside = np.abs(cloud.points) / [5.0, 5.0, 0.5]
    np.testing.assert_allclose(inside.max(axis=1), 1.0, atol=1e-6)
    share = np.mean(np.abs(inside[:, 2] - 1.0) < 1e-9)
    assert abs(share - 200 / 240) < 4 * np.sqrt(200 / 240 * 40 / 240 / 20_000)


def test_equal_seeds_draw_equal_points(tmp_path: Path) -> None:
    trimesh.creation.icosphere().export(tmp_path / "a.stl")
    first, second, other = (read_point_cloud(tmp_path / "a.stl", samples=50, seed=seed).points for seed in (3, 3, 4))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert len(read_point_cloud(tmp_path / "a.stl")) == 100_000


def test_files_without_faces_give_their_vertices(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("# points only\nv 1 2 3\nv 4 5 6\nv 7 8 9\nv 1 1 1\n")
    assert read_point_cloud(tmp_path / "a.obj").points.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]]
    (tmp_path / "a.off").write_text("OFF\n3 0 0\n1 2 3\n4 5 6\n7 8 9\n")
    assert read_point_cloud(tmp_path / "a.off").points.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_several_objects_in_one_file_are_sampled_together(tmp_path: Path) -> None:
    text = "o one\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\no two\nv 5 0 0\nv 6 0 0\nv 5 1 0\nf 4 5 6\n"
    (tmp_path / "a.obj").write_text(text)
    x = read_point_cloud(tmp_path / "a.obj", samples=1000).points[:, 0]
    assert 400 < np.sum(x > 3) < 600


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("a.stl", b"not a mesh", InputError),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n", UnreadableFileError),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", UnreadableFileError),
        ("a.obj", b"hello\n", InputError),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", InputError),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, content: bytes, error: type[Exception]) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises((UnreadableFileError, InputError), match=file) as caught:
        read_point_cloud(tmp_path / file)
    assert caught.type is error and "\n" not in str(caught.value)


def test_material_files_are_not_opened(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "a.obj").write_text("mtllib missing.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl m\nf 1 2 3\n")
    assert len(read_point_cloud(tmp_path / "a.obj", samples=10)) == 10
    assert not recwarn.list


def test_meshes_are_read_only(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "a.stl")
    cloud = read_point_cloud(tmp_path / "a.stl", samples=10)
    assert output_extension(cloud) == ".ply"
    with pytest.raises(UnreadableFileError, match=r"cannot write .* expected an extension among \.ply"):
        write_point_cloud(tmp_path / "b.stl", cloud)
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        read_point_cloud(tmp_path / "a.stl", samples=0)
