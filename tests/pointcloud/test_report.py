"""The reports: what the pictures show, what the page holds, and that neither breaks on odd input."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.rasteriser import RAMP
from rotaware.pointcloud.report import write_overview_png, write_report_html
from rotaware.pointcloud.result import (
    Check,
    CloudSummary,
    Correspondences,
    Hypothesis,
    Metrics,
    Notice,
    Registration,
)

VOXEL = 0.1
MAP_OFFSET = np.array([500_000.0, 5_400_000.0, 120.0])
HOSTILE_NAME = '</script><script>alert("\'ü&点")</script><!--.ply'


def corner(seed: int, count: int = 6000) -> np.ndarray:
    """A floor, two walls and a block on the floor, metres, with 3 mm of noise."""
    generator = np.random.default_rng(seed)
    u = generator.random((count, 2)) * (4.0, 2.5)
    kind = np.arange(count) % 4
    zero = np.zeros(count)
    points = np.select(
        [kind[:, None] == 0, kind[:, None] == 1, kind[:, None] == 2],
        [np.c_[u[:, 0], u[:, 1], zero], np.c_[u[:, 0], zero + 2.5, u[:, 1]], np.c_[zero, u[:, 1], u[:, 0] * 0.6]],
        np.c_[1.5 + u[:, 0] * 0.25, 0.6 + u[:, 1] * 0.4, zero + 0.7],
    )
    return points + generator.normal(size=points.shape) * 0.003


def summary(points: np.ndarray) -> CloudSummary:
    return CloudSummary(len(points), len(points), 0, 0, (4.0, 2.5, 2.5), 0.02, "m", "given", None, "none", "estimated")


def case(
    *, offset: np.ndarray | None = None, status: Any = "registered"
) -> tuple[Registration, np.ndarray, np.ndarray]:
    """A pair with a known pose and a result that reports it."""
    target = corner(1)
    aligned = corner(2)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0.2, -0.3, 0.8]).as_matrix()
    pose[:3, 3] = (0.5, -0.8, 0.3)
    source = (aligned - pose[:3, 3]) @ pose[:3, :3]
    if offset is not None:
        target, pose = target + offset, pose.copy()
        pose[:3, 3] += offset
    other = pose.copy()
    other[:3, 3] += (0.4, 0.0, 0.0)
    index = np.arange(200)
    registration = Registration(
        status=status,
        T_target_source=pose,
        confidence=0.93,
        reason="all checks passed",
        checks=(Check("overlap", 0.9, 0.2, True, "share <b>near</b>"), Check("spread", 0.1, 0.3, False, "wide enough")),
        metrics=Metrics(0.91, 0.92, 0.5, 100, 0.012, 0.03, 0.8, 0.4, None, np.eye(6) * 1e-6, None, ("shift along x",)),
        alternatives=(Hypothesis(pose, 0.9), Hypothesis(other, 0.3)),
        symmetry=None,
        source=summary(source),
        target=summary(target),
        correspondences=Correspondences(
            index, index[::-1].copy(), np.linspace(0, 1, 200, dtype=np.float32), index < 100
        ),
        voxel=VOXEL,
        scale=1.0,
        engine="classic",
        why="asked for",
        refine="gicp",
        seed=0,
        parameters={"method": "classic", "voxel": None},
        timings={"solve": 0.25},
        warnings=(Notice("W012", "dropped <2> points", "Look & see"),),
    )
    return registration, source, target


def without_pose(registration: Registration) -> Registration:
    none = np.zeros(0, dtype=np.int64)
    return replace(
        registration,
        status="not_registered",
        T_target_source=None,
        metrics=None,
        checks=(),
        alternatives=(),
        warnings=(),
        reason="",
        correspondences=Correspondences(none, none, none.astype(np.float32), none.astype(bool)),
    )


def page(
    tmp_path: Path, registration: Registration, source: np.ndarray, target: np.ndarray, name: str = "a.ply"
) -> str:
    write_report_html(tmp_path / "report.html", registration, source, target, source_name=name, target_name="b.ply")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def decode(cloud: dict[str, Any]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(cloud["positions"]), dtype="<i2").reshape(-1, 3)
    return np.array(cloud["offset"]) + (steps + 32768.0) * np.array(cloud["scale"])


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


def hue_counts(picture: np.ndarray) -> tuple[int, int]:
    """Pixels of the source's and the target's colour, however shaded."""
    rgb = picture.reshape(-1, 3).astype(float)
    strong = np.ptp(rgb, axis=1) > 60
    source = strong & (rgb[:, 0] > 1.5 * rgb[:, 1]) & (rgb[:, 1] > 1.5 * rgb[:, 2])
    target = strong & (rgb[:, 2] > 1.2 * rgb[:, 1]) & (rgb[:, 1] > 2.0 * rgb[:, 0])
    return int(source.sum()), int(target.sum())


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


def test_page_residuals_are_nearest_distances(tmp_path: Path) -> None:
    registration, source, target = case()
    data = payload(page(tmp_path, registration, source, target))
    assert len(data["poses"]) == 2
    for pose in data["poses"]:
        matrix = np.array(pose["matrix"]).reshape(4, 4)
        moved = decode(data["source"]) @ matrix[:3, :3].T + matrix[:3, 3]
        expected = np.minimum(cKDTree(target).query(moved)[0] / data["residualLimit"], 255 / 254)
        stored = np.frombuffer(base64.b64decode(pose["residual"]), dtype=np.uint8) / 254
        assert np.abs(stored - expected).max() < 0.6 / 254 + 1e-3
        np.testing.assert_array_equal(np.array(pose["text"].split(), dtype=float).reshape(4, 4), matrix)
    assert registration.T_target_source is not None
    assert data["poses"][0]["matrix"] == registration.T_target_source.ravel().tolist()


def test_page_correspondences_are_the_rows_they_name(tmp_path: Path) -> None:
    registration, source, target = case()
    source[0] = np.nan
    data = payload(page(tmp_path, registration, source, target))["correspondences"]
    assert (data["total"], data["source"]["count"]) == (200, 199)
    rows = np.arange(199, 0, -1)
    np.testing.assert_allclose(decode(data["source"]), source[rows], atol=1e-4)
    np.testing.assert_allclose(decode(data["target"]), target[199 - rows], atol=1e-4)
    inlier = np.frombuffer(base64.b64decode(data["inlier"]), dtype=np.uint8)
    np.testing.assert_array_equal(inlier, rows < 100)


def test_page_thins_large_clouds_evenly(tmp_path: Path) -> None:
    registration, _, target = case()
    # Sorted along x, so that a cut or a stride of the rows would show.
    source = np.zeros((200_000, 3))
    source[:, 0] = np.linspace(0, 1, 200_000)
    data = payload(page(tmp_path, registration, source, target))["source"]
    assert (data["count"], data["total"]) == (80_000, 200_000)
    histogram = np.histogram(decode(data)[:, 0], bins=20, range=(0, 1))[0]
    assert np.abs(histogram - 4000).max() < 300


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


# Page in a browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr"),
    *("--window-size=900,700", "--virtual-time-budget=2000"),
]
SOFTWARE_WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NO_WEBGL = ["--disable-gpu", "--disable-3d-apis"]
# Turns through every control, leaves the page half-way along the motion, and moves twice by half the rotation.
TOUR = """<script>
const find = (id) => document.getElementById(id);
HTMLAnchorElement.prototype.click = function () { document.body.dataset.saved = this.download; };
for (const id of ["inliers", "outliers", "ortho", "slice", "flip", "shade", "reset", "top", "side", "copy", "save"])
  find(id).click();
find("play").click();
for (const key of ["1", "2", "3", "l", "r", "+", "-", " ", "ArrowUp", "ArrowLeft"])
  find("view").dispatchEvent(new KeyboardEvent("keydown", { key }));
for (const group of ["section", "color"]) for (const button of find(group).children) button.click();
find("pose").value = 1; find("pose").dispatchEvent(new Event("change"));
find("blend").value = 500; find("blend").dispatchEvent(new Event("input"));
const pose = JSON.parse(find("payload").textContent).poses[0].matrix.map((v, k) => (k % 4 < 3 ? v : 0));
const none = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
const half = between(none, pose, [0, 0, 0], 0.5);
document.body.dataset.error = Math.max(...multiply(half, half).slice(0, 12).map((v, k) => Math.abs(v - pose[k])));
</script></body>"""


def browse(folder: Path, flags: list[str]) -> tuple[str, str]:
    """The page's elements after its scripts ran, and what it logged."""
    assert BROWSER
    command = [BROWSER, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, (folder / "report.html").as_uri()], capture_output=True, text=True, timeout=60)
    return done.stdout, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_viewer_draws_both_clouds_without_errors(tmp_path: Path) -> None:
    page(tmp_path, *case())
    _, log = browse(tmp_path, [*SOFTWARE_WEBGL, f"--screenshot={tmp_path / 'shot.png'}"])
    assert "CONSOLE" not in log
    picture = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"))
    assert min(hue_counts(picture[100:600])) > 5000


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_viewer_controls_run_without_errors_and_halve_the_rotation(tmp_path: Path) -> None:
    text = page(tmp_path, *case(offset=MAP_OFFSET), name=HOSTILE_NAME)
    (tmp_path / "report.html").write_text(text.replace("</body>", TOUR), encoding="utf-8")
    elements, log = browse(tmp_path, [*SOFTWARE_WEBGL, "--dump-dom"])
    assert "CONSOLE" not in log
    assert 'data-viewer="ready"' in elements
    error = re.search(r'data-error="([^"]+)"', elements)
    assert error and float(error[1]) < 1e-9
    assert "Shown: Alternative 2." in elements
    assert 'data-saved="registration.png"' in elements


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_page_without_webgl_says_so_and_keeps_its_tables(tmp_path: Path) -> None:
    page(tmp_path, *case())
    script = "<script>document.body.dataset.room = document.getElementById('message').offsetHeight</script></body>"
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "report.html").write_text(text.replace("</body>", script), encoding="utf-8")
    elements, _ = browse(tmp_path, [*NO_WEBGL, "--dump-dom"])
    room = re.search(r'data-room="(\d+)"', elements)
    assert room and int(room[1]) > 40
    assert 'data-viewer="unavailable"' in elements
    assert "WebGL 2 is not available" in elements and "W012" in elements and "Runner-up ratio" in elements
