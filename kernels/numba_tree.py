"""A tree of boxes over points sorted along the Hilbert curve, compiled.

Eight consecutive points make a leaf, eight leaves or nodes make a node; the eight boxes of a node are tested at once.
Unlike a uniform grid it has no cell size to choose, and outliers, uneven density and thousands of equal points (the
zeros of a depth camera) cost nothing extra.

A box distance is computed with the same operations as a point distance. Rounding is monotone, so it never exceeds the
distance of a point inside: pruning is exact, ties included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .numba_lanes import LANES, box_distances, first_lane

# Trees of at most 2**31 points have ten levels, each leaves at most eight waiting nodes.
STACK = 96
NO_ID = 2**31 - 1


class Tree(NamedTuple):
    """Boxes over one cloud of n points, level by level from the leaves to the root."""

    coordinates: np.ndarray  # (leaves, 3, LANES) float64, infinite where the last leaf has no more points
    ids: np.ndarray  # (leaves, LANES) int32, the row of each point, NO_ID where there is none
    boxes: np.ndarray  # (nodes, 6, LANES) float64, lower then upper corner of each child, the root's last
    lowest: np.ndarray  # (nodes, LANES) int32, lowest id below each child
    children: np.ndarray  # (nodes,) int64, node of the first child, or -1 - leaf


@njit(cache=True, nogil=True)
def build_tree(
    points: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The fields of a `Tree` over (n, 3) float64 points, n >= 1, in an order (n,) that keeps neighbors together."""
    count = order.shape[0]
    leaves = (count + LANES - 1) // LANES
    nodes, level = 0, leaves
    while nodes == 0 or level > 1:
        level = (level + LANES - 1) // LANES
        nodes += level
    coordinates = np.empty((leaves, 3, LANES))
    ids = np.empty((leaves, LANES), np.int32)
    boxes = np.empty((nodes, 6, LANES))
    boxes[:, :3] = np.inf
    boxes[:, 3:] = -np.inf
    lowest = np.full((nodes, LANES), NO_ID, np.int32)
    children = np.empty(nodes, np.int64)
    for leaf in range(leaves):
        size = min(LANES, count - leaf * LANES)
        for slot in range(size):
            row = order[leaf * LANES + slot]
            ids[leaf, slot] = row
            for axis in range(3):
                coordinates[leaf, axis, slot] = points[row, axis]
        for slot in range(size, LANES):
            ids[leaf, slot] = NO_ID
            coordinates[leaf, :, slot] = np.inf
        node, lane = leaf // LANES, leaf % LANES
        for slot in range(size):
            lowest[node, lane] = min(lowest[node, lane], ids[leaf, slot])
        for axis in range(3):
            low, high = np.inf, -np.inf
            for slot in range(size):
                # Written as comparisons so that a NaN never enters a box.
                value = coordinates[leaf, axis, slot]
                low = value if value < low else low
                high = value if value > high else high
            boxes[node, axis, lane], boxes[node, 3 + axis, lane] = low, high
    first, level = 0, (leaves + LANES - 1) // LANES
    for node in range(level):
        children[node] = -1 - node * LANES
    while level > 1:
        for child in range(level):
            node, lane = first + level + child // LANES, child % LANES
            if lane == 0:
                children[node] = first + child
            for slot in range(LANES):
                lowest[node, lane] = min(lowest[node, lane], lowest[first + child, slot])
            for axis in range(3):
                low, high = np.inf, -np.inf
                for slot in range(LANES):
                    low = min(low, boxes[first + child, axis, slot])
                    high = max(high, boxes[first + child, 3 + axis, slot])
                boxes[node, axis, lane], boxes[node, 3 + axis, lane] = low, high
        first += level
        level = (level + LANES - 1) // LANES
    return coordinates, ids, boxes, lowest, children


@njit(cache=True, nogil=True)
def leaves_near(
    boxes: np.ndarray,
    children: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    limit: float,
    stack: np.ndarray,
    lanes: np.ndarray,
    leaves: np.ndarray,
    bounds: np.ndarray,
) -> int:
    """List the leaves at most `limit` (squared) from a box, and how far they are; their number, -1 if they do not fit.

    An empty box is infinitely far from any other, so `limit` must be finite. `stack` and `lanes` are working space.
    """
    stack[0] = boxes.shape[0] - 1
    depth, count = 1, 0
    while depth > 0:
        depth -= 1
        node = stack[depth]
        child = children[node]
        near = box_distances(boxes, node, lower[0], lower[1], lower[2], upper[0], upper[1], upper[2], limit, lanes)
        if child < 0 and count + LANES > leaves.shape[0]:
            return -1
        while near != 0:
            lane = first_lane(near)
            near &= near - 1
            if child >= 0:
                stack[depth] = child + lane
                depth += 1
            else:
                leaves[count], bounds[count] = lane - 1 - child, lanes[lane]
                count += 1
    return count
