"""The report page in a real browser: it draws, its controls and links work, and it saves pictures fit to print."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from chromium import browse, needs_chromium
from PIL import Image
from report_cases import HOSTILE_NAME, MAP_OFFSET, case, hue_counts, page
from scipy.spatial import cKDTree

from rotaware.pointcloud.rasteriser import INLIER_COLOR, SHARED_COLOR
from rotaware.pointcloud.result import Correspondences, Registration

pytestmark = needs_chromium

GREEN = (20, 230, 20)
# Frames come as real time passes, but the browser is left as soon as the page's own time is over: timers count in that.
FRAMES = """<script>
requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 5);
cancelAnimationFrame = clearTimeout;
</script>"""
# Goes from link to link and notes what the page shows; the pictures come without shading, in plain colours.
WALK = """<script>
const frame = () => new Promise((done) => setTimeout(done, 50));
const text = (id) => document.getElementById(id).textContent;
(async () => {
  const seen = [];
  for (const fragment of FRAGMENTS) {
    const changed = new Promise((done) => addEventListener("hashchange", done, { once: true }));
    location.hash = fragment;
    await changed;
    await frame();
    const form = document.getElementById("controls").elements;
    const shown = Object.fromEntries(["pose", "color", "threshold", "blend"].map((name) => [name, form[name].value]));
    const lines = +document.documentElement.dataset.lines;
    const picture = document.getElementById("view").toDataURL();
    seen.push({ ...shown, lines, picture, matrix: text("matrix"), legend: text("legend") });
  }
  document.body.dataset.seen = JSON.stringify(seen);
})();
</script></body>"""
# Turns through every control and ends on "Save PNG"; what it would download stays in the page.
TOUR = """<script>
const find = (id) => document.getElementById(id);
const form = find("controls").elements;
HTMLAnchorElement.prototype.click = function () { document.body.dataset.saved = this.download; };
URL.createObjectURL = (blob) => {
  const reader = new FileReader();
  reader.onload = () => { document.body.dataset.png = reader.result; };
  reader.readAsDataURL(blob);
  return "#";
};
document.body.dataset.size = `${find("view").clientWidth} ${find("view").clientHeight}`;
for (const control of form) if (["checkbox", "radio"].includes(control.type)) control.click();
for (const id of ["reset", "top", "side", "copy", "link", "play", "play"]) find(id).click();
for (const key of [..."12346lrtonp[]ba+- ", "ArrowUp", "ArrowLeft"])
  find("view").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
for (const [name, value] of [["blend", 0.5], ["threshold", 0.25], ["size", 2], ["pose", 1]]) {
  form[name].value = value;
  form[name].dispatchEvent(new Event("input", { bubbles: true }));
}
for (const value of ["cloud", "all", "off"]) document.querySelector(`[type=radio][value=${value}]`).click();
for (const name of ["source", "target", "parallel"]) if (!form[name].checked) form[name].click();
setTimeout(() => {
  document.body.dataset.address = location.hash;
  find("times").value = "2";
  find("save").click();
}, 400);
const pose = JSON.parse(find("payload").textContent).poses[0].matrix.map((v, k) => (k % 4 < 3 ? v : 0));
const none = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
const half = between(none, pose, [0, 0, 0], 0.5);
document.body.dataset.error = Math.max(...multiply(half, half).slice(0, 12).map((v, k) => Math.abs(v - pose[k])));
</script></body>"""


def with_script(folder: Path, text: str, script: str) -> str:
    """Address of the page with a script of ours at its end."""
    path = folder / "scripted.html"
    path.write_text(text.replace("<head>", f"<head>{FRAMES}", 1).replace("</body>", script), encoding="utf-8")
    return path.as_uri()


def picture_of(data_url: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data_url.partition("base64,")[2]))).convert("RGB")


def share(data_url: str, color: tuple[int, int, int], tolerance: int = 12) -> float:
    """Share of the picture that has this colour."""
    pixels = np.asarray(picture_of(data_url)).astype(int)
    return float((np.abs(pixels - color).max(axis=-1) <= tolerance).mean())


def matched_case() -> tuple[Registration, np.ndarray, np.ndarray]:
    """200 correspondences: 100 fit the reported pose, 60 the alternative, 40 neither; confidence in no order."""
    registration, source, target = case()
    rows = np.arange(200)
    poses = [registration.T_target_source, registration.alternatives[1].T_target_source]
    partners = np.random.default_rng(3).integers(0, 6000, 200)
    for pose, part in zip(poses, (rows < 100, (rows >= 100) & (rows < 160)), strict=True):
        assert pose is not None
        partners[part] = cKDTree(target).query(source[rows[part]] @ pose[:3, :3].T + pose[:3, 3])[1]
    confidence = np.random.default_rng(4).random(200).astype(np.float32)
    matches = Correspondences(rows, partners, confidence, rows < 100)
    return replace(registration, correspondences=matches), source, target


def test_page_draws_both_clouds_without_errors(tmp_path: Path) -> None:
    page(tmp_path, *case())
    shown = browse((tmp_path / "report.html").as_uri(), screenshot=tmp_path / "shot.png")
    assert shown.log == []
    picture = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"))
    assert min(hue_counts(picture[100:600])) > 5000


def test_links_show_what_they_say(tmp_path: Path) -> None:
    registration, source, target = matched_case()
    matches = registration.correspondences
    poses = [pose.T_target_source for pose in (registration.alternatives[0], registration.alternatives[1])]
    green = np.broadcast_to(np.array(GREEN, dtype=np.uint8), source.shape)
    text = page(tmp_path, registration, source, target, source_colors=green)
    limit = json.loads(re.findall(r'"residualLimit":([^,]+),', text)[0])
    fragments = [
        "lines=all&shading=0",
        "lines=inliers&threshold=0.4&shading=0",
        "lines=outliers&threshold=0.4",
        "pose=1&lines=inliers&threshold=0.4",
        "color=overlap&shading=0",
        "color=overlap&shading=0&pose=1",
        "color=original&shading=0&target=0",
        "pose=99&color=plaid&threshold=x&eye=1,2&blend=",
    ]
    shown = browse(with_script(tmp_path, text, WALK.replace("FRAGMENTS", json.dumps(fragments))))
    assert shown.log == []
    seen: list[dict[str, Any]] = json.loads(shown.data("seen") or "null")
    everything, inliers, outliers, other, both, shifted, original, fresh = seen

    moved = source[matches.source_index] @ poses[1][:3, :3].T + poses[1][:3, 3]
    fits = np.linalg.norm(moved - target[matches.target_index], axis=1) < limit / 2
    assert 30 <= fits.sum() < 100
    confident = matches.confidence >= 0.4
    assert [item["lines"] for item in seen[:4]] == [
        200, (matches.inlier & confident).sum(), (~matches.inlier & confident).sum(), (fits & confident).sum()
    ]  # fmt: skip
    # The lines are not only counted: inliers are short under the reported pose, and fewer show less of their colour.
    assert share(everything["picture"], INLIER_COLOR, 40) > share(inliers["picture"], INLIER_COLOR, 40) > 0
    assert share(outliers["picture"], INLIER_COLOR) == 0
    for item, pose in ((everything, 0), (other, 1), (shifted, 1), (fresh, 0)):
        np.testing.assert_array_equal(np.array(item["matrix"].split(), dtype=float).reshape(4, 4), poses[pose])
        assert item["pose"] == str(pose)

    assert both["color"] == "overlap" and "in both, within 0.15 m" in both["legend"]
    # The clouds show the same corner: under the right pose all is shared, after 40 cm along a wall two sides.
    assert share(both["picture"], SHARED_COLOR) > 1.2 * share(shifted["picture"], SHARED_COLOR) > 0
    assert share(original["picture"], GREEN) > 0.1
    assert (fresh["color"], fresh["threshold"], fresh["blend"], fresh["lines"]) == ("cloud", "0", "1", 0)


def test_controls_keys_and_saving(tmp_path: Path) -> None:
    text = page(tmp_path, *case(offset=MAP_OFFSET), name=HOSTILE_NAME)
    shown = browse(with_script(tmp_path, text, TOUR), milliseconds=8000)
    assert shown.log == []
    assert shown.data("viewer") == "ready"
    assert "Shown: Alternative 1." in shown.elements
    # Twice half the motion is the motion.
    assert float(shown.data("error") or "nan") < 1e-9
    address = dict(item.split("=") for item in (shown.data("address") or "#").removeprefix("#").split("&"))
    assert address["pose"] == "1" and address["blend"] == "0.5" and address["threshold"] == "0.25"
    assert address["lines"] == "all" and address["size"] == "2"

    assert shown.data("saved") == "registration.png"
    width, height = map(int, (shown.data("size") or "").split())
    picture = picture_of(shown.data("png") or "")
    assert picture.size == (2 * width, 2 * (height + 84))
    pixels = np.asarray(picture)
    assert min(hue_counts(pixels[: 2 * height])) > 5000
    # The caption and the legend stand below, on the white of the paper.
    strip = pixels[2 * height :].astype(int)
    assert (strip.min(axis=-1) > 250).mean() > 0.7 and (strip.max(axis=-1) < 100).sum() > 1000


def test_page_without_webgl_says_so_and_keeps_its_tables(tmp_path: Path) -> None:
    text = page(tmp_path, *case())
    script = "<script>document.body.dataset.room = document.getElementById('message').offsetHeight</script></body>"
    shown = browse(with_script(tmp_path, text, script), webgl=False)
    assert int(shown.data("room") or 0) > 40
    assert shown.data("viewer") == "unavailable"
    for piece in ("WebGL 2 is not available", "W012", "Runner-up ratio"):
        assert piece in shown.elements
