"""Cutting: patches hold what the image holds, every object is somewhere, and names and index lead back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rotaware.datasets import DOTA, AerialImage, SplitOptions, check_labelled, split_dota, write_dota


def large(extent: tuple[int, int] = (700, 500), objects: int = 60) -> AerialImage:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (extent[1], extent[0], 3), dtype=np.uint8)
    corner = generator.uniform([0, 0], [extent[0] - 30, extent[1] - 20], (objects, 2)).round()
    quads = corner[:, None] + np.array([[0.0, 0], [30, 0], [30, 20], [0, 20]])
    return AerialImage("P1", image, quads, generator.integers(0, 2, objects), np.zeros(objects, bool))


@pytest.fixture
def source(tmp_path: Path) -> DOTA:
    write_dota(tmp_path / "whole", [large()], ("ship", "plane"))
    return DOTA(tmp_path / "whole")


def test_patches_lead_back_to_the_image(source: DOTA, tmp_path: Path) -> None:
    report = split_dota(source, tmp_path / "cut", SplitOptions(200, 60))
    index = json.loads((tmp_path / "cut/index.json").read_text())["patches"]
    patches = DOTA(tmp_path / "cut")
    assert patches.classes == ("ship", "plane") and len(patches) == report.patches == len(index)
    whole, seen = source[0], set()
    for number in range(len(patches)):
        each, place = patches[number], index[patches.name(number)]
        left, top = place["left"], place["top"]
        assert each.name == f"P1__200__{left}___{top}" and each.image.shape == (200, 200, 3)
        np.testing.assert_array_equal(each.image, whole.image[top : top + 200, left : left + 200])
        for quad, label in zip(each.quads + np.array([left, top]), each.labels, strict=True):
            same = (np.abs(whole.quads - quad).max(axis=(1, 2)) < 1e-6) & (whole.labels == label)
            seen.add(int(np.flatnonzero(same)[0]))
    assert len(seen) == report.objects == 60 and not report.lost


def test_cut_objects_are_marked_and_beyond_the_image_it_is_even(tmp_path: Path) -> None:
    image = large((150, 120), 0)
    quads = np.array([[[90.0, 40], [110, 40], [110, 60], [90, 60]], [[92.0, 80], [112, 80], [112, 100], [92, 100]]])
    write_dota(tmp_path / "whole", [AerialImage("P1", image.image, quads, np.zeros(2, int), np.zeros(2, bool))], ("a",))
    # Windows of 106 pixels end within the objects: 80 and 70 % of them are inside, the least share is 75.
    options = SplitOptions(106, 10, inside=0.75, filled=0.0)
    report = split_dota(DOTA(tmp_path / "whole"), tmp_path / "cut", options, keep_empty=True)
    assert report.patches == 4 and report.placed == 6
    lines = (tmp_path / "cut/labelTxt/P1__106__0___0.txt").read_text().split("\n")
    assert lines[0].endswith(" a 2") and lines[1] == ""
    split_dota(DOTA(tmp_path / "whole"), tmp_path / "padded", SplitOptions(300, 10))
    [padded] = [DOTA(tmp_path / "padded")[0].image]
    assert padded.shape == (300, 300, 3) and padded[200, 200].tolist() == [124, 116, 104]


def test_objects_too_large_for_all_windows_are_named(tmp_path: Path) -> None:
    image = large((700, 300), 0)
    quads = np.array([[[10.0, 10], [690, 10], [690, 290], [10, 290]]])
    write_dota(
        tmp_path / "whole", [AerialImage("P1", image.image, quads, np.ones(1, int), np.zeros(1, bool))], ("a", "b")
    )
    report = split_dota(DOTA(tmp_path / "whole"), tmp_path / "cut", SplitOptions(300, 50))
    assert report.lost == {"P1": {"b": 1}} and report.patches == 0 and not (tmp_path / "cut").exists()


def test_a_damaged_image_does_not_stop_the_others(source: DOTA, tmp_path: Path) -> None:
    (tmp_path / "whole/images/P0.png").write_bytes(b"rubbish")
    report = split_dota(DOTA(tmp_path / "whole"), tmp_path / "cut", SplitOptions(200, 60))
    assert len(report.damaged) == 1 and "P0.png: expected an image" in report.damaged[0] and report.patches > 0


def test_check_counts_what_is_odd_and_names_what_is_damaged(tmp_path: Path) -> None:
    write_dota(tmp_path, [large()], ("ship", "plane"))
    lines = [
        "0 0 20 0 20 10 0 10 ship 0",
        "0 0 20 0 20 10 0 10 ship 0",  # twice
        "-30 0 -10 0 -10 10 -30 10 ship 1",  # outside
        "-5 0 20 0 20 10 -5 10 plane 0",  # partly
        "50 50 60 50 60 51 50 51 ship 0",  # thin
        "50 50 90 50 70 70 50 70 ship 0",  # slanted
        "50 50 60 60 60 50 50 60 ship 0",  # crossed
        "5 5 5 5 5 5 5 5 ship 0",  # no area
        "nan 5 5 5 5 5 5 5 ship 0",
        "1 2 3 ship",
        "0 0 20 0 20 10 0 10 tram 0",
    ]
    (tmp_path / "labelTxt/P1.txt").write_text("imagesource:GoogleEarth\ngsd:null\n" + "\n".join(lines))
    (tmp_path / "labelTxt/P9.txt").write_text("")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "images/P2.png")
    (tmp_path / "images/P3.png").write_bytes((tmp_path / "images/P1.png").read_bytes()[:2000])
    report = check_labelled(DOTA(tmp_path))
    assert (report.images, report.empty, report.difficult, report.sides) == (3, 1, 1, (40, 700))
    assert dict(report.objects) == {"ship": 6, "plane": 1}
    assert dict(report.oddities) == {
        "centre outside the image": 1,
        "corner more than 10 degrees off a right angle": 1,
        "image without labels": 2,
        "no area": 1,
        "not numbers": 1,
        "partly outside the image": 1,
        "same object twice": 1,
        "short": 1,
        "shorter side below 2 pixels": 1,
        "unknown class tram": 1,
        "untangled": 1,
    }
    assert [kind for kind, _ in report.problems] == ["damaged", "missing"] and not report.ok
    assert "P3.png: expected an image" in report.problems[0][1] and "P9.txt: expected an image" in report.problems[1][1]
