"""Damaged files of every format: cut anywhere, bytes changed anywhere. A reader may refuse, in its own words only."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rotaware.pointcloud.errors import InputError, UnreadableFileError
from rotaware.pointcloud.io import PointCloud, read_point_cloud, write_point_cloud

REFUSALS = (InputError, UnreadableFileError)
ROUNDS = 200


def plain_cloud() -> PointCloud:
    rng = np.random.default_rng(0)
    columns = {"nx": rng.random(6), "label": np.arange(6, dtype=np.int16), "red": np.arange(6, dtype=np.uint8)}
    return PointCloud(rng.normal(size=(6, 3)), columns)


def written(folder: Path, extension: str) -> bytes:
    write_point_cloud(folder / f"seed{extension}", plain_cloud())
    return (folder / f"seed{extension}").read_bytes()


ASCII_ROWS = "1 2.5 3 4\n-1e3 nan 0.5 255\n7 8 9 0\n"
ASCII_PLY = (
    "ply\nformat ascii 1.0\ncomment c\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    "property uchar red\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
)
ASCII_PCD = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z red\nSIZE 4 4 4 1\nTYPE F F F U\nCOUNT 1 1 1 1\nWIDTH 3\nHEIGHT 1\n"
    "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 3\nDATA ascii\n"
)


def faces_first() -> bytes:
    header = (
        "ply\nformat binary_big_endian 1.0\nelement face 2\nproperty list uchar int v\nproperty char f\n"
        "element vertex 2\nproperty float x\nproperty float y\nproperty float z\nproperty list uchar short l\n"
        "end_header\n"
    )
    body = b"\x03" + np.arange(3, dtype=">i4").tobytes() + b"\x07\x01" + np.arange(1, dtype=">i4").tobytes() + b"\x07"
    row = np.arange(3, dtype=">f4").tobytes()
    return header.encode() + body + row + b"\x02" + np.arange(2, dtype=">i2").tobytes() + row + b"\x00"


def compressed_pcd() -> bytes:
    header = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 4\nHEIGHT 1\nPOINTS 4\nDATA binary_compressed\n"
    # Zeros: a literal of two bytes, then copies of them; the values follow as literals.
    block = bytes([1, 0, 0]) + bytes([0xE0, 21, 0]) + bytes([15]) + np.arange(4, dtype="<f4").tobytes()
    return header.encode() + np.array([len(block), 48], "<u4").tobytes() + block


def saved(content: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def npz(save: object) -> bytes:
    buffer = io.BytesIO()
    save(buffer, points=np.eye(3, dtype=np.float32), label=np.arange(3), pose=np.eye(4))  # type: ignore[operator]
    return buffer.getvalue()


POINTS = np.arange(12, dtype=np.float32).reshape(4, 3)
SEEDS = {
    "ply": lambda folder: written(folder, ".ply"),
    "ascii.ply": lambda folder: (ASCII_PLY + ASCII_ROWS + "3 0 1 2\n").encode(),
    "lists.ply": lambda folder: faces_first(),
    "pcd": lambda folder: written(folder, ".pcd"),
    "ascii.pcd": lambda folder: (ASCII_PCD + ASCII_ROWS).encode(),
    "compressed.pcd": lambda folder: compressed_pcd(),
    "npy": lambda folder: written(folder, ".npy"),
    "npz": lambda folder: npz(np.savez),
    "compressed.npz": lambda folder: npz(np.savez_compressed),
    "bin": lambda folder: POINTS.tobytes() + POINTS[:, :1].tobytes(),
    "csv": lambda folder: written(folder, ".csv"),
    "words.csv": lambda folder: b'x;y;z;name\n0,5;1,5;2;"a ""b"""\n1;2;3;c\n',
    "pts": lambda folder: b"2\n1 2 3 -5 1 2 3\n4 5 6 7 8 9 10\n",
    "array.pth": lambda folder: saved(POINTS),
    "dict.pth": lambda folder: saved({"points": torch.from_numpy(POINTS), "label": np.arange(4)}),
    "legacy.pth": lambda folder: saved({"points": torch.from_numpy(POINTS), "a": POINTS}, zipped=False),
    "obj": lambda folder: b"v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 1\nf 1//1 2//1 3//1\n",
    "off": lambda folder: b"OFF\n4 1 0\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n4 0 1 3 2\n",
    "stl": lambda folder: bytes(80) + np.uint32(1).tobytes() + np.eye(4, 3, dtype="<f4").tobytes() + b"\0\0",
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A cut, changed bytes, a repeated or removed piece, or another number in place of one."""
    kind = rng.integers(0, 5)
    start, stop = sorted(int(value) for value in rng.integers(0, len(data) + 1, 2))
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[stop:]
    if kind == 2:
        return data[:stop] + data[start:]
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(0, len(data)))
        if kind == 3:
            changed[place] = int(rng.integers(0, 256))
        else:
            changed[place : place + 1] = rng.choice(
                [b"9", b"-", b" ", b"\n", b"0", b"\xff\xff\xff\x7f", b",", b'"', b"e"]
            )
    return bytes(changed)


@pytest.mark.parametrize("seed_name", SEEDS)
def test_damaged_files_are_read_or_refused(tmp_path: Path, seed_name: str) -> None:
    data = SEEDS[seed_name](tmp_path)
    path = tmp_path / f"a.{seed_name.rpartition('.')[2]}"
    path.write_bytes(data)
    assert len(read_point_cloud(path, samples=5)) > 0
    rng = np.random.default_rng(zlib.crc32(seed_name.encode()))
    refused = 0
    for _ in range(ROUNDS):
        content = damaged(data, rng)
        path.write_bytes(content)
        try:
            cloud = read_point_cloud(path, samples=5)
        except REFUSALS as error:
            refused += 1
            assert "\n" not in str(error) and 10 < len(str(error)) < 600, content
            continue
        assert cloud.points.shape == (len(cloud), 3) and cloud.points.dtype == np.float64
        # Whatever was read can be moved and written, or is refused in the same words.
        target = tmp_path / f"b.{'ply' if path.suffix in ('.obj', '.off', '.stl') else path.suffix[1:]}"
        try:
            write_point_cloud(target, cloud.transformed(np.eye(4)))
        except REFUSALS:
            continue
        assert len(read_point_cloud(target)) == len(cloud)
    assert refused > 0


@pytest.mark.parametrize(
    "seed_name", [name for name in SEEDS if not name.endswith(("bin", "csv", "obj", "off", "npz"))]
)
def test_a_cut_is_always_noticed(tmp_path: Path, seed_name: str) -> None:
    data = SEEDS[seed_name](tmp_path)
    path = tmp_path / f"a.{seed_name.rpartition('.')[2]}"
    # The last byte of a text may be its line end, and torch's archives end in a comment-like directory.
    last = len(data) - (8 if seed_name.startswith("ascii") or seed_name == "pts" else 1)
    for length in sorted({*range(1, last, max(1, last // 40)), last}):
        path.write_bytes(data[:length])
        with pytest.raises(REFUSALS):
            read_point_cloud(path, samples=5)
