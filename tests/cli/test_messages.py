"""Numbers and lengths as people read them."""

from __future__ import annotations

import pytest

from rotaware.cli.messages import format_count, format_length, format_number, nearest


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.41234, "0.412"),
        (0.9999, "1"),
        (123.4, "123"),
        (1234.5, "1234"),
        (-2.5, "-2.5"),
        (100.0, "100"),
        (1e-9, "1.00e-09"),
        (float("nan"), "unknown"),
    ],
)
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.41, "m", "0.41 m"),
        (0.018, "m", "1.8 cm"),
        (0.006, "m", "6 mm"),
        (0.0004, "m", "0.4 mm"),
        (0.0, "m", "0 m"),
        (18.0, "mm", "18 mm"),
        (2.0, "unknown", "2 units"),
    ],
)
def test_format_length(value: float, unit: str, text: str) -> None:
    assert format_length(value, unit) == text


def test_format_count() -> None:
    assert format_count(999) == "999" and format_count(1000000) == "1 000 000"


def test_nearest() -> None:
    assert nearest("kichen.ply", ["kitchen.ply", "hall.ply"]) == "kitchen.ply"
    assert nearest("zzz", ["kitchen.ply"]) is None
