"""Text columns: separators, names, types that keep every digit, and rows that are no points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rotaware.pointcloud.errors import InputError, UnreadableFileError
from rotaware.pointcloud.io import PointCloud, output_extension, read_point_cloud, write_point_cloud

EXPECTED = [[1.5, -2.0, 3e-3], [4.0, 5.25, 6.0]]


def read(folder: Path, text: str | bytes, name: str = "a.txt") -> PointCloud:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_point_cloud(folder / name)


@pytest.mark.parametrize(
    "text",
    [
        "1.5 -2.0 3e-3\n4.0 5.25 6.0\n",
        "1.5,-2.0,3e-3\n4.0,5.25,6.0",
        "1.5, -2.0, 3e-3\r\n4.0, 5.25, 6.0\r\n",
        "1.5;-2.0;3e-3\n4.0;5.25;6.0\n",
        "1,5;-2,0;0,003\n4,0;5,25;6,0\n",
        "1,5 -2,0 0,003\n4,0 5,25 6,0\n",
        "1.5\t-2.0\t3e-3\n4.0\t5.25\t6.0\n",
        "  1.5 \t -2.0   3e-3  \n\n\n4.0 5.25 6.0\n\n",
        "# a scan\n// of a room\n1.5 -2.0 3e-3\n# in between\n4.0 5.25 6.0\n",
        "x y z\n1.5 -2.0 3e-3\n4.0 5.25 6.0\n",
        "X,Y,Z\n1.5,-2.0,3e-3\n4.0,5.25,6.0\n",
        '"x","y","z"\n1.5,-2.0,3e-3\n4.0,5.25,6.0\n',
        "z,y,x\n3e-3,-2.0,1.5\n6.0,5.25,4.0\n",
        "# z y x\n3e-3 -2.0 1.5\n6.0 5.25 4.0\n",
        "//X,Y,Z\n1.5,-2.0,3e-3\n4.0,5.25,6.0\n",
        "Points:0,Points:1,Points:2\n1.5,-2.0,3e-3\n4.0,5.25,6.0\n",
        "pos_x;pos_y;pos_z\n1.5;-2.0;3e-3\n4.0;5.25;6.0\n",
        "x [m],y [m],z [m]\n1.5,-2.0,3e-3\n4.0,5.25,6.0\n",
        "2\n1.5 -2.0 3e-3\n4.0 5.25 6.0\n",
        "\ufeff1.5 -2.0 3e-3\n4.0 5.25 6.0\n",
        "1.5 -2.0 3e-3\n4.0 5.25 6.0\n".encode("utf-16"),
        "# größe\n1.5 -2.0 3e-3\n4.0 5.25 6.0\n".encode("latin-1"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.XYZ"])
def test_every_way_to_write_the_same_points(tmp_path: Path, text: str | bytes, name: str) -> None:
    cloud = read(tmp_path, text, name)
    assert cloud.points.tolist() == EXPECTED
    write_point_cloud(tmp_path / f"b{name[1:]}", cloud)
    assert read_point_cloud(tmp_path / f"b{name[1:]}").points.tolist() == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "# a scan\nx,y,z,n,name,time,note\n0.5,1.5,2.5,7,chair,1612345678.123456789,\n1.0,2.0,3.0,8,\"a, b\",2.0,x\n",
        "x;y;z;gain\n0,5;1,5;2,5;0,25\n1,0;2,0;3,0;0,5\n",
        "x,y,z,\n0.5,1.5,2.5,\n0.5,1.5,2.5,\n",
        "2\n0.5 1.5 2.5 -1205 10 20 30\n0.5 1.5 2.5 800 0 255 7\n",
        "//X Y Z R G B\n0.5 1.5 2.5 1 2 3\n1.0 2.0 3.0 255 254 0\n",
        "0.5\t1.5\t2.5\t\tempty cell before\n1.0\t2.0\t3.0\t7\tx y\n",
        "id,x,y,z,stamp\n1,0.5,1.5,2.5,18446744073709551615\n2,0.5,1.5,2.5,99999999999999999999999\n",
    ],
)  # fmt: skip
def test_file_comes_back_byte_for_byte(tmp_path: Path, text: str) -> None:
    cloud = read(tmp_path, text)
    assert np.isfinite(cloud.points).all()
    write_point_cloud(tmp_path / "b.txt", cloud)
    assert (tmp_path / "b.txt").read_text() == text


def test_columns_keep_their_type(tmp_path: Path) -> None:
    text = "x,y,z,label,name,stamp,gain,big\n1,2,3,7,chair,1612345678.123456789,0.5,9007199254740993\n"
    cloud = read(tmp_path, text)
    kinds = {name: column.dtype.kind for name, column in cloud.attributes.items()}
    assert kinds == {"label": "i", "name": "U", "stamp": "U", "gain": "f", "big": "i"}
    assert cloud.attributes["big"].tolist() == [9007199254740993]
    assert cloud.points.tolist() == [[1.0, 2.0, 3.0]]


def test_a_type_may_change_after_the_sampled_rows(tmp_path: Path) -> None:
    rows = ["1 2 3 4"] * 1200
    assert read(tmp_path, "\n".join(rows)).attributes["column_3"].dtype == np.int64
    rows[1100] = "1 2 3 4.5"
    assert read(tmp_path, "\n".join(rows)).attributes["column_3"][1100] == 4.5
    rows[1100] = "1 2 3 four"
    assert read(tmp_path, "\n".join(rows)).attributes["column_3"][1100] == "four"


def test_missing_coordinates_are_nan_and_rows_stay(tmp_path: Path) -> None:
    cloud = read(tmp_path, "x,y,z\n1,2,3\n,nan,NA\n4,inf,6\n")
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [np.nan] * 3, [4, np.inf, 6]])


def test_usual_columns_without_names(tmp_path: Path) -> None:
    assert list(read(tmp_path, "1 2 3 0 0 1\n4 5 6 0.6 0.8 0\n").attributes) == ["nx", "ny", "nz"]
    assert list(read(tmp_path, "1 2 3 0 128 255\n4 5 6 1 1 1\n").attributes) == ["red", "green", "blue"]
    assert list(read(tmp_path, "1 2 3 0.5 7 8\n4 5 6 1 1 1\n").attributes) == ["column_3", "column_4", "column_5"]
    names = list(read(tmp_path, "1 2 3 0.0 0.0 1.0 9 9 9\n").attributes)
    assert names == ["nx", "ny", "nz", "red", "green", "blue"]
    assert list(read(tmp_path, "1\n1 2 3 -7 9 9 9\n", "a.pts").attributes) == ["intensity", "red", "green", "blue"]


def test_rotation_reaches_unnamed_normals(tmp_path: Path) -> None:
    cloud = read(tmp_path, "1,2,3,1,0,0\n4,5,6,0,1,0\n", "a.xyz")
    quarter = np.eye(4)
    quarter[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    write_point_cloud(tmp_path / "b.xyz", cloud.transformed(quarter))
    np.testing.assert_allclose(read_point_cloud(tmp_path / "b.xyz").normals, [[0, 1, 0], [-1, 0, 0]], atol=1e-15)


@pytest.mark.parametrize("extension", [".csv", ".xyz", ".txt", ".asc", ".pts"])
def test_clouds_from_elsewhere(tmp_path: Path, extension: str) -> None:
    rng = np.random.default_rng(0)
    attributes = {"label": np.arange(5, dtype=np.uint8), "feature": rng.random((5, 2)).astype(np.float32)}
    cloud = PointCloud(rng.normal(size=(5, 3)), attributes)
    path = tmp_path / f"a{extension}"
    write_point_cloud(path, cloud)
    again = read_point_cloud(path)
    assert np.array_equal(again.points, cloud.points)
    names = ["column_3", "column_4", "column_5"] if extension == ".pts" else ["label", "feature_0", "feature_1"]
    assert list(again.attributes) == names
    assert np.array_equal(again.attributes[names[2]].astype(np.float32), attributes["feature"][:, 1])
    assert output_extension(again) == extension
    # What NumPy's own reader makes of it.
    skip = 1 if extension in (".csv", ".pts") else 0
    table = np.loadtxt(path, delimiter="," if extension == ".csv" else None, skiprows=skip)
    assert np.array_equal(table[:, :3], cloud.points)


def test_open3d_reads_plain_files(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    points = np.random.default_rng(0).normal(size=(20, 3))
    for extension in (".xyz", ".pts"):
        write_point_cloud(tmp_path / f"a{extension}", PointCloud(points))
        again = open3d.io.read_point_cloud(str(tmp_path / f"a{extension}"))
        np.testing.assert_allclose(np.asarray(again.points), points, atol=1e-12)


BAD = [
    ("a.txt", "1 2\n3 4\n", InputError, "expected at least 3 columns, got 2; first rows: 1 2 | 3 4"),
    ("a.txt", "1 2 3\n4 5\n", InputError, "row 2 has 2 columns, expected 3: '4 5'"),
    ("a.txt", "1 2 3\n4 5 6 7\n", InputError, "row 2 has 4 columns, expected 3"),
    (
        "a.csv",
        "1,2,3\n4,five,6\n",
        InputError,
        "'five' in column 'y', row 2 is no number; first rows: 1,2,3 | 4,five,6",
    ),
    ("a.csv", "x,y,z\na,2,3\n", InputError, "'a' in column 'x', row 1 is no number; first rows: x,y,z | a,2,3"),
    ("a.csv", "lat,lon,height\n1,2,3\n", InputError, "no columns named x, y and z among lat, lon, height"),
    ("a.txt", "once upon a time\n", InputError, "one line and no rows of numbers"),
    ("a.txt", "once upon a time\nthere was a cloud\n", InputError, "no columns named x, y and z|is no number"),
    ("a.txt", "# nothing\n\n  \n", InputError, "holds no rows of numbers"),
    ("a.pts", "5\n1 2 3\n4 5 6\n", UnreadableFileError, "the first line declares 5 rows, found 2"),
    ("a.pts", "99999999999999999999\n1 2 3\n", UnreadableFileError, "the first line declares 999999999999999999 rows"),
    ("a.pts", "0\n", InputError, "holds no rows of numbers"),
    ("a.txt", b"\x00\x01\x02\x03", UnreadableFileError, "holds binary data"),
    ("a.txt", "1 2 3 " + "x" * 5000 + "\n", InputError, "a cell has 5000 characters"),
    ("a.txt", "x y z w\n1 2 3\n", InputError, "the header names 4 columns, its rows have 3"),
    ("a.txt", "   x   y   z\n0  1 2 3\n1  4 5 6\n", InputError, "the header names 3 columns, its rows have 4"),
]


@pytest.mark.parametrize(("name", "text", "error", "message"), BAD)
def test_bad_files(tmp_path: Path, name: str, text: str | bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        read(tmp_path, text, name)
    assert any(part in str(caught.value) for part in ([message] if " | " in message else message.split("|")))
    assert "\n" not in str(caught.value) and f"{name}'" in str(caught.value)


def test_words_with_blanks_need_a_csv(tmp_path: Path) -> None:
    cloud = PointCloud(np.eye(3), {"name": np.array(["a b", "c", '"d", e'])})
    with pytest.raises(InputError, match=r"column 'name' has cells with blanks, which only \.csv can hold"):
        write_point_cloud(tmp_path / "a.xyz", cloud)
    write_point_cloud(tmp_path / "a.csv", cloud)
    assert read_point_cloud(tmp_path / "a.csv").attributes["name"].tolist() == ["a b", "c", '"d", e']
