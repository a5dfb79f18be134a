"""The front door: choice of the reader, what every mistake is told, conversions, objects in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rotaware.pointcloud.errors import InputError, UnreadableFileError
from rotaware.pointcloud.io import PointCloud, as_point_cloud, output_extension, read_point_cloud, write_point_cloud

WRITABLE = (".ply", ".pcd", ".npy", ".npz", ".xyz", ".txt", ".csv", ".asc", ".pth", ".pt")


def make_cloud(count: int = 30) -> PointCloud:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(count, 3))
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    colors = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    points[3] = np.nan
    return PointCloud(
        points,
        {
            "nx": normals[:, 0], "ny": normals[:, 1], "nz": normals[:, 2], "label": np.arange(count) * 1000,
            "red": colors[:, 0], "green": colors[:, 1], "blue": colors[:, 2], "time": rng.random(count),
        },
    )  # fmt: skip


@pytest.mark.parametrize("extension", WRITABLE)
def test_round_trip_keeps_everything(tmp_path: Path, extension: str) -> None:
    cloud = make_cloud()
    write_point_cloud(tmp_path / f"a{extension}", cloud)
    again = read_point_cloud(tmp_path / f"a{extension}")
    np.testing.assert_array_equal(again.points, cloud.points)
    np.testing.assert_array_equal(again.normals.astype(np.float32), cloud.normals.astype(np.float32))
    np.testing.assert_array_equal(again.colors, cloud.colors)
    for name in ("label", "time"):
        assert np.array_equal(again.attributes[name], cloud.attributes[name])
    assert again.path == tmp_path / f"a{extension}" and output_extension(again) == extension
    # Written again in its own format, nothing changes at all.
    write_point_cloud(tmp_path / f"b{extension}", again)
    assert (tmp_path / f"b{extension}").read_bytes() == (tmp_path / f"a{extension}").read_bytes()


@pytest.mark.parametrize("first", WRITABLE[:-1])
@pytest.mark.parametrize("second", WRITABLE[:-1])
def test_every_format_converts_to_every_other(tmp_path: Path, first: str, second: str) -> None:
    cloud = make_cloud()
    write_point_cloud(tmp_path / f"a{first}", cloud)
    write_point_cloud(tmp_path / f"b{second}", read_point_cloud(tmp_path / f"a{first}"))
    again = read_point_cloud(tmp_path / f"b{second}")
    np.testing.assert_array_equal(again.points, cloud.points)
    np.testing.assert_array_equal(again.normals.astype(np.float32), cloud.normals.astype(np.float32))
    np.testing.assert_array_equal(again.colors, cloud.colors)
    for name in ("label", "time"):
        assert np.array_equal(again.attributes[name], cloud.attributes[name])


def test_usual_names_of_each_format(tmp_path: Path) -> None:
    channel = np.arange(3, dtype=np.uint8)
    cloud = PointCloud(np.eye(3), {"Normals": np.eye(3), "r": channel, "g": channel, "b": channel})
    for extension, names in ((".ply", "nx ny nz red green blue"), (".pcd", "normal_x normal_y normal_z rgb")):
        write_point_cloud(tmp_path / f"a{extension}", cloud)
        assert list(read_point_cloud(tmp_path / f"a{extension}").attributes) == names.split()


def test_nothing_is_lost_silently(tmp_path: Path) -> None:
    for column in (np.array(["a", "b", "c"]), np.zeros(3, complex), np.zeros(3, "datetime64[s]")):
        with pytest.raises(InputError, match="PLY cannot store the column 'name' of type"):
            write_point_cloud(tmp_path / "a.ply", PointCloud(np.eye(3), {"name": column}))
    huge = np.array([2**63 - 1, 1, 2])
    with pytest.raises(InputError, match="PLY cannot store the column 'name' of type int64"):
        write_point_cloud(tmp_path / "a.ply", PointCloud(np.eye(3), {"name": huge}))
    assert not list(tmp_path.iterdir())
    write_point_cloud(tmp_path / "a.ply", PointCloud(np.eye(3), {"two words": huge // 2**20}))
    assert read_point_cloud(tmp_path / "a.ply").attributes["two_words"].tolist() == (huge // 2**20).tolist()


def test_missing_file_suggests_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("A.ply", "kitchen_1.ply", "other.txt"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError) as caught:
        read_point_cloud("a.ply")
    assert str(caught.value) == "cannot open 'a.ply': no such file. Did you mean 'A.ply'?"
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*kitchen_1\.ply'\?"):
        read_point_cloud(tmp_path / "kitchen1.ply")
    with pytest.raises(FileNotFoundError) as caught:
        read_point_cloud("zzzzzzzzz.pcd")
    assert str(caught.value) == "cannot open 'zzzzzzzzz.pcd': no such file"
    with pytest.raises(FileNotFoundError, match=r"cannot open 'nowhere/a\.ply': no such folder 'nowhere'"):
        read_point_cloud("nowhere/a.ply")
    with pytest.raises(FileNotFoundError, match=r"cannot open 'A\.ply/a\.ply': no such folder"):
        read_point_cloud("A.ply/a.ply")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        read_point_cloud(tmp_path / "folder.ply")
    with pytest.raises(InputError, match="cannot open"):
        read_point_cloud("a\0b.ply")
    with pytest.raises(InputError, match=r"cannot open '.*': file name too long"):
        read_point_cloud("a" * 5000)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.ply")
        with pytest.raises(InputError, match="no regular file"):
            read_point_cloud(tmp_path / "pipe.ply")


def test_no_permission_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.ply").touch()

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot open '.*a\.ply': permission denied"):
        read_point_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize("extension", [".ply", ".pcd", ".npy", ".npz", ".txt", ".bin", ".pth", ".obj", ".stl", ".off"])
def test_empty_files(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"a{extension}").touch()
    with pytest.raises(InputError, match=r"is empty \(0 bytes\)"):
        read_point_cloud(tmp_path / f"a{extension}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.las", b"LASF", "LAS files are not supported; convert with 'pdal translate a.las a.ply'"),
        ("a.LAZ", b"LASF", "LAZ files are not supported"),
        ("a.e57", b"ASTM-E57", "E57 files are not supported"),
        ("a.foo", b"LASF", "LAS files are not supported"),
        ("a.foo", b"hello", r"unknown extension '\.foo'; expected one of \.ply, \.pcd, \.npy"),
        ("a", b"hello", r"unknown extension ''; expected one of"),
        ("a.ply", b"\x1f\x8b\x08", "compressed files are not supported; decompress it first"),
        ("a.ply.gz", b"\x1f\x8b\x08", "compressed files are not supported"),
        ("a.ply", b"# .PCD v0.7\n", r"is a PCD file, not what its extension '\.ply' promises"),
        ("a.txt", b"ply\nformat", r"is a PLY file, not what its extension '\.txt' promises"),
        ("a.pcd", b"<!DOCTYPE html>", "is a web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer; run 'git lfs pull'"),
        ("a.ply", b"x y z\n1 2 3\n", "does not start with the word 'ply'"),
    ],
)
def test_unsupported_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message) as caught:
        read_point_cloud(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_unknown_extension_with_a_known_beginning(tmp_path: Path) -> None:
    for extension in (".ply", ".pcd", ".npy"):
        write_point_cloud(tmp_path / f"a{extension}", PointCloud(np.eye(3)))
        (tmp_path / f"a{extension}").rename(tmp_path / "a.scan")
        cloud = read_point_cloud(tmp_path / "a.scan")
        assert np.array_equal(cloud.points, np.eye(3)) and output_extension(cloud) == ".ply"
    write_point_cloud(tmp_path / "b.PLY", PointCloud(np.eye(3)))
    assert np.array_equal(read_point_cloud(str(tmp_path / "b.PLY")).points, np.eye(3))


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ply"
    write_point_cloud(path, PointCloud(np.eye(3)))
    before = path.read_bytes()

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(InputError, match=r"cannot write '.*a\.ply': no space left on device"):
            write_point_cloud(path, PointCloud(np.zeros((5, 3))))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.ply"]
    write_point_cloud(path, PointCloud(np.zeros((5, 3))))
    assert len(read_point_cloud(path)) == 5 and os.listdir(tmp_path) == ["a.ply"]
    with pytest.raises(FileNotFoundError, match=r"cannot write .* no such folder '.*nowhere'"):
        write_point_cloud(tmp_path / "nowhere" / "a.ply", PointCloud(np.eye(3)))
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_point_cloud(tmp_path / "folder.ply", PointCloud(np.eye(3)))
    with pytest.raises(UnreadableFileError, match=r"expected an extension among \.ply"):
        write_point_cloud(tmp_path / "a.las", PointCloud(np.eye(3)))


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i4", "f2"])
def test_arrays_and_lists(dtype: str) -> None:
    array = np.arange(12).reshape(4, 3).astype(dtype)
    cloud = as_point_cloud(array)
    assert np.array_equal(cloud.points, array) and not np.shares_memory(cloud.points, array)
    assert cloud.layout.coordinate_dtype == np.dtype(dtype).newbyteorder("=")
    assert as_point_cloud(cloud) is cloud
    assert np.array_equal(as_point_cloud(array.tolist()).points, array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32])
def test_tensors(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(4, 3).to(dtype)
    if dtype.is_floating_point:
        tensor.requires_grad_()
    cloud = as_point_cloud(tensor)
    assert np.array_equal(cloud.points, np.arange(12).reshape(4, 3))
    cloud.points[0] = 7.0
    assert torch.equal(tensor.detach().double(), torch.arange(12).reshape(4, 3).double())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 4)), r"expected real numbers of shape \(N, 3\), got float64 \(4, 4\)"),
        (np.zeros(3), r"got float64 \(3,\)"),
        (np.zeros((2, 3), complex), "got complex128"),
        (np.zeros((2, 3), bool), "got bool"),
        (torch.zeros(2, 2), r"got float32 \(2, 2\)"),
        ([[1, 2, 3], [4, 5]], "rows of unequal length"),
        ([["a", "b", "c"]], "got <U1"),
    ],
)
def test_bad_arrays(value: object, message: str) -> None:
    with pytest.raises(InputError, match=r"^points: .*" + message):
        as_point_cloud(value)


@pytest.mark.parametrize("value", [None, 3, {"points": 1}, object()])
def test_other_objects(value: object) -> None:
    with pytest.raises(TypeError, match=f"points: expected a path, .* got {type(value).__name__}"):
        as_point_cloud(value)


def test_objects_with_points() -> None:
    thing = SimpleNamespace(points=np.eye(3), normals=np.eye(3)[::-1], colors=np.array([[0, 0.5, 1.0]] * 3))
    cloud = as_point_cloud(thing)
    assert np.array_equal(cloud.points, np.eye(3)) and np.array_equal(cloud.normals, np.eye(3)[::-1])
    assert cloud.colors.tolist() == [[0, 128, 255]] * 3
    bare = as_point_cloud(SimpleNamespace(points=np.eye(3), normals=np.zeros((0, 3)), colors=None))
    assert bare.normals is None and bare.colors is None


def test_open3d_clouds() -> None:
    open3d = pytest.importorskip("open3d")
    rng = np.random.default_rng(0)
    original = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(rng.random((20, 3))))
    original.normals = open3d.utility.Vector3dVector(rng.random((20, 3)))
    for thing in (original, open3d.t.geometry.PointCloud.from_legacy(original)):
        cloud = as_point_cloud(thing)
        np.testing.assert_allclose(cloud.points, np.asarray(original.points), atol=1e-7)
        np.testing.assert_allclose(cloud.normals, np.asarray(original.normals), atol=1e-7)
        cloud.points[:] = 0.0
    assert np.asarray(original.points).any()


def test_a_path_is_read(tmp_path: Path) -> None:
    write_point_cloud(tmp_path / "a.ply", PointCloud(np.eye(3)))
    assert np.array_equal(as_point_cloud(str(tmp_path / "a.ply")).points, np.eye(3))
    assert np.array_equal(as_point_cloud(tmp_path / "a.ply").points, np.eye(3))


def test_reading_a_scan_needs_no_heavy_library(tmp_path: Path) -> None:
    write_point_cloud(tmp_path / "a.ply", PointCloud(np.eye(3)))
    code = (
        "import sys; from rotaware.pointcloud.io import read_point_cloud; "
        f"read_point_cloud({str(tmp_path / 'a.ply')!r}); "
        "print(sorted({'trimesh', 'open3d', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == "[]"
