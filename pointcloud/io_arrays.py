"""Raw arrays: npy, npz and KITTI bin. Pickled objects inside npy and npz are never loaded."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .cloud import PointCloud, cloud_from_columns, columns_from_cloud, rounding_step, storage_dtype, unnamed_columns
from .columns import Order, native_columns, one_line, structured
from .errors import InputError, UnreadableFileError
from .naming import columns_for

_POINT_KEYS = ("points", "xyz", "point", "pts", "pcd", "pc", "coords", "coord", "positions", "pos", "vertices", "arr_0")
_KITTI_ROW = 16  # bytes: x y z intensity, float32
_NUSCENES_ROW = 20
# No date, so that equal clouds give equal bytes; 1980 is the earliest a zip file knows.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def read_npy(name: str, data: bytes) -> PointCloud:
    """Cloud from npy bytes: (N, 3) or wider rows x y z ..., or a structured array with fields x, y, z.

    Raises:
        UnreadableFileError: damaged, truncated, or it holds pickled objects.
        InputError: the array is no table of points.
    """
    return cloud_from_array(name, _parse_npy(name, data), format="npy")


def write_npy(cloud: PointCloud) -> list[bytes]:
    """Bytes of an npy file: a plain table or a structured array, see `array_from_cloud`."""
    return [_npy_bytes(array_from_cloud(cloud, "npy"))]


def cloud_from_array(
    name: str, array: np.ndarray, *, format: str, details: Mapping[str, Any] | None = None
) -> PointCloud:
    """Cloud from a table: structured with fields x, y, z, or (N, 3) and wider with the coordinates first.

    Raises:
        InputError: wrong shape or type; the message says which.
    """
    if array.dtype.names is None:
        require_table(name, array)
        order = ">" if array.dtype.str.startswith(">") else "<"
        columns = unnamed_columns(array.astype(array.dtype.newbyteorder("="), copy=False))
        details = {"byteorder": order, **(details or {})}
        return cloud_from_columns(columns, format=format, variant="table", details=details)
    names = array.dtype.names
    found = {key.lower(): key for key in reversed(names)}
    if array.ndim != 1 or not {"x", "y", "z"} <= set(found):
        raise InputError(
            f"{name}: expected a structured array of shape (N,) with fields x, y, z, "
            f"got shape {array.shape} with fields {', '.join(names)[:120]}"
        )
    coordinates = found["x"], found["y"], found["z"]
    columns = native_columns(array)
    if any(columns[key].ndim != 1 or columns[key].dtype.kind not in "iuf" for key in coordinates):
        raise InputError(f"{name}: the fields x, y, z must be plain numbers")
    order = ">" if array.dtype[coordinates[0]].str.startswith(">") else "<"
    details = {"byteorder": order, **(details or {})}
    return cloud_from_columns(columns, coordinates, format=format, variant="records", details=details)


def array_from_cloud(cloud: PointCloud, format: str) -> np.ndarray:
    """The inverse of `cloud_from_array`.

    A cloud of another format becomes (N, 3) when it has no attributes and a structured array otherwise. A table stays
    one table, so all its columns widen together when the coordinates have to.
    """
    same = cloud.layout.format == format
    order: Order = cloud.layout.details["byteorder"] if same else "<"
    columns = columns_for(cloud, format)
    dtype = np.result_type(*(column.dtype for column in columns.values()))
    known = all(name in cloud.layout.fields for name in cloud.attributes)
    if (same and known and cloud.layout.variant == "table") or not cloud.attributes:
        table = np.stack([column.astype(dtype) for column in columns.values()], axis=1)
        return table.astype(dtype.newbyteorder(order), copy=False)
    return structured(columns, order)


def require_table(name: str, array: np.ndarray) -> None:
    """Raise InputError unless the array is a table of real numbers with at least three columns."""
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise InputError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.ndim == 2 and array.shape[1] >= 3:
        return
    hint = "; transpose it first" if array.ndim == 2 and array.shape[0] == 3 else ""
    raise InputError(f"{name}: expected an array of shape (N, 3) or wider, got {array.shape}{hint}")


def find_points(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Key of the array that holds the points: a usual name, else the only array of shape (N, 3).

    Raises:
        InputError: none, or several candidates.
    """
    tables = {key for key, array in arrays.items() if array.ndim == 2 and array.shape[1] >= 3}
    usual = {key.lower(): key for key in arrays if key in tables or arrays[key].dtype.names}
    for key in _POINT_KEYS:
        if key in usual:
            return usual[key]
    candidates = [key for key in arrays if key in tables and arrays[key].shape[1] == 3]
    if len(candidates) == 1:
        return candidates[0]
    shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())[:200] or "nothing readable"
    raise InputError(f"{name}: expected one array named 'points' of shape (N, 3), found {shapes}")


def read_npz(name: str, data: bytes) -> PointCloud:
    """Cloud from npz bytes: the array found by `find_points`; other arrays with as many rows become attributes.

    Members that are no plain array of N rows (settings, poses, pickled objects) are never interpreted: they are kept as
    bytes and written back.

    Raises:
        UnreadableFileError: damaged or unsupported archive.
        InputError: no array, or more than one, could be the points.
    """
    members: dict[str, bytes] = {}
    compressed = False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                compressed |= info.compress_type != zipfile.ZIP_STORED
                members[info.filename] = archive.read(info)
    # RuntimeError: encrypted; NotImplementedError: unknown compression; the others: damage of all kinds.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError) as error:
        raise UnreadableFileError(f"{name} is a damaged or unsupported npz archive: {one_line(error)}") from None
    arrays: dict[str, np.ndarray] = {}
    for member, content in members.items():
        key = member.removesuffix(".npy")
        if member.endswith(".npy") and not _parse_header(f"{name}, array {key!r}", content)[2].hasobject:
            arrays[key] = _parse_npy(f"{name}, array {key!r}", content)
    key = find_points(name, arrays)
    points = cloud_from_array(f"{name}, array {key!r}", arrays[key], format="npz")
    columns = columns_from_cloud(points)
    table = tuple(columns)
    for other, array in arrays.items():
        if other != key and other not in columns and array.shape[:1] == (len(points),) and array.dtype.names is None:
            columns[other] = array.astype(array.dtype.newbyteorder("="), copy=False)
    rest = {
        member: None if member.removesuffix(".npy") in {*columns, key} - set(table) else content
        for member, content in members.items()
    }
    details = {**points.layout.details, "key": key, "table": table, "members": rest, "compressed": compressed}
    return cloud_from_columns(
        columns, points.layout.coordinates, format="npz", variant=points.layout.variant, details=details
    )


def write_npz(cloud: PointCloud) -> list[bytes]:
    """Bytes of an npz file: the points under the file's own key (else `points`), one array per attribute."""
    columns = columns_for(cloud, "npz")
    details = cloud.layout.details if cloud.layout.format == "npz" else {}
    table = {key: columns.pop(key) for key in details.get("table", ("x", "y", "z"))}
    if cloud.layout.format == "npz" and cloud.layout.variant == "records":
        points = structured(table, details["byteorder"])
    else:
        dtype = np.result_type(*(column.dtype for column in table.values())).newbyteorder(details.get("byteorder", "<"))
        points = np.stack([column.astype(dtype) for column in table.values()], axis=1)
    arrays = {
        f"{details.get('key', 'points')}.npy": points,
        **{f"{key}.npy": column for key, column in columns.items()},
    }
    kept = details.get("members", {})
    method = zipfile.ZIP_DEFLATED if details.get("compressed", False) else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member in [*kept, *(member for member in arrays if member not in kept)]:
            content = kept.get(member) or (_npy_bytes(arrays[member]) if member in arrays else None)
            if content is not None:
                archive.writestr(zipfile.ZipInfo(member, _ZIP_DATE), content, method)
    return [buffer.getvalue()]


def read_kitti(name: str, data: bytes) -> PointCloud:
    """Cloud from the rows x y z intensity (float32, little endian) of a KITTI Velodyne scan.

    Raises:
        UnreadableFileError: the size is no multiple of 16 bytes.
    """
    if len(data) % _KITTI_ROW:
        hint = "; nuScenes scans have 20-byte rows, save them as .npy" if len(data) % _NUSCENES_ROW == 0 else ""
        raise UnreadableFileError(f"{name}: expected a multiple of {_KITTI_ROW} bytes, got {len(data)} bytes{hint}")
    rows = np.frombuffer(data, "<f4").reshape(-1, 4).astype(np.float32)
    columns = dict(zip(("x", "y", "z", "intensity"), rows.T, strict=True))
    return cloud_from_columns(columns, format="kitti")


def write_kitti(cloud: PointCloud) -> list[bytes]:
    """Bytes of a KITTI scan; a missing intensity is written as 0.

    Raises:
        InputError: another attribute, or coordinates that float32 would round away.
    """
    others = [name for name in cloud.attributes if name != "intensity"]
    if others:
        raise InputError(f"KITTI .bin cannot store the columns {', '.join(others)[:120]}; write .ply or .pcd")
    if storage_dtype(cloud) == np.float64:
        step = rounding_step(cloud.points, np.dtype(np.float32))
        raise InputError(f"KITTI .bin is float32 and would round these coordinates to {step:.2g}; write .ply or .npy")
    rows = np.zeros((len(cloud), 4), "<f4")
    rows[:, :3] = cloud.points
    rows[:, 3] = cloud.attributes.get("intensity", 0.0)
    return [rows.tobytes()]


def _parse_header(name: str, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, column-major or not, dtype, and the offset of the first element."""
    stream = io.BytesIO(data)
    try:
        # Files from Python 2 make numpy warn that their header needed a second look.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(stream)
            # Versions 2 and 3 differ in the encoding of field names only.
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
    # NumPy tokenizes and evaluates the header as Python, so damage may raise anything.
    except Exception as error:
        raise UnreadableFileError(f"{name} is no valid npy file: {one_line(error)}") from None
    return shape, fortran, dtype, stream.tell()


def _parse_npy(name: str, data: bytes) -> np.ndarray:
    shape, fortran, dtype, start = _parse_header(name, data)
    if dtype.hasobject:
        raise UnreadableFileError(f"{name} holds pickled Python objects, which are never loaded; save plain numbers")
    count = 1
    for length in shape:
        count *= length
    found = len(data) - start
    if any(length < 0 for length in shape) or count * dtype.itemsize > found:
        raise UnreadableFileError(
            f"{name} is truncated: shape {shape} of {dtype} needs {count * dtype.itemsize} bytes, found {found}"
        )
    if dtype.itemsize == 0:
        raise UnreadableFileError(f"{name} holds elements of no size ({dtype})")
    flat = np.frombuffer(data, dtype, count, start)
    return flat.reshape(shape, order="F" if fortran else "C")


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
