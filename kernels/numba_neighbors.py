"""Neighbor search, compiled, in a tree of boxes.

Eight consecutive queries share a walk down the tree, which lists the leaves that any of them may need; the distance
from one query to the next bounds how far that is. Where the list would be long, every query walks alone, nearest boxes
first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .numba_lanes import LANES, box_distances, count_at_most, count_smaller, first_lane, insert, lane_count
from .numba_lanes import point_distances as distances_to_leaf
from .numba_tree import NO_ID, STACK, leaves_near

# Leaves that queries side by side may share, 4096 points.
SHARED_LEAVES = 512
# Neighbors sorted by comparing all pairs; more are sorted by gaps.
FEW = 256
LARGEST = np.finfo(np.float64).max


@njit(cache=True, nogil=True)
def _box_of(group: np.ndarray, size: int, lower: np.ndarray, upper: np.ndarray) -> int:
    """Box of the finite ones of `size` points; returns the number of one near its middle, -1 if there is none."""
    lower[:] = np.inf
    upper[:] = -np.inf
    for member in range(size):
        if np.isfinite(group[member, 0] + group[member, 1] + group[member, 2]):
            for axis in range(3):
                lower[axis] = min(lower[axis], group[member, axis])
                upper[axis] = max(upper[axis], group[member, axis])
    x = lower[0] + (upper[0] - lower[0]) / 2
    y = lower[1] + (upper[1] - lower[1]) / 2
    z = lower[2] + (upper[2] - lower[2]) / 2
    middle, least = -1, np.inf
    for member in range(size):
        distance = (group[member, 0] - x) ** 2 + (group[member, 1] - y) ** 2 + (group[member, 2] - z) ** 2
        if distance < least:
            middle, least = member, distance
    return middle


@njit(cache=True, nogil=True)
def _farthest(group: np.ndarray, size: int, x: float, y: float, z: float) -> float:
    """Distance from a point to the farthest of `size` others, of which those that are not finite do not count."""
    farthest = 0.0
    for member in range(size):
        square = (group[member, 0] - x) ** 2 + (group[member, 1] - y) ** 2 + (group[member, 2] - z) ** 2
        farthest = square if square > farthest else farthest
    return np.sqrt(farthest)


@njit(cache=True, nogil=True)
def _bound(limit: float, radius: float, step: float) -> float:
    """Squared distance within which k points lie, seen `step` away from where `radius` was enough.

    The margins are far above the rounding and the underflow of the distances involved.
    """
    return min(limit, (radius + step) ** 2 * (1.0 + 1e-9) + 1e-300)


@njit(cache=True, nogil=True)
def _visit(
    coordinates: np.ndarray,
    ids: np.ndarray,
    leaf: int,
    x: float,
    y: float,
    z: float,
    own: int,
    last: int,
    lanes: np.ndarray,
    near: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Take the points of a leaf that come before entry `last` into the sorted list."""
    inside = distances_to_leaf(coordinates, leaf, x, y, z, near[last], lanes, 0)
    while inside != 0:
        lane = first_lane(inside)
        inside &= inside - 1
        distance, row = lanes[lane], np.int64(ids[leaf, lane])
        if (distance < near[last] or (distance == near[last] and row < rows[last])) and leaf * LANES + lane != own:
            insert(near, rows, near.shape[0] // LANES, distance, row)


@njit(cache=True, nogil=True)
def _walk_alone(
    coordinates: np.ndarray,
    ids: np.ndarray,
    boxes: np.ndarray,
    lowest: np.ndarray,
    children: np.ndarray,
    x: float,
    y: float,
    z: float,
    own: int,
    last: int,
    stack: np.ndarray,
    bounds: np.ndarray,
    lows: np.ndarray,
    lanes: np.ndarray,
    near: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Improve a sorted list of which entry `last` is the farthest that counts; nearest boxes first."""
    # On the stack nodes are as they are numbered, leaves as -1 - leaf.
    stack[0], bounds[0], lows[0] = boxes.shape[0] - 1, 0.0, -1
    depth = 1
    while depth > 0:
        depth -= 1
        node = stack[depth]
        if bounds[depth] > near[last] or (bounds[depth] == near[last] and lows[depth] > rows[last]):
            continue
        if node < 0:
            _visit(coordinates, ids, -1 - node, x, y, z, own, last, lanes, near, rows)
            continue
        child, base = children[node], depth
        inside = box_distances(boxes, node, x, y, z, x, y, z, near[last], lanes)
        while inside != 0:
            lane = first_lane(inside)
            inside &= inside - 1
            bound, low = lanes[lane], lowest[node, lane]
            at = depth
            while at > base and (bounds[at - 1] < bound or (bounds[at - 1] == bound and lows[at - 1] < low)):
                stack[at], bounds[at], lows[at] = stack[at - 1], bounds[at - 1], lows[at - 1]
                at -= 1
            stack[at] = child + lane if child >= 0 else child - lane
            bounds[at], lows[at] = bound, low
            depth += 1


@njit(cache=True, nogil=True)
def _limit_of_nearest(distances: np.ndarray, vectors: int, found: int, k: int, limit: float) -> float:
    """A smaller limit with still at least k of the `found` distances inside, if a few guesses find one."""
    low, guess = 0.0, limit * (k + LANES / 2) / found
    for _ in range(4):
        inside = count_at_most(distances, vectors, guess)
        if inside < k:
            low = guess
        else:
            limit = guess
            if inside <= k + LANES:
                break
        guess = low + (limit - low) / 2
    return limit


@njit(cache=True, nogil=True)
def _gather(
    coordinates: np.ndarray,
    ids: np.ndarray,
    leaves: np.ndarray,
    count: int,
    x: float,
    y: float,
    z: float,
    own: int,
    limit: float,
    k: int,
    distances: np.ndarray,
    visited: np.ndarray,
    near: np.ndarray,
    rows: np.ndarray,
) -> int:
    """Put the points of the listed leaves within `limit` into near and rows, unsorted; returns their number.

    Of many more than k, some that are not among the k nearest are left out. Writes LANES entries too far.
    """
    vectors, found = 0, 0
    for at in range(count):
        leaf = leaves[at]
        inside = distances_to_leaf(coordinates, leaf, x, y, z, limit, distances, vectors)
        if leaf == own // LANES:
            distances[vectors * LANES + own % LANES] = np.inf
            inside &= ~(1 << own % LANES)
        visited[vectors] = leaf
        vectors += inside != 0
        found += lane_count(inside)
    if found > k + LANES:
        limit = _limit_of_nearest(distances, vectors, found, k, limit)
    found = 0
    for vector in range(vectors):
        for lane in range(LANES):
            distance = distances[vector * LANES + lane]
            near[found], rows[found] = distance, ids[visited[vector], lane]
            found += distance <= limit
    return found


@njit(cache=True, nogil=True)
def _rank(near: np.ndarray, rows: np.ndarray, found: int, rank: np.ndarray) -> None:
    """Place of each pair in the order by distance, then row; `near` is padded with infinity to whole vectors."""
    vectors = (found + LANES - 1) // LANES
    for place in range(found, vectors * LANES):
        near[place] = np.inf
    count_smaller(near, found, vectors, rank)
    total = 0
    for place in range(found):
        total += rank[place]
    # Every pair of different distances was counted once.
    if 2 * total != found * (found - 1):
        for place in range(found):
            for other in range(found):
                rank[place] += near[other] == near[place] and rows[other] < rows[place]


@njit(cache=True, nogil=True)
def nearest(
    start: int,
    stop: int,
    queries: np.ndarray,
    order: np.ndarray,
    coordinates: np.ndarray,
    ids: np.ndarray,
    boxes: np.ndarray,
    lowest: np.ndarray,
    children: np.ndarray,
    exclude_self: bool,
    limit: float,
    index: np.ndarray,
    distance: np.ndarray,
) -> None:
    """Fill rows `order[start:stop]` of index (M, k) int32 and distance (M, k) with the k nearest, sorted.

    `limit` is the largest squared distance that counts. Equal distances are ordered by id. Empty slots get -1 and
    infinity. A query that is not finite has no neighbor. With `exclude_self` the order is that of the tree.
    """
    k = index.shape[1]
    last, width = k - 1, (k + LANES - 1) // LANES * LANES
    near, rows = np.empty(width), np.empty(width, np.int64)
    leaves, bounds = np.empty(SHARED_LEAVES, np.int64), np.empty(SHARED_LEAVES)
    room = (SHARED_LEAVES + 1) * LANES
    distances, visited = np.empty(room), np.empty(SHARED_LEAVES + 1, np.int64)
    some, some_rows, rank = np.empty(room), np.empty(room, np.int32), np.empty(room, np.int64)
    lower, upper, lanes = np.empty(3), np.empty(3), np.empty(LANES)
    group = np.empty((LANES, 3))
    stack, heights, lows = np.empty(STACK, np.int64), np.empty(STACK), np.empty(STACK, np.int64)
    # Nothing infinitely far is a neighbor.
    limit = min(limit, LARGEST)
    # Where the last query with k neighbors was, and how far they went.
    known_x, known_y, known_z, radius = 0.0, 0.0, 0.0, np.inf
    for begin in range(start, stop, LANES):
        size = min(LANES, stop - begin)
        for member in range(size):
            for axis in range(3):
                group[member, axis] = queries[order[begin + member], axis]
        middle = _box_of(group, size, lower, upper)
        shared, narrow = -1, False
        if radius < np.inf and middle >= 0:
            bound = _bound(limit, radius, _farthest(group, size, known_x, known_y, known_z))
            shared = leaves_near(boxes, children, lower, upper, bound, stack, lanes, leaves, bounds)
        for turn in range(size):
            # The one in the middle first: none of the others is far from it.
            member = turn
            if turn <= middle:
                member = middle if turn == 0 else turn - 1
            place = begin + member
            query = order[place]
            x, y, z = group[member, 0], group[member, 1], group[member, 2]
            if not np.isfinite(x + y + z):
                index[query] = -1
                distance[query] = np.inf
                continue
            own = place if exclude_self else -1
            bound = limit
            if radius < np.inf:
                step = np.sqrt((x - known_x) ** 2 + (y - known_y) ** 2 + (z - known_z) ** 2)
                bound = _bound(limit, radius, step)
            for slot in range(width):
                near[slot], rows[slot] = bound, NO_ID
            if shared < 0:
                _walk_alone(
                    *(coordinates, ids, boxes, lowest, children, x, y, z, own, last),
                    *(stack, heights, lows, lanes, near, rows),
                )
            else:
                found = _gather(
                    coordinates, ids, leaves, shared, x, y, z, own, bound, k, distances, visited, some, some_rows
                )
                if found < 2 * k + FEW:
                    _rank(some, some_rows, found, rank)
                    for at in range(found):
                        if rank[at] < k:
                            near[rank[at]], rows[rank[at]] = some[at], some_rows[at]
                else:
                    for at in range(found):
                        row = np.int64(some_rows[at])
                        if some[at] < near[last] or (some[at] == near[last] and row < rows[last]):
                            insert(near, rows, width // LANES, some[at], row)
            for slot in range(k):
                there = rows[slot] != NO_ID
                index[query, slot] = rows[slot] if there else -1
                distance[query, slot] = np.sqrt(near[slot]) if there else np.inf
            if rows[last] == NO_ID:
                radius = np.inf
                continue
            known_x, known_y, known_z, radius = x, y, z, np.sqrt(near[last])
            if not narrow:
                # What this query found bounds what the others need.
                narrow = True
                bound = _bound(limit, radius, _farthest(group, size, x, y, z))
                if shared < 0:
                    shared = leaves_near(boxes, children, lower, upper, bound, stack, lanes, leaves, bounds)
                else:
                    kept = 0
                    for at in range(shared):
                        leaves[kept] = leaves[at]
                        kept += bounds[at] <= bound
                    shared = kept


@njit(cache=True, nogil=True)
def within(
    start: int,
    stop: int,
    queries: np.ndarray,
    order: np.ndarray,
    coordinates: np.ndarray,
    ids: np.ndarray,
    boxes: np.ndarray,
    lowest: np.ndarray,
    children: np.ndarray,
    exclude_self: bool,
    limit: float,
    fill: bool,
    offsets: np.ndarray,
    index: np.ndarray,
    distance: np.ndarray,
) -> None:
    """Points with squared distance at most `limit` of the queries `order[start:stop]`.

    Without `fill` the number for query q is written to offsets[q + 1]. With it, offsets are the running sums of those
    numbers, and index and distance receive the sorted neighbors. With `exclude_self` the order is that of the tree.
    """
    most = ids.shape[0] + LANES
    leaves, bounds = np.empty(most, np.int64), np.empty(most)
    near, rows, rank = np.empty(FEW), np.empty(FEW, np.int32), np.empty(FEW, np.int64)
    stack, lanes, lower, upper = np.empty(STACK, np.int64), np.empty(LANES), np.empty(3), np.empty(3)
    group = np.empty((LANES, 3))
    limit = min(limit, LARGEST)
    for begin in range(start, stop, LANES):
        size = min(LANES, stop - begin)
        for member in range(size):
            for axis in range(3):
                group[member, axis] = queries[order[begin + member], axis]
        shared = -1
        if _box_of(group, size, lower, upper) >= 0:
            shared = leaves_near(boxes, children, lower, upper, limit, stack, lanes, leaves[:SHARED_LEAVES], bounds)
        for member in range(size):
            place = begin + member
            query = order[place]
            x, y, z = group[member, 0], group[member, 1], group[member, 2]
            count = shared
            if not np.isfinite(x + y + z):
                count = 0
            elif shared < 0:
                lower[:] = group[member]
                count = leaves_near(boxes, children, lower, lower, limit, stack, lanes, leaves, bounds)
            own = place if exclude_self else -1
            first = offsets[query] if fill else 0
            found = 0
            if fill and near.shape[0] < offsets[query + 1] - first + LANES:
                room = 2 * (offsets[query + 1] - first) + LANES
                near, rows, rank = np.empty(room), np.empty(room, np.int32), np.empty(room, np.int64)
            for at in range(count):
                leaf = leaves[at]
                inside = distances_to_leaf(coordinates, leaf, x, y, z, limit, lanes, 0)
                if leaf == own // LANES:
                    inside &= ~(1 << own % LANES)
                if fill and inside != 0:
                    for lane in range(LANES):
                        near[found], rows[found] = lanes[lane], ids[leaf, lane]
                        found += inside >> lane & 1
                else:
                    found += lane_count(inside)
            if not fill:
                offsets[query + 1] = found
            elif found <= FEW:
                _rank(near, rows, found, rank)
                for at in range(found):
                    index[first + rank[at]], distance[first + rank[at]] = rows[at], np.sqrt(near[at])
            else:
                _sort_by_distance(rows, near, found)
                for at in range(found):
                    index[first + at], distance[first + at] = rows[at], np.sqrt(near[at])


@njit(cache=True, nogil=True)
def _sort_by_distance(rows: np.ndarray, near: np.ndarray, count: int) -> None:
    """Shell sort by distance, then row."""
    gap = 1
    while gap < count // 2:
        gap = 2 * gap + 1
    while gap > 0:
        for place in range(gap, count):
            distance, row = near[place], rows[place]
            at = place
            while at >= gap and (near[at - gap] > distance or (near[at - gap] == distance and rows[at - gap] > row)):
                near[at], rows[at] = near[at - gap], rows[at - gap]
                at -= gap
            near[at], rows[at] = distance, row
        gap //= 2
