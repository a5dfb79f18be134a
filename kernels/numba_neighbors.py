"""Neighbour search, compiled: a k-d tree whose nodes carry bounding boxes.

Unlike a uniform grid it has no cell size to choose, and outliers, uneven density and thousands of equal points (the
zeros of a depth camera) cost nothing extra.

A box distance is computed with the same operations as a point distance. Rounding is monotone, so it never exceeds the
distance of a point inside: pruning is exact, ties included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

LEAF = 8
# Median splits of at most 2**31 points: at most 31 levels, one waiting node for each.
STACK = 64
NO_ID = 2**31 - 1


class Tree(NamedTuple):
    """A k-d tree over one cloud of n points in full leaves; both children of a node are stored side by side."""

    coordinates: np.ndarray  # (leaves, 3, LEAF) float64, infinite where a leaf has no more points
    ids: np.ndarray  # (leaves, LEAF) int32, the row of each point, NO_ID where there is none
    boxes: np.ndarray  # (nodes, 6) float64, lower then upper corner
    lowest: np.ndarray  # (nodes,) int32, lowest id below a node
    children: np.ndarray  # (nodes,) int32, node of the left child, or -1 - leaf


@njit(cache=True, nogil=True)
def _select(keys: np.ndarray, ids: np.ndarray, start: int, stop: int, place: int) -> None:
    """Reorder keys[start:stop], and ids with them, so that keys before `place` are not above those from it on."""
    low, high = start, stop - 1
    while low < high:
        pivot = keys[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while keys[left] < pivot:
                left += 1
            while keys[right] > pivot:
                right -= 1
            if left <= right:
                keys[left], keys[right] = keys[right], keys[left]
                ids[left], ids[right] = ids[right], ids[left]
                left += 1
                right -= 1
        if place <= right:
            high = right
        elif place >= left:
            low = left
        else:
            return


@njit(cache=True, nogil=True)
def build_tree(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The fields of a `Tree` over (n, 3) float64 points, n >= 1: median splits across the widest axis."""
    count = points.shape[0]
    leaves = (count + LEAF - 1) // LEAF
    order = np.arange(count).astype(np.int32)
    keys = np.empty(count)
    coordinates = np.full((leaves, 3, LEAF), np.inf)
    ids = np.full((leaves, LEAF), NO_ID, np.int32)
    boxes = np.empty((2 * leaves - 1, 6))
    boxes[:, :3] = np.inf
    boxes[:, 3:] = -np.inf
    lowest = np.full(2 * leaves - 1, NO_ID, np.int32)
    children = np.empty(2 * leaves - 1, np.int32)
    first_leaf = np.zeros(2 * leaves - 1, np.int32)
    last_leaf = np.full(2 * leaves - 1, leaves, np.int32)
    used = 1
    for node in range(2 * leaves - 1):
        begin, end = first_leaf[node], last_leaf[node]
        start, stop = begin * LEAF, min(end * LEAF, count)
        for place in range(start, stop):
            row = order[place]
            lowest[node] = min(lowest[node], row)
            for axis in range(3):
                value = points[row, axis]
                # Written as comparisons so that a NaN never enters a box.
                if value < boxes[node, axis]:
                    boxes[node, axis] = value
                if value > boxes[node, 3 + axis]:
                    boxes[node, 3 + axis] = value
        if end - begin == 1:
            children[node] = -1 - begin
            for place in range(start, stop):
                ids[begin, place - start] = order[place]
                for axis in range(3):
                    coordinates[begin, axis, place - start] = points[order[place], axis]
            continue
        wide = 0
        for axis in range(1, 3):
            if boxes[node, 3 + axis] - boxes[node, axis] > boxes[node, 3 + wide] - boxes[node, wide]:
                wide = axis
        for place in range(start, stop):
            value = points[order[place], wide]
            keys[place] = value if value == value else np.inf
        middle = (begin + end) // 2
        _select(keys, order, start, stop, middle * LEAF)
        children[node] = used
        first_leaf[used], last_leaf[used] = begin, middle
        first_leaf[used + 1], last_leaf[used + 1] = middle, end
        used += 2
    return coordinates, ids, boxes, lowest, children


@njit(cache=True, nogil=True, inline="always")
def _box_distance(boxes: np.ndarray, node: int, x: float, y: float, z: float) -> float:
    """Squared distance from a point to a box, infinite for an empty box."""
    dx = max(boxes[node, 0] - x, x - boxes[node, 3], 0.0)
    dy = max(boxes[node, 1] - y, y - boxes[node, 4], 0.0)
    dz = max(boxes[node, 2] - z, z - boxes[node, 5], 0.0)
    return dx * dx + dy * dy + dz * dz


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
    squared: np.ndarray,
) -> None:
    """Fill rows `order[start:stop]` of index (M, k) int32 and squared (M, k) float64 with the k nearest, sorted.

    `limit` is the largest squared distance that counts. Equal distances are ordered by id. Empty slots get -1 and
    infinity. A query that is not finite has no neighbour.
    """
    k = index.shape[1]
    nodes = np.empty(STACK, np.int64)
    bounds = np.empty(STACK)
    # Nothing infinitely far is a neighbour, everything at a finite limit is.
    empty_id = -1 if limit == np.inf else NO_ID
    for place in range(start, stop):
        query = order[place]
        x, y, z = queries[query, 0], queries[query, 1], queries[query, 2]
        own = query if exclude_self else -1
        for slot in range(k):
            squared[query, slot] = limit
            index[query, slot] = empty_id
        worst, worst_id = limit, empty_id
        depth = 0
        if np.isfinite(x + y + z):
            nodes[0], bounds[0] = 0, _box_distance(boxes, 0, x, y, z)
            depth = 1
        while depth > 0:
            depth -= 1
            node, bound = nodes[depth], bounds[depth]
            if bound > worst or (bound == worst and lowest[node] > worst_id):
                continue
            while children[node] >= 0:
                node = children[node]
                left = _box_distance(boxes, node, x, y, z)
                right = _box_distance(boxes, node + 1, x, y, z)
                if left < right or (left == right and lowest[node] < lowest[node + 1]):
                    nodes[depth], bounds[depth] = node + 1, right
                else:
                    nodes[depth], bounds[depth] = node, left
                    node += 1
                depth += 1
            leaf = -1 - children[node]
            for slot in range(LEAF):
                dx = coordinates[leaf, 0, slot] - x
                dy = coordinates[leaf, 1, slot] - y
                dz = coordinates[leaf, 2, slot] - z
                distance = dx * dx + dy * dy + dz * dz
                row = ids[leaf, slot]
                if (distance < worst or (distance == worst and row < worst_id)) and row != own:
                    at = k - 1
                    while at > 0 and (
                        squared[query, at - 1] > distance
                        or (squared[query, at - 1] == distance and index[query, at - 1] > row)
                    ):
                        squared[query, at] = squared[query, at - 1]
                        index[query, at] = index[query, at - 1]
                        at -= 1
                    squared[query, at] = distance
                    index[query, at] = row
                    worst, worst_id = squared[query, k - 1], index[query, k - 1]
        for slot in range(k - 1, -1, -1):
            if index[query, slot] != empty_id:
                break
            index[query, slot] = -1
            squared[query, slot] = np.inf


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
    squared: np.ndarray,
) -> None:
    """Points with squared distance at most `limit` of the queries `order[start:stop]`.

    Without `fill` the number for query q is written to offsets[q + 1]. With it, offsets are the running sums of those
    numbers, and index and squared receive the sorted neighbours.
    """
    nodes = np.empty(STACK, np.int64)
    for place in range(start, stop):
        query = order[place]
        x, y, z = queries[query, 0], queries[query, 1], queries[query, 2]
        own = query if exclude_self else -1
        found = 0
        first = offsets[query] if fill else 0
        depth = 0
        if np.isfinite(x + y + z):
            nodes[0] = 0
            depth = 1
        while depth > 0:
            depth -= 1
            node = nodes[depth]
            if _box_distance(boxes, node, x, y, z) > limit:
                continue
            if children[node] >= 0:
                nodes[depth], nodes[depth + 1] = children[node] + 1, children[node]
                depth += 2
                continue
            leaf = -1 - children[node]
            for slot in range(LEAF):
                dx = coordinates[leaf, 0, slot] - x
                dy = coordinates[leaf, 1, slot] - y
                dz = coordinates[leaf, 2, slot] - z
                distance = dx * dx + dy * dy + dz * dz
                row = ids[leaf, slot]
                if distance <= limit and distance < np.inf and row != own:
                    if fill:
                        index[first + found] = row
                        squared[first + found] = distance
                    found += 1
        if fill:
            _sort_by_distance(index, squared, first, found)
        else:
            offsets[query + 1] = found


@njit(cache=True, nogil=True)
def _sort_by_distance(index: np.ndarray, squared: np.ndarray, first: int, count: int) -> None:
    """Shell sort of one row by distance, then index."""
    gap = 1
    while gap < count // 2:
        gap = 2 * gap + 1
    while gap > 0:
        for place in range(first + gap, first + count):
            distance, row = squared[place], index[place]
            at = place
            while at - gap >= first and (
                squared[at - gap] > distance or (squared[at - gap] == distance and index[at - gap] > row)
            ):
                squared[at], index[at] = squared[at - gap], index[at - gap]
                at -= gap
            squared[at], index[at] = distance, row
        gap //= 2
