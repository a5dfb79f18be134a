"""Column names across formats: what a writer calls the columns of a cloud that came from somewhere else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .cloud import COLOR_NAMES, NORMAL_NAMES, PointCloud, columns_from_cloud, packed_color, triple


def columns_for(cloud: PointCloud, format: str) -> dict[str, np.ndarray]:
    """Columns of the cloud, named for `format`: the file's own names, or the usual ones of another format.

    On the way to another format, normals become nx ny nz (normal_x ... in PCD) and colours red green blue; PCD has
    8-bit colours packed into one column `rgb`.
    """
    columns = columns_from_cloud(cloud)
    if cloud.layout.format == format:
        return columns
    columns = _renamed(columns, dict(zip(cloud.layout.coordinates, "xyz", strict=True)))
    usual = ("normal_x", "normal_y", "normal_z") if format == "pcd" else ("nx", "ny", "nz")
    columns = _as_three(columns, triple(columns, NORMAL_NAMES, ("normals", "normal")), usual)
    names = triple(columns, COLOR_NAMES, ("colors", "color", "rgb"))
    if names is not None:
        columns = _as_three(columns, names, ("red", "green", "blue"))
        return _packed(columns) if format == "pcd" else columns
    packed = packed_color(columns)
    if packed is not None and format != "pcd":
        columns = _unpacked(columns, *packed)
    return columns


def _renamed(columns: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Renamed columns; one whose new name another column already has keeps its own."""
    taken = set(columns) - set(names)
    return {names[key] if key in names and names[key] not in taken else key: column for key, column in columns.items()}


def _as_three(
    columns: Mapping[str, np.ndarray], found: tuple[str, str, str] | str | None, usual: tuple[str, str, str]
) -> dict[str, np.ndarray]:
    if not isinstance(found, str):
        return _renamed(columns, dict(zip(found or (), usual, strict=False)))
    result: dict[str, np.ndarray] = {}
    for key, column in columns.items():
        result.update(zip(usual, column.T, strict=True) if key == found else {key: column})
    return result


def _packed(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    channels = [columns.get(key) for key in ("red", "green", "blue")]
    if any(channel is None or channel.dtype != np.uint8 for channel in channels) or "rgb" in columns:
        return dict(columns)
    red, green, blue = (columns[key].astype(np.uint32) for key in ("red", "green", "blue"))
    # The alpha byte stays 0, so the bits are never those of a NaN.
    packed = (red << 16 | green << 8 | blue).view(np.float32)
    result: dict[str, np.ndarray] = {}
    for key, column in columns.items():
        if key == "red":
            result["rgb"] = packed
        elif key not in ("green", "blue"):
            result[key] = column
    return result


def _unpacked(columns: Mapping[str, np.ndarray], name: str, packed: np.ndarray) -> dict[str, np.ndarray]:
    parts = {"red": 16, "green": 8, "blue": 0, **({"alpha": 24} if name.lower() == "rgba" else {})}
    if set(parts) & set(columns):
        return dict(columns)
    result: dict[str, np.ndarray] = {}
    for key, column in columns.items():
        if key == name:
            result.update({part: (packed >> shift & 255).astype(np.uint8) for part, shift in parts.items()})
        else:
            result[key] = column
    return result
