"""Point pair features of every query and its neighbors in one compiled pass, without gathered copies."""

from __future__ import annotations

import numpy as np
from numba import njit

from rotaware.geo.scalar import JIT_OPTIONS, arc_tangent, formula, square_root
from rotaware.geo.vectors import cross, dot

# Pairs that are turned from rows into columns at a time, so that the arithmetic is on vectors.
BLOCK = 64


@formula
def _angle(ax, ay, az, bx, by, bz):  # type: ignore[no-untyped-def]
    """Angle between two vectors over pi, 0 where one of them is 0."""
    x, y, z = cross(ax, ay, az, bx, by, bz)
    return arc_tangent(square_root(dot(x, y, z, x, y, z)), dot(ax, ay, az, bx, by, bz)) * (1 / np.pi)


@njit(cache=True, nogil=True, **{key: value for key, value in JIT_OPTIONS.items() if key != "forceinline"})
def pair_features(
    start: int,
    stop: int,
    index: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    key_points: np.ndarray,
    key_normals: np.ndarray,
    features: np.ndarray,
) -> None:
    """Fill features[start:stop] of (M, k, 4) with `rotaware.geo.point_pair_features` of queries and `index` (M, k).

    Computed in float64. Empty slots, -1, get zeros. Queries and keys are rows of points and unit or other normals.
    """
    slots = index.shape[1]
    block, found = np.empty((9, BLOCK)), np.empty((4, BLOCK))
    for first in range(start * slots, stop * slots, BLOCK):
        size = min(BLOCK, stop * slots - first)
        for j in range(size):
            query, slot = (first + j) // slots, (first + j) % slots
            # An empty slot is computed with some key and not written.
            key = max(index[query, slot], 0)
            for axis in range(3):
                block[axis, j] = np.float64(key_points[key, axis]) - np.float64(points[query, axis])
                block[3 + axis, j] = normals[query, axis]
                block[6 + axis, j] = key_normals[key, axis]
        for j in range(size):
            dx, dy, dz = block[0, j], block[1, j], block[2, j]
            ax, ay, az = block[3, j], block[4, j], block[5, j]
            bx, by, bz = block[6, j], block[7, j], block[8, j]
            found[0, j] = square_root(dot(dx, dy, dz, dx, dy, dz))
            found[1, j] = _angle(ax, ay, az, dx, dy, dz)
            found[2, j] = _angle(bx, by, bz, dx, dy, dz)
            found[3, j] = _angle(ax, ay, az, bx, by, bz)
        for j in range(size):
            query, slot = (first + j) // slots, (first + j) % slots
            for channel in range(4):
                features[query, slot, channel] = found[channel, j] if index[query, slot] >= 0 else 0.0
