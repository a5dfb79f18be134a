"""Option values: every accepted form, and what is refused."""

from __future__ import annotations

import argparse

import pytest

from rotaware.cli.messages import UsageError
from rotaware.cli.options import Length, count, join_signed_values, report_formats, vector3, voxel_length


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", None),
        ("0.05", Length(0.05, None)),
        ("5cm", Length(5.0, "cm")),
        ("5 cm", Length(5.0, "cm")),
        (".5mm", Length(0.5, "mm")),
        ("1e-3m", Length(0.001, "m")),
        ("2in", Length(2.0, "in")),
    ],
)
def test_voxel_length(text: str, expected: Length | None) -> None:
    assert voxel_length(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e999", "cm", "5 parsec", "5cm5", "5CM"])
def test_voxel_length_refuses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        voxel_length(text)


@pytest.mark.parametrize("unit", ["m", "cm", "mm", "um", "ft", "in"])
def test_length_there_and_back(unit: str) -> None:
    metres = Length(2.0, unit).in_unit("m")
    assert Length(metres, "m").in_unit(unit) == pytest.approx(2.0)


def test_length_in_unit() -> None:
    assert Length(1.0, "in").in_unit("mm") == pytest.approx(25.4)
    assert Length(1.0, "ft").in_unit("in") == pytest.approx(12.0)
    assert Length(0.05, None).in_unit("anything") == 0.05
    with pytest.raises(UsageError, match="--unit"):
        Length(5.0, "cm").in_unit("unknown")


def test_vector3() -> None:
    assert vector3("1,2,3") == vector3("1 2 3") == vector3(" 1, 2, 3 ") == (1.0, 2.0, 3.0)
    for text in ("1,2", "1,2,3,4", "a,b,c", "nan,0,0", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="three"):
            vector3(text)


def test_count() -> None:
    assert count(3)("1_000") == 1000
    for text in ("2", "2.5", "many"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 3"):
            count(3)(text)


def test_report_formats() -> None:
    assert report_formats("html,png") == {"html", "png"}
    assert report_formats("none") == frozenset()
    for text in ("", "none,png", "pdf"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            report_formats(text)


def test_negative_values_reach_their_option() -> None:
    assert join_signed_values(["--source-sensor", "-1,2,3"]) == ["--source-sensor=-1,2,3"]
    assert join_signed_values(["-o", "-1"]) == ["-o", "-1"]
    assert join_signed_values(["--", "-1.ply"]) == ["--", "-1.ply"]
    assert join_signed_values(["--voxel=2", "-1"]) == ["--voxel=2", "-1"]
