"""Voxel grid and farthest points, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

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


# Distances are never NaN here, and a maximum does not depend on the order of its terms: the flags change no result.
@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _largest(values: np.ndarray, start: int, stop: int) -> float:
    """Maximum of values[start:stop]."""
    largest = -1.0
    for place in range(start, stop):
        value = values[place]
        largest = value if value > largest else largest
    return largest


@njit(cache=True, nogil=True)
def farthest_points(points: np.ndarray, order: np.ndarray, bucket_size: int, start: int, samples: np.ndarray) -> None:
    """Fill samples (S,) int64, S at most n, with the farthest points of an (n, 3) float64 cloud.

    `order` lists the rows in buckets of `bucket_size`, compact in space and ascending inside, so that the first of
    equally far points is the lowest row. A bucket is visited only if the new sample is closer to its box than the
    farthest of its points is to the samples so far.
    """
    count = order.shape[0]
    buckets = (count + bucket_size - 1) // bucket_size
    x, y, z = np.empty(count), np.empty(count), np.empty(count)
    distance = np.full(count, np.inf)
    lower, upper = np.full((3, buckets), np.inf), np.full((3, buckets), -np.inf)
    farthest = np.full(buckets, np.inf)
    place_of_farthest = np.zeros(buckets, np.int64)
    current = 0
    for place in range(count):
        row = order[place]
        bucket = place // bucket_size
        if row == start:
            current = place
        x[place], y[place], z[place] = points[row, 0], points[row, 1], points[row, 2]
        for axis in range(3):
            value = points[row, axis]
            if value < lower[axis, bucket]:
                lower[axis, bucket] = value
            if value > upper[axis, bucket]:
                upper[axis, bucket] = value
    for sample in range(samples.shape[0]):
        samples[sample] = order[current]
        # Below every distance: a point is never taken twice, not even among duplicates.
        distance[current] = -1.0
        px, py, pz = x[current], y[current], z[current]
        own = current // bucket_size
        best, best_row = -2.0, count
        for bucket in range(buckets):
            dx = max(lower[0, bucket] - px, px - upper[0, bucket], 0.0)
            dy = max(lower[1, bucket] - py, py - upper[1, bucket], 0.0)
            dz = max(lower[2, bucket] - pz, pz - upper[2, bucket], 0.0)
            if dx * dx + dy * dy + dz * dz < farthest[bucket] or bucket == own:
                begin, end = bucket * bucket_size, min((bucket + 1) * bucket_size, count)
                for place in range(begin, end):
                    dx, dy, dz = x[place] - px, y[place] - py, z[place] - pz
                    new, old = dx * dx + dy * dy + dz * dz, distance[place]
                    distance[place] = new if new < old else old
                farthest[bucket] = _largest(distance, begin, end)
                place = begin
                while place < end - 1 and distance[place] != farthest[bucket]:
                    place += 1
                place_of_farthest[bucket] = place
            if farthest[bucket] >= best:
                row = order[place_of_farthest[bucket]]
                if farthest[bucket] > best or row < best_row:
                    best, best_row = farthest[bucket], row
                    current = place_of_farthest[bucket]
