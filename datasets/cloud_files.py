"""The points of a scan in the formats that benchmarks are distributed in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .safe_pickle import load_torch

_TORCH = (".pth", ".pt")
# What one point of a Velodyne scan takes: x, y, z and reflectance as float32.
_KITTI_COLUMNS = 4


def read_cloud(path: Path) -> NDArray[np.float32]:
    """(N, 3) of a `.pth` (array or tensor), `.npy` or KITTI `.bin` file, without running code that may be in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, empty, of another format, or not an array of points.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such cloud")
    suffix = path.suffix.lower()
    try:
        if suffix in _TORCH:
            found = load_torch(path)
        elif suffix == ".npy":
            # Given the name, NumPy leaves a damaged file open.
            with path.open("rb") as stream:
                found = np.load(stream, allow_pickle=False)
        elif suffix == ".bin":
            found = _velodyne(path)
        else:
            raise ValueError(f"a {suffix or 'nameless'} file, which needs a reader: .pth, .npy and .bin are read here")
        points = np.asarray(found)
    except (ValueError, EOFError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: expected an array of points, got {error}") from error
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind != "f":
        raise ValueError(f"{path}: expected floating point numbers of shape (N, 3), got {points.dtype} {points.shape}")
    return np.ascontiguousarray(points[:, :3], dtype=np.float32)


def _velodyne(path: Path) -> NDArray[np.float32]:
    content = path.read_bytes()
    if len(content) % (4 * _KITTI_COLUMNS):
        raise ValueError(f"{len(content)} bytes, which is no whole number of points")
    return np.frombuffer(content, "<f4").reshape(-1, _KITTI_COLUMNS)
