"""First surfaces along the rays of a pinhole camera, in closed form; the kernel behind `depth_camera.cast_view`.

Most rays pass most solids of a room by, so three tests come before the exact one: the cone of rays of a whole tile of
pixels, the rectangle of the image that a solid can appear in, its bounding sphere. They spare work and never change
what a ray meets.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

# For its effect, before the first kernel: it finds numba a folder for compiled code.
from rotaware.geo import compile_cache as _compile_cache  # noqa: F401

from .solids import BOWL, BOX, ELLIPSOID, FRUSTUM, Array

TILE = 16
# Metres in front of the camera; what a solid has nearer than this may be missed.
NEAR = 1e-6


@njit(cache=True, nogil=True)
def cast_rays(
    kind: NDArray[np.int64],
    center: Array,
    axes: Array,
    half: Array,
    taper: Array,
    radius: Array,
    pose: Array,
    focal: float,
    margin: float,
    offset: Array,
    depth: Array,
    cosine: Array,
    solid: NDArray[np.int64],
) -> None:
    """Fill depth, cosine and solid (height, width), tile by tile; a pixel whose ray meets nothing keeps its values.

    Args:
        kind, center, axes, half, taper: the fields of `Solids`, in world coordinates.
        radius: (S,) of a sphere about each center that holds the solid.
        pose: (4, 4) T_world_camera.
        focal: pixels.
        margin: pixels, no `offset` is larger.
        offset: (2, height, width) columns and rows by which each ray leaves beside its pixel.
    """
    height, width = depth.shape
    count = len(kind)
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    # From camera coordinates to the unit shape of each solid.
    origin = np.zeros((count, 3))
    turn = np.zeros((count, 3, 3))
    toward = np.zeros((count, 3))
    distance = np.zeros(count)
    for s in range(count):
        for a in range(3):
            for b in range(3):
                origin[s, a] += axes[s, b, a] * (pose[b, 3] - center[s, b]) / half[s, a]
                toward[s, a] += pose[b, a] * (center[s, b] - pose[b, 3])
                for c in range(3):
                    turn[s, a, b] += axes[s, c, a] * pose[c, b] / half[s, a]
        distance[s] = np.sqrt(toward[s, 0] ** 2 + toward[s, 1] ** 2 + toward[s, 2] ** 2)
    nearest_first = np.argsort(distance - radius)
    listed = np.zeros(count, np.int64)
    frame = np.zeros((count, 5))
    _frame(kind, axes, half, taper, pose, toward, focal, cx, cy, frame)

    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            # The cone about the tile's middle ray that holds its corners.
            mx, my = (0.5 * (left + right - 1) - cx) / focal, (0.5 * (top + bottom - 1) - cy) / focal
            length = np.sqrt(mx * mx + my * my + 1.0)
            half_side = (0.5 * TILE + margin) / focal
            opening = np.arctan(np.sqrt(2.0) * half_side)
            kept = 0
            for k in range(count):
                s = nearest_first[k]
                if (
                    frame[s, 0] > right - 1 + margin
                    or frame[s, 1] < left - margin
                    or frame[s, 2] > bottom - 1 + margin
                    or frame[s, 3] < top - margin
                ):
                    continue
                if distance[s] > radius[s]:
                    along = (toward[s, 0] * mx + toward[s, 1] * my + toward[s, 2]) / (length * distance[s])
                    reach = opening + np.arcsin(radius[s] / distance[s])
                    if reach < np.pi and along < np.cos(reach):
                        continue
                listed[kept] = s
                kept += 1
            for row in range(top, bottom):
                for column in range(left, right):
                    u, v = column + offset[0, row, column], row + offset[1, row, column]
                    x = (u - cx) / focal
                    y = (v - cy) / focal
                    ray_length = np.sqrt(x * x + y * y + 1.0)
                    best = np.inf
                    for k in range(kept):
                        s = listed[k]
                        if distance[s] - radius[s] > best * ray_length:
                            break
                        if (
                            u < frame[s, 0]
                            or u > frame[s, 1]
                            or v < frame[s, 2]
                            or v > frame[s, 3]
                            or frame[s, 4] > best
                        ):
                            continue
                        along = (toward[s, 0] * x + toward[s, 1] * y + toward[s, 2]) / ray_length
                        if distance[s] ** 2 - along * along > radius[s] ** 2:
                            continue
                        t, facing = _meet(s, kind, half, taper, origin, turn, x, y)
                        if t < best:
                            best = t
                            depth[row, column] = t
                            cosine[row, column] = facing / ray_length
                            solid[row, column] = s


@njit(cache=True, nogil=True)
def _frame(
    kind: NDArray[np.int64],
    axes: Array,
    half: Array,
    taper: Array,
    pose: Array,
    toward: Array,
    focal: float,
    cx: float,
    cy: float,
    frame: Array,
) -> None:
    """Fill frame (S, 5): where in the image each solid can be met at all.

    First and last column, first and last row, and least depth, of that part of the box about it that lies in front of
    the camera.
    """
    corner = np.zeros((8, 3))
    for s in range(len(kind)):
        widest = 1.0 if kind[s] == BOX else 1.0 + abs(taper[s])
        for k in range(8):
            for a in range(3):
                corner[k, a] = toward[s, a]
            for axis in range(3):
                reach = half[s, axis] * (widest if axis < 2 else 1.0) * (1.0 if k >> axis & 1 else -1.0)
                for a in range(3):
                    for b in range(3):
                        corner[k, a] += pose[b, a] * axes[s, b, axis] * reach
        frame[s] = np.inf
        frame[s, 1] = frame[s, 3] = -np.inf
        for k in range(8):
            if corner[k, 2] >= NEAR:
                _widen(frame[s], corner[k, 0], corner[k, 1], corner[k, 2], focal, cx, cy)
            for axis in range(3):
                other = k ^ (1 << axis)
                if corner[k, 2] >= NEAR > corner[other, 2]:
                    share = (corner[k, 2] - NEAR) / (corner[k, 2] - corner[other, 2])
                    x = corner[k, 0] + share * (corner[other, 0] - corner[k, 0])
                    y = corner[k, 1] + share * (corner[other, 1] - corner[k, 1])
                    _widen(frame[s], x, y, NEAR, focal, cx, cy)


@njit(cache=True, nogil=True)
def _widen(frame: Array, x: float, y: float, z: float, focal: float, cx: float, cy: float) -> None:
    """Let `frame` hold a point in camera coordinates, and a hair more, for rounding."""
    u, v = focal * x / z + cx, focal * y / z + cy
    frame[0], frame[1] = min(frame[0], u - 1e-5), max(frame[1], u + 1e-5)
    frame[2], frame[3] = min(frame[2], v - 1e-5), max(frame[3], v + 1e-5)
    frame[4] = min(frame[4], z - 1e-9)


@njit(cache=True, nogil=True)
def _meet(
    s: int, kind: NDArray[np.int64], half: Array, taper: Array, origin: Array, turn: Array, x: float, y: float
) -> tuple[float, float]:
    """Ray parameter where direction (x, y, 1) first meets solid s, and |normal . direction|; inf for a miss.

    `origin` and `turn` map to the frame of the unit shape, where u is the direction and o the camera.
    """
    ux = turn[s, 0, 0] * x + turn[s, 0, 1] * y + turn[s, 0, 2]
    uy = turn[s, 1, 0] * x + turn[s, 1, 1] * y + turn[s, 1, 2]
    uz = turn[s, 2, 0] * x + turn[s, 2, 1] * y + turn[s, 2, 2]
    ox, oy, oz = origin[s, 0], origin[s, 1], origin[s, 2]

    if kind[s] == BOX:
        enter, leave, face = -np.inf, np.inf, 0.0
        for u, o, h in ((ux, ox, half[s, 0]), (uy, oy, half[s, 1]), (uz, oz, half[s, 2])):
            if abs(u) < 1e-12:
                if abs(o) > 1.0:
                    return np.inf, 0.0
                continue
            inverse = 1.0 / u
            middle, reach = -o * inverse, abs(inverse)
            if middle - reach > enter:
                enter, face = middle - reach, abs(u) * h
            leave = min(leave, middle + reach)
        if enter > leave or enter <= 1e-9:
            return np.inf, 0.0
        return enter, face

    # Every other shape is a quadric, a t^2 + 2 b t + c = 0 along the ray, cut to a range of z.
    is_ball = kind[s] in (ELLIPSOID, BOWL)
    slope = 0.0 if is_ball else taper[s]
    a = ux * ux + uy * uy
    b = ox * ux + oy * uy
    c = ox * ox + oy * oy
    if is_ball:
        a, b, c = a + uz * uz, b + oz * uz, c + oz * oz - 1.0
    else:
        a, b, c = a - slope * slope * uz * uz, b - (1.0 + slope * oz) * slope * uz, c - (1.0 + slope * oz) ** 2
    lowest, highest = -1.0, 0.0 if kind[s] == BOWL else 1.0
    best, normal = np.inf, 0.0
    under = b * b - a * c
    if under >= 0.0 and abs(a) > 1e-15:
        root = np.sqrt(under)
        for t in ((-b - root) / a, (-b + root) / a):
            px, py, pz = ox + t * ux, oy + t * uy, oz + t * uz
            if t <= 1e-9 or t >= best or not (is_ball or lowest <= pz) or pz > highest:
                continue
            gz = pz if is_ball else -slope * (1.0 + slope * pz)
            length = np.sqrt((px / half[s, 0]) ** 2 + (py / half[s, 1]) ** 2 + (gz / half[s, 2]) ** 2)
            best, normal = t, abs(px * ux + py * uy + gz * uz) / length
    if kind[s] == FRUSTUM and abs(uz) > 1e-12:
        for cap in (-1.0, 1.0):
            t = (cap - oz) / uz
            px, py = ox + t * ux, oy + t * uy
            if 1e-9 < t < best and px * px + py * py <= (1.0 + slope * cap) ** 2:
                best, normal = t, abs(uz) * half[s, 2]
    return best, normal
