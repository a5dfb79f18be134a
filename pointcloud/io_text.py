"""Columns of text: xyz, txt, csv, pts, asc. Separated by commas, semicolons or white space, with or without names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cloud import PointCloud, cloud_from_columns, unit_columns
from .columns import flat_columns, one_line, row_lines
from .errors import InputError, UnreadableFileError
from .naming import columns_for

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|nan|inf(?:inity)?)", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
# x, X, px, pos_x, "x [m]", x_m, ParaView's "Points:0", ...
_AXIS = re.compile(
    r"(?:(?:p|pos|position|points?|coords?|coordinate)?[\s_.:]*([xyz])|points[:_]([012]))"
    r"[\s_]*[\[(]?(?:m|mm|cm|ft|coord|coordinate)?[\])]?",
    re.IGNORECASE,
)
_MISSING = frozenset(("", "null", "none", "na", "n/a", "-"))
_COMMENTS = ("#", "//")
# How many rows decide which columns are whole numbers, or no numbers at all.
_SAMPLE = 1000
_LONGEST_WORD = 1000


@dataclass(frozen=True)
class _Table:
    lines: list[str]  # the rows alone
    names: tuple[str, ...]  # empty when the file has none
    header: str  # the line the names came from, as it was
    comments: tuple[str, ...]
    delimiter: str  # "" is white space
    decimal_comma: bool
    counted: bool  # the first line holds the number of rows


def read_text(name: str, data: bytes, *, kind: str) -> PointCloud:
    """Cloud from rows of text; `kind` is the extension without its dot.

    Columns that hold whole numbers are int64, columns that hold words are kept as strings. Without names in the file,
    columns 4 to 6 are normals if they are unit vectors, colours if they are whole numbers from 0 to 255.

    Raises:
        UnreadableFileError: binary data, or fewer rows than a .pts file declares.
        InputError: fewer than three columns, rows of unequal length, or words where coordinates should be.
    """
    table = _split_lines(name, _decode(name, data), kind)
    columns = _parse_columns(name, table)
    names = _header_names(name, table, columns) if table.names else _usual_names(columns, table.counted)
    coordinates = _coordinate_names(name, names)
    named = dict(zip(names, columns, strict=True))
    for key in coordinates:
        named[key] = _as_numbers(name, key, named[key], table)
    details = {
        "delimiter": table.delimiter,
        "header": table.header,
        "decimal_comma": table.decimal_comma,
        "counted": table.counted,
    }
    return cloud_from_columns(named, coordinates, format=kind, comments=table.comments, details=details)


def write_text(cloud: PointCloud, *, kind: str) -> list[bytes]:
    """Bytes of a text file in the form the cloud was read from.

    Clouds from elsewhere get commas and names in .csv; a first line with the number of rows in .pts; else blanks, and a
    comment with the names when there are attributes.

    Raises:
        InputError: words with blanks in a file separated by blanks.
    """
    same = cloud.layout.format == kind
    details = cloud.layout.details if same else {}
    delimiter = details.get("delimiter", "," if kind == "csv" else "") or " "
    columns = flat_columns(columns_for(cloud, kind))
    lines = list(cloud.layout.comments) if same else []
    if details.get("counted", kind == "pts"):
        lines.append(str(len(cloud)))
    names = [re.sub(r"\s+", "_", key) if delimiter == " " else _quoted(key, delimiter) for key in columns]
    if details.get("header") and tuple(columns) == cloud.layout.fields:
        lines.append(details["header"])
    elif details.get("header") or (kind == "csv" and not same):
        lines.append(delimiter.join(names))
    elif not same and kind != "pts" and cloud.attributes:
        lines.append("# " + delimiter.join(names))
    cells = {key: _cells_of(key, column, delimiter, details) for key, column in columns.items()}
    return ["".join(f"{line}\n" for line in lines).encode(), row_lines(cells, delimiter).encode()]


def _decode(name: str, data: bytes) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise UnreadableFileError(f"{name} holds binary data, but its extension promises text")
    return text


def _split_lines(name: str, text: str, kind: str) -> _Table:
    comments: list[str] = []
    rows: list[str] = []
    for line in text.replace("\r", "\n").split("\n"):
        line = line.rstrip(" ").lstrip()
        if line.startswith(_COMMENTS):
            if not rows:
                comments.append(line)
        elif line:
            rows.append(line)
    if not rows:
        raise InputError(f"{name} holds no rows of numbers")
    counted = _INTEGER.fullmatch(rows[0]) is not None and (kind == "pts" or len(rows) > 1)
    if counted:
        declared = int(rows.pop(0)[:18])
        if declared != len(rows):
            raise UnreadableFileError(f"{name}: the first line declares {declared} rows, found {len(rows)}")
        if not rows:
            raise InputError(f"{name} holds no rows of numbers")
    delimiter, decimal_comma = _delimiter(rows[1:_SAMPLE] or rows)
    cells = _cells(rows[0], delimiter)
    names: tuple[str, ...] = ()
    header = ""
    if not any(_is_number(cell, decimal_comma) for cell in cells):
        names, header = tuple(cells), rows.pop(0)
    elif comments:
        stated = re.sub(r"^[#/\s]+", "", comments[-1])
        candidate = _cells(stated, delimiter if delimiter and delimiter in stated else "")
        if len(candidate) == len(cells) and len({axis for cell in candidate if (axis := _axis(cell)) >= 0}) == 3:
            names, header = tuple(candidate), comments.pop()
    if not rows:
        raise InputError(f"{name} holds one line and no rows of numbers: {header[:80]!r}")
    return _Table(rows, names, header, tuple(comments), delimiter, decimal_comma, counted)


def _delimiter(rows: Sequence[str]) -> tuple[str, bool]:
    """Separator of the rows ("" for white space), and whether their numbers have a decimal comma."""
    first = rows[0]
    words = first.split()
    if len(words) >= 3 and all(map(_DECIMAL_COMMA.fullmatch, words)):
        return "", True
    if ";" in first:
        return ";", any(_DECIMAL_COMMA.fullmatch(cell.strip()) for row in rows for cell in row.split(";"))
    if "," in first:
        return ",", False
    # Tabs may enclose empty cells and words with blanks; where blanks separate numbers too, both are white space.
    tabs = [cell.split() for cell in first.split("\t")]
    mixed = any(len(words) > 1 and all(map(_NUMBER.fullmatch, words)) for words in tabs)
    return ("\t", False) if len(tabs) >= 3 and not mixed else ("", False)


def _cells(row: str, delimiter: str) -> list[str]:
    if not delimiter:
        return row.split()
    if '"' in row:
        return [cell.strip() for cell in next(csv.reader([row], delimiter=delimiter, skipinitialspace=True))]
    return [cell.strip() for cell in row.split(delimiter)]


def _is_number(cell: str, decimal_comma: bool) -> bool:
    return _NUMBER.fullmatch(cell.replace(",", ".") if decimal_comma else cell) is not None


def _parse_columns(name: str, table: _Table) -> list[np.ndarray]:
    try:
        sample = [_cells(line, table.delimiter) for line in table.lines[:_SAMPLE]]
        width = len(sample[0])
        if width < 3:
            raise InputError(f"{name}: expected at least 3 columns, got {width}; {_first_rows(table)}")
        if all(_is_plain(cell, table.decimal_comma) for cells in sample for cell in cells):
            columns = _parse_fast(table, sample)
            if columns is not None:
                return columns
        rows = sample + [_cells(line, table.delimiter) for line in table.lines[_SAMPLE:]]
    except csv.Error as error:
        raise InputError(f"{name}: cannot parse the rows: {one_line(error)}; {_first_rows(table)}") from None
    for number, cells in enumerate(rows, start=1):
        if len(cells) != width:
            raise InputError(
                f"{name}: row {number} has {len(cells)} columns, expected {width}: {table.lines[number - 1][:80]!r}"
            )
    return [_typed(name, cells, table.decimal_comma) for cells in zip(*rows, strict=True)]


def _is_plain(cell: str, decimal_comma: bool) -> bool:
    """True for a number that float64 holds, digits and all."""
    return _is_number(cell, decimal_comma) and not _is_long(cell)


def _is_long(cell: str) -> bool:
    """True for whole numbers past 2^53 and time stamps with more digits than float64 has."""
    if len(cell) <= 15:
        return False
    mantissa = re.split("[eE]", cell.lstrip("+-"))[0]
    whole, _, part = mantissa.replace(",", ".").partition(".")
    return len(whole) > 15 if not part else len(whole) >= 8 and len(whole) + len(part) > 17


def _parse_fast(table: _Table, sample: Sequence[Sequence[str]]) -> list[np.ndarray] | None:
    """Columns by NumPy's C parser; None when a row beyond the sample is not as plain as the sample."""
    lines = [line.replace(",", ".") for line in table.lines] if table.decimal_comma else table.lines
    try:
        values = np.loadtxt(lines, delimiter=table.delimiter or None, comments=None, ndmin=2)
    except (ValueError, OverflowError):
        return None
    columns: list[np.ndarray] = []
    for column, cells in zip(values.T, zip(*sample, strict=True), strict=True):
        whole = all(map(_INTEGER.fullmatch, cells)) and np.all((column == np.rint(column)) & (np.abs(column) < 2**53))
        columns.append(column.astype(np.int64) if whole else np.ascontiguousarray(column))
    return columns


def _typed(name: str, cells: Sequence[str], decimal_comma: bool) -> np.ndarray:
    """(N,) int64, float64, or strings: the narrowest type that keeps every digit."""
    if all(map(_INTEGER.fullmatch, cells)):
        try:
            return np.array(cells).astype(np.int64)
        except (ValueError, OverflowError):
            return np.array(cells)
    if all(_is_plain(cell, decimal_comma) for cell in cells):
        return np.array([float(cell.replace(",", ".") if decimal_comma else cell) for cell in cells])
    longest = max(map(len, cells))
    if longest > _LONGEST_WORD:
        raise InputError(f"{name}: a cell has {longest} characters, at most {_LONGEST_WORD} are supported")
    return np.array(cells)


def _axis(cell: str) -> int:
    """0, 1, 2 for a column name that means x, y, z; -1 for others."""
    match = _AXIS.fullmatch(cell.strip())
    return -1 if match is None else "xyz012".index((match[1] or match[2]).lower()) % 3


def _header_names(name: str, table: _Table, columns: Sequence[np.ndarray]) -> list[str]:
    """One distinct name per column; nameless ones become column_k."""
    stated = len(table.names)
    nameless = columns[stated:]
    # A separator at the end of each row makes an empty column; any other surplus means that names and columns shifted.
    if stated > len(columns) or any(column.dtype.kind != "U" or any(column) for column in nameless):
        raise InputError(
            f"{name}: the header names {stated} columns, its rows have {len(columns)}; {_first_rows(table)}"
        )
    names: list[str] = []
    for index in range(len(columns)):
        key = (table.names[index] if index < stated else "") or f"column_{index}"
        while key in names:
            key += "_"
        names.append(key)
    return names


def _usual_names(columns: Sequence[np.ndarray], counted: bool) -> list[str]:
    names = ["x", "y", "z", *(f"column_{index}" for index in range(3, len(columns)))]
    start = 3
    if counted and len(columns) in (4, 7):
        names[3] = "intensity"
        start = 4
    if len(columns) >= start + 3 and all(column.dtype.kind in "if" for column in columns[start : start + 3]):
        if unit_columns(np.stack(columns[start : start + 3], axis=1).astype(np.float64)):
            names[start : start + 3] = ["nx", "ny", "nz"]
            start += 3
        if len(columns) >= start + 3 and _are_colors(columns[start : start + 3]):
            names[start : start + 3] = ["red", "green", "blue"]
    return names


def _are_colors(columns: Sequence[np.ndarray]) -> bool:
    if any(column.dtype != np.int64 for column in columns):
        return False
    lowest, highest = min(column.min() for column in columns), max(column.max() for column in columns)
    return bool(lowest >= 0 and 1 < highest <= 255)


def _coordinate_names(name: str, names: Sequence[str]) -> tuple[str, str, str]:
    found: dict[int, str] = {}
    for key in names:
        found.setdefault(_axis(key), key)
    if not {0, 1, 2} <= set(found):
        raise InputError(f"{name}: no columns named x, y and z among {', '.join(names)[:120]}")
    return found[0], found[1], found[2]


def _as_numbers(name: str, key: str, column: np.ndarray, table: _Table) -> np.ndarray:
    """The coordinates; empty cells and their like are NaN."""
    if column.dtype.kind in "if":
        return column
    values = np.full(len(column), np.nan)
    for row, cell in enumerate(column.tolist()):
        if _is_number(cell, table.decimal_comma):
            values[row] = float(cell.replace(",", ".") if table.decimal_comma else cell)
        elif cell.lower() not in _MISSING:
            raise InputError(
                f"{name}: {cell[:40]!r} in column {key!r}, row {row + 1} is no number; {_first_rows(table)}"
            )
    return values


def _first_rows(table: _Table) -> str:
    lines = [table.header, *table.lines] if table.header else table.lines
    return "first rows: " + " | ".join(line[:60] for line in lines[:3])


def _cells_of(key: str, column: np.ndarray, delimiter: str, details: Mapping[str, Any]) -> np.ndarray:
    """The column as `row_lines` shall print it: words quoted where needed, decimal commas where the file had them."""
    if column.dtype.kind == "f" and details.get("decimal_comma", False):
        return np.array([repr(value).replace(".", ",") for value in column.astype(np.float64).tolist()])
    if column.dtype.kind in "biuf":
        return column
    words = column.astype(str).tolist()
    if delimiter == " " and any(not word or word.split() != [word] for word in words):
        raise InputError(f"column {key!r} has cells with blanks, which only .csv can hold")
    return np.array([_quoted(word, delimiter) for word in words])


def _quoted(word: str, delimiter: str) -> str:
    if delimiter == " " or not any(mark in word for mark in (delimiter, '"', "\n")):
        return word
    return '"' + word.replace('"', '""') + '"'
