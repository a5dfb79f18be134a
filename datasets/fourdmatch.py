"""4DMatch and 4DLoMatch: pairs of partial scans of animals and people that move between the scans."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .poses import exact_pose, published_pose
from .solids import Array

_NEEDED = ("s_pc", "t_pc", "rot", "trans", "s2t_flow", "correspondences")


@dataclass(frozen=True, eq=False)
class DeformingPair:
    """Two scans of something that deforms, and how: q = T_target_source (p + flow)."""

    # (N, 3) and (M, 3), metres; the source as it was scanned, undeformed.
    source: NDArray[np.float32]
    target: NDArray[np.float32]
    # (4, 4), maps the deformed source to the target.
    T_target_source: Array
    # (N, 3), metres: what each source point moves by before the transform, in the frame of the source.
    flow: NDArray[np.float32]
    # (C, 2) rows of source and target within 0.015 m of each other at the truth.
    correspondences: NDArray[np.int64]
    # (X,) rows of the source that NFMR is measured on; None in the training set.
    metric_index: NDArray[np.int64] | None
    # Share of source points that have a correspondence.
    overlap: float
    name: str


class FourDMatch:
    """Map-style dataset: one pair per `.npz` file below a folder, in the order of their paths.

    Args:
        root: folder of one split, with a folder per sequence, as the authors distribute it.
    Raises:
        FileNotFoundError: no `.npz` file below `root`.
    Source: Li and Harada, "Lepard", CVPR 2022, for the data and the names of the arrays.

    >>> import tempfile
    >>> cloud, none = np.zeros((4, 3)), np.zeros((0, 2), int)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder) / "a.npz", s_pc=cloud, t_pc=cloud, rot=np.eye(3), trans=np.ones((3, 1)),
    ...              s2t_flow=cloud, correspondences=none)
    ...     pair = FourDMatch(folder)[0]
    >>> pair.name, pair.overlap, pair.T_target_source[:3, 3].tolist()
    ('a', 0.0, [1.0, 1.0, 1.0])
    """

    def __init__(self, root: str | PathLike[str]) -> None:
        self.root = Path(root)
        # As text: paths themselves sort differently on different systems.
        self.files = sorted(self.root.rglob("*.npz"), key=lambda file: file.relative_to(self.root).as_posix())
        if not self.files:
            raise FileNotFoundError(f"{root}: expected .npz files of 4DMatch, found none")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> DeformingPair:
        """Pair `index`.

        Raises:
            IndexError: no such pair.
            FileNotFoundError: the file has gone.
            ValueError: the file is damaged, lacks an array, or has one that does not fit the others; names both.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected a value in [{-len(self)}, {len(self)}), got {index}")
        file = self.files[index]
        return read_deforming_pair(file, file.relative_to(self.root).with_suffix("").as_posix())


def read_deforming_pair(file: Path, name: str) -> DeformingPair:
    """The pair in one `.npz` file of 4DMatch, called `name`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, lacks an array, or has one that does not fit the others; names both.
    """
    arrays = _read(file)
    source, target = _points(arrays, "s_pc", file), _points(arrays, "t_pc", file)
    flow = _points(arrays, "s2t_flow", file)
    if len(flow) != len(source):
        raise ValueError(f"{file}: s2t_flow: expected a row for each of the {len(source)} of s_pc, got {len(flow)}")
    listed = arrays["correspondences"]
    if listed.ndim != 2 or listed.shape[1] != 2:
        raise ValueError(f"{file}: correspondences: expected shape (C, 2), got {listed.shape}")
    matches = np.column_stack(
        [_rows(listed[:, column], len(cloud), "correspondences", file) for column, cloud in enumerate((source, target))]
    )
    judged = arrays.get("metric_index")
    return DeformingPair(
        source=source,
        target=target,
        T_target_source=exact_pose(arrays["rot"], arrays["trans"], f"{file}: rot, trans"),
        flow=flow,
        correspondences=matches,
        metric_index=None if judged is None else _rows(judged.reshape(-1), len(source), "metric_index", file),
        overlap=share_matched(matches, len(source)),
        name=name,
    )


def read_pose(file: Path) -> Array:
    """(4, 4) T_target_source of one `.npz` file, as published, without reading the clouds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or has no pose.
    """
    arrays = _read(file, ("rot", "trans"))
    return published_pose(arrays["rot"], arrays["trans"], f"{file}: rot, trans")


def share_matched(correspondences: NDArray[np.int64], count: int) -> float:
    """Share of `count` source points that have a correspondence, of (C, 2)."""
    return len(np.unique(correspondences[:, 0])) / max(count, 1)


def _read(file: Path, wanted: tuple[str, ...] = (*_NEEDED, "metric_index")) -> dict[str, NDArray[np.generic]]:
    """Arrays of a file, without running code that may be in it."""
    arrays = {}
    name = "the file"
    try:
        # Given the name, NumPy leaves a damaged archive open.
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("expected named arrays, got one without a name")
            missing = [each for each in _NEEDED if each not in archive]
            if missing:
                raise ValueError(f"expected the arrays {', '.join(_NEEDED)}; {', '.join(missing)} missing")
            for name in wanted:
                if name in archive:
                    arrays[name] = archive[name]
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError, TypeError) as error:
        raise ValueError(f"{file}: {name}: {error or type(error).__name__}") from error
    return arrays


def _points(arrays: dict[str, NDArray[np.generic]], name: str, file: Path) -> NDArray[np.float32]:
    found = arrays[name]
    if found.ndim != 2 or found.shape[1] != 3 or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise ValueError(f"{file}: {name}: expected finite numbers of shape (N, 3), got {found.dtype} {found.shape}")
    return np.ascontiguousarray(found, dtype=np.float32)


def _rows(found: NDArray[np.generic], count: int, name: str, file: Path) -> NDArray[np.int64]:
    rows = found.astype(np.int64) if found.dtype.kind in "iuf" else None
    if rows is None or not np.array_equal(rows, found) or (rows < 0).any() or (rows >= count).any():
        raise ValueError(f"{file}: {name}: expected rows of a cloud of {count} points, got others or {found.dtype}")
    return rows
