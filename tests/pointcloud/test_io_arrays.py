"""npy, npz and KITTI: NumPy itself is the oracle; nothing pickled is ever loaded."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rotaware.pointcloud.errors import InputError, UnreadableFileError
from rotaware.pointcloud.io import PointCloud, output_extension, read_point_cloud, write_point_cloud

POINTS = np.random.default_rng(0).normal(size=(20, 3))
FAR = np.eye(4)
FAR[:3, 3] = 5e6
RECORD = np.dtype([("label", "<i2"), ("z", "<f4"), ("y", "<f4"), ("x", "<f4"), ("feature", "<f8", (2,)), ("tag", "S3")])


def records() -> np.ndarray:
    rows = np.zeros(20, RECORD)
    for axis, name in enumerate("xyz"):
        rows[name] = POINTS[:, axis]
    rows["label"], rows["feature"], rows["tag"] = range(20), POINTS[:, :2], b"ab"
    return rows


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", ">u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_table_comes_back_as_numpy_wrote_it(tmp_path: Path, dtype: str, order: str) -> None:
    table = np.asarray(np.abs(POINTS) * 100, dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", table)
    cloud = read_point_cloud(tmp_path / "a.npy")
    assert np.array_equal(cloud.points, table.astype(np.float64))
    write_point_cloud(tmp_path / "b.npy", cloud)
    again = np.load(tmp_path / "b.npy")
    assert again.dtype == table.dtype and np.array_equal(again, table)


def test_npy_with_more_columns(tmp_path: Path) -> None:
    normals = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    table = np.hstack([POINTS, normals, POINTS[:, :1]]).astype(np.float32)
    np.save(tmp_path / "a.npy", table)
    cloud = read_point_cloud(tmp_path / "a.npy")
    assert list(cloud.attributes) == ["nx", "ny", "nz", "column_6"]
    np.testing.assert_allclose(cloud.normals, normals, atol=1e-7)
    write_point_cloud(tmp_path / "b.npy", cloud)
    assert np.array_equal(np.load(tmp_path / "b.npy"), table)
    # Columns that are no unit vectors are not taken for normals, or a rotation would spoil them.
    np.save(tmp_path / "c.npy", np.hstack([POINTS, POINTS]))
    assert list(read_point_cloud(tmp_path / "c.npy").attributes) == ["column_3", "column_4", "column_5"]
    write_point_cloud(tmp_path / "d.npy", cloud.transformed(FAR))
    moved = np.load(tmp_path / "d.npy")
    assert moved.dtype == np.float64 and np.array_equal(moved[:, 6], table[:, 6].astype(np.float64))


def test_structured_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", records())
    cloud = read_point_cloud(tmp_path / "a.npy")
    np.testing.assert_allclose(cloud.points, POINTS, atol=1e-6)
    assert list(cloud.attributes) == ["label", "feature", "tag"]
    write_point_cloud(tmp_path / "b.npy", cloud)
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()


def test_attributes_from_elsewhere_make_a_structured_npy(tmp_path: Path) -> None:
    write_point_cloud(tmp_path / "a.npy", PointCloud(POINTS, {"label": np.arange(20)}))
    array = np.load(tmp_path / "a.npy")
    assert array.dtype.names == ("x", "y", "z", "label") and np.array_equal(array["y"], POINTS[:, 1])
    write_point_cloud(tmp_path / "b.npy", PointCloud(POINTS))
    assert np.array_equal(np.load(tmp_path / "b.npy"), POINTS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_keeps_every_member(tmp_path: Path, save: object) -> None:
    members = {
        "pose": np.eye(4), "labels": np.arange(20, dtype=np.uint8), "xyz": POINTS.astype(np.float32),
        "normals": POINTS.astype(np.float32), "names": np.array(["a"] * 20), "objects": np.array([{"a": 1}, None]),
        "image": np.zeros((2, 20)),
    }  # fmt: skip
    save(tmp_path / "a.npz", **members)  # type: ignore[operator]
    cloud = read_point_cloud(tmp_path / "a.npz")
    assert list(cloud.attributes) == ["labels", "normals", "names"]
    assert np.array_equal(cloud.points, members["xyz"].astype(np.float64))
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    write_point_cloud(tmp_path / "b.npz", cloud.transformed(turn))
    with np.load(tmp_path / "b.npz", allow_pickle=True) as again:
        assert list(again) == list(members)
        for key, array in members.items():
            expected = array * np.float32([-1, -1, 1]) if key in ("xyz", "normals") else array
            assert again[key].dtype == array.dtype and np.array_equal(again[key], expected)
    sizes = [zipfile.ZipFile(tmp_path / name).infolist()[0].compress_type for name in ("a.npz", "b.npz")]
    assert sizes[0] == sizes[1]


def test_npz_of_one_array_and_of_records(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", POINTS)
    assert np.array_equal(read_point_cloud(tmp_path / "a.npz").points, POINTS)
    np.savez(tmp_path / "b.npz", my_scan=POINTS, other=np.zeros(3))
    assert np.array_equal(read_point_cloud(tmp_path / "b.npz").points, POINTS)
    np.savez(tmp_path / "c.npz", points=records())
    cloud = read_point_cloud(tmp_path / "c.npz")
    assert cloud.attributes["label"].tolist() == list(range(20))
    write_point_cloud(tmp_path / "d.npz", cloud)
    with np.load(tmp_path / "d.npz") as again:
        assert np.array_equal(again["points"], records())


def test_npz_is_written_the_same_every_time(tmp_path: Path) -> None:
    cloud = PointCloud(POINTS, {"label": np.arange(20)})
    write_point_cloud(tmp_path / "a.npz", cloud)
    write_point_cloud(tmp_path / "b.npz", cloud)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as again:
        assert np.array_equal(again["points"], POINTS) and np.array_equal(again["label"], np.arange(20))


def test_kitti(tmp_path: Path) -> None:
    rows = np.hstack([POINTS, POINTS[:, :1]]).astype("<f4")
    rows.tofile(tmp_path / "a.bin")
    cloud = read_point_cloud(tmp_path / "a.bin")
    assert np.array_equal(cloud.points, rows[:, :3].astype(np.float64))
    assert np.array_equal(cloud.attributes["intensity"], rows[:, 3])
    write_point_cloud(tmp_path / "b.bin", cloud)
    assert (tmp_path / "b.bin").read_bytes() == rows.tobytes()
    assert output_extension(cloud) == ".bin" and output_extension(cloud.transformed(FAR)) == ".ply"
    with pytest.raises(InputError, match=r"KITTI \.bin is float32 and would round these coordinates to 0\.5"):
        write_point_cloud(tmp_path / "c.bin", cloud.transformed(FAR))
    with pytest.raises(InputError, match=r"KITTI \.bin cannot store the columns label"):
        write_point_cloud(tmp_path / "c.bin", PointCloud(POINTS, {"label": np.arange(20)}))
    assert not (tmp_path / "c.bin").exists()
    np.zeros(10, "<f4").tofile(tmp_path / "d.bin")
    with pytest.raises(UnreadableFileError, match="expected a multiple of 16 bytes, got 40 bytes; nuScenes"):
        read_point_cloud(tmp_path / "d.bin")


class Trap:
    """Its unpickling would leave a file behind."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("trapped", "w"))


def test_pickles_are_refused_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.array([[Trap(), 1, 2]], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UnreadableFileError, match="holds pickled Python objects, which are never loaded"):
        read_point_cloud(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", points=array)
    with pytest.raises(InputError, match="expected one array named 'points'"):
        read_point_cloud(tmp_path / "b.npz")
    assert not (tmp_path / "trapped").exists()


def header_of(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(240)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"\x93NUMPY", UnreadableFileError, "no valid npy file"),
        (b"hello", UnreadableFileError, "no valid npy file"),
        (header_of("(10**9, 3)"), UnreadableFileError, "no valid npy file"),
        (header_of("(1000000000000, 3)"), UnreadableFileError, "needs 24000000000000 bytes, found 240"),
        (header_of("(11, 3)"), UnreadableFileError, "truncated.*needs 264 bytes, found 240"),
        (header_of("(-10, 3)"), UnreadableFileError, "truncated"),
        (header_of("(10, 3)", "'<V0'"), UnreadableFileError, "elements of no size"),
        (header_of("(15, 2)"), InputError, r"expected an array of shape \(N, 3\) or wider, got \(15, 2\)"),
        (header_of("(3, 2)"), InputError, r"got \(3, 2\); transpose it first"),
        (header_of("(30,)"), InputError, r"got \(30,\)"),
        (header_of("(5, 3)", "'<c16'"), InputError, "expected real numbers, got dtype complex128"),
        (header_of("(10, 3)", "'<U2'"), InputError, "expected real numbers, got dtype <U2"),
        (header_of("(10,)", "[('x', '<f8'), ('y', '<f8')]"), InputError, "structured array of shape"),
        (header_of("(10,)", "[('x', '<f8'), ('y', '<f8'), ('z', 'S8')]"), InputError, "x, y, z must be plain numbers"),
    ],
)
def test_damaged_npy(tmp_path: Path, data: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        read_point_cloud(tmp_path / "a.npy")
    assert "\n" not in str(caught.value) and "a.npy'" in str(caught.value)


def test_damaged_npz(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=POINTS)
    data = bytearray(buffer.getvalue())
    data[100] ^= 255
    for content in (bytes(data), bytes(data[:-30]), b"PK\x03\x04"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UnreadableFileError, match="damaged or unsupported npz archive"):
            read_point_cloud(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", a=POINTS, b=POINTS)
    with pytest.raises(InputError, match=r"expected one array named 'points' .* found a \(20, 3\), b \(20, 3\)"):
        read_point_cloud(tmp_path / "a.npz")
