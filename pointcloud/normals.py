"""Surface normals, and which side of the surface the sensor was on."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch

from rotaware.kernels import knn, radius_search

# Distances this near are equal, over the radius of the cloud: what rounding to float32 makes of equal distances four
# radii from the origin, the least step between those of 33 neighbors on a lattice of 2 mm being ten times as large.
TIED = 1e-6
# Edges between points at most this far apart (in voxels) and about parallel vote on the sensor's position.
EDGE_RADIUS = 2.0
PARALLEL = 0.8
MAX_EDGES = 6000
MAX_CANDIDATES = 6000
# Share of sensor candidates' occluded points that breaks ties between sides the signs cannot tell apart.
OCCLUSION_WEIGHT = 0.02
# What a doubling of the distance beyond the cloud's radius costs: from very far away, signs alone say little.
FAR_WEIGHT = 0.003
# A viewpoint behind everything is reported too when its inconsistency is at most this much larger.
REVERSE_SLACK = 0.03
# Cells per edge of the cube map of depths: 2.2 degrees, coarser than the gaps between voxels seen from a few metres.
DEPTH_RESOLUTION = 40


@dataclass(frozen=True)
class Sensor:
    """Where the surfaces were seen from, and how well one viewpoint explains the cloud."""

    origin: np.ndarray  # (3,), frame and unit of the points
    inconsistent: float  # share of smooth edges whose ends would face opposite sides
    occluded: float  # share of points hidden behind others


def estimate_normals(points: np.ndarray, support: np.ndarray, neighbors: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Normals of least squares planes through the nearest points of `support`.

    Args:
        points: (N, 3) where to estimate.
        support: (M, 3) points to fit, at least one.
        neighbors: points per plane; clamped to M. Of equally far ones, up to a millionth of the radius of the cloud,
            the lower rows, so that a scan on a lattice has the same planes in every pose.
    Returns:
        (N, 3) float64 unit normals of arbitrary sign, and (N,) float64 surface variation in [0, 1/3]
        (smallest eigenvalue over their sum; 0 is a plane).

    >>> grid = np.stack(np.meshgrid(np.arange(8.), np.arange(8.), [0.]), -1).reshape(-1, 3)
    >>> normals, variation = estimate_normals(grid, grid, 9)
    >>> bool(np.allclose(np.abs(normals[:, 2]), 1)), bool(variation.max() < 1e-12)
    (True, True)
    """
    k = min(neighbors, len(support))
    radius = np.linalg.norm(support - support.mean(axis=0), axis=1).max()
    found = knn(torch.from_numpy(support), k, queries=torch.from_numpy(points), tie_tolerance=TIED * radius)
    index = found.index.numpy()
    near = support[index]  # (N, k, 3)
    near = near - near.mean(axis=1, keepdims=True)
    covariance = near.transpose(0, 2, 1) @ near / k  # (N, 3, 3)
    values, vectors = np.linalg.eigh(covariance)
    total = np.maximum(values.sum(axis=1), 1e-300)
    return np.ascontiguousarray(vectors[:, :, 0]), np.maximum(values[:, 0], 0.0) / total


def orient_normals(points: np.ndarray, normals: np.ndarray, sensor: np.ndarray) -> np.ndarray:
    """(N, 3) normals turned to face `sensor` (3,); equivariant when the sensor moves with the points."""
    away = ((sensor - points) * normals).sum(axis=1) < 0.0
    return np.where(away[:, None], -normals, normals)


@numba.njit(cache=True, nogil=True)
def _inconsistent(points, normals, first, second, candidates, out):  # type: ignore[no-untyped-def]
    """Per candidate viewpoint: share of edges whose parallel normals would be turned against each other."""
    for c in range(candidates.shape[0]):
        cx, cy, cz = candidates[c, 0], candidates[c, 1], candidates[c, 2]
        bad = 0
        for e in range(first.shape[0]):
            i, j = first[e], second[e]
            si = (
                normals[i, 0] * (cx - points[i, 0])
                + normals[i, 1] * (cy - points[i, 1])
                + normals[i, 2] * (cz - points[i, 2])
            )
            sj = (
                normals[j, 0] * (cx - points[j, 0])
                + normals[j, 1] * (cy - points[j, 1])
                + normals[j, 2] * (cz - points[j, 2])
            )
            dot = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
            if si * sj * dot < 0.0:
                bad += 1
        out[c] = bad / max(1, first.shape[0])


@numba.njit(cache=True, nogil=True)
def depth_cell(x, y, z, resolution):  # type: ignore[no-untyped-def]
    """Cell of a cube map, 6 * resolution ** 2 cells, in direction (x, y, z)."""
    ax, ay, az = abs(x), abs(y), abs(z)
    if ax >= ay and ax >= az:
        face, major, u, v = (0 if x > 0 else 1), ax, y, z
    elif ay >= az:
        face, major, u, v = (2 if y > 0 else 3), ay, x, z
    else:
        face, major, u, v = (4 if z > 0 else 5), az, x, y
    major = max(major, 1e-12)
    row = min(int((u / major + 1.0) * 0.5 * resolution), resolution - 1)
    column = min(int((v / major + 1.0) * 0.5 * resolution), resolution - 1)
    return (face * resolution + row) * resolution + column


@numba.njit(cache=True, nogil=True)
def _occluded(points, origin, resolution, margin):  # type: ignore[no-untyped-def]
    n = points.shape[0]
    nearest = np.full(6 * resolution * resolution, np.inf)
    cells = np.empty(n, np.int64)
    depths = np.empty(n)
    for i in range(n):
        x, y, z = points[i, 0] - origin[0], points[i, 1] - origin[1], points[i, 2] - origin[2]
        cells[i] = depth_cell(x, y, z, resolution)
        depths[i] = np.sqrt(x * x + y * y + z * z)
        nearest[cells[i]] = min(nearest[cells[i]], depths[i])
    hidden = 0
    for i in range(n):
        if depths[i] > nearest[cells[i]] * 1.08 + margin:
            hidden += 1
    return hidden / n


@numba.njit(cache=True, nogil=True)
def _fill_depths(points, origin, resolution, out):  # type: ignore[no-untyped-def]
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - origin[0], points[i, 1] - origin[1], points[i, 2] - origin[2]
        cell = depth_cell(x, y, z, resolution)
        out[cell] = min(out[cell], np.sqrt(x * x + y * y + z * z))


@numba.njit(cache=True, nogil=True)
def _before(points, origin, resolution, depths, margin, out):  # type: ignore[no-untyped-def]
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - origin[0], points[i, 1] - origin[1], points[i, 2] - origin[2]
        seen = depths[depth_cell(x, y, z, resolution)]
        distance = np.sqrt(x * x + y * y + z * z)
        out[i] = seen < np.inf and distance < seen - margin - 0.05 * distance


def depth_map(points: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Nearest distance of `points` (N, 3) from `origin` (3,) per cell of a cube map, infinite where nothing is seen."""
    depths = np.full(6 * DEPTH_RESOLUTION**2, np.inf)
    _fill_depths(points, origin, DEPTH_RESOLUTION, depths)
    return depths


def in_free_space(points: np.ndarray, origin: np.ndarray, depths: np.ndarray, margin: float = 3.0) -> np.ndarray:
    """(N,) bool: points that stand where the sensor at `origin` looked through to the surface of `depths`.

    >>> wall = np.stack(np.meshgrid([10.0], np.arange(-5.0, 6), np.arange(-5.0, 6)), -1).reshape(-1, 3)
    >>> depths = depth_map(wall, np.zeros(3))
    >>> in_free_space(np.array([[4.0, 0, 0], [10, 0, 0], [20, 0, 0], [-4, 0, 0]]), np.zeros(3), depths).tolist()
    [True, False, False, False]
    """
    out = np.zeros(len(points), dtype=np.bool_)
    _before(points, origin, DEPTH_RESOLUTION, depths, margin, out)
    return out


def _candidates(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Viewpoints to try: a grid through and around the cloud, and three shells far outside."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = high - low
    margin = 0.3 * size.max()
    step = max(float(np.prod(size + 2 * margin) / MAX_CANDIDATES) ** (1.0 / 3.0), 1e-9)
    axes = [np.arange(lo - margin + step / 2, hi + margin, step) for lo, hi in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    turns = np.arange(200) + 0.5
    polar, azimuth = np.arccos(1.0 - turns / 100.0), turns * np.pi * (1.0 + 5.0**0.5)
    sphere = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)
    radius = 0.5 * float(np.linalg.norm(size))
    shells = [(low + high) / 2 + sphere * radius * factor for factor in (1.6, 3.0, 8.0)]
    return np.concatenate([grid, *shells]), step


def estimate_sensors(points: np.ndarray, normals: np.ndarray) -> list[Sensor]:
    """The viewpoints from which neighboring parallel surfaces are all seen from one side, best first.

    A depth sensor sees surfaces from the front only. For the true viewpoint, normals turned towards it agree between
    neighbors; a wrong one cuts smooth surfaces in two. The search uses nothing but the cloud itself, so the answer
    moves with the cloud, which an assumption like "the sensor stood at the origin" does not. What this cannot always
    tell is the front from the back of everything at once (a wall seen from behind): if a viewpoint that turns most
    normals over explains the cloud nearly as well, it comes second.

    Args:
        points: (N, 3) float64 in voxels, canonical frame.
        normals: (N, 3) float64, any signs.
    Returns:
        One or two sensors.

    >>> rng = np.random.default_rng(0)
    >>> ball = rng.normal(size=(3000, 3)); ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    >>> estimate_sensors(15 * ball, ball)[0].inconsistent < 0.01
    True
    """
    near = radius_search(torch.from_numpy(points), EDGE_RADIUS, exclude_self=True)
    offsets, second = near.offsets.numpy(), near.index.numpy().astype(np.int64)
    first = np.repeat(np.arange(len(points)), np.diff(offsets))
    smooth = (first < second) & (np.abs((normals[first] * normals[second]).sum(axis=1)) > PARALLEL)
    first, second = first[smooth], second[smooth]
    chosen = np.linspace(0, len(first) - 1, min(len(first), MAX_EDGES)).astype(np.int64)
    first, second = first[chosen], second[chosen]

    def inconsistency(candidates: np.ndarray) -> np.ndarray:
        out = np.empty(len(candidates))
        _inconsistent(points, normals, first, second, candidates, out)
        return out

    def best(candidates: np.ndarray, bad: np.ndarray) -> tuple[int, float]:
        # Occlusion costs more to count than signs: only for candidates that could still win.
        close = np.flatnonzero(bad <= bad.min() + OCCLUSION_WEIGHT)
        hidden = np.array([_occluded(points, candidates[c], 32, 3.0) for c in close])
        away = np.linalg.norm(candidates[close] - middle, axis=1) / radius
        far = FAR_WEIGHT * np.log2(np.maximum(away, 1.0))
        winner = int(np.argmin(bad[close] + OCCLUSION_WEIGHT * hidden + far))
        return int(close[winner]), float(hidden[winner])

    low, high = points.min(axis=0), points.max(axis=0)
    middle, radius = (low + high) / 2, max(0.5 * float(np.linalg.norm(high - low)), 1e-9)
    candidates, step = _candidates(points)
    bad = inconsistency(candidates)
    probe = np.linspace(0, len(points) - 1, min(len(points), 400)).astype(np.int64)
    facing = np.sign(candidates @ normals[probe].T - (points[probe] * normals[probe]).sum(axis=1))

    sensors: list[Sensor] = []
    allowed = np.ones(len(candidates), dtype=bool)
    while len(sensors) < 2 and allowed.any():
        rows = np.flatnonzero(allowed)
        row = rows[best(candidates[rows], bad[rows])[0]]
        near_best = candidates[row] + _NEIGHBORHOOD * (step / 3.0)
        bad_near = inconsistency(near_best)
        winner, hidden = best(near_best, bad_near)
        sensor = Sensor(near_best[winner], float(bad_near[winner]), hidden)
        if sensors and sensor.inconsistent > sensors[0].inconsistent + REVERSE_SLACK:
            break
        sensors.append(sensor)
        allowed = (facing * facing[row]).mean(axis=1) < -0.3
    return sensors


_NEIGHBORHOOD = np.stack(np.meshgrid(*[np.arange(-2.0, 3.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
