"""Tables of named columns: parsing rows of text, printing them, packing and unpacking binary rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .cloud import NEGLIGIBLE_STEP, rounding_step
from .errors import InputError, UnreadableFileError

Order = Literal["<", ">", "="]

# How Microsoft C libraries of different ages print "not a number" and infinity.
_MSVC_NAN = re.compile(r"-?1\.#(?:QNAN|SNAN|IND)\d*|-?nan\((?:ind|snan)\)", re.IGNORECASE)
_MSVC_INF = re.compile(r"1\.#INF\d*", re.IGNORECASE)


def parse_rows(name: str, lines: Sequence[str], dtype: np.dtype[Any], what: str) -> np.ndarray:
    """(N,) structured array from whitespace-separated lines, one row each.

    Raises:
        UnreadableFileError: a row has too few or too many values, or one that is no number or does not fit its type.
    """
    if not lines:
        return np.zeros(0, dtype)
    if any("#" in line or "(" in line for line in lines):
        lines = [_MSVC_INF.sub("inf", _MSVC_NAN.sub("nan", line)) for line in lines]
    try:
        rows = np.loadtxt(lines, dtype=dtype, comments=None, ndmin=1)
    except (ValueError, OverflowError) as error:
        loose = _parse_loosely(lines, dtype)
        if loose is None:
            raise UnreadableFileError(f"{name}: cannot parse the {what}: {one_line(error)}") from None
        rows = loose
    if len(rows) != len(lines):
        raise UnreadableFileError(f"{name}: expected {len(lines)} {what}, found {len(rows)}")
    return rows


def _parse_loosely(lines: Sequence[str], dtype: np.dtype[Any]) -> np.ndarray | None:
    """Second try for integers written as `255.0`; None when a value does not fit."""
    wide = np.dtype([(key, np.float64, dtype[key].shape) for key in dtype.names or ()])
    try:
        rows = np.loadtxt(lines, dtype=wide, comments=None, ndmin=1)
    except (ValueError, OverflowError):
        return None
    result = np.zeros(len(rows), dtype)
    for key in dtype.names or ():
        kind = dtype[key].base
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            fits = (rows[key] == np.rint(rows[key])) & (rows[key] >= limits.min) & (rows[key] <= limits.max)
            if not np.all(fits & (np.abs(rows[key]) < 2.0**53)):
                return None
        result[key] = rows[key]
    return result


def narrow_coordinates(
    columns: dict[str, np.ndarray], coordinates: tuple[str, str, str], declared: np.dtype[Any]
) -> dict[str, np.ndarray]:
    """Columns whose coordinates, parsed in float64, take the declared dtype unless that would lose digits.

    Text often carries more digits than `property float` promises; map coordinates are unusable without them.
    """
    points = np.stack([columns[name] for name in coordinates], axis=1)
    finite = points[np.isfinite(points).all(axis=1)]
    extent = float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
    if declared.kind == "f" and rounding_step(finite, declared) > NEGLIGIBLE_STEP * extent:
        with np.errstate(over="ignore"):
            if not np.array_equal(finite, finite.astype(declared)):
                return columns
    with np.errstate(over="ignore"):
        return {key: column.astype(declared) if key in coordinates else column for key, column in columns.items()}


def structured(columns: Mapping[str, np.ndarray], order: Order = "<") -> np.ndarray:
    """(N,) packed records of the columns, byte order `order`."""
    count = len(next(iter(columns.values())))
    dtype = np.dtype([(key, column.dtype.newbyteorder(order), column.shape[1:]) for key, column in columns.items()])
    rows = np.zeros(count, dtype)
    for key, column in columns.items():
        rows[key] = column
    return rows


def native_columns(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of packed records, contiguous and in native byte order; NaN payloads survive."""
    columns = {}
    for key in rows.dtype.names or ():
        column = np.ascontiguousarray(rows[key])
        columns[key] = column if column.dtype.isnative else column.byteswap().view(column.dtype.newbyteorder("="))
    return columns


def row_lines(columns: Mapping[str, np.ndarray], delimiter: str = " ") -> str:
    """One line per row, each number in the shortest form that reads back as the same number of its dtype."""
    texts = [_texts(column) for column in flat_columns(columns).values()]
    rows = "\n".join(map(delimiter.join, zip(*texts, strict=True)))
    return rows + "\n" if rows else ""


def _texts(column: np.ndarray) -> list[str]:
    if column.dtype == np.float64:
        return list(map(repr, column.tolist()))
    if column.dtype == np.bool_:
        column = column.view(np.uint8)
    return column.astype(str).tolist()


def flat_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of shape (N,) only; an (N, k) column becomes `name_0` to `name_{k-1}`."""
    flat: dict[str, np.ndarray] = {}
    for key, column in columns.items():
        if column.ndim == 1:
            flat[key] = column
        else:
            parts = column.reshape(len(column), int(np.prod(column.shape[1:])))
            flat.update({f"{key}_{index}": parts[:, index] for index in range(parts.shape[1])})
    return flat


def storable(
    columns: Mapping[str, np.ndarray], dtypes: Sequence[str], format: str, *, spaces: bool = False
) -> dict[str, np.ndarray]:
    """Columns in dtypes that `format` knows (codes like "f4"), widened without loss where needed.

    Raises:
        InputError: a column fits none of them; nothing is dropped silently.
    """
    result: dict[str, np.ndarray] = {}
    for key, column in columns.items():
        if column.ndim > 1 and 0 in column.shape[1:]:
            continue
        kept = _first_exact(column, dtypes)
        if kept is None:
            raise InputError(f"{format} cannot store the column {key!r} of type {column.dtype}; write .npz or .csv")
        clean = key if spaces else re.sub(r"\s+", "_", key.strip()) or "unnamed"
        while clean in result:
            clean += "_"
        result[clean] = kept
    return result


def _first_exact(column: np.ndarray, dtypes: Sequence[str]) -> np.ndarray | None:
    if column.dtype.kind not in "biuf":
        return None
    if column.dtype.str[1:] in dtypes:
        return column
    same_kind = [code for code in dtypes if code[0] == column.dtype.kind]
    for code in [*same_kind, *(code for code in dtypes if code not in same_kind)]:
        with np.errstate(all="ignore"):
            cast = column.astype(code)
            back = cast.astype(column.dtype)
        if np.array_equal(back, column, equal_nan=column.dtype.kind == "f"):
            return cast
    return None


def one_line(error: BaseException) -> str:
    """First line of an exception's text, at most 200 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(" .;")
