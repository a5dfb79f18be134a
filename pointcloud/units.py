"""The unit of coordinates that carry none."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Largest side, in metres, that a scan is expected to have; a file with larger numbers is taken for a smaller unit.
LARGEST_SCAN = 1000.0
# Ratios between units that people mix up: m and mm, m and cm, cm and mm, inch and mm, m and inch, ft and mm, ft and cm.
KNOWN_RATIOS = (1000.0, 100.0, 10.0, 25.4, 39.37007874015748, 304.8, 30.48)
# Two scans of one place differ in size by less than this.
USUAL_DIFFERENCE = 4.0


def guess_unit(extent: Sequence[float]) -> str:
    """`m`, `mm` or `um`: the largest of them in which the cloud is not longer than a kilometre.

    Feet, inches and centimetres cannot be told from metres and millimetres by size; they must be named.

    >>> guess_unit((3.0, 1.9, 2.2)), guess_unit((3000.0, 1900.0, 2200.0))
    ('m', 'mm')
    """
    largest = max(extent)
    if largest <= LARGEST_SCAN:
        return "m"
    return "mm" if largest <= 1e3 * LARGEST_SCAN else "um"


def unit_factor(source_size: float, target_size: float) -> float:
    """Factor between two known units that brings sizes of source and target together, 1 when none is called for.

    Args:
        source_size, target_size: comparable lengths of the two clouds, such as voxels that leave as many cells.

    >>> unit_factor(42.0, 0.043), unit_factor(0.05, 0.043)
    (0.001, 1.0)
    """
    ratio = source_size / target_size
    if 1.0 / USUAL_DIFFERENCE < ratio < USUAL_DIFFERENCE:
        return 1.0
    known = min(KNOWN_RATIOS, key=lambda each: abs(math.log(max(ratio, 1.0 / ratio) / each)))
    return 1.0 / known if ratio > 1.0 else known
