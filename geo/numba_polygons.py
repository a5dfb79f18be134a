"""Overlaps of quads, compiled: exact, float64, one thread per piece of rows, nothing held but the result."""

from __future__ import annotations

import numpy as np
from numba import njit

from . import compile_cache as _compile_cache  # noqa: F401  before the first function that numba caches
from .threads import run_in_pieces

# Corners that clipping a quad by a quad can lead to.
_MOST = 8
# As `polygons.EMPTY`.
_EMPTY = 1e-14


# Planes of the (6, 10, 2) that the functions below work in: slices of arrays would cost more than the arithmetic.
_TRIANGLES, _QUADS = (2, 3), (4, 5)
_PLANES = 6


@njit(cache=True, nogil=True, inline="always")
def _signed_area(polygon: np.ndarray, count: int) -> float:
    """About the first corner."""
    x0, y0 = polygon[0, 0], polygon[0, 1]
    total = 0.0
    for k in range(1, count - 1):
        ax, ay = polygon[k, 0] - x0, polygon[k, 1] - y0
        bx, by = polygon[k + 1, 0] - x0, polygon[k + 1, 1] - y0
        total += ax * by - bx * ay
    return 0.5 * total


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _common_area(work: np.ndarray, a: int, size_a: int, b: int, size_b: int) -> float:
    """Of convex polygons with positive areas, in planes of `work`: `a` clipped by every edge of `b`."""
    now, count = 0, size_a
    for k in range(size_a):
        work[0, k, 0], work[0, k, 1] = work[a, k, 0], work[a, k, 1]
    for k in range(size_b):
        sx, sy = work[b, k, 0], work[b, k, 1]
        following = k + 1 if k + 1 < size_b else 0
        ex, ey = work[b, following, 0] - sx, work[b, following, 1] - sy
        new, then = 0, 1 - now
        px, py = work[now, count - 1, 0], work[now, count - 1, 1]
        behind = ex * (py - sy) - ey * (px - sx)
        for i in range(count):
            qx, qy = work[now, i, 0], work[now, i, 1]
            depth = ex * (qy - sy) - ey * (qx - sx)
            if (depth >= 0.0) != (behind >= 0.0):
                share = behind / (behind - depth)
                work[then, new, 0], work[then, new, 1] = px + share * (qx - px), py + share * (qy - py)
                new += 1
            if depth >= 0.0:
                work[then, new, 0], work[then, new, 1] = qx, qy
                new += 1
            px, py, behind = qx, qy, depth
        if new < 3:
            return 0.0
        now, count = then, new
    x0, y0 = work[now, 0, 0], work[now, 0, 1]
    total = 0.0
    for k in range(1, count - 1):
        ax, ay = work[now, k, 0] - x0, work[now, k, 1] - y0
        total += ax * (work[now, k + 1, 1] - y0) - (work[now, k + 1, 0] - x0) * ay
    return max(0.0, 0.5 * total)


@njit(cache=True, nogil=True)
def _is_convex(quad: np.ndarray) -> bool:
    """For a quad with positive area."""
    for k in range(4):
        a, b, c = quad[k], quad[(k + 1) & 3], quad[(k + 2) & 3]
        if (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0]) < 0.0:
            return False
    return True


@njit(cache=True, nogil=True, inline="always")
def _common_of_quads(work: np.ndarray, convex: bool) -> float:
    """Of the quads with positive areas in `work`."""
    if convex:
        return _common_area(work, _QUADS[0], 4, _QUADS[1], 4)
    total = 0.0
    for s in range(1, 3):
        sign = _triangle(work, _QUADS[0], s, _TRIANGLES[0])
        for t in range(1, 3):
            other = _triangle(work, _QUADS[1], t, _TRIANGLES[1])
            total += sign * other * _common_area(work, _TRIANGLES[0], 3, _TRIANGLES[1], 3)
    return max(0.0, total)


@njit(cache=True, nogil=True)
def _triangle(work: np.ndarray, quad: int, k: int, out: int) -> float:
    """Corners 0, k, k + 1 in the order that gives a positive area, and the sign of the area as they were."""
    for axis in range(2):
        work[out, 0, axis], work[out, 1, axis] = work[quad, 0, axis], work[quad, k, axis]
        work[out, 2, axis] = work[quad, k + 1, axis]
    ax, ay = work[out, 1, 0] - work[out, 0, 0], work[out, 1, 1] - work[out, 0, 1]
    bx, by = work[out, 2, 0] - work[out, 0, 0], work[out, 2, 1] - work[out, 0, 1]
    if ax * by - bx * ay < 0.0:
        for axis in range(2):
            work[out, 1, axis], work[out, 2, axis] = work[out, 2, axis], work[out, 1, axis]
        return -1.0
    return 1.0


@njit(cache=True, nogil=True)
def prepared(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of (N, 4, 2): corners in positive order, (N, 4) hulls, (N,) areas, (N,) convex; NaN makes an area 0."""
    n = len(quads)
    ordered, hulls = np.empty((n, 4, 2)), np.empty((n, 4))
    areas, convex = np.empty(n), np.empty(n, np.bool_)
    for i in range(n):
        area = _signed_area(quads[i], 4)
        for k in range(4):
            source = k if area >= 0.0 else 3 - k
            ordered[i, k, 0], ordered[i, k, 1] = quads[i, source, 0], quads[i, source, 1]
        hulls[i, 0], hulls[i, 1] = quads[i, :, 0].min(), quads[i, :, 1].min()
        hulls[i, 2], hulls[i, 3] = quads[i, :, 0].max(), quads[i, :, 1].max()
        areas[i] = abs(area) if np.isfinite(area) else 0.0
        convex[i] = _is_convex(ordered[i])
    return ordered, hulls, areas, convex


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _overlap(quads_a, areas_a, convex_a, i, quads_b, areas_b, convex_b, j, of_first, work):  # type: ignore[no-untyped-def]
    """Of row `i` of some quads and row `j` of others."""
    area_a, area_b = areas_a[i], areas_b[j]
    if area_a <= _EMPTY or area_b <= _EMPTY:
        return 0.0
    # About a point between the two, so that far from the origin no digit is lost.
    x = 0.25 * (quads_a[i, 0, 0] + quads_a[i, 2, 0] + quads_b[j, 0, 0] + quads_b[j, 2, 0])
    y = 0.25 * (quads_a[i, 0, 1] + quads_a[i, 2, 1] + quads_b[j, 0, 1] + quads_b[j, 2, 1])
    first, second = _QUADS
    for k in range(4):
        work[first, k, 0], work[first, k, 1] = quads_a[i, k, 0] - x, quads_a[i, k, 1] - y
        work[second, k, 0], work[second, k, 1] = quads_b[j, k, 0] - x, quads_b[j, k, 1] - y
    common = _common_of_quads(work, convex_a[i] and convex_b[j])
    whole = area_a if of_first else area_a + area_b - common
    return min(1.0, common / whole) if np.isfinite(whole) and whole > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _fill(a, b, order, widest, of_first, found, start, stop):  # type: ignore[no-untyped-def]
    """Rows of the result, which is 0; `b` is sorted by the left ends of its hulls, `order` tells where each belongs."""
    quads_a, hulls_a, areas_a, convex_a = a
    quads_b, hulls_b, areas_b, convex_b = b
    work = np.empty((_PLANES, _MOST + 2, 2))
    ends = hulls_b[:, 0].copy()
    for i in range(start, stop):
        left, top, right, bottom = hulls_a[i, 0], hulls_a[i, 1], hulls_a[i, 2], hulls_a[i, 3]
        for j in range(np.searchsorted(ends, left - widest), np.searchsorted(ends, right)):
            if left < hulls_b[j, 2] and top < hulls_b[j, 3] and hulls_b[j, 1] < bottom:
                found[i, order[j]] = _overlap(
                    quads_a, areas_a, convex_a, i, quads_b, areas_b, convex_b, j, of_first, work
                )


@njit(cache=True, nogil=True)
def _fill_aligned(a, b, of_first, found, start, stop):  # type: ignore[no-untyped-def]
    quads_a, _, areas_a, convex_a = a
    quads_b, _, areas_b, convex_b = b
    work = np.empty((_PLANES, _MOST + 2, 2))
    for i in range(start, stop):
        found[i] = _overlap(quads_a, areas_a, convex_a, i, quads_b, areas_b, convex_b, i, of_first, work)


def quad_overlaps_cpu(a: np.ndarray, b: np.ndarray, of_first: bool, aligned: bool, dtype: np.dtype) -> np.ndarray:
    """(N, M), or (N,) if `aligned`, of (N, 4, 2) and (M, 4, 2) float64, rounded to `dtype`."""
    first, second = prepared(a), prepared(b)
    if aligned:
        found = np.empty(len(a), dtype)
        run_in_pieces(
            lambda start, stop: _fill_aligned(first, second, of_first, found, start, stop), len(a), smallest=2000
        )
        return found
    found = np.zeros((len(a), len(b)), dtype)
    # Hulls with NaN come last, and overlap none.
    order = np.argsort(second[1][:, 0], kind="stable")
    quads, hulls, areas, convex = second
    second = quads[order], hulls[order], areas[order], convex[order]
    widths = hulls[:, 2] - hulls[:, 0]
    widest = float(np.nanmax(widths, initial=0.0))
    smallest = max(1, 20_000 // max(1, len(b)))
    run_in_pieces(
        lambda start, stop: _fill(first, second, order, widest, of_first, found, start, stop),
        len(a),
        smallest=smallest,
    )
    return found


@njit(cache=True, nogil=True)
def greedy_nms(quads: np.ndarray, labels: np.ndarray, threshold: float, most: int) -> np.ndarray:
    """Rows that are kept of quads (N, 4, 2) in the order of their scores; those of another label do not suppress."""
    n = len(quads)
    ordered, hulls, areas, convex = prepared(quads)
    gone = np.zeros(n, np.bool_)
    kept = np.empty(n, np.int64)
    count = 0
    work = np.empty((_PLANES, _MOST + 2, 2))
    for i in range(n):
        if gone[i]:
            continue
        kept[count] = i
        count += 1
        if count == most:
            break
        left, top, right, bottom = hulls[i, 0], hulls[i, 1], hulls[i, 2], hulls[i, 3]
        for j in range(i + 1, n):
            if (
                not gone[j]
                and labels[i] == labels[j]
                and left < hulls[j, 2]
                and hulls[j, 0] < right
                and top < hulls[j, 3]
                and hulls[j, 1] < bottom
            ):
                shared = _overlap(ordered, areas, convex, i, ordered, areas, convex, j, False, work)
                gone[j] = shared > threshold
    return kept[:count]
