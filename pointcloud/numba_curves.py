"""Compiled reading of the tables of the geometric embedding: one pass, and nothing but the result is held."""

from __future__ import annotations

import numpy as np
from numba import njit

_FAST = {"contract", "nsz", "reassoc"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def read(start, stop, distances, angles, distance_table, angle_table, out, winner):  # type: ignore[no-untyped-def]
    """Rows `start` to `stop` of the embedded pairs `out` (n, D), and which angle each channel took, `winner` (n, D).

    Distances (n,) and angles (n, A) are in steps of their tables.
    """
    channels, count = out.shape[1], angles.shape[1]
    one = np.float32(1.0)
    for p in range(start, stop):
        low, share = _place(distances[p], distance_table.shape[0])
        rest = one - share
        for c in range(channels):
            out[p, c] = rest * distance_table[low, c] + share * distance_table[low + 1, c]
        if count == 3:
            first, first_share = _place(angles[p, 0], angle_table.shape[0])
            second, second_share = _place(angles[p, 1], angle_table.shape[0])
            third, third_share = _place(angles[p, 2], angle_table.shape[0])
            for c in range(channels):
                x = angle_table[first, c] + first_share * (angle_table[first + 1, c] - angle_table[first, c])
                y = angle_table[second, c] + second_share * (angle_table[second + 1, c] - angle_table[second, c])
                z = angle_table[third, c] + third_share * (angle_table[third + 1, c] - angle_table[third, c])
                best = x if x >= y else y
                which = np.uint8(0) if x >= y else np.uint8(1)
                winner[p, c] = which if best >= z else np.uint8(2)
                out[p, c] += best if best >= z else z
            continue
        for c in range(channels):
            best, chosen = np.float32(-np.inf), 0
            for m in range(count):
                low, share = _place(angles[p, m], angle_table.shape[0])
                x = angle_table[low, c] + share * (angle_table[low + 1, c] - angle_table[low, c])
                if x > best:
                    best, chosen = x, m
            if count:
                winner[p, c] = chosen
                out[p, c] += best


@njit(cache=True, nogil=True, inline="always")
def _place(number, rows):  # type: ignore[no-untyped-def]
    low = min(int(number), rows - 2)
    return low, np.float32(number - low)


@njit(cache=True, nogil=True, fastmath=_FAST)
def scatter(places, grad, winner, table):  # type: ignore[no-untyped-def]
    """Add the gradient of one table, given flat: rows x channels numbers.

    Args:
        places: (n, A), in steps of the table.
        grad: (n, D) of the embedded pairs.
        winner: (n, D), which of the A each channel took.
    """
    channels, count = grad.shape[1], places.shape[1]
    rows = table.shape[0] // channels
    # Two rows at once: they lie one after the other, and a loop over one array alone can be vectorised.
    both = np.empty(2 * channels, np.float32)
    for p in range(grad.shape[0]):
        for m in range(count):
            low, share = _place(places[p, m], rows)
            rest = np.float32(1.0) - share
            for c in range(channels):
                part = grad[p, c]
                if count > 1:
                    part *= np.float32(winner[p, c] == m)
                both[c] = rest * part
                both[channels + c] = share * part
            start = low * channels
            for c in range(2 * channels):
                table[start + c] += both[c]
