"""The reports: what the pictures show, what the page holds, and that neither breaks on odd input."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_cases import (
    HOSTILE_NAME,
    MAP_OFFSET,
    case,
    decode,
    hue_counts,
    page,
    payload,
    without_pose,
)
from scipy.spatial import cKDTree

from rotaware.pointcloud.rasteriser import RAMP
from rotaware.pointcloud.report import write_overview_png, write_report_html
from rotaware.pointcloud.result import Check, Correspondences, Hypothesis


class Texts(HTMLParser):
    """Elements by name, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.text += data


def read(text: str) -> Texts:
    parser = Texts()
    parser.feed(text)
    return parser


# Overview picture


def test_overview_has_its_size_and_the_clouds_in_their_panels(tmp_path: Path) -> None:
    registration, source, target = case()
    write_overview_png(tmp_path / "o.png", registration, source, target, source_name="a", target_name="b")
    image = Image.open(tmp_path / "o.png")
    assert (image.size, image.mode) == ((1800, 900), "RGB")
    picture = np.asarray(image)[240:790]
    for left in (40, 640):
        counts = hue_counts(picture[:, left : left + 540])
        assert min(counts) > 8000
    # The aligned clouds agree everywhere: the residual map is blue to violet, neither orange nor amber.
    assert hue_counts(picture[:, 1240:1780])[0] < 200
    assert [path.name for path in tmp_path.iterdir()] == ["o.png"]


def test_overview_paints_the_source_orange_and_the_target_blue(tmp_path: Path) -> None:
    registration, source, target = case()
    few = source[np.linalg.norm(source - source[3], axis=1) < 0.8]
    write_overview_png(tmp_path / "o.png", registration, few, target, source_name="a", target_name="b")
    orange, blue = hue_counts(np.asarray(Image.open(tmp_path / "o.png"))[240:790, 40:580])
    assert 0 < 2 * orange < blue


def test_overview_of_a_wrong_pose_shows_large_residuals(tmp_path: Path) -> None:
    registration, source, target = case(status="not_registered")
    assert registration.T_target_source is not None
    wrong = registration.T_target_source.copy()
    wrong[:3, 3] += (0.0, 0.0, 1.2)
    write_overview_png(
        tmp_path / "o.png",
        replace(registration, T_target_source=wrong),
        source,
        target,
        source_name="a",
        target_name="b",
    )
    residual = np.asarray(Image.open(tmp_path / "o.png"))[240:790, 1240:1780].reshape(-1, 3).astype(int)
    amber = (np.abs(residual - RAMP[-1]) < 40).all(axis=1)
    assert amber.sum() > 8000


def test_overview_of_map_coordinates_shows_both_clouds(tmp_path: Path) -> None:
    registration, source, target = case(offset=MAP_OFFSET)
    write_overview_png(
        tmp_path / "o.png", registration, source, target, source_name=HOSTILE_NAME, target_name="b" * 400
    )
    assert min(hue_counts(np.asarray(Image.open(tmp_path / "o.png"))[240:790, 40:580])) > 5000


def test_overview_at_twice_the_scale_is_the_same_picture_in_finer_pixels(tmp_path: Path) -> None:
    registration, source, target = case()
    pictures = []
    for scale in (1, 2):
        path = tmp_path / f"{scale}.png"
        write_overview_png(path, registration, source, target, source_name="a", target_name="b", scale=scale)
        pictures.append(Image.open(path).convert("RGB"))
    assert pictures[1].size == (3600, 1800)
    # Averaged over blocks, so that the rounding of a letter or a splat to whole pixels does not count.
    small = [np.asarray(picture.resize((90, 45), Image.Resampling.BOX)).astype(int) for picture in pictures]
    assert np.abs(small[0] - small[1]).mean() < 3
    with pytest.raises(ValueError, match="scale: expected at least 1, got 0"):
        write_overview_png(tmp_path / "x", registration, source, target, source_name="a", target_name="b", scale=0)
    assert not (tmp_path / "x").exists()


# Page


def test_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, *case())
    assert not re.search(
        r"https?:|//[a-z]+\.[a-z]|<link|<iframe|\bsrc=|@import|\burl\(|fetch\(|XMLHttpRequest|WebSocket", text
    )
    assert "default-src 'none'" in text
    assert "{{" not in text
    assert len(text) < 2_000_000


def test_page_escapes_names_and_messages(tmp_path: Path) -> None:
    plain, hostile = read(page(tmp_path, *case())), read(page(tmp_path, *case(), name=HOSTILE_NAME))
    assert hostile.tags == plain.tags
    assert HOSTILE_NAME in hostile.text
    assert "share <b>near</b>" in hostile.text and "dropped <2> points" in hostile.text and "Look & see" in hostile.text
    assert payload(page(tmp_path, *case(), name=HOSTILE_NAME))["names"]["source"] == HOSTILE_NAME


def test_page_with_a_placeholder_or_undecodable_bytes_in_a_name(tmp_path: Path) -> None:
    assert "{{payload}}\ufffd" in read(page(tmp_path, *case(), name="{{payload}}\udcff").replace("?", "\ufffd")).text


@pytest.mark.parametrize("offset", [None, MAP_OFFSET])
def test_page_points_decode_within_half_a_step(tmp_path: Path, offset: np.ndarray | None) -> None:
    registration, source, target = case(offset=offset)
    data = payload(page(tmp_path, registration, source, target))
    for key, points in (("source", source), ("target", target)):
        assert data[key]["count"] == data[key]["total"] == len(points)
        decoded = decode(data[key])
        half_step = np.linalg.norm(data[key]["scale"]) / 2 * 1.01
        assert half_step < 1e-4
        distance, match = cKDTree(points).query(decoded)
        assert distance.max() <= half_step
        assert len(np.unique(match)) == len(points)
    assert data["startShifted"] is (offset is not None)


def stored(text: str, dtype: str = "u1") -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def test_page_residuals_are_nearest_distances_both_ways(tmp_path: Path) -> None:
    registration, source, target = case()
    assert registration.T_target_source is not None
    # A similarity: distances count in the target's unit, whichever cloud they are measured from.
    scaled = registration.T_target_source.copy()
    scaled[:3, :3] *= 1.1
    registration = replace(registration, alternatives=(*registration.alternatives, Hypothesis(scaled, 0.1)))
    data = payload(page(tmp_path, registration, source, target))
    assert len(data["poses"]) == 3
    for pose in data["poses"]:
        matrix = np.array(pose["matrix"]).reshape(4, 4)
        for name, found in (
            ("source", cKDTree(target).query(decode(data["source"]) @ matrix[:3, :3].T + matrix[:3, 3])[0]),
            ("target", cKDTree(source @ matrix[:3, :3].T + matrix[:3, 3]).query(decode(data["target"]))[0]),
        ):
            expected = np.minimum(found / data["residualLimit"], 255 / 254)
            assert np.abs(stored(pose["residual"][name]) / 254 - expected).max() < 0.6 / 254 + 1e-3
        np.testing.assert_array_equal(np.array(pose["text"].split(), dtype=float).reshape(4, 4), matrix)
    assert data["poses"][0]["matrix"] == registration.T_target_source.ravel().tolist()


def test_page_points_have_the_confidence_of_the_nearest_correspondence(tmp_path: Path) -> None:
    registration, source, target = case()
    # Row 7 has a second, less confident partner: its better one counts.
    twice = np.append(registration.correspondences.source_index, 7)
    matches = Correspondences(
        twice,
        np.append(registration.correspondences.target_index, 0),
        np.append(registration.correspondences.confidence, np.float32(0.0)),
        np.append(registration.correspondences.inlier, False),
    )
    data = payload(page(tmp_path, replace(registration, correspondences=matches), source, target))
    for name, points, rows in (("source", source, np.arange(200)), ("target", target, np.arange(200)[::-1])):
        distance, nearest = cKDTree(points[rows]).query(decode(data[name]))
        expected = np.where(distance < data["residualLimit"], 1 + 254 * matches.confidence[nearest], 0)
        found = stored(data[name]["confidence"])
        # Rounded coordinates may prefer another of two equally near points.
        assert (np.abs(found - expected) < 0.51).mean() > 0.999
        assert 0 < (found == 0).sum() < len(found) or distance.max() < data["residualLimit"]


def test_page_colors_stay_with_their_points(tmp_path: Path) -> None:
    registration, source, target = case()
    source[::5] = np.nan
    colors = np.random.default_rng(0).integers(0, 256, source.shape).astype(np.uint8)
    data = payload(page(tmp_path, registration, source, target, source_colors=colors))
    rows = cKDTree(source[np.isfinite(source[:, 0])]).query(decode(data["source"]))[1]
    np.testing.assert_array_equal(
        stored(data["source"]["colors"]).reshape(-1, 3), colors[np.isfinite(source[:, 0])][rows]
    )
    assert data["target"]["colors"] is None
    with pytest.raises(ValueError, match=r"target_colors: expected shape \(6000, 3\), got \(5999, 3\)"):
        page(tmp_path, registration, source, target, target_colors=colors[1:])


def test_page_correspondences_are_the_rows_they_name(tmp_path: Path) -> None:
    registration, source, target = case()
    source[0] = np.nan
    data = payload(page(tmp_path, registration, source, target))["correspondences"]
    assert (data["total"], data["source"]["count"]) == (200, 199)
    rows = np.arange(199, 0, -1)
    np.testing.assert_allclose(decode(data["source"]), source[rows], atol=1e-4)
    np.testing.assert_allclose(decode(data["target"]), target[199 - rows], atol=1e-4)
    np.testing.assert_array_equal(stored(data["inlier"]) > 0, rows < 100)
    np.testing.assert_allclose(stored(data["confidence"], "<u2") / 65535, rows / 199, atol=1e-5)


def test_page_thins_large_clouds_evenly(tmp_path: Path) -> None:
    registration, _, target = case()
    # Sorted along x, so that a cut or a stride of the rows would show.
    source = np.zeros((200_000, 3))
    source[:, 0] = np.linspace(0, 1, 200_000)
    data = payload(page(tmp_path, registration, source, target))["source"]
    assert (data["count"], data["total"]) == (100_000, 200_000)
    histogram = np.histogram(decode(data)[:, 0], bins=20, range=(0, 1))[0]
    assert np.abs(histogram - 5000).max() < 300


def test_page_lists_checks_warnings_and_numbers(tmp_path: Path) -> None:
    text = read(page(tmp_path, *case())).text
    for piece in (
        "REGISTERED",
        "Overlap",
        "91 %",
        "pass",
        "fail",
        "W012",
        "shift along x",
        "classic (asked for)",
    ):
        assert piece in text
    rotation = np.degrees(np.linalg.norm([0.2, -0.3, 0.8]))
    assert f"{rotation:.1f}°" in text


def test_page_says_on_which_side_of_its_threshold_a_check_passes(tmp_path: Path) -> None:
    registration, source, target = case()
    checks = (
        Check("many", 5.0, 2.0, True, ""),
        Check("equal", 2.0, 2.0, True, ""),
        Check("few", 1.0, 2.0, False, ""),
        Check("rival", 0.1, 0.6, True, ""),
        Check("strong rival", 0.7, 0.6, False, ""),
    )
    text = page(tmp_path, replace(registration, checks=checks), source, target)
    assert re.findall(r'<td class="num">(&\w+;) [\d.]+</td><td></td>', text) == ["&ge;"] * 3 + ["&lt;"] * 2


def test_page_says_when_a_pose_is_not_accepted(tmp_path: Path) -> None:
    text = page(tmp_path, *case(status="not_registered"))
    assert "NOT REGISTERED" in read(text).text
    assert payload(text)["poses"][0]["label"] == "Best guess, not accepted"


def test_reports_without_any_pose(tmp_path: Path) -> None:
    registration, source, target = case()
    text = page(tmp_path, without_pose(registration), source, target)
    assert payload(text)["poses"] == []
    assert "no pose could be formed" in read(text).text
    write_overview_png(tmp_path / "o.png", without_pose(registration), source, target, source_name="a", target_name="b")
    picture = np.asarray(Image.open(tmp_path / "o.png"))[240:790]
    assert min(hue_counts(picture[:, 40:580])) > 5000
    assert hue_counts(picture[:, 640:]) == (0, 0)


@pytest.mark.parametrize("rows", [0, 1])
def test_reports_of_nearly_empty_clouds(tmp_path: Path, rows: int) -> None:
    registration, source, target = case()
    bare = without_pose(registration)
    for left, right in ((source[:rows], target), (source, target[:rows]), (source[:rows], target[:rows])):
        page(tmp_path, bare, left, right)
        write_overview_png(tmp_path / "o.png", bare, left, right, source_name="a", target_name="b")


def test_reports_refuse_arrays_of_another_shape(tmp_path: Path) -> None:
    registration, source, target = case()
    for write in (write_report_html, write_overview_png):
        with pytest.raises(ValueError, match=r"target_points: expected shape \(N, 3\), got \(6000, 2\)"):
            write(tmp_path / "x", registration, source, target[:, :2], source_name="a", target_name="b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_overview_png, write_report_html])
def test_same_input_gives_the_same_bytes_and_inputs_stay_untouched(tmp_path: Path, write: Callable[..., None]) -> None:
    registration, source, target = case()
    kept = source.copy(), target.copy()
    for name in ("first", "second"):
        write(tmp_path / name, registration, source, target, source_name="a", target_name="b")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    np.testing.assert_array_equal(source, kept[0])
    np.testing.assert_array_equal(target, kept[1])
