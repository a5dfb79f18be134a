"""The text files of the 3DMatch benchmark: gt.log, gt.info, gt_overlap.log, and the est.log of a method.

A log holds blocks of a header, `i j n`, and a matrix: (4, 4) from fragment j to fragment i in gt.log and est.log, the
(6, 6) information matrix of the pair in gt.info; n is the number of fragments of the scene. `gt_overlap.log` holds a
line `i,j,overlap` for each pair of the scene.
Source: Choi et al., "Robust Reconstruction of Indoor Scenes", CVPR 2015; Zeng et al., "3DMatch", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rotaware.geo.files import write_whole

from .poses import published_pose
from .solids import Array


class LogEntry(NamedTuple):
    """A block of a log."""

    target: int  # i
    source: int  # j
    fragments: int  # n
    matrix: Array  # (4, 4) T_target_source as written, or (6, 6) information, translation first


def read_log(path: str | PathLike[str]) -> list[LogEntry]:
    """The poses of a gt.log or est.log, in file order, as they are written: not quite orthonormal.

    Raises:
        OSError: it cannot be opened.
        ValueError: not of that form, or a matrix that is no pose; names the file and the block.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_log(Path(folder) / "est.log", [LogEntry(0, 2, 60, np.eye(4))])
    ...     entry = read_log(Path(folder) / "est.log")[0]
    >>> entry.target, entry.source, entry.fragments, entry.matrix.trace().item()
    (0, 2, 60, 4.0)
    """
    entries = _read_blocks(Path(path), 4)
    for place, entry in enumerate(entries):
        where = f"{path}, block {place}"
        published_pose(entry.matrix[:3, :3], entry.matrix[:3, 3], where)
        if not np.allclose(entry.matrix[3], (0, 0, 0, 1), rtol=0, atol=1e-6):
            raise ValueError(f"{where}: expected 0 0 0 1 as the last row, got {entry.matrix[3].tolist()}")
    return entries


def read_info(path: str | PathLike[str]) -> list[LogEntry]:
    """The information matrices of a gt.info, in file order. One of 3DLoMatch is all zero.

    Raises:
        OSError: it cannot be opened.
        ValueError: not of that form; names the file and the block.
    """
    return _read_blocks(Path(path), 6)


def read_overlap_log(path: str | PathLike[str]) -> dict[tuple[int, int], float]:
    """Overlap by (i, j) of a gt_overlap.log.

    Raises:
        OSError: it cannot be opened.
        ValueError: not of that form; names the file and the line.
    """
    found = {}
    for number, line in enumerate(_lines(Path(path)), 1):
        try:
            i, j, overlap = line.split(",")
            found[int(i), int(j)] = float(overlap)
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected i,j,overlap, got {line[:80]!r}") from None
    return found


def write_log(path: str | PathLike[str], entries: Iterable[LogEntry]) -> None:
    """Write an est.log or gt.log: tabs, 12 decimals, whole or not at all.

    Raises:
        ValueError: a matrix that is not (4, 4) and finite.
    """
    _write_blocks(Path(path), entries, 4)


def write_info(path: str | PathLike[str], entries: Iterable[LogEntry]) -> None:
    """Write a gt.info in the same way.

    Raises:
        ValueError: a matrix that is not (6, 6) and finite.
    """
    _write_blocks(Path(path), entries, 6)


def write_overlap_log(path: str | PathLike[str], overlaps: Mapping[tuple[int, int], float]) -> None:
    """Write a gt_overlap.log: four decimals, as the published ones have, whole or not at all."""
    write_whole(Path(path), "".join(f"{i},{j},{overlap:.4f}\n" for (i, j), overlap in overlaps.items()))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text, got something else") from None


def _read_blocks(path: Path, rows: int) -> list[LogEntry]:
    lines = _lines(path)
    if not lines:
        raise ValueError(f"{path}: expected blocks of a line 'i j n' and {rows} rows, got an empty file")
    entries = []
    for place, start in enumerate(range(0, len(lines), rows + 1)):
        header, *body = (line.split() for line in lines[start : start + rows + 1])
        try:
            target, source, fragments = (int(word) for word in header)
            matrix = np.array([[float(word) for word in words] for words in body])
            if matrix.shape != (rows, rows) or not np.isfinite(matrix).all() or min(target, source) < 0:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path}, block {place}: expected a line 'i j n' and {rows} rows of {rows} finite numbers, "
                f"got {' '.join(header)[:40]!r} and {[len(words) for words in body]} words"
            ) from None
        entries.append(LogEntry(target, source, fragments, matrix))
    return entries


def _write_blocks(path: Path, entries: Iterable[LogEntry], rows: int) -> None:
    lines = []
    for place, (target, source, fragments, matrix) in enumerate(entries):
        values = np.asarray(matrix, dtype=np.float64)
        if values.shape != (rows, rows) or not np.isfinite(values).all():
            raise ValueError(f"block {place}: expected a finite {rows}x{rows} matrix, got {values.tolist()}")
        lines.append(f"{target}\t{source}\t{fragments}\n")
        lines += ["\t".join(f"{value:.12f}" for value in row) + "\n" for row in values]
    write_whole(path, "".join(lines))
