"""Voxel grid and farthest points, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

from .numba_lanes import LANES, approach, closer_boxes, first_lane, largest_lanes
from .numba_tree import NO_ID

# Fractional bits of the golden ratio, and the finalising multipliers of splitmix64.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)


@njit(cache=True, nogil=True)
def _mix(code: np.uint64, value: np.int64) -> np.uint64:
    """Hash of a sequence, one value further."""
    code = (code ^ np.uint64(value)) + GOLDEN
    code = (code ^ (code >> np.uint64(30))) * MIX_A
    code = (code ^ (code >> np.uint64(27))) * MIX_B
    return code ^ (code >> np.uint64(31))


@njit(cache=True, nogil=True)
def voxels(
    points: np.ndarray, size: float, borders: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Voxels of (N, 3) float64 points: first row, voxel of each row, rows in each (all int64), (V, 3) mean.

    A hash table of voxels, compared by the bits of their floored coordinates: no cell is too far to be numbered, and
    NaN equals NaN. Voxels are numbered as they occur.
    """
    count = points.shape[0]
    slots = 16
    while slots < 2 * count:
        slots *= 2
    table = np.full(slots, -1, np.int32)
    # Adding zero turns a negative zero into zero.
    cells = (np.floor(points / size) + 0.0).view(np.int64)
    first = np.empty(count, np.int64)
    voxel_of_point = np.empty(count, np.int64)
    counts = np.zeros(count, np.int64)
    # Sums of offsets from a voxel's first point: far from the origin no digit is lost.
    means = np.zeros((count, 3))
    used = 0
    for cloud in range(borders.shape[0] - 1):
        for row in range(borders[cloud], borders[cloud + 1]):
            code = _mix(_mix(_mix(np.uint64(cloud), cells[row, 0]), cells[row, 1]), cells[row, 2])
            slot = np.int64(code & np.uint64(slots - 1))
            while True:
                voxel = table[slot]
                if voxel < 0:
                    voxel = used
                    table[slot] = used
                    first[used] = row
                    used += 1
                    break
                other = first[voxel]
                if (
                    other >= borders[cloud]
                    and cells[other, 0] == cells[row, 0]
                    and cells[other, 1] == cells[row, 1]
                    and cells[other, 2] == cells[row, 2]
                ):
                    break
                slot = (slot + 1) & (slots - 1)
            voxel_of_point[row] = voxel
            counts[voxel] += 1
            for axis in range(3):
                means[voxel, axis] += points[row, axis] - points[first[voxel], axis]
    for voxel in range(used):
        for axis in range(3):
            means[voxel, axis] = points[first[voxel], axis] + means[voxel, axis] / counts[voxel]
    return first[:used].copy(), voxel_of_point, counts[:used].copy(), means[:used].copy()


# Distances that are not to be compared: of a point already taken, of a place without a point.
TAKEN = -1.0
NOTHING = -2.0


@njit(cache=True, nogil=True)
def _lowest_of_largest(far: np.ndarray, rows: np.ndarray, vector: int) -> tuple[float, int]:
    """The largest of far[vector], and the lowest row among those as large; `far` and `rows` have (n, LANES) entries."""
    largest = largest_lanes(far, vector)
    lane = first_lane(largest)
    distance, row = far[vector, lane], rows[vector, lane]
    largest &= largest - 1
    while largest != 0:
        row = min(row, rows[vector, first_lane(largest)])
        largest &= largest - 1
    return distance, row


@njit(cache=True, nogil=True)
def _lowest_as_far(
    limit: float,
    row: int,
    distance: np.ndarray,
    ids: np.ndarray,
    far: np.ndarray,
    lowest: np.ndarray,
    children: np.ndarray,
    stack: np.ndarray,
) -> int:
    """The lowest of `row` and the points whose squared distance is at least `limit`, which must not be negative."""
    stack[0] = far.shape[0] - 1
    waiting = 1
    while waiting > 0:
        waiting -= 1
        node = stack[waiting]
        child = children[node]
        for lane in range(LANES):
            if far[node, lane] < limit or lowest[node, lane] >= row:
                continue
            if child >= 0:
                stack[waiting] = child + lane
                waiting += 1
                continue
            leaf = lane - 1 - child
            for place in range(LANES):
                if distance[leaf, place] >= limit:
                    row = min(row, ids[leaf, place])
    return row


@njit(cache=True, nogil=True)
def farthest_points(
    points: np.ndarray,
    coordinates: np.ndarray,
    ids: np.ndarray,
    boxes: np.ndarray,
    lowest: np.ndarray,
    children: np.ndarray,
    start: int,
    tie_tolerance: float,
    samples: np.ndarray,
) -> None:
    """Fill samples (S,) int64, S at most n, with the farthest points of an (n, 3) float64 cloud and its `Tree`.

    A box is entered only if the new sample is closer to it than the farthest of its points is to the samples so far.
    Of points as far as the farthest, up to the tolerance, the lowest row comes first.
    """
    nodes, leaves = boxes.shape[0], ids.shape[0]
    # Squared distance of every point to the samples; the largest below each child, and the lowest row that has it.
    distance = np.full((leaves, LANES), np.inf)
    far, rows = np.full((nodes, LANES), NOTHING), np.zeros((nodes, LANES), np.int32)
    place, parent = np.empty(points.shape[0], np.int32), np.empty(nodes, np.int32)
    for leaf in range(leaves):
        for lane in range(LANES):
            if leaf * LANES + lane < points.shape[0]:
                place[ids[leaf, lane]] = leaf * LANES + lane
            else:
                distance[leaf, lane] = NOTHING
    for node in range(nodes):
        for lane in range(LANES):
            if lowest[node, lane] < NO_ID:
                far[node, lane], rows[node, lane] = np.inf, lowest[node, lane]
                if children[node] >= 0:
                    parent[children[node] + lane] = node
    entered = np.empty(nodes, np.int64)
    row = start
    for sample in range(samples.shape[0]):
        samples[sample] = row
        # A point is never taken twice, not even among duplicates.
        leaf = place[row] // LANES
        distance[leaf, place[row] % LANES] = TAKEN
        node, lane = leaf // LANES, leaf % LANES
        far[node, lane], rows[node, lane] = _lowest_of_largest(distance, ids, leaf)
        while node < nodes - 1:
            above = parent[node]
            lane = node - children[above]
            far[above, lane], rows[above, lane] = _lowest_of_largest(far, rows, node)
            node = above
        x, y, z = points[row, 0], points[row, 1], points[row, 2]
        entered[0] = nodes - 1
        count, at = 1, 0
        while at < count:
            node = entered[at]
            at += 1
            child = children[node]
            closer = closer_boxes(boxes, node, x, y, z, far)
            while closer != 0:
                lane = first_lane(closer)
                closer &= closer - 1
                if child >= 0:
                    entered[count] = child + lane
                    count += 1
                else:
                    leaf = lane - 1 - child
                    approach(coordinates, leaf, x, y, z, distance)
                    far[node, lane], rows[node, lane] = _lowest_of_largest(distance, ids, leaf)
        # Children were entered after their parents.
        for at in range(count - 1, 0, -1):
            node = entered[at]
            above = parent[node]
            lane = node - children[above]
            far[above, lane], rows[above, lane] = _lowest_of_largest(far, rows, node)
        largest, row = _lowest_of_largest(far, rows, nodes - 1)
        if tie_tolerance > 0.0 and largest > 0.0:
            limit = max(np.sqrt(largest) - tie_tolerance, 0.0) ** 2
            row = _lowest_as_far(limit, row, distance, ids, far, lowest, children, entered)
