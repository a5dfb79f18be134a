"""PCD (Point Cloud Library): ascii, binary and compressed binary, versions 0.5 to 0.7.

A compressed file is written back as plain binary. Padding columns named `_` hold no data and do not survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cloud import PointCloud, cloud_from_columns
from .columns import narrow_coordinates, native_columns, parse_rows, row_lines, storable, structured
from .errors import UnreadableFileError
from .naming import columns_for

_MAX_HEADER = 1 << 20
_MAX_ROW = 100_000
_DTYPES = ("f4", "f8", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")
_VARIANTS = ("ascii", "binary", "binary_compressed")
_DEFAULT_VIEWPOINT = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
_FIRST_LINE = "# .PCD v0.7 - Point Cloud Data file format"


@dataclass(frozen=True)
class _Header:
    variant: str
    dtype: np.dtype[Any]  # one row; padding included
    padding: frozenset[str]
    points: int
    width: int
    height: int
    viewpoint: tuple[float, ...]
    comments: tuple[str, ...]
    size: int  # offset of the first byte after it


def read_pcd(name: str, data: bytes) -> PointCloud:
    """Cloud from the bytes of a PCD file; `name` is what messages call the file.

    Raises:
        UnreadableFileError: not a PCD file, truncated, or the header contradicts the content.
    """
    header = _parse_header(name, data)
    coordinates = _coordinates(name, header)
    if header.variant == "ascii":
        columns = _read_ascii(name, data, header, coordinates)
        declared = np.result_type(*(header.dtype[key].base for key in coordinates))
        columns = narrow_coordinates(columns, coordinates, declared)
    elif header.variant == "binary":
        needed, found = header.points * header.dtype.itemsize, len(data) - header.size
        if needed > found:
            raise UnreadableFileError(f"{name} is truncated: {header.points} points need {needed} bytes, found {found}")
        columns = native_columns(np.frombuffer(data, header.dtype, header.points, header.size))
    else:
        columns = _read_compressed(name, data, header)
    stated = header.viewpoint != _DEFAULT_VIEWPOINT
    details: dict[str, Any] = {"width": header.width, "height": header.height}
    if stated:
        details["viewpoint_quaternion"] = header.viewpoint[3:]
    return cloud_from_columns(
        {key: column for key, column in columns.items() if key not in header.padding},
        coordinates,
        viewpoint=np.array(header.viewpoint[:3]) if stated else None,
        format="pcd",
        variant=header.variant,
        comments=header.comments,
        details=details,
    )


def write_pcd(cloud: PointCloud) -> list[bytes]:
    """Bytes of a PCD file: ascii if the cloud was read from ascii PCD, else binary."""
    same = cloud.layout.format == "pcd"
    variant = "ascii" if same and cloud.layout.variant == "ascii" else "binary"
    columns = storable(columns_for(cloud, "pcd"), _DTYPES, "PCD")
    # COUNT knows one dimension.
    columns = {key: column.reshape(len(column), -1) if column.ndim > 2 else column for key, column in columns.items()}
    details = cloud.layout.details
    width, height = (details["width"], details["height"]) if same else (len(cloud), 1)
    if width * height != len(cloud):
        width, height = len(cloud), 1
    position = (0.0, 0.0, 0.0) if cloud.viewpoint is None else cloud.viewpoint.tolist()
    viewpoint = (*position, *details.get("viewpoint_quaternion", (1.0, 0.0, 0.0, 0.0)))
    lines = [
        *((cloud.layout.comments if same else ()) or (_FIRST_LINE,)),
        "VERSION 0.7",
        f"FIELDS {' '.join(columns)}",
        f"SIZE {' '.join(str(column.dtype.itemsize) for column in columns.values())}",
        f"TYPE {' '.join(column.dtype.kind.upper() for column in columns.values())}",
        f"COUNT {' '.join(str(column.shape[1] if column.ndim > 1 else 1) for column in columns.values())}",
        f"WIDTH {width}",
        f"HEIGHT {height}",
        f"VIEWPOINT {' '.join(f'{value:.17g}' for value in viewpoint)}",
        f"POINTS {len(cloud)}",
        f"DATA {variant}\n",
    ]
    body = row_lines(columns).encode() if variant == "ascii" else structured(columns).tobytes()
    return ["\n".join(lines).encode("utf-8", "surrogateescape"), body]


def _parse_header(name: str, data: bytes) -> _Header:
    entries: dict[str, list[str]] = {}
    comments: list[str] = []
    position = 0
    while "DATA" not in entries:
        stop = data.find(b"\n", position, _MAX_HEADER)
        if stop < 0:
            raise UnreadableFileError(f"{name}: the PCD header has no 'DATA' line; is this a whole PCD file?")
        line = data[position:stop].decode("utf-8", "surrogateescape").strip()
        position = stop + 1
        if line.startswith("#"):
            comments.append(line)
        elif line:
            key, *values = line.split()
            entries["FIELDS" if key == "COLUMNS" else key.upper()] = values
    variant = " ".join(entries["DATA"]).lower()
    if variant not in _VARIANTS:
        raise UnreadableFileError(f"{name}: PCD DATA must be one of {', '.join(_VARIANTS)}, got {variant[:40]!r}")
    dtype, padding = _row_dtype(name, entries)
    width = _whole_number(name, entries, "WIDTH", default=None)
    height = _whole_number(name, entries, "HEIGHT", default=1)
    points = _whole_number(name, entries, "POINTS", default=width * height)
    if width * height != points:
        raise UnreadableFileError(f"{name}: PCD WIDTH {width} x HEIGHT {height} is not POINTS {points}")
    viewpoint = _parse_viewpoint(name, entries)
    return _Header(variant, dtype, padding, points, width, height, viewpoint, tuple(comments), position)


def _row_dtype(name: str, entries: dict[str, list[str]]) -> tuple[np.dtype[Any], frozenset[str]]:
    fields = entries.get("FIELDS", [])
    sizes, types = entries.get("SIZE", []), entries.get("TYPE", [])
    counts = entries.get("COUNT", ["1"] * len(fields))
    if not fields or not len(fields) == len(sizes) == len(types) == len(counts):
        raise UnreadableFileError(
            f"{name}: PCD needs as many SIZE, TYPE and COUNT entries as FIELDS, "
            f"got {len(sizes)}, {len(types)}, {len(counts)} for {len(fields)}"
        )
    rows: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    padding = set()
    total = 0
    for index, (field, size, kind, count) in enumerate(zip(fields, sizes, types, counts, strict=True)):
        code = f"{kind.lower()}{size}"
        if code not in _DTYPES or not count.isascii() or not count.isdigit() or len(count) > 9:
            raise UnreadableFileError(
                f"{name}: PCD field {field[:40]!r} has TYPE {kind[:10]} SIZE {size[:10]} COUNT {count[:10]}"
            )
        key = field
        if field == "_":
            key = f"_{index}"
            padding.add(key)
        if any(key == row[0] for row in rows):
            raise UnreadableFileError(f"{name}: the PCD field {field[:40]!r} appears twice")
        if (total := total + max(int(count), 1)) > _MAX_ROW:
            raise UnreadableFileError(f"{name}: the PCD header declares more than {_MAX_ROW} values per point")
        repeat = max(int(count), 1)
        rows.append((key, f"<{code}") if repeat == 1 else (key, f"<{code}", (repeat,)))
    return np.dtype(rows), frozenset(padding)


def _whole_number(name: str, entries: dict[str, list[str]], key: str, *, default: int | None) -> int:
    values = entries.get(key, [])
    if not values and default is not None:
        return default
    if len(values) != 1 or not values[0].isascii() or not values[0].isdigit() or len(values[0]) > 18:
        raise UnreadableFileError(f"{name}: PCD {key} must be a whole number, got {' '.join(values)[:40]!r}")
    return int(values[0])


def _parse_viewpoint(name: str, entries: dict[str, list[str]]) -> tuple[float, ...]:
    values = entries.get("VIEWPOINT", [])
    if not values:
        return _DEFAULT_VIEWPOINT
    try:
        viewpoint = tuple(map(float, values))
    except ValueError:
        viewpoint = ()
    if len(viewpoint) != 7 or not np.isfinite(viewpoint).all() or not any(viewpoint[3:]):
        raise UnreadableFileError(f"{name}: PCD VIEWPOINT needs 7 numbers, got {' '.join(values)[:80]!r}")
    return viewpoint


def _coordinates(name: str, header: _Header) -> tuple[str, str, str]:
    names = [key for key in header.dtype.names or () if header.dtype[key].shape == ()]
    found = {key.lower(): key for key in reversed(names)}
    if not {"x", "y", "z"} <= set(found):
        raise UnreadableFileError(f"{name}: the PCD fields hold no x, y, z (fields: {', '.join(names)[:120]})")
    return found["x"], found["y"], found["z"]


def _read_ascii(name: str, data: bytes, header: _Header, coordinates: tuple[str, str, str]) -> dict[str, np.ndarray]:
    lines = [line for line in data[header.size :].decode("latin-1").replace("\r", "\n").split("\n") if line.strip()]
    if len(lines) < header.points:
        raise UnreadableFileError(f"{name} is truncated: expected {header.points} points, found {len(lines)}")
    # Coordinates are parsed in full; narrow_coordinates decides what the declared type may cut off.
    wide = []
    for key in header.dtype.names or ():
        base, shape = header.dtype[key].base, header.dtype[key].shape
        wide.append((key, "f8" if key in coordinates and base.kind == "f" else base.newbyteorder("="), shape))
    return native_columns(parse_rows(name, lines[: header.points], np.dtype(wide), "points"))


def _read_compressed(name: str, data: bytes, header: _Header) -> dict[str, np.ndarray]:
    """Columns of the compressed body: two uint32 sizes, then one LZF block with column after column."""
    from .io_lzf import lzf_decompress

    needed = header.points * header.dtype.itemsize
    body = data[header.size :]
    if len(body) < 8:
        raise UnreadableFileError(f"{name} is truncated: the compressed PCD body has {len(body)} bytes")
    packed, size = (int(value) for value in np.frombuffer(body, "<u4", 2))
    if size != needed:
        raise UnreadableFileError(f"{name}: {header.points} points need {needed} bytes, the PCD body declares {size}")
    if packed > len(body) - 8:
        raise UnreadableFileError(f"{name} is truncated: expected {packed} compressed bytes, found {len(body) - 8}")
    block = lzf_decompress(body[8 : 8 + packed], size) if size else b""
    if block is None:
        raise UnreadableFileError(f"{name}: the compressed PCD data is damaged")
    columns = {}
    offset = 0
    for key in header.dtype.names or ():
        base, shape = header.dtype[key].base, header.dtype[key].shape
        flat = np.frombuffer(block, base, header.points * int(np.prod(shape, dtype=np.int64)), offset)
        offset += flat.nbytes
        columns[key] = flat.reshape(header.points, *shape).astype(base.newbyteorder("="))
    return columns
