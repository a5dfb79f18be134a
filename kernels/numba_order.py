"""Morton order, compiled: neighbours in space become neighbours in memory."""

from __future__ import annotations

import numpy as np
from numba import njit

# Three axes of 21 bits fill a 63-bit code.
AXIS_CELLS = 1 << 21
DIGIT_BITS = 11


# Shifts and masks that put two zero bits after each of 21 bits.
SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


@njit(cache=True, nogil=True)
def _spread(cell: int) -> int:
    """The 21 bits of `cell`, two zero bits after each."""
    for shift, mask in SPREAD:
        cell = (cell | cell << shift) & mask
    return cell


@njit(cache=True, nogil=True)
def _cell(offset: float, scale: float) -> int:
    """Cell along one axis; outliers go to the border cells, NaN to cell 0."""
    position = offset * scale
    if not position > 0.0:
        return 0
    return AXIS_CELLS - 1 if position >= AXIS_CELLS - 1 else int(position)


@njit(cache=True, nogil=True)
def morton_order(points: np.ndarray, origin: np.ndarray, scale: float) -> np.ndarray:
    """Stable order of (N, 3) float64 points along the curve, as (N,) int32: a radix sort of the codes."""
    count = points.shape[0]
    codes = np.empty(count, np.int64)
    for row in range(count):
        codes[row] = (
            _spread(_cell(points[row, 0] - origin[0], scale))
            | _spread(_cell(points[row, 1] - origin[1], scale)) << 1
            | _spread(_cell(points[row, 2] - origin[2], scale)) << 2
        )
    order = np.arange(count).astype(np.int32)
    other_codes = np.empty_like(codes)
    other_order = np.empty_like(order)
    for shift in range(0, 63, DIGIT_BITS):
        slots = np.zeros((1 << DIGIT_BITS) + 1, np.int64)
        for row in range(count):
            slots[(codes[row] >> shift & (1 << DIGIT_BITS) - 1) + 1] += 1
        if slots.max() == count:
            continue
        for digit in range(1 << DIGIT_BITS):
            slots[digit + 1] += slots[digit]
        for row in range(count):
            digit = codes[row] >> shift & (1 << DIGIT_BITS) - 1
            slot = slots[digit]
            slots[digit] += 1
            other_codes[slot] = codes[row]
            other_order[slot] = order[row]
        codes, other_codes = other_codes, codes
        order, other_order = other_order, order
    return order
