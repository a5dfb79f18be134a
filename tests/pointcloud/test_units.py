"""Units: guessed from sizes, and ratios between two units that are known."""

from __future__ import annotations

import pytest

from rotaware.pointcloud import guess_unit
from rotaware.pointcloud.units import KNOWN_RATIOS, USUAL_DIFFERENCE, unit_factor


@pytest.mark.parametrize(
    ("extent", "unit"),
    [
        ((3.0, 1.9, 2.2), "m"),
        ((0.02, 0.01, 0.01), "m"),
        ((300.0, 200.0, 20.0), "m"),
        ((3000.0, 1900.0, 2200.0), "mm"),
        ((1.0, 1.0, 3000.0), "mm"),
        ((3e6, 2e6, 1e6), "um"),
        ((0.0, 0.0, 0.0), "m"),
    ],
)
def test_unit_is_the_largest_that_keeps_the_scan_within_a_kilometre(extent: tuple[float, ...], unit: str) -> None:
    assert guess_unit(extent) == unit


def test_guess_does_not_depend_on_the_order_of_the_axes() -> None:
    assert guess_unit((3000.0, 1.0, 1.0)) == guess_unit((1.0, 3000.0, 1.0)) == guess_unit((1.0, 1.0, 3000.0))


@pytest.mark.parametrize("ratio", KNOWN_RATIOS)
def test_factor_brings_known_units_together(ratio: float) -> None:
    # Two scans of one place are never quite as large as each other; feet and inches are 20 % apart.
    for difference in (0.93, 1.0, 1.07):
        assert unit_factor(ratio * difference, 1.0) == pytest.approx(1.0 / ratio)
        assert unit_factor(difference, ratio) == pytest.approx(ratio)


def test_factor_of_swapped_clouds_is_the_inverse() -> None:
    for exponent in range(-70, 71):
        ratio = 10.0 ** (exponent / 20)
        assert unit_factor(ratio, 1.0) * unit_factor(1.0, ratio) == pytest.approx(1.0)
        assert unit_factor(7.0 * ratio, 7.0) == unit_factor(ratio, 1.0)


def test_usual_differences_are_left_alone() -> None:
    for ratio in (1.0, 1.5, 0.6, 0.99 * USUAL_DIFFERENCE, 1.01 / USUAL_DIFFERENCE):
        assert unit_factor(ratio, 1.0) == 1.0
