"""PCD: hand-written files, LZF against its own definition and Open3D's compressor, and damaged headers."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.errors import UnreadableFileError
from rotaware.pointcloud.io import read_point_cloud, write_point_cloud
from rotaware.pointcloud.io_lzf import lzf_decompress

HEADER = """# .PCD v0.7 - Point Cloud Data file format
# made by hand
VERSION 0.7
FIELDS x y z rgb label fpfh
SIZE 4 4 4 4 2 8
TYPE F F F F I F
COUNT 1 1 1 1 1 3
WIDTH 2
HEIGHT 2
VIEWPOINT 1 2 3 0.5 0.5 0.5 0.5
POINTS 4
DATA {}
"""
# A colour whose alpha byte makes the float a NaN with a payload: it must not pass through arithmetic.
COLOR = 0xFFC08040
ROWS = [(0.5, 1.5, 2.5, COLOR, -3, (1.0, 2.0, 3.0)), (np.nan, np.nan, np.nan, 7, 4, (0.1, 0.2, 0.3)),
        (1.0, 2.0, 3.0, 0, 0, (0.0, 0.0, 0.0)), (-1.0, -2.0, -3.0, 1, 9, (9.0, 9.0, 9.0))]  # fmt: skip


def save(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def literal_runs(block: bytes) -> bytes:
    """LZF without compression: the format's definition of a literal run, 32 bytes at a time."""
    return b"".join(bytes([len(block[i : i + 32]) - 1]) + block[i : i + 32] for i in range(0, len(block), 32))


def make_pcd(variant: str) -> bytes:
    header = HEADER.format(variant).encode()
    if variant == "binary":
        return header + b"".join(struct.pack("<fffIh3d", *row[:5], *row[5]) for row in ROWS)
    kinds = ("f", "f", "f", "I", "h")
    columns = [struct.pack(f"<4{kind}", *(row[index] for row in ROWS)) for index, kind in enumerate(kinds)]
    block = b"".join(columns) + b"".join(struct.pack("<3d", *row[5]) for row in ROWS)
    packed = literal_runs(block)
    return header + struct.pack("<II", len(packed), len(block)) + packed


@pytest.mark.parametrize("variant", ["binary", "binary_compressed"])
def test_hand_made_file(tmp_path: Path, variant: str) -> None:
    cloud = read_point_cloud(save(tmp_path / "a.pcd", make_pcd(variant)))
    np.testing.assert_array_equal(cloud.points, [row[:3] for row in ROWS])
    assert list(cloud.attributes) == ["rgb", "label", "fpfh"]
    assert cloud.attributes["rgb"].view(np.uint32).tolist() == [COLOR, 7, 0, 1]
    assert cloud.colors[0].tolist() == [0xC0, 0x80, 0x40]
    assert cloud.attributes["label"].tolist() == [-3, 4, 0, 9] and cloud.attributes["label"].dtype == np.int16
    assert cloud.attributes["fpfh"].tolist() == [list(row[5]) for row in ROWS]
    assert cloud.viewpoint.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("variant", ["binary", "binary_compressed"])
def test_written_back_as_binary_with_the_same_header(tmp_path: Path, variant: str) -> None:
    cloud = read_point_cloud(save(tmp_path / "a.pcd", make_pcd(variant)))
    write_point_cloud(tmp_path / "b.pcd", cloud)
    assert (tmp_path / "b.pcd").read_bytes() == make_pcd("binary")


def test_ascii_round_trip(tmp_path: Path) -> None:
    text = HEADER.format("ascii") + "0.5 1.5 2.5 4.2108e+06 -3 1.0 2.0 3.0\nnan nan nan 0.1 4 0.1 0.2 0.3\n" * 2
    cloud = read_point_cloud(save(tmp_path / "a.pcd", text))
    assert cloud.points[0].tolist() == [0.5, 1.5, 2.5] and np.isnan(cloud.points[1]).all()
    assert cloud.attributes["fpfh"].shape == (4, 3) and cloud.attributes["rgb"].dtype == np.float32
    write_point_cloud(tmp_path / "b.pcd", cloud)
    again = read_point_cloud(tmp_path / "b.pcd")
    assert again.layout.variant == "ascii" and again.layout.fields == cloud.layout.fields
    for name, column in cloud.attributes.items():
        assert again.attributes[name].tobytes() == column.tobytes()
    np.testing.assert_array_equal(again.points, cloud.points)


def test_viewpoint_moves_with_the_cloud(tmp_path: Path) -> None:
    cloud = read_point_cloud(save(tmp_path / "a.pcd", make_pcd("binary")))
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix()
    T[:3, 3] = [5.0, 6.0, 7.0]
    write_point_cloud(tmp_path / "b.pcd", cloud.transformed(T))
    line = next(row for row in (tmp_path / "b.pcd").read_bytes().split(b"\n") if row.startswith(b"VIEWPOINT"))
    tx, ty, tz, w, x, y, z = map(float, line.split()[1:])
    np.testing.assert_allclose([tx, ty, tz], T[:3, :3] @ [1.0, 2.0, 3.0] + T[:3, 3], atol=1e-12)
    before = Rotation.from_quat([0.5, 0.5, 0.5, 0.5]).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), T[:3, :3] @ before, atol=1e-12)


def test_default_viewpoint_means_unknown_and_stays_default(tmp_path: Path) -> None:
    default = HEADER.replace("1 2 3 0.5 0.5 0.5 0.5", "0 0 0 1 0 0 0")
    cloud = read_point_cloud(save(tmp_path / "a.pcd", default.format("ascii") + "1 2 3 4 5 6 7 8\n" * 4))
    assert cloud.viewpoint is None
    T = np.eye(4)
    T[:3, 3] = 1.0
    write_point_cloud(tmp_path / "b.pcd", cloud.transformed(T))
    assert b"VIEWPOINT 0 0 0 1 0 0 0\n" in (tmp_path / "b.pcd").read_bytes()


def test_padding_and_old_versions(tmp_path: Path) -> None:
    header = "VERSION .5\nCOLUMNS x _ y _ z\nSIZE 4 1 4 2 4\nTYPE F U F U F\nCOUNT 1 3 1 1 1\nWIDTH 1\nDATA binary\n"
    data = header.encode() + struct.pack("<f3sfHf", 1.0, b"abc", 2.0, 9, 3.0)
    cloud = read_point_cloud(save(tmp_path / "a.pcd", data))
    assert cloud.points.tolist() == [[1.0, 2.0, 3.0]] and not cloud.attributes
    write_point_cloud(tmp_path / "b.pcd", cloud)
    assert b"FIELDS x y z\n" in (tmp_path / "b.pcd").read_bytes()


def test_far_coordinates_widen_to_double(tmp_path: Path) -> None:
    cloud = read_point_cloud(save(tmp_path / "a.pcd", make_pcd("binary")))
    T = np.eye(4)
    T[:3, 3] = 5e6
    write_point_cloud(tmp_path / "b.pcd", cloud.transformed(T))
    assert b"SIZE 8 8 8 4 2 8\n" in (tmp_path / "b.pcd").read_bytes()
    np.testing.assert_allclose(read_point_cloud(tmp_path / "b.pcd").points, cloud.points + 5e6, atol=1e-8)


def test_no_points(tmp_path: Path) -> None:
    header = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 0\nHEIGHT 1\nPOINTS 0\nDATA {}\n"
    for variant, body in (("ascii", b""), ("binary", b""), ("binary_compressed", bytes(8))):
        cloud = read_point_cloud(save(tmp_path / "a.pcd", header.format(variant).encode() + body))
        assert cloud.points.shape == (0, 3)


def edited(old: str, new: str, variant: str = "binary") -> bytes:
    data = make_pcd(variant)
    assert old.encode() in data
    return data.replace(old.encode(), new.encode())


BAD = [
    (b"hello\nworld\n", "no 'DATA' line"),
    (make_pcd("binary")[:-1], "4 points need 168 bytes, found 167"),
    (make_pcd("binary_compressed")[:-1], "truncated: expected 174 compressed bytes, found 173"),
    (make_pcd("binary_compressed")[:-170], "the compressed PCD body|truncated"),
    (edited("DATA binary", "DATA zipped"), "DATA must be one of ascii"),
    (edited("POINTS 4", "POINTS 5"), "WIDTH 2 x HEIGHT 2 is not POINTS 5"),
    (edited("POINTS 4", "POINTS -4"), "POINTS must be a whole number, got '-4'"),
    (edited("WIDTH 2\nHEIGHT 2\n", "").replace(b"POINTS 4", b"POINTS 9"), "WIDTH must be a whole number"),
    (edited("WIDTH 2", "WIDTH 100000000000").replace(b"POINTS 4", b"POINTS 200000000000"), "200000000000 points need"),
    (edited("SIZE 4 4", "SIZE 4"), "as many SIZE, TYPE and COUNT entries as FIELDS"),
    (edited("TYPE F F", "TYPE F Q"), "field 'y' has TYPE Q SIZE 4"),
    (edited("SIZE 4 4", "SIZE 4 3"), "field 'y' has TYPE F SIZE 3"),
    (edited("COUNT 1 1", "COUNT 1 -1"), "field 'y' has .* COUNT -1"),
    (edited("COUNT 1 1", "COUNT 1 999999999"), "more than 100000 values per point"),
    (edited("FIELDS x y", "FIELDS x x"), "field 'x' appears twice"),
    (edited("FIELDS x y", "FIELDS x w"), r"no x, y, z \(fields: x, w"),
    (edited("COUNT 1 1", "COUNT 1 2"), r"no x, y, z"),
    (edited("VIEWPOINT 1 2", "VIEWPOINT 1"), "VIEWPOINT needs 7 numbers"),
    (edited("VIEWPOINT 1 2", "VIEWPOINT one 2"), "VIEWPOINT needs 7 numbers"),
    (edited("0.5 0.5 0.5 0.5", "0 0 0 0"), "VIEWPOINT needs 7 numbers"),
    ((HEADER.format("ascii") + "1 2 3 4 5 6 7 8\n" * 3).encode(), "truncated: expected 4 points, found 3"),
    ((HEADER.format("ascii") + "1 2 3 4 5 6 7\n" * 4).encode(), "cannot parse the points"),
    ((HEADER.format("ascii") + "1 2 3 4 x 6 7 8\n" * 4).encode(), "cannot parse the points"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD)
def test_damaged_files(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UnreadableFileError, match=message) as caught:
        read_point_cloud(save(tmp_path / "a.pcd", data))
    assert "\n" not in str(caught.value) and "a.pcd'" in str(caught.value)


def test_damaged_compressed_body(tmp_path: Path) -> None:
    data = bytearray(make_pcd("binary_compressed"))
    start = len(HEADER.format("binary_compressed")) + 8
    data[start] = 0xFF  # a copy from before the beginning
    with pytest.raises(UnreadableFileError, match="compressed PCD data is damaged"):
        read_point_cloud(save(tmp_path / "a.pcd", bytes(data)))
    data[start - 1] = 0x7F  # a declared size of 2 GB
    with pytest.raises(UnreadableFileError, match="4 points need 168 bytes, the PCD body declares"):
        read_point_cloud(save(tmp_path / "a.pcd", bytes(data)))


def expand_slowly(data: bytes) -> bytes:
    """LZF as its author describes it, one byte at a time."""
    out = bytearray()
    position = 0
    while position < len(data):
        control = data[position]
        position += 1
        if control < 32:
            out += data[position : position + control + 1]
            position += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[position]
            position += 1
        distance = (control & 31) * 256 + data[position] + 1
        position += 1
        for _ in range(length + 2):
            out.append(out[-distance])
    return bytes(out)


def test_lzf_against_the_slow_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        stream, size = b"", 0
        for _ in range(20):
            if size == 0 or rng.random() < 0.5:
                length = int(rng.integers(1, 33))
                stream += bytes([length - 1]) + rng.bytes(length)
            else:
                length, distance = int(rng.integers(3, 265)), int(rng.integers(0, min(size, 8192)))
                head = [(length - 2) << 5 | distance >> 8] if length < 9 else [0xE0 | distance >> 8, length - 9]
                stream += bytes([*head, distance & 255])
            size += length
        expected = expand_slowly(stream)
        assert len(expected) == size
        assert lzf_decompress(stream, size) == expected
        assert lzf_decompress(stream, size - 1) is None
        assert lzf_decompress(stream, size + 1) is None
        assert lzf_decompress(stream[:-1], size) is None


def test_lzf_never_leaves_its_buffers() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        stream = rng.bytes(int(rng.integers(1, 40)))
        size = int(rng.integers(0, 300))
        result = lzf_decompress(stream, size)
        assert result is None or len(result) == size
    # A copy that reaches back six bytes where only one was written.
    assert lzf_decompress(bytes([0, 65, 32, 0]), 4) == b"AAAA"
    assert lzf_decompress(bytes([0, 65, 32, 5]), 4) is None
    assert lzf_decompress(b"\x00A", 10**12) is None
    assert lzf_decompress(b"", 0) == b""


@pytest.mark.parametrize("options", [{"write_ascii": True}, {}, {"compressed": True}])
def test_open3d_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path, options: dict[str, bool]) -> None:
    open3d = pytest.importorskip("open3d")
    rng = np.random.default_rng(0)
    original = open3d.geometry.PointCloud()
    # Rounded numbers repeat, so that the compressor finds something to do.
    for key in ("points", "normals", "colors"):
        setattr(original, key, open3d.utility.Vector3dVector(np.round(rng.random((500, 3)), 1)))
    open3d.io.write_point_cloud(str(tmp_path / "a.pcd"), original, **options)
    cloud = read_point_cloud(tmp_path / "a.pcd")
    assert cloud.layout.variant == (
        "ascii" if "write_ascii" in options else "binary_compressed" if options else "binary"
    )
    np.testing.assert_allclose(cloud.points, np.asarray(original.points), atol=1e-6)
    np.testing.assert_allclose(cloud.normals, np.asarray(original.normals), atol=1e-6)
    np.testing.assert_allclose(cloud.colors / 255.0, np.asarray(original.colors), atol=1 / 255 + 1e-9)
    write_point_cloud(tmp_path / "b.pcd", cloud)
    reread = open3d.io.read_point_cloud(str(tmp_path / "b.pcd"))
    np.testing.assert_allclose(np.asarray(reread.points), cloud.points, atol=1e-12)
    np.testing.assert_allclose(np.asarray(reread.normals), cloud.normals, atol=1e-12)
    assert np.array_equal(np.rint(np.asarray(reread.colors) * 255), cloud.colors)
