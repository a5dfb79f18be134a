"""3DMatch and 3DLoMatch as the OverlapPredator authors distribute them, and whatever has the same layout."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
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
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}  # fmt: skip
# Of the published training list: a bad scan, and a room that the validation list has as well.
NOT_FOR_TRAINING = ("7-scenes-fire/cloud_bin_19.", "analysis-by-synthesis-apt2-kitchen/")
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
        pairs: the list, a pickle below `root` or anywhere: a dict of lists `src, tgt, rot, trans, overlap`, or a list
            of dicts with these names. The pose maps the source, fragment j, to the target, fragment i.
        overlap: lowest (exclusive) and highest overlap kept, as listed.
        without: pairs with a name that contains any of these are left out, such as `NOT_FOR_TRAINING`.
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
        without: Sequence[str] = (),
    ) -> None:
        self.root = Path(root)
        self.list_file = self.root / pairs
        columns = _read_list(self.list_file)
        shares = [_share(value, f"{self.list_file}, pair {k}") for k, value in enumerate(columns["overlap"])]
        kept = [
            k
            for k, share in enumerate(shares)
            if overlap[0] < share <= overlap[1]
            and not any(part in str(columns[side][k]) for side in ("src", "tgt") for part in without)
        ]
        self.sources = [str(columns["src"][k]) for k in kept]
        self.targets = [str(columns["tgt"][k]) for k in kept]
        self.overlaps = [shares[k] for k in kept]
        self.poses = [exact_pose(columns["rot"][k], columns["trans"][k], f"{self.list_file}, pair {k}") for k in kept]

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
        names = [name for name in _COLUMNS if all(name in record for record in found)]
        found = {name: [record[name] for record in found] for name in names}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a dict of lists or a list of dicts, got {type(found).__name__}")
    missing = [name for name in _COLUMNS if name not in found]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}; {', '.join(missing)} missing")
    sizes = {name: len(found[name]) if hasattr(found[name], "__len__") else None for name in _COLUMNS}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        raise ValueError(f"{path}: expected columns of one length, got {sizes}")
    return found


def _share(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: expected a number as overlap, got {value!r}") from None


def exact_pose(rotation: Any, translation: Any, where: str) -> Array:
    """(4, 4) of a rotation and a translation, the rotation made exact: published ones are off by up to 1.2e-3.

    Raises:
        ValueError: not a finite (3, 3) and three finite numbers; the message starts with `where`.

    >>> exact_pose(1.001 * np.eye(3), [1.0, 2.0, 3.0], "pair 0")[:3, :3].round(9).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    try:
        matrix, shift = np.asarray(rotation, dtype=np.float64), np.asarray(translation, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a finite 3x3 rotation and 3 numbers, got {error}") from None
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
            rebuild: Any = np.empty(0).__reduce__()[0]
            legacy: Any = (rebuild, "numpy.core.multiarray._reconstruct")
            with torch.serialization.safe_globals([*kinds, rebuild, legacy]):
                points = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: expected an array of points, got {first}") from error
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind != "f":
        raise ValueError(f"{path}: expected floating point numbers of shape (N, 3), got {points.dtype} {points.shape}")
    return np.ascontiguousarray(points[:, :3], dtype=np.float32)
