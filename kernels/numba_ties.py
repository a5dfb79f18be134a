"""Ties within a tolerance, compiled.

Of squared distances in ascending order the first opens a group; all that are no farther than it plus the tolerance
belong to the group, and the next one opens another. Inside a group the lowest row comes first. A chain of small steps
is thus no group: nothing chosen is farther than what it replaces by more than the tolerance.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .numba_lanes import LANES, box_distances, first_lane, point_distances
from .numba_tree import STACK

# More than a difference of two distances loses when both are rounded to float32, over the larger one.
ROUNDING = 2e-7


@njit(cache=True, nogil=True)
def reach(squared: float, tolerance: float) -> float:
    """Squared distance up to which points tie with one at a squared distance: not below it, whatever the rounding."""
    return max(squared, (np.sqrt(squared) + tolerance) ** 2)


@njit(cache=True, nogil=True)
def group_numbers(squared: np.ndarray, owners: np.ndarray, tolerance: float) -> np.ndarray:
    """Ascending group numbers (n,) int64 of squared distances sorted by owner, then distance."""
    groups = np.empty(squared.shape[0], np.int64)
    group, bound = -1, -1.0
    for place in range(squared.shape[0]):
        if place == 0 or owners[place] != owners[place - 1] or squared[place] > bound:
            group, bound = group + 1, reach(squared[place], tolerance)
        groups[place] = group
    return groups


@njit(cache=True, nogil=True)
def _insert(near: np.ndarray, rows: np.ndarray, first: int, count: int, distance: float, row: int) -> int:
    """Put a pair into the `count` pairs from `first` on, sorted by row; what has no room falls out. The new count."""
    at = first + count
    if at == rows.shape[0]:
        at -= 1
        if row > rows[at]:
            return count
    else:
        count += 1
    while at > first and rows[at - 1] > row:
        near[at], rows[at] = near[at - 1], rows[at - 1]
        at -= 1
    near[at], rows[at] = distance, row
    return count


@njit(cache=True, nogil=True)
def _square(points: np.ndarray, row: int, x: float, y: float, z: float) -> float:
    """Squared distance from a point, with the bits of the search."""
    return (points[row, 0] - x) ** 2 + (points[row, 1] - y) ** 2 + (points[row, 2] - z) ** 2


@njit(cache=True, nogil=True)
def settle(
    start: int,
    stop: int,
    points: np.ndarray,
    queries: np.ndarray,
    order: np.ndarray,
    coordinates: np.ndarray,
    ids: np.ndarray,
    boxes: np.ndarray,
    lowest: np.ndarray,
    children: np.ndarray,
    exclude_self: bool,
    limit: float,
    tolerance: float,
    nearest: np.ndarray,
    nearest_distance: np.ndarray,
    index: np.ndarray,
    distance: np.ndarray,
) -> None:
    """Fill rows `order[start:stop]` of index (M, k) int32 and distance (M, k) with the k nearest, ties by row.

    `nearest` (M, more than k) and `nearest_distance` are what a search for more of them found, at most `limit` away
    (squared). Where the group of the k-th goes on beyond them, the tree is searched for its lowest rows.
    """
    k, width = index.shape[1], nearest.shape[1]
    near, rows = np.empty(k), np.empty(k, np.int64)
    stack, box_lanes, lanes = np.empty(STACK, np.int64), np.empty(LANES), np.empty(LANES)
    clear = tolerance * (1.0 + 1e-9)
    for place in range(start, stop):
        query = order[place]
        x, y, z = queries[query, 0], queries[query, 1], queries[query, 2]
        # Pairs before `first` are settled; the `count` ones from there on are a group, opened by one of the nearest.
        first, count, opener, seen = 0, 0, 0, 0
        while seen < width and nearest[query, seen] >= 0:
            row, far = int(nearest[query, seen]), np.float64(nearest_distance[query, seen])
            tied = seen > 0 and not far - nearest_distance[query, opener] > clear + ROUNDING * far
            if tied:
                bound = reach(_square(points, nearest[query, opener], x, y, z), tolerance)
                tied = _square(points, row, x, y, z) <= bound
            if not tied:
                first += count
                if first == k:
                    break
                count, opener = 0, seen
            # Nearly always at the end.
            at = first + count
            if at < k and (count == 0 or rows[at - 1] < row):
                near[at], rows[at] = far, row
                count += 1
            else:
                count = _insert(near, rows, first, count, far, row)
            seen += 1
        if seen == width:
            latest_row = int(nearest[query, seen - 1])
            latest = _square(points, latest_row, x, y, z)
            bound = min(limit, reach(_square(points, nearest[query, opener], x, y, z), tolerance))
            stack[0] = boxes.shape[0] - 1
            depth = 1
            while depth > 0:
                depth -= 1
                node = stack[depth]
                child = children[node]
                inside = box_distances(boxes, node, x, y, z, x, y, z, bound, box_lanes)
                while inside != 0:
                    lane = first_lane(inside)
                    inside &= inside - 1
                    if first + count == k and lowest[node, lane] > rows[k - 1]:
                        continue
                    if child >= 0:
                        stack[depth] = child + lane
                        depth += 1
                        continue
                    leaf = lane - 1 - child
                    close = point_distances(coordinates, leaf, x, y, z, bound, lanes, 0)
                    while close != 0:
                        lane = first_lane(close)
                        close &= close - 1
                        row, square = int(ids[leaf, lane]), lanes[lane]
                        if exclude_self and row == query:
                            continue
                        # The others were seen.
                        if square > latest or (square == latest and row > latest_row):
                            count = _insert(near, rows, first, count, np.sqrt(square), row)
        found = first + count
        for slot in range(k):
            index[query, slot] = rows[slot] if slot < found else -1
            distance[query, slot] = near[slot] if slot < found else np.inf
