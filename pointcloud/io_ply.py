"""PLY: ascii and both binary byte orders. Only the vertices become points, faces or not.

Comments, `obj_info` and the other elements (faces, edges, ...) are kept as raw bytes and written back while the number
of vertices is unchanged. List properties of the vertex itself are skipped and do not survive, nor does a `camera`
element: it holds a pose that would no longer be true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cloud import PointCloud, cloud_from_columns
from .columns import (
    Order,
    flat_columns,
    narrow_coordinates,
    native_columns,
    one_line,
    parse_rows,
    row_lines,
    storable,
    structured,
)
from .errors import UnreadableFileError
from .naming import columns_for

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_NAMES = {code: name for name, code in _TYPES.items() if not name[-1].isdigit()}
# In order of preference for a column whose own type PLY does not know.
_DTYPES = ("i4", "i2", "i1", "u4", "u2", "u1", "f4", "f8")
_ORDERS: dict[str, Order] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 1 << 20


@dataclass(frozen=True)
class _Property:
    name: str
    code: str
    length_code: str  # empty unless this is a list

    @property
    def line(self) -> str:
        kind = f"list {_NAMES[self.length_code]} {_NAMES[self.code]}" if self.length_code else _NAMES[self.code]
        return f"property {kind} {self.name}"


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]

    @property
    def has_lists(self) -> bool:
        return any(item.length_code for item in self.properties)

    @property
    def smallest_row(self) -> int:
        """Bytes of a binary row; with lists, of a row whose lists are all empty."""
        return sum(int((item.length_code or item.code)[1]) for item in self.properties)

    @property
    def header(self) -> str:
        return "\n".join([f"element {self.name} {self.count}", *(item.line for item in self.properties)])

    def dtype(self, order: str) -> np.dtype[Any]:
        return np.dtype([(item.name, order + item.code) for item in self.properties if not item.length_code])


@dataclass(frozen=True)
class _Header:
    variant: str
    elements: list[_Element]
    comments: tuple[str, ...]
    size: int  # offset of the first byte after it


def read_ply(name: str, data: bytes) -> PointCloud:
    """Cloud from the bytes of a PLY file; `name` is what messages call the file.

    Raises:
        UnreadableFileError: not a PLY file, truncated, or the header contradicts the content.
    """
    header = _parse_header(name, data)
    vertex = next((element for element in header.elements if element.name == "vertex"), None)
    if vertex is None:
        found = ", ".join(element.name for element in header.elements) or "none"
        raise UnreadableFileError(f"{name}: the PLY header has no 'vertex' element (elements: {found})")
    coordinates = _coordinates(name, vertex)
    read_body = _read_ascii if header.variant == "ascii" else _read_binary
    rows, pieces = read_body(name, data, header)
    columns = native_columns(rows["vertex"])
    if header.variant == "ascii":
        declared = np.result_type(*(vertex.dtype("=")[key] for key in coordinates))
        columns = narrow_coordinates(columns, coordinates, declared)
    others = [element for element in header.elements if element.name != "camera"]
    place = others.index(vertex)
    kept = [(element.header, pieces[element.name]) for element in others if element is not vertex]
    return cloud_from_columns(
        columns,
        coordinates,
        viewpoint=_camera_position(rows.get("camera")),
        format="ply",
        variant=header.variant,
        comments=header.comments,
        details={"before": kept[:place], "after": kept[place:]},
    )


def write_ply(cloud: PointCloud) -> list[bytes]:
    """Bytes of a PLY file, in the variant the cloud was read from; binary little endian for other clouds."""
    same = cloud.layout.format == "ply"
    variant = cloud.layout.variant if same else "binary_little_endian"
    columns = storable(flat_columns(columns_for(cloud, "ply")), _DTYPES, "PLY")
    keep = same and cloud.layout.count == len(cloud)
    before = cloud.layout.details["before"] if keep else []
    after = cloud.layout.details["after"] if keep else []
    lines = ["ply", f"format {variant} 1.0", *(cloud.layout.comments if same else ())]
    lines += [text for text, _ in before]
    lines.append(f"element vertex {len(cloud)}")
    lines += [f"property {_NAMES[column.dtype.str[1:]]} {key}" for key, column in columns.items()]
    lines += [text for text, _ in after]
    lines.append("end_header\n")
    body = row_lines(columns).encode() if variant == "ascii" else structured(columns, _ORDERS[variant]).tobytes()
    header = "\n".join(lines).encode("utf-8", "surrogateescape")
    return [header, *(piece for _, piece in before), body, *(piece for _, piece in after)]


def _parse_header(name: str, data: bytes) -> _Header:
    newline = b"\r\n" if data[:5] == b"ply\r\n" else data[3:4]
    if data[:3] != b"ply" or newline not in (b"\n", b"\r\n", b"\r", b" "):
        raise UnreadableFileError(f"{name} does not start with the word 'ply'; is it a PLY file?")
    newline = b"\n" if newline == b" " else newline
    end = data.find(newline + b"end_header", 0, _MAX_HEADER)
    stop = data.find(newline, end + len(newline)) if end >= 0 else -1
    if end < 0 or (stop < 0 and data[end + len(newline) :].strip() != b"end_header"):
        raise UnreadableFileError(f"{name}: the PLY header has no 'end_header' line; is the file truncated?")
    variant = ""
    elements: list[_Element] = []
    comments: list[str] = []
    for line in data[:end].decode("utf-8", "surrogateescape").split(newline.decode())[1:]:
        words = line.split()
        if not words:
            continue
        if words[0] in ("comment", "obj_info"):
            comments.append(line.strip())
        elif words[0] == "format":
            variant = words[1] if len(words) > 1 else ""
        elif words[0] == "element":
            elements.append(_parse_element(name, line, words))
        elif words[0] == "property" and elements:
            elements[-1].properties.append(_parse_property(name, line, words, elements[-1]))
        else:
            raise UnreadableFileError(f"{name}: unexpected line in the PLY header: {line.strip()[:80]!r}")
    if variant not in _ORDERS:
        raise UnreadableFileError(f"{name}: PLY format must be one of {', '.join(_ORDERS)}, got {variant[:40]!r}")
    if len({element.name for element in elements}) < len(elements):
        raise UnreadableFileError(f"{name}: the PLY header declares an element twice")
    return _Header(variant, elements, tuple(comments), len(data) if stop < 0 else stop + len(newline))


def _parse_element(name: str, line: str, words: list[str]) -> _Element:
    if len(words) != 3 or not words[2].isascii() or not words[2].isdigit() or len(words[2]) > 18:
        raise UnreadableFileError(f"{name}: expected 'element NAME COUNT' in the PLY header, got {line.strip()[:80]!r}")
    return _Element(words[1], int(words[2]), [])


def _parse_property(name: str, line: str, words: list[str], element: _Element) -> _Property:
    is_list = len(words) == 5 and words[1] == "list"
    kinds = words[2:4] if is_list else words[1:2]
    if not (is_list or len(words) == 3) or any(kind not in _TYPES for kind in kinds):
        raise UnreadableFileError(f"{name}: cannot understand the PLY header line {line.strip()[:80]!r}")
    if any(item.name == words[-1] for item in element.properties):
        raise UnreadableFileError(f"{name}: the PLY element '{element.name}' has two properties {words[-1][:40]!r}")
    if is_list and _TYPES[words[2]][0] == "f":
        raise UnreadableFileError(f"{name}: a PLY list needs an integer length, got {line.strip()[:80]!r}")
    return _Property(words[-1], _TYPES[kinds[-1]], _TYPES[kinds[0]] if is_list else "")


def _coordinates(name: str, vertex: _Element) -> tuple[str, str, str]:
    names = [item.name for item in vertex.properties if not item.length_code]
    found = {key.lower(): key for key in reversed(names)}
    if not {"x", "y", "z"} <= set(found):
        raise UnreadableFileError(f"{name}: the PLY vertices have no x, y, z (properties: {', '.join(names)[:120]})")
    return found["x"], found["y"], found["z"]


def _read_binary(name: str, data: bytes, header: _Header) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    order = _ORDERS[header.variant]
    rows: dict[str, np.ndarray] = {}
    pieces: dict[str, bytes] = {}
    offset = header.size
    for element in header.elements:
        needed = element.count * element.smallest_row
        if needed > len(data) - offset:
            raise UnreadableFileError(
                f"{name} is truncated: {element.count} '{element.name}' rows need {needed} bytes, "
                f"found {len(data) - offset}"
            )
        dtype = element.dtype(order)
        if not element.has_lists:
            if element.properties:
                rows[element.name] = np.frombuffer(data, dtype, element.count, offset)
            end = offset + needed
        else:
            spans, end = _walk_lists(name, data, offset, element, order)
            if element.name == "vertex":
                rows[element.name] = np.frombuffer(b"".join(data[start:stop] for start, stop in spans), dtype)
        pieces[element.name] = b"" if element.name == "vertex" else data[offset:end]
        offset = end
    return rows, pieces


def _walk_lists(
    name: str, data: bytes, offset: int, element: _Element, order: str
) -> tuple[list[tuple[int, int]], int]:
    """Byte spans of the scalar properties, row by row, and the offset after the last row."""
    byteorder: Any = "little" if order == "<" else "big"
    spans: list[tuple[int, int]] = []
    wanted = element.name == "vertex"
    position = _skip_equal_lists(data, offset, element, order) if not wanted else None
    if position is not None:
        return spans, position
    position = offset
    for row in range(element.count):
        for item in element.properties:
            width = int(item.code[1])
            if item.length_code:
                head = int(item.length_code[1])
                length = int.from_bytes(data[position : position + head], byteorder, signed=item.length_code[0] == "i")
                if length < 0:
                    raise UnreadableFileError(f"{name}: '{element.name}' row {row} has a list of length {length}")
                width = head + length * width
            elif wanted:
                spans.append((position, position + width))
            position += width
        if position > len(data):
            raise UnreadableFileError(
                f"{name} is truncated: expected {element.count} '{element.name}' rows, found {row}"
            )
    return spans, position


def _skip_equal_lists(data: bytes, offset: int, element: _Element, order: str) -> int | None:
    """Offset after an element with one list whose rows are all as long as the first (triangles); None otherwise."""
    if len(element.properties) != 1 or element.count == 0:
        return None
    item = element.properties[0]
    first = int(np.frombuffer(data, order + item.length_code, 1, offset)[0])
    size = int(item.length_code[1]) + first * int(item.code[1])
    if first < 0 or size * element.count > len(data) - offset:
        return None
    view = np.dtype({"names": ["length"], "formats": [order + item.length_code], "itemsize": size})
    lengths = np.frombuffer(data, view, element.count, offset)["length"]
    return offset + size * element.count if np.all(lengths == first) else None


def _read_ascii(name: str, data: bytes, header: _Header) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    lines = [line for line in data[header.size :].decode("latin-1").replace("\r", "\n").split("\n") if line.strip()]
    rows: dict[str, np.ndarray] = {}
    pieces: dict[str, bytes] = {}
    start = 0
    for element in header.elements:
        own = lines[start : start + element.count] if element.properties else []
        if element.properties and len(own) < element.count:
            raise UnreadableFileError(
                f"{name} is truncated: expected {element.count} '{element.name}' rows, found {len(own)}"
            )
        start += len(own)
        if element.name != "vertex":
            pieces[element.name] = "".join(f"{line}\n" for line in own).encode("latin-1")
        if element.name == "vertex" or (element.properties and not element.has_lists):
            rows[element.name] = _parse_element_rows(name, own, element)
    return rows, pieces


def _parse_element_rows(name: str, lines: list[str], element: _Element) -> np.ndarray:
    if element.has_lists:
        lines = [_without_lists(name, line, element) for line in lines]
    # Coordinates are parsed in full; narrow_coordinates decides what the declared type may cut off.
    wide = [
        (item.name, "f8" if item.name.lower() in ("x", "y", "z") and item.code[0] == "f" else item.code)
        for item in element.properties
        if not item.length_code
    ]
    return parse_rows(name, lines, np.dtype(wide), f"'{element.name}' rows")


def _without_lists(name: str, line: str, element: _Element) -> str:
    words = line.split()
    kept: list[str] = []
    position = 0
    try:
        for item in element.properties:
            if item.length_code:
                position += 1 + int(words[position])
            else:
                kept.append(words[position])
                position += 1
        if position != len(words):
            raise ValueError(f"expected {position} values, found {len(words)}")
    except (IndexError, ValueError) as error:
        raise UnreadableFileError(f"{name}: cannot parse the row {line.strip()[:80]!r}: {one_line(error)}") from None
    return " ".join(kept)


def _camera_position(rows: np.ndarray | None) -> np.ndarray | None:
    """Sensor position of PCL's `camera` element; its default, the origin, means that nothing is known."""
    names = ("view_px", "view_py", "view_pz")
    if rows is None or len(rows) != 1 or not set(names) <= set(rows.dtype.names or ()):
        return None
    position = np.array([float(rows[key][0]) for key in names])
    return position if np.isfinite(position).all() and position.any() else None
