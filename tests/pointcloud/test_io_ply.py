"""PLY: every variant against hand-written bytes, trimesh and Open3D, and the ways such a file can be damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from rotaware.pointcloud.errors import UnreadableFileError
from rotaware.pointcloud.io import PointCloud, read_point_cloud, write_point_cloud

VARIANTS = ("ascii", "binary_little_endian", "binary_big_endian")
PLAIN = "ply\nformat {} 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
HEADER = """ply
format {variant} 1.0
comment scanned on a Tuesday
obj_info num_cols 3
element vertex 3
property uchar red
property double x
property double y
property double z
property short label
property float intensity
property list uchar int ring
element face 2
property list uchar int vertex_indices
element edge 1
property int a
property ushort b
end_header
"""
ROWS = [
    (255, 0.5, -1.25, 1e-300, -7, 0.1, (4, 5)),
    (0, 2.0, 3.0, 4.0, 300, np.nan, ()),
    (9, 1.0, 1.0, 1.0, 1, 2.0, (6,)),
]
FACES = [(0, 1, 2), (2, 1, 0, 0)]


def make_ply(variant: str) -> bytes:
    header = HEADER.format(variant=variant).encode()
    if variant == "ascii":
        lines = [
            f"{r} {x} {y} {z} {label} {i} {' '.join(map(str, (len(ring), *ring)))}"
            for r, x, y, z, label, i, ring in ROWS
        ]
        lines += [" ".join(map(str, (len(face), *face))) for face in FACES] + ["-5 6"]
        return header + "\n".join(lines).encode() + b"\n"
    order = "<" if variant == "binary_little_endian" else ">"
    body = b""
    for *scalars, ring in ROWS:
        body += struct.pack(f"{order}BdddhfB{len(ring)}i", *scalars, len(ring), *ring)
    for face in FACES:
        body += struct.pack(f"{order}B{len(face)}i", len(face), *face)
    return header + body + struct.pack(f"{order}iH", -5, 6)


def save(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_hand_made_file(tmp_path: Path, variant: str) -> None:
    cloud = read_point_cloud(save(tmp_path / "a.ply", make_ply(variant)))
    assert cloud.points.tolist() == [[0.5, -1.25, 1e-300], [2.0, 3.0, 4.0], [1.0, 1.0, 1.0]]
    assert {name: column.dtype.str[1:] for name, column in cloud.attributes.items()} == {
        "red": "u1", "label": "i2", "intensity": "f4",
    }  # fmt: skip
    assert cloud.attributes["label"].tolist() == [-7, 300, 1]
    np.testing.assert_array_equal(cloud.attributes["intensity"], np.array([0.1, np.nan, 2.0], np.float32))
    assert all(column.dtype.isnative for column in cloud.attributes.values())
    assert cloud.layout.variant == variant
    assert cloud.viewpoint is None and cloud.normals is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_file_keeps_variant_order_comments_and_faces(tmp_path: Path, variant: str) -> None:
    cloud = read_point_cloud(save(tmp_path / "a.ply", make_ply(variant)))
    write_point_cloud(tmp_path / "b.ply", cloud)
    data = (tmp_path / "b.ply").read_bytes()
    # Only the vertex list is gone, as documented.
    expected = HEADER.format(variant=variant).replace("property list uchar int ring\n", "")
    assert data.startswith(expected.encode())
    tail = make_ply(variant)[-9 if variant == "ascii" else -6 :]
    assert data.endswith(tail)
    again = read_point_cloud(tmp_path / "b.ply")
    assert np.array_equal(again.points, cloud.points)
    for name, column in cloud.attributes.items():
        assert again.attributes[name].tobytes() == column.tobytes()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path: Path, variant: str, newline: str) -> None:
    header = (
        f"ply\nformat {variant} 1.0\nelement vertex 1\nproperty int x\nproperty int y\nproperty int z\nend_header\n"
    )
    # The first byte of the body looks like a line end.
    values = (10, 13, 10)
    body = b"10 13 10\n" if variant == "ascii" else struct.pack((">" if "big" in variant else "<") + "3i", *values)
    cloud = read_point_cloud(save(tmp_path / "a.ply", header.replace("\n", newline).encode() + body))
    assert cloud.points.tolist() == [[10.0, 13.0, 10.0]]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("faces", [[(0, 1, 2), (2, 1, 0)], [(0, 1, 2), (2, 1)], []])
def test_faces_before_the_vertices(tmp_path: Path, variant: str, faces: list[tuple[int, ...]]) -> None:
    header = (
        f"ply\nformat {variant} 1.0\nelement face {len(faces)}\nproperty list uchar int vertex_indices\n"
        "element vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    if variant == "ascii":
        body = "".join(" ".join(map(str, (len(face), *face))) + "\n" for face in faces).encode() + b"1 2 3\n4 5 6\n"
    else:
        order = ">" if "big" in variant else "<"
        body = b"".join(struct.pack(f"{order}B{len(face)}i", len(face), *face) for face in faces)
        body += struct.pack(f"{order}6f", 1, 2, 3, 4, 5, 6)
    cloud = read_point_cloud(save(tmp_path / "a.ply", header.encode() + body))
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    write_point_cloud(tmp_path / "b.ply", cloud)
    assert (tmp_path / "b.ply").read_bytes() == (tmp_path / "a.ply").read_bytes().replace(
        b"1 2 3\n4 5 6", b"1.0 2.0 3.0\n4.0 5.0 6.0"
    )


def test_faces_are_dropped_when_the_number_of_rows_changed(tmp_path: Path) -> None:
    from dataclasses import replace

    cloud = read_point_cloud(save(tmp_path / "a.ply", make_ply("ascii")))
    part = replace(cloud, points=cloud.points[:2], attributes={k: v[:2] for k, v in cloud.attributes.items()})
    write_point_cloud(tmp_path / "b.ply", part)
    assert b"face" not in (tmp_path / "b.ply").read_bytes()
    assert len(read_point_cloud(tmp_path / "b.ply")) == 2


def test_moved_float32_file_stays_float32_and_far_away_becomes_double(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mesh = trimesh.PointCloud(rng.normal(size=(50, 3)), colors=rng.integers(0, 255, (50, 4)))
    save(tmp_path / "a.ply", mesh.export(file_type="ply"))
    cloud = read_point_cloud(tmp_path / "a.ply")
    for shift, kind in ((3.0, "float"), (6e6, "double")):
        T = np.eye(4)
        T[:3, 3] = shift
        write_point_cloud(tmp_path / "b.ply", cloud.transformed(T))
        assert f"property {kind} x\n".encode() in (tmp_path / "b.ply").read_bytes()
        again = read_point_cloud(tmp_path / "b.ply")
        np.testing.assert_allclose(again.points, cloud.points + shift, atol=1e-6)
        for name, column in cloud.attributes.items():
            assert again.attributes[name].tobytes() == column.tobytes()


def test_ascii_digits_beyond_the_declared_type_survive(tmp_path: Path) -> None:
    header = (
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    cloud = read_point_cloud(
        save(tmp_path / "a.ply", header + "500000.123 5400000.456 1.5\n500001.123 5400002.456 2.5\n")
    )
    assert cloud.points[0].tolist() == [500000.123, 5400000.456, 1.5]
    write_point_cloud(tmp_path / "b.ply", cloud)
    assert np.array_equal(read_point_cloud(tmp_path / "b.ply").points, cloud.points)
    # Ordinary digits are rounded to the declared float, as every other reader does.
    plain = read_point_cloud(save(tmp_path / "c.ply", header + "0.1 0.2 0.3\n1 2 3\n"))
    assert plain.points[0, 0] == float(np.float32(0.1))
    write_point_cloud(tmp_path / "d.ply", plain)
    assert b"\n0.1 0.2 0.3\n" in (tmp_path / "d.ply").read_bytes()


def test_ascii_oddities(tmp_path: Path) -> None:
    header = PLAIN.format("ascii", 3).replace("end_header", "property uchar c\nend_header")
    rows = "\n  1 2 3 255.0 \n\nnan -nan 1.#QNAN 0\n\t-1.#IND nan(ind) inf 7\n\n"
    cloud = read_point_cloud(save(tmp_path / "a.ply", header + rows))
    assert cloud.attributes["c"].tolist() == [255, 0, 7]
    assert np.isnan(cloud.points[1]).all() and cloud.points[2, 2] == np.inf


def test_viewpoint_of_a_pcl_camera(tmp_path: Path) -> None:
    text = (
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "element camera 1\nproperty float view_px\nproperty float view_py\nproperty float view_pz\nend_header\n1 2 3\n"
    )
    cloud = read_point_cloud(save(tmp_path / "a.ply", text + "4 5 6\n"))
    assert cloud.viewpoint.tolist() == [4.0, 5.0, 6.0]
    assert read_point_cloud(save(tmp_path / "b.ply", text + "0 0 0\n")).viewpoint is None
    write_point_cloud(tmp_path / "c.ply", cloud)
    assert b"camera" not in (tmp_path / "c.ply").read_bytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_points(tmp_path: Path, variant: str) -> None:
    header = PLAIN.format(variant, 0)
    cloud = read_point_cloud(save(tmp_path / "a.ply", header))
    assert cloud.points.shape == (0, 3)
    write_point_cloud(tmp_path / "b.ply", cloud)
    assert (tmp_path / "b.ply").read_bytes() == header.encode()


BAD = [
    ("not ply at all\n1 2 3\n", "does not start with the word 'ply'"),
    ("plywood\n", "does not start with the word 'ply'"),
    ("ply\nformat ascii 1.0\nelement vertex 1\n", "no 'end_header' line"),
    (PLAIN.format("ascii", 5) + "1 2 3\n4 5 6\n", "truncated: expected 5 'vertex' rows, found 2"),
    (PLAIN.format("binary_little_endian", 5) + "x" * 59, "5 'vertex' rows need 60 bytes, found 59"),
    (PLAIN.format("binary_little_endian", 10**17) + "x" * 60, "rows need 1200000000000000000 bytes, found 60"),
    (PLAIN.format("ascii", 10**17) + "1 2 3\n", "expected 100000000000000000 'vertex' rows, found 1"),
    (PLAIN.format("ascii", -1) + "1 2 3\n", "expected 'element NAME COUNT'.*vertex -1"),
    (PLAIN.format("ascii", "many"), "expected 'element NAME COUNT'"),
    (PLAIN.format("binary_middle_endian", 1), "format must be one of ascii"),
    (PLAIN.format("ascii", 1).replace("element vertex 1", "element face 1"), r"no 'vertex' element \(elements: face\)"),
    (PLAIN.format("ascii", 1).replace("float z", "float w") + "1 2 3\n", r"no x, y, z \(properties: x, y, w\)"),
    (PLAIN.format("ascii", 1).replace("float z", "quad z") + "1 2 3\n", "cannot understand the PLY header line"),
    (PLAIN.format("ascii", 1).replace("float z", "float y") + "1 2 3\n", "two properties 'y'"),
    (PLAIN.format("ascii", 1) + "1 2\n", "cannot parse the 'vertex' rows"),
    (PLAIN.format("ascii", 1) + "1 2 banana\n", "cannot parse the 'vertex' rows.*banana"),
    (PLAIN.format("ascii", 1).replace("float z", "uchar z") + "1 2 256\n", "cannot parse the 'vertex' rows.*256"),
    (PLAIN.format("ascii", 1).replace("end_header", "element vertex 1\nend_header"), "declares an element twice"),
    (PLAIN.format("ascii", 1).replace("end_header", "hello\nend_header"), "unexpected line.*hello"),
    (PLAIN.format("ascii", 1).replace("float z", "list float int z"), "needs an integer length"),
    (PLAIN.format("ascii", 1).replace("end", "property list uchar int r\nend") + "1 2 3 4 1\n", "cannot parse the row"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnreadableFileError, match=message) as caught:
        read_point_cloud(save(tmp_path / "a.ply", text))
    assert "\n" not in str(caught.value) and "a.ply'" in str(caught.value)


def test_damaged_lists(tmp_path: Path) -> None:
    header = (
        b"ply\nformat binary_little_endian 1.0\nelement face 2\nproperty list char int v\n"
        b"element vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    with pytest.raises(UnreadableFileError, match="'face' row 0 has a list of length -1"):
        read_point_cloud(save(tmp_path / "a.ply", header + struct.pack("<bb", -1, 0)))
    with pytest.raises(UnreadableFileError, match="truncated: expected 2 'face' rows, found 0"):
        read_point_cloud(save(tmp_path / "a.ply", header + struct.pack("<bb", 3, 0)))


def test_trimesh_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    save(tmp_path / "mesh.ply", mesh.export(file_type="ply"))
    cloud = read_point_cloud(tmp_path / "mesh.ply")
    np.testing.assert_allclose(cloud.points, mesh.vertices, atol=1e-7)
    T = np.eye(4)
    T[:3, 3] = [1.0, 2.0, 3.0]
    write_point_cloud(tmp_path / "moved.ply", cloud.transformed(T))
    moved = trimesh.load(tmp_path / "moved.ply", process=False)
    np.testing.assert_allclose(moved.vertices, mesh.vertices + T[:3, 3], atol=1e-6)
    assert np.array_equal(moved.faces, mesh.faces)


@pytest.mark.parametrize("ascii", [True, False])
def test_open3d_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path, ascii: bool) -> None:
    open3d = pytest.importorskip("open3d")
    rng = np.random.default_rng(0)
    original = open3d.geometry.PointCloud()
    for key in ("points", "normals", "colors"):
        setattr(original, key, open3d.utility.Vector3dVector(rng.random((30, 3))))
    open3d.io.write_point_cloud(str(tmp_path / "a.ply"), original, write_ascii=ascii)
    cloud = read_point_cloud(tmp_path / "a.ply")
    np.testing.assert_allclose(cloud.points, np.asarray(original.points), atol=1e-6)
    np.testing.assert_allclose(cloud.normals, np.asarray(original.normals), atol=1e-6)
    np.testing.assert_allclose(cloud.colors / 255.0, np.asarray(original.colors), atol=0.5 / 255 + 1e-9)
    write_point_cloud(tmp_path / "b.ply", cloud)
    reread = open3d.io.read_point_cloud(str(tmp_path / "b.ply"))
    np.testing.assert_allclose(np.asarray(reread.points), cloud.points, atol=1e-12)
    np.testing.assert_allclose(np.asarray(reread.normals), cloud.normals, atol=1e-12)
    assert np.array_equal(np.rint(np.asarray(reread.colors) * 255), cloud.colors)


def test_real_scan_comes_back_byte_for_byte(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "3dmatch" / "dense" / "redkitchen_cloud_bin_0.ply"
    cloud = read_point_cloud(path)
    write_point_cloud(tmp_path / "b.ply", cloud)
    assert (tmp_path / "b.ply").read_bytes() == path.read_bytes()


def test_new_cloud_is_written_as_little_endian(tmp_path: Path) -> None:
    cloud = PointCloud(np.eye(3), {"label": np.array([1, 2, 3]), "flag": np.array([True, False, True])})
    write_point_cloud(tmp_path / "a.ply", cloud)
    again = read_point_cloud(tmp_path / "a.ply")
    assert again.layout.variant == "binary_little_endian"
    assert again.attributes["label"].tolist() == [1, 2, 3] and again.attributes["flag"].tolist() == [1, 0, 1]
