"""A frame of the cloud's own: unit, origin, pose and row order drop out before any geometry is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rotaware.kernels import voxel_downsample

from .errors import InputError

# The automatic voxel leaves about this many occupied cells in the larger cloud: 4 cm on a 3DMatch fragment.
OCCUPIED_VOXELS = 6000
MIN_POINTS = 3


@dataclass(frozen=True)
class CleanCloud:
    """Finite, distinct points and where they came from."""

    points: np.ndarray  # (N, 3) float64, user's frame and unit
    rows: np.ndarray  # (N,) int64 into the original rows
    dropped_nonfinite: int
    dropped_duplicates: int


def clean(points: np.ndarray, name: str) -> CleanCloud:
    """Drop rows that are not finite and exact duplicates, and refuse clouds whose rotation cannot be observed.

    Args:
        points: (N, 3) float64.
        name: "source" or "target", for messages.
    Raises:
        InputError: fewer than 3 usable points, more than half of the rows not finite, all points identical or on one
            line.

    >>> clean(np.array([[0., 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]), "source").dropped_duplicates
    1
    """
    if len(points) == 0:
        raise InputError(f"{name} is empty: expected at least {MIN_POINTS} points, got 0")
    finite = np.isfinite(points).all(axis=1)
    rows = np.flatnonzero(finite)
    dropped_nonfinite = len(points) - len(rows)
    if len(rows) == 0:
        raise InputError(f"{name}: all {len(points)} points are NaN or infinite")
    if dropped_nonfinite > len(points) // 2:
        first = np.array2string(points[:2], max_line_width=10_000).replace("\n", "")
        share = f"{dropped_nonfinite} of {len(points)} points are NaN or infinite"
        raise InputError(f"{name}: {share}; check the columns, first rows: {first}")
    kept = points[rows]
    order = np.lexsort((rows, kept[:, 2], kept[:, 1], kept[:, 0]))
    ordered = kept[order]
    first_of_kind = np.ones(len(rows), dtype=bool)
    first_of_kind[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    unique = np.sort(order[first_of_kind])
    cloud = CleanCloud(kept[unique], rows[unique], dropped_nonfinite, len(rows) - len(unique))
    if len(cloud.points) < MIN_POINTS:
        if len(rows) >= MIN_POINTS:
            raise InputError(
                f"{name}: all {len(rows)} points are at {len(cloud.points)} place(s); a pose needs 3 or more"
            )
        raise InputError(
            f"{name} has {len(cloud.points)} usable points; {MIN_POINTS} are needed and about 500 are advisable"
        )
    spread = _principal(cloud.points)[1]
    if spread[1] <= 1e-5 * spread[0]:
        raise InputError(f"{name}: all points lie on one line: rotation about it cannot be observed")
    return cloud


def _principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviations in falling order, and axes as rows."""
    mean = points.mean(axis=0)
    centred = points - mean
    scale = np.abs(centred).max()
    if scale == 0.0:
        return mean, np.zeros(3), np.eye(3)
    centred = centred / scale
    values, vectors = np.linalg.eigh(centred.T @ centred / len(points))
    return mean, np.sqrt(np.maximum(values[::-1], 0.0)) * scale, vectors[:, ::-1].T


def canonical_frame(points: np.ndarray) -> np.ndarray:
    """(4, 4) float64 rigid motion into the frame of the cloud's principal axes, signs by the third moments.

    The frame turns with the cloud, so grids anchored to it cut a rotated cloud into the same cells.

    >>> frame = canonical_frame(np.random.default_rng(0).normal(size=(100, 3)) + 1e6)
    >>> bool(np.isclose(np.linalg.det(frame[:3, :3]), 1.0))
    True
    """
    mean, _, axes = _principal(points)
    skew = (((points - mean) @ axes.T) ** 3).sum(axis=0)
    axes = axes * np.where(skew < 0.0, -1.0, 1.0)[:, None]
    if np.linalg.det(axes) < 0.0:
        axes[2] *= -1.0
    frame = np.eye(4)
    frame[:3, :3] = axes
    frame[:3, 3] = -axes @ mean
    return frame


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Rows of `points` (N, 3) moved by the (4, 4) `transform`."""
    return points @ transform[:3, :3].T + transform[:3, 3]


def invert(transform: np.ndarray) -> np.ndarray:
    """Inverse of a rigid or similarity (4, 4) transform."""
    out = np.eye(4)
    linear = np.linalg.inv(transform[:3, :3])
    out[:3, :3] = linear
    out[:3, 3] = -linear @ transform[:3, 3]
    return out


def voxel_centroids(points: np.ndarray, size: float) -> np.ndarray:
    """(V, 3) mean positions of the occupied cells, in an order that does not depend on the order of the rows."""
    cells = voxel_downsample(torch.from_numpy(np.ascontiguousarray(points)), size, rule="centroid")
    centroids = cells.points.numpy()
    return centroids[np.lexsort(centroids.T)]


def _occupied(points: np.ndarray, size: float) -> int:
    return len(voxel_downsample(torch.from_numpy(points), size, rule="first").index)


def automatic_voxel(clouds: list[np.ndarray], occupied: int = OCCUPIED_VOXELS) -> float:
    """Smallest cell size that leaves about `occupied` cells in the larger cloud.

    Args:
        clouds: (N, 3) float64 each, in their canonical frames.
    Returns:
        The size in the unit of the points. Sparse clouds get a size that keeps a few points per descriptor ball.
    """
    return max(_voxel_for(np.ascontiguousarray(cloud), occupied) for cloud in clouds)


def _voxel_for(points: np.ndarray, occupied: int) -> float:
    extent = float(np.ptp(points, axis=0).max())
    # A few stray points far away must not set the scale of the search.
    body = float(np.ptp(np.percentile(points, (2.0, 98.0), axis=0), axis=0).max()) or extent
    # Ever fewer cells than points: at a size that leaves every point alone a descriptor would see only its centre.
    wanted = min(occupied, max(len(points) // 2, 2))
    # Bisection on thinned copies: the count at a size hardly changes once cells are much finer than that size.
    fine = body / 1024.0
    thinned = voxel_centroids(points, fine) if len(points) > 20 * occupied else points
    low, high = fine, extent
    while high / low > 1.005:
        middle = (low * high) ** 0.5
        if _occupied(thinned, middle) > wanted:
            low = middle
        else:
            high = middle
    return high
