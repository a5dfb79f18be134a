"""Pairs of scans in a table of one's own: a CSV file with the columns `source,target,T`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from .benchmark_pairs import Benchmark, BenchmarkPair
from .poses import published_pose
from .solids import Array

_ALIASES = {"src": "source", "tgt": "target"}
_NEEDED = ("source", "target", "t")


def is_pair_csv(path: Path) -> bool:
    """Whether the first line of a file names the columns `source`, `target` (or `src`, `tgt`) and `T`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return set(_NEEDED) <= set(_header(stream.readline()))
    except (OSError, UnicodeDecodeError):
        return False


def open_pair_csv(path: Path, root: Path | None = None) -> Benchmark:
    """The pairs of a CSV file.

    Columns: `source` and `target` (or `src` and `tgt`), files of scans, relative to `root` or absolute; `T`, from
    source to target: 16 or 12 numbers row by row with blanks between them, or the name of a text or `.npy` file with
    4x4 or 3x4 numbers, or nothing for scans that do not overlap. Optional: `overlap`, and `scene`, which is the folder
    of the source if not given.

    Args:
        root: folder that names start from; that of the file if None.
    Raises:
        FileNotFoundError: no such file, or none with the pose.
        ValueError: a column is missing, or a row does not fit; names the line.
    """
    root = path.parent if root is None else root
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            columns = _header(stream.readline())
            if not set(_NEEDED) <= set(columns):
                raise ValueError(f"{path}: expected the columns source, target and T, got {', '.join(columns)}")
            rows = csv.DictReader(stream, columns, restval="")
            pairs = [
                _pair({name: value.strip() for name, value in row.items() if name}, root, path, number)
                for number, row in enumerate(rows)
            ]
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(f"{path}: no such list of pairs") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV file, got {error}") from error
    return Benchmark(path.stem, root, tuple(pairs))


def _header(line: str) -> list[str]:
    names = [name.strip().lower() for row in csv.reader([line]) for name in row]
    return [_ALIASES.get(name, name) for name in names]


def _pair(row: dict[str, str], root: Path, path: Path, number: int) -> BenchmarkPair:
    where = f"{path}, pair {number}"
    if not (row["source"] and row["target"]):
        raise ValueError(f"{where}: expected the names of two scans, got {row['source']!r} and {row['target']!r}")
    source, target = (root / row[side].replace("\\", "/") for side in ("source", "target"))
    pose = _pose(row["t"], root, where)
    try:
        overlap = float(row["overlap"]) if row.get("overlap") else None
    except ValueError:
        raise ValueError(f"{where}: expected a number as overlap, got {row['overlap']!r}") from None
    return BenchmarkPair(
        scene=row.get("scene") or source.resolve().parent.name or path.stem,
        source=source,
        target=target,
        source_id=number,
        target_id=number,
        T_target_source=pose,
        overlap=0.0 if pose is None else overlap,
    )


def _pose(text: str, root: Path, where: str) -> Array | None:
    if not text:
        return None
    try:
        values = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError:
        file = root / text.replace("\\", "/")
        where, values = f"{where}, {file}", _read_matrix(file, where)
    if values.size not in (12, 16):
        raise ValueError(f"{where}: expected a pose of 12 or 16 numbers, got {values.size}")
    matrix = values.reshape(-1, 4)
    if len(matrix) == 4 and not np.allclose(matrix[3], (0, 0, 0, 1), rtol=0, atol=1e-6):
        raise ValueError(f"{where}: expected 0 0 0 1 as the last row of the pose, got {matrix[3].tolist()}")
    return published_pose(matrix[:3, :3], matrix[:3, 3], where)


def _read_matrix(file: Path, where: str) -> Array:
    if not file.is_file():
        raise FileNotFoundError(f"{where}: expected 16 numbers or a file with them, found no {file}")
    try:
        if file.suffix.lower() == ".npy":
            with file.open("rb") as stream:
                return np.asarray(np.load(stream, allow_pickle=False), dtype=np.float64).reshape(-1)
        return np.array(file.read_text(encoding="utf-8").replace(",", " ").split(), dtype=np.float64)
    except (ValueError, EOFError, TypeError) as error:
        raise ValueError(f"{where}: expected the numbers of a pose in {file}, got {error}") from error
