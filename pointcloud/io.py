"""Reading and writing point clouds: the front door of all formats.

| extension | content | note |
|---|---|---|
| .ply | ascii, binary little and big endian | the vertices, also of meshes |
| .pcd | ascii, binary, compressed binary | compressed input is written back as plain binary |
| .npy .npz | tables (N, 3 or more), structured arrays | nothing pickled is loaded |
| .xyz .txt .csv .pts .asc | columns of text | a header row or comment names the columns |
| .bin | KITTI: x y z intensity | |
| .pth .pt | PyTorch files with arrays or tensors | nothing pickled is executed |
| .obj .stl .off | meshes, sampled by area | read only; faceless ones give their vertices |
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from .cloud import PointCloud, storage_dtype
from .errors import InputError, UnreadableFileError
from .io_arrays import read_kitti, read_npy, read_npz, write_kitti, write_npy, write_npz
from .io_mesh import read_mesh
from .io_objects import cloud_from_object
from .io_pcd import read_pcd, write_pcd
from .io_ply import read_ply, write_ply
from .io_text import read_text, write_text
from .io_torch import read_torch, write_torch

__all__ = ["PointCloud", "as_point_cloud", "output_extension", "read_point_cloud", "write_point_cloud"]

_TEXT = ("xyz", "txt", "csv", "pts", "asc")
_MESHES = ("obj", "stl", "off")
_READERS: dict[str, Callable[[str, bytes], PointCloud]] = {
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".npy": read_npy,
    ".npz": read_npz,
    **{f".{kind}": partial(read_text, kind=kind) for kind in _TEXT},
    ".bin": read_kitti,
    ".pth": read_torch,
    ".pt": read_torch,
}
_WRITERS: dict[str, Callable[[PointCloud], list[bytes]]] = {
    ".ply": write_ply,
    ".pcd": write_pcd,
    ".npy": write_npy,
    ".npz": write_npz,
    **{f".{kind}": partial(write_text, kind=kind) for kind in _TEXT},
    ".bin": write_kitti,
    ".pth": write_torch,
    ".pt": write_torch,
}
_FOREIGN = {
    ".las": "LAS files are not supported; convert with 'pdal translate a.las a.ply' or CloudCompare",
    ".laz": "LAZ files are not supported; convert with 'pdal translate a.laz a.ply' or CloudCompare",
    ".e57": "E57 files are not supported; convert with 'pdal translate a.e57 a.ply' or CloudCompare",
    ".gz": "compressed files are not supported; decompress it first",
    ".zip": "archives are not supported; unpack it first",
}
# First bytes that tell a format: extension and what to call it.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"ply\n", ".ply", "a PLY file"),
    (b"ply\r", ".ply", "a PLY file"),
    (b"# .PCD", ".pcd", "a PCD file"),
    (b"# .pcd", ".pcd", "a PCD file"),
    (b"\x93NUMPY", ".npy", "an NPY file"),
    (b"LASF", ".las", "a LAS file"),
    (b"ASTM-E57", ".e57", "an E57 file"),
    (b"\x1f\x8b", ".gz", "a gzip file"),
    (b"<!DOCTYPE", "", "a web page"),
    (b"<html", "", "a web page"),
    (b"version https://git-lfs", "", "a Git LFS pointer; run 'git lfs pull'"),
)
# Enough names for a suggestion; a folder may hold millions.
_MAX_NAMES = 20_000


def read_point_cloud(path: str | os.PathLike[str], *, samples: int = 100_000, seed: int = 0) -> PointCloud:
    """Read a cloud with all its attributes; rows keep their order and NaN rows stay.

    The extension decides; a file with an unknown one is read when its first bytes say PLY, PCD or NPY.

    Args:
        path: file to read.
        samples: number of points drawn from the surface of .obj, .stl and .off meshes.
        seed: equal seeds draw equal points.
    Returns:
        The cloud, in the file's unit and frame.
    Raises:
        FileNotFoundError: no such file; the message names the nearest one in that folder.
        InputError: a folder, no permission, an empty file, or content that is no table of points.
        UnreadableFileError: unknown or unsupported format, damaged or truncated file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.csv").write_text("x,y,z,label\\n0,0,0.5,7\\n1,0,0.5,8\\n")
    ...     cloud = read_point_cloud(Path(folder, "a.csv"))
    >>> cloud.points.tolist(), cloud.attributes["label"].tolist()
    ([[0.0, 0.0, 0.5], [1.0, 0.0, 0.5]], [7, 8])
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    path = Path(path)
    name = repr(str(path))
    data = _read_bytes(path, name)
    extension = _format_extension(path, name, data)
    if extension in _READERS:
        cloud = _READERS[extension](name, data)
    else:
        cloud = read_mesh(name, data, kind=extension.removeprefix("."), samples=samples, seed=seed)
    return replace(cloud, path=path)


def write_point_cloud(path: str | os.PathLike[str], cloud: PointCloud) -> None:
    """Write a cloud; the extension decides the format, and the file appears whole or not at all.

    In the format it was read from, a cloud keeps the file's variant, comments, names, order and dtypes of the columns:
    every attribute comes back bit for bit. Coordinates keep the file's dtype unless the cloud was moved to where it
    would round them more coarsely than both the file did and 1e-6 of the extent; then they are written as float64.
    Another format gets its usual column names, and PLY and PCD become binary. PLY, npy and text hold no viewpoint.

    Args:
        path: file to write; an existing one is replaced.
        cloud: what to write.
    Raises:
        FileNotFoundError: the folder does not exist.
        InputError: no permission, or the format cannot hold an attribute or the coordinates; nothing is written.
        UnreadableFileError: no writer for this extension.
    """
    path = Path(path)
    name = repr(str(path))
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise UnreadableFileError(f"cannot write {name}: expected an extension among {', '.join(_WRITERS)}")
    chunks = writer(cloud)
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        try:
            with open(temporary, "xb") as stream:
                stream.writelines(chunks)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot write {name}: no such folder {str(path.parent)!r}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {name}: {_reason(error)}") from None


def output_extension(cloud: PointCloud) -> str:
    """Extension under which the cloud keeps everything: its file's own, or .ply where that cannot hold it.

    The latter are sampled meshes, clouds from arrays, and KITTI scans moved too far for float32.

    >>> output_extension(PointCloud(np.eye(3)))
    '.ply'
    """
    extension = "" if cloud.path is None else cloud.path.suffix.lower()
    rounded = extension == ".bin" and storage_dtype(cloud) == np.float64
    return ".ply" if extension not in _WRITERS or rounded else extension


def as_point_cloud(obj: Any, *, samples: int = 100_000, seed: int = 0) -> PointCloud:
    """A `PointCloud` from whatever a user has at hand; the input is never changed nor shared.

    Args:
        obj: a path, a `PointCloud` (returned as it is), an (N, 3) array, sequence or torch tensor, or an object with
            `.points` like Open3D's clouds, whose normals and colours come along (colours as 8 bits).
        samples: see `read_point_cloud`.
        seed: see `read_point_cloud`.
    Raises:
        TypeError: none of these.
        InputError: an array of another shape or no real numbers.

    >>> as_point_cloud([[0, 0, 0], [1, 2, 3]]).points.shape
    (2, 3)
    """
    if isinstance(obj, PointCloud):
        return obj
    if isinstance(obj, (str, os.PathLike)):
        return read_point_cloud(obj, samples=samples, seed=seed)
    return cloud_from_object(obj)


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"cannot open {name}: it is a folder, expected a point cloud file")
        if not stat.S_ISREG(mode):
            raise InputError(f"cannot open {name}: it is no regular file")
        _refuse_foreign(name, path.suffix.lower())
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(_missing_message(path, name)) from None
    except OSError as error:
        raise InputError(f"cannot open {name}: {_reason(error)}") from None
    except ValueError as error:
        if isinstance(error, (InputError, UnreadableFileError)):
            raise
        # A path with a zero byte in it.
        raise InputError(f"cannot open {name}: {_reason(error)}") from None
    if not data:
        raise InputError(f"{name} is empty (0 bytes)")
    return data


def _missing_message(path: Path, name: str) -> str:
    try:
        with os.scandir(path.parent) as entries:
            names = sorted(entry.name for entry in islice(entries, _MAX_NAMES))
    except OSError:
        return f"cannot open {name}: no such folder {str(path.parent)!r}"
    lowered = {entry.lower(): entry for entry in reversed(names)}
    close = difflib.get_close_matches(path.name.lower(), lowered, n=1)
    hint = f". Did you mean {str(path.with_name(lowered[close[0]]))!r}?" if close else ""
    return f"cannot open {name}: no such file{hint}"


def _refuse_foreign(name: str, extension: str) -> None:
    if extension in _FOREIGN:
        raise UnreadableFileError(f"cannot read {name}: {_FOREIGN[extension]}")


def _format_extension(path: Path, name: str, data: bytes) -> str:
    """The extension whose reader shall read the file."""
    extension = path.suffix.lower()
    stated, kind = next(((ext, kind) for magic, ext, kind in _MAGIC if data.startswith(magic)), ("", ""))
    _refuse_foreign(name, stated)
    known = [*_READERS, *(f".{mesh}" for mesh in _MESHES)]
    if extension in known:
        if kind and stated != extension:
            raise UnreadableFileError(f"{name} is {kind}, not what its extension '{extension}' promises")
        return extension
    if stated in _READERS:
        return stated
    raise UnreadableFileError(f"{name}: unknown extension {extension!r}; expected one of {', '.join(known)}")


def _reason(error: OSError | ValueError) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]
