"""Lists of pairs as pickles, in the schema of OverlapPredator and in that of GeoTransformer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .poses import published_pose
from .safe_pickle import load_pickle
from .solids import Array

_COLUMNS = ("src", "tgt", "rot", "trans", "overlap")
# GeoTransformer's names for them: its reference, cloud 0, is the target.
_OTHER_NAMES = {"pcd1": "src", "pcd0": "tgt", "rotation": "rot", "translation": "trans"}
_FRAGMENT = re.compile(r"cloud_bin_(\d+)")


@dataclass(frozen=True, eq=False)
class ListedPair:
    """One entry of a list."""

    source: str  # as listed, a path below the folder of the data
    target: str
    T_target_source: Array  # (4, 4), as listed
    overlap: float

    @property
    def numbers(self) -> tuple[int, int] | None:
        """Of the source and of the target, as in `cloud_bin_7`; None if a name is another one."""
        found = [_FRAGMENT.fullmatch(_posix(name).stem) for name in (self.source, self.target)]
        return (int(found[0][1]), int(found[1][1])) if found[0] and found[1] else None


def read_pair_list(path: Path) -> list[ListedPair]:
    """The pairs of a list: a dict of lists, or a list of dicts, in either schema.

    OverlapPredator has `src, tgt, rot, trans, overlap`; GeoTransformer `pcd1, pcd0, rotation, translation, overlap`
    with the same meaning. The pose maps the source, fragment j, to the target, fragment i.

    Raises:
        FileNotFoundError: no such list.
        ValueError: a list that is damaged, holds other things than arrays, numbers and text, lacks a column, or has a
            pose that is none.
    Source: the data of Huang et al., "PREDATOR", CVPR 2021, and of Qin et al., "Geometric Transformer", CVPR 2022.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{path}: no such list of pairs") from None
    try:
        found = load_pickle(content)
    except ValueError as error:
        raise ValueError(f"{path}: expected a pickled list of pairs, got {error}") from error
    columns = _columns(found, path)
    return [
        ListedPair(
            source=_name(columns["src"][k], f"{path}, pair {k}"),
            target=_name(columns["tgt"][k], f"{path}, pair {k}"),
            T_target_source=published_pose(columns["rot"][k], columns["trans"][k], f"{path}, pair {k}"),
            overlap=_share(columns["overlap"][k], f"{path}, pair {k}"),
        )
        for k in range(len(columns["src"]))
    ]


def inside(root: Path, name: str, where: str) -> Path:
    r"""The file that a list names, below the folder of the data; a list from elsewhere has no business outside.

    Args:
        name: with slashes or, as written on Windows, backslashes.
    Raises:
        ValueError: the name leads out of `root`; the message starts with `where`.

    >>> inside(Path("data"), r"test\kitchen\cloud_bin_0.pth", "pair 0").as_posix()
    'data/test/kitchen/cloud_bin_0.pth'
    >>> inside(Path("data"), "test/../../secret.pth", "pair 0")
    Traceback (most recent call last):
    ValueError: pair 0: expected a file inside data, got 'test/../../secret.pth'
    """
    base = Path(abspath(root))
    path = Path(abspath(base / _posix(name)))
    if PureWindowsPath(name).drive or not path.is_relative_to(base):
        raise ValueError(f"{where}: expected a file inside {root}, got {name!r}")
    return root / path.relative_to(base)


def _posix(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _columns(found: Any, path: Path) -> dict[str, Any]:
    if isinstance(found, list) and all(isinstance(record, dict) for record in found):
        names = set(found[0]).intersection(*found[1:]) if found else _COLUMNS
        found = {name: [record[name] for record in found] for name in names}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a dict of lists or a list of dicts, got {type(found).__name__}")
    columns: dict[Any, Any] = {_OTHER_NAMES.get(name, name): column for name, column in found.items()}
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}; {', '.join(missing)} missing")
    sizes = {name: len(columns[name]) if hasattr(columns[name], "__len__") else None for name in _COLUMNS}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        raise ValueError(f"{path}: expected columns of one length, got {sizes}")
    return columns


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{where}: expected the name of a cloud, got {value!r}")
    return str(value)


def _share(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: expected a number as overlap, got {value!r}") from None
