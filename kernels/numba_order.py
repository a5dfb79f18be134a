"""Orders along space-filling curves, compiled: neighbors in space become neighbors in memory."""

from __future__ import annotations

import numpy as np
from numba import njit

# Three axes of 21 bits fill a 63-bit code.
AXIS_CELLS = 1 << 21
DIGIT_BITS = 11
# Three digits to sort by are enough, since crowded cells are divided again.
HILBERT_BITS = 11
# Points whose Hilbert codes are computed side by side.
TOGETHER = 64
# Points that may share a cell of the Hilbert curve.
LONGEST_RUN = 32


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
def _cell(offset: float, scale: float, cells: int) -> int:
    """Cell along one axis; outliers go to the border cells, NaN to cell 0."""
    position = offset * scale
    if not position > 0.0:
        return 0
    return cells - 1 if position >= cells - 1 else int(position)


@njit(cache=True, nogil=True)
def _sort(codes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes, of so many bits, in ascending order, and the stable order (int32) that sorts them: a radix sort."""
    count = codes.shape[0]
    order = np.arange(count).astype(np.int32)
    other_codes = np.empty_like(codes)
    other_order = np.empty_like(order)
    for shift in range(0, bits, DIGIT_BITS):
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
    return codes, order


@njit(cache=True, nogil=True)
def morton_order(points: np.ndarray, origin: np.ndarray, scale: float) -> np.ndarray:
    """Stable order of (N, 3) float64 points along the Z-order curve, as (N,) int32."""
    count = points.shape[0]
    codes = np.empty(count, np.int64)
    for row in range(count):
        codes[row] = (
            _spread(_cell(points[row, 0] - origin[0], scale, AXIS_CELLS))
            | _spread(_cell(points[row, 1] - origin[1], scale, AXIS_CELLS)) << 1
            | _spread(_cell(points[row, 2] - origin[2], scale, AXIS_CELLS)) << 2
        )
    return _sort(codes, 63)[1]


@njit(cache=True, nogil=True)
def _hilbert_codes(points: np.ndarray, rows: np.ndarray, origin: np.ndarray, scale: float) -> np.ndarray:
    """Place of each of the named points along the Hilbert curve: Skilling's transform, many points at a time."""
    count = rows.shape[0]
    codes = np.empty(count, np.int64)
    x, y, z = np.empty(TOGETHER, np.int32), np.empty(TOGETHER, np.int32), np.empty(TOGETHER, np.int32)
    for start in range(0, count, TOGETHER):
        size = min(TOGETHER, count - start)
        for lane in range(size):
            row = rows[start + lane]
            x[lane] = _cell(points[row, 0] - origin[0], scale, 1 << HILBERT_BITS)
            y[lane] = _cell(points[row, 1] - origin[1], scale, 1 << HILBERT_BITS)
            z[lane] = _cell(points[row, 2] - origin[2], scale, 1 << HILBERT_BITS)
        for bit in range(HILBERT_BITS - 1, 0, -1):
            below = np.int32((1 << bit) - 1)
            for lane in range(TOGETHER):
                # Where an axis has the bit, the lower bits of x are inverted, else exchanged with those of the axis.
                a, b, c = x[lane], y[lane], z[lane]
                a ^= below & -(a >> bit & 1)
                inverted = below & -(b >> bit & 1)
                moved = (a ^ b) & (below ^ inverted)
                a ^= inverted ^ moved
                b ^= moved
                inverted = below & -(c >> bit & 1)
                moved = (a ^ c) & (below ^ inverted)
                x[lane] = a ^ inverted ^ moved
                y[lane] = b
                z[lane] = c ^ moved
        for lane in range(size):
            # Gray code to number, across the axes.
            a = np.int64(x[lane])
            b = a ^ y[lane]
            c = b ^ z[lane]
            # Bit i of `flip` is the parity of the bits of c above bit i.
            flip = c >> 1
            for shift in (1, 2, 4, 8):
                flip ^= flip >> shift
            codes[start + lane] = _spread(a ^ flip) << 2 | _spread(b ^ flip) << 1 | _spread(c ^ flip)
    return codes


@njit(cache=True, nogil=True)
def hilbert_order(points: np.ndarray, origin: np.ndarray, edge: float) -> np.ndarray:
    """Stable order of (N, 3) float64 points along the Hilbert curve, as (N,) int32.

    Consecutive cells always touch, so runs of points are more compact than in Z-order. Where many points share a cell
    (a small dense part of a large cloud, outliers at the border) they are ordered again in a box of their own.
    """
    count = points.shape[0]
    order = np.arange(count).astype(np.int32)
    waiting = [(0, count)]
    given = edge > 0.0
    while len(waiting) > 0:
        start, stop = waiting.pop()
        if not given:
            origin, edge = _box(points, order[start:stop])
        given = False
        if not (edge > 0.0 and edge < np.inf):
            continue
        scale = (1 << HILBERT_BITS) / edge
        codes, place = _sort(_hilbert_codes(points, order[start:stop], origin, scale), 3 * HILBERT_BITS)
        order[start:stop] = order[start:stop][place]
        begin = 0
        for end in range(1, stop - start + 1):
            if end == stop - start or codes[end] != codes[begin]:
                if end - begin > LONGEST_RUN:
                    waiting.append((start + begin, start + end))
                begin = end
    return order


@njit(cache=True, nogil=True)
def _box(points: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Lower corner and longest edge of the box around the finite points named, an edge below 0 if there are none."""
    lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
    for row in rows:
        if np.isfinite(points[row, 0] + points[row, 1] + points[row, 2]):
            for axis in range(3):
                lower[axis] = min(lower[axis], points[row, axis])
                upper[axis] = max(upper[axis], points[row, axis])
    return lower, (upper - lower).max()
