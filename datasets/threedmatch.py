"""3DMatch and 3DLoMatch as the OverlapPredator authors distribute them, and whatever has the same layout."""

from __future__ import annotations

import io
import pickle
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .indoor_scenes import RegistrationPair
from .solids import Array

# Enough to rebuild numbers, lists and arrays; anything else in a pickle could run code.
_SAFE = {
    ("numpy", "ndarray"), ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}  # fmt: skip
_COLUMNS = ("src", "tgt", "rot", "trans", "overlap")


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refused {module}.{name}: a list of pairs holds arrays and numbers only")


class ThreeDMatch:
    """Map-style dataset of pairs of scans, in the order of their list.

    Args:
        root: folder that the names in the list start from.
        pairs: the list, a pickle below `root` or anywhere: a dict of lists `src, tgt, rot, trans, overlap`, or a list of
            dicts with these names. The pose maps the source, fragment j, to the target, fragment i.
        overlap: lowest (exclusive) and highest overlap kept, as listed.
    Raises:
        FileNotFoundError: no such list.
        ValueError: a list that is damaged, holds other things than arrays and numbers, or lacks a column.
    Source: Huang et al., "PREDATOR", CVPR 2021, for the layout.

    >>> import tempfile
    >>> from rotaware.datasets import write_indoor_rooms
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_indoor_rooms(folder, [100005], 2, frames=2)
    ...     pairs = ThreeDMatch(folder, "pairs.pkl")
    ...     name = pairs[0].name
    >>> name
    'room100005/cloud_bin_1 to room100005/cloud_bin_0'
    """

    def __init__(
        self,
        root: str | PathLike[str],
        pairs: str | PathLike[str],
        *,
        overlap: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.root = Path(root)
        self.list_file = self.root / pairs
        columns = _read_list(self.list_file)
        kept = [k for k, value in enumerate(columns["overlap"]) if overlap[0] < float(value) <= overlap[1]]
        self.sources = [str(columns["src"][k]) for k in kept]
        self.targets = [str(columns["tgt"][k]) for k in kept]
        self.overlaps = [float(columns["overlap"][k]) for k in kept]
        self.poses = [_pose(columns["rot"][k], columns["trans"][k], f"{self.list_file}, pair {k}") for k in kept]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> RegistrationPair:
        """Pair `index` of the list.

        Raises:
            IndexError: no such pair.
            FileNotFoundError: a cloud is missing.
            ValueError: a cloud is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected a value in [{-len(self)}, {len(self)}), got {index}")
        names = self.sources[index], self.targets[index]
        source, target = (_read_cloud(self.root / name) for name in names)
        title = " to ".join(str(Path(name).with_suffix("")) for name in names)
        return RegistrationPair(source, target, self.poses[index], self.overlaps[index], title)


def _read_list(path: Path) -> dict[str, list[Any]]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{path}: no such list of pairs") from None
    try:
        found = _SafeUnpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: expected a pickled list of pairs, got {error}") from error
    if isinstance(found, list) and all(isinstance(record, dict) for record in found):
        found = {name: [record.get(name) for record in found] for name in _COLUMNS if found and name in found[0]}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a dict of lists or a list of dicts, got {type(found).__name__}")
    missing = [name for name in _COLUMNS if name not in found]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}; {', '.join(missing)} missing")
    sizes = {name: len(found[name]) for name in _COLUMNS}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{path}: expected columns of one length, got {sizes}")
    return found


def _pose(rotation: Any, translation: Any, where: str) -> Array:
    """(4, 4) with the rotation made exact: those in the published lists are off by up to 1.2e-3."""
    matrix, shift = np.asarray(rotation, dtype=np.float64), np.asarray(translation, dtype=np.float64).reshape(-1)
    if matrix.shape != (3, 3) or shift.shape != (3,) or not (np.isfinite(matrix).all() and np.isfinite(shift).all()):
        raise ValueError(f"{where}: expected a finite 3x3 rotation and 3 numbers, got {matrix.shape}, {shift.shape}")
    left, _, right = np.linalg.svd(matrix)
    pose = np.eye(4)
    pose[:3, :3] = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    pose[:3, 3] = shift
    return pose


def _read_cloud(path: Path) -> NDArray[np.float32]:
    """(N, 3) of a `.pth` (array or tensor) or `.npy` file, without running code that may be in it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such cloud")
    try:
        if path.suffix == ".npy":
            points = np.load(path, allow_pickle=False)
        else:
            kinds: list[Any] = [np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
            rebuild = np.empty(0).__reduce__()[0]
            legacy = (rebuild, "numpy.core.multiarray._reconstruct")
            with torch.serialization.safe_globals([*kinds, rebuild, legacy]):
                points = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: expected an array of points, got {first}") from error
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind != "f":
        raise ValueError(f"{path}: expected floating point numbers of shape (N, 3), got {points.dtype} {points.shape}")
    return np.ascontiguousarray(points[:, :3], dtype=np.float32)
