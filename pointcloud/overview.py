"""The overview picture of a registration: before, after, residual map, and the verdict in words."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from rotaware.geo.files import write_whole

from .rasteriser import (
    NEUTRAL_COLOR,
    SOURCE_COLOR,
    TARGET_COLOR,
    Camera,
    Color,
    Size,
    best_view,
    colors_from_values,
    fit_camera,
    look_from,
    render,
)
from .report_scene import Scene, build_scene, format_length, headline, reason_sentence, transform, verdict_title
from .result import Registration, Status

_SIZE = (1800, 900)
_MARGIN = 36
_GUTTER = 20
_PANEL_TOP = 176
_PANEL_HEIGHT = 660
_PANEL_HEADER = 58
_POINT_BUDGET = 120_000

_INK: Color = (23, 28, 36)
_MUTED: Color = (92, 102, 116)
_LINE: Color = (216, 221, 228)
_PAGE: Color = (243, 245, 248)
_CARD: Color = (255, 255, 255)
_STATUS_COLORS: dict[Status, Color] = {
    "registered": (0, 112, 92),
    "ambiguous": (150, 92, 0),
    "not_registered": (170, 40, 48),
}
_AFTER_LABELS: dict[Status, tuple[str, str]] = {
    "registered": ("After", "source moved into the target's frame"),
    "ambiguous": ("After: one of several poses", "see the alternatives"),
    "not_registered": ("After: best guess, not accepted", "do not use this pose"),
}


class _Panel(NamedTuple):
    left: int
    top: int
    width: int
    height: int


def write_overview_png(
    path: str | os.PathLike[str],
    registration: Registration,
    source_points: ArrayLike,
    target_points: ArrayLike,
    *,
    source_name: str,
    target_name: str,
    scale: int = 1,
) -> None:
    """Writes a picture of 1800 x 900: before, after and residual map under the verdict and its numbers.

    Source orange, target blue. The residual of a source point is its distance to the nearest target point under the
    reported pose, in the user's unit. The file appears whole or not at all; same input, same bytes.

    Args:
        path: of the PNG.
        registration: the result to show; without any pose the last two panels say so.
        source_points: (N, 3), the rows given to `register`, user units.
        target_points: (M, 3), the same.
        source_name: shown as given, control characters aside.
        target_name: the same.
        scale: times as many pixels in width and height, and more points; 2 prints 30 cm wide at 300 dots per inch.
    Raises:
        ValueError: an array is not (N, 3), or `scale` is below 1.
    """
    if scale < 1:
        raise ValueError(f"scale: expected at least 1, got {scale}")
    budget = _POINT_BUDGET * scale**2
    scene = build_scene(registration, source_points, target_points, budget=budget, max_poses=1)
    sheet = _Sheet(scale)
    _draw_header(sheet, registration, scene, source_name, target_name)
    width = (_SIZE[0] - 2 * _MARGIN - 2 * _GUTTER) // 3
    panels = [_Panel(_MARGIN + k * (width + _GUTTER), _PANEL_TOP, width, _PANEL_HEIGHT) for k in range(3)]
    _draw_panels(sheet, registration, scene, panels)
    _draw_footer(sheet, registration)
    write_whole(path, sheet.png())


class _Sheet:
    """A picture of `_SIZE` to draw on, with every length multiplied by `scale` on the way to the pixels."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self._image = Image.new("RGB", (_SIZE[0] * scale, _SIZE[1] * scale), _PAGE)
        self._draw = ImageDraw.Draw(self._image)

    def _scaled(self, lengths: Sequence[float]) -> tuple[float, ...]:
        return tuple(self.scale * length for length in lengths)

    def box(self, box: Sequence[float], fill: Color, *, radius: int = 0, outline: Color | None = None) -> None:
        self._draw.rounded_rectangle(
            self._scaled(box), radius * self.scale, fill, outline, width=self.scale if outline else 0
        )

    def dot(self, x: float, y: float, fill: Color) -> None:
        """A disc of 12 units whose left end is (x, y)."""
        self._draw.ellipse(self._scaled((x, y - 6, x + 12, y + 6)), fill=fill)

    def line(self, corners: Sequence[float], fill: Color) -> None:
        self._draw.line(self._scaled(corners), fill=fill, width=2 * self.scale)

    def text(self, x: float, y: float, text: str, size: int, color: Color, anchor: str) -> None:
        font = _font(size * self.scale)
        self._draw.text((x * self.scale, y * self.scale), _printable(text), font=font, fill=color, anchor=anchor)

    def pixels(self, left: float, top: float, pixels: np.ndarray) -> None:
        """Pastes (height, width, 3) uint8, already in pixels of the sheet."""
        self._image.paste(Image.fromarray(pixels), (round(left * self.scale), round(top * self.scale)))

    def png(self) -> bytes:
        buffer = BytesIO()
        self._image.save(buffer, format="PNG", dpi=(150 * self.scale, 150 * self.scale))
        return buffer.getvalue()


def _draw_header(sheet: _Sheet, registration: Registration, scene: Scene, source_name: str, target_name: str) -> None:
    color = _STATUS_COLORS[registration.status]
    title = verdict_title(registration)
    sheet.box((0, 0, _SIZE[0], 8), color)
    width = int(_text_width(title, 34)) + 44
    sheet.box((_MARGIN, 34, _MARGIN + width, 90), color, radius=10)
    sheet.text(_MARGIN + 22, 62, title, 34, _CARD, "lm")

    x = _SIZE[0] - _MARGIN
    for name, value in reversed(headline(registration, scene)):
        sheet.text(x, 60, value, 30, _INK, "rm")
        sheet.text(x, 94, name, 16, _MUTED, "rm")
        x -= int(max(_text_width(value, 30), _text_width(name, 16))) + 44
    room = x - (_MARGIN + width + 24)
    for row, (dot, name, role) in enumerate(
        ((SOURCE_COLOR, source_name, "source"), (TARGET_COLOR, target_name, "target"))
    ):
        y = 48 + row * 29
        left = _MARGIN + width + 28
        sheet.dot(left, y, dot)
        sheet.text(left + 22, y, role, 16, _MUTED, "lm")
        sheet.text(left + 82, y, _shorten(name, 20, max(room - 130, 120)), 20, _INK, "lm")
    sheet.text(_MARGIN, 132, _shorten(reason_sentence(registration), 21, _SIZE[0] - 2 * _MARGIN), 21, _INK, "lm")


def _draw_panels(sheet: _Sheet, registration: Registration, scene: Scene, panels: list[_Panel]) -> None:
    before = transform(scene.start, scene.source.points)
    after = transform(scene.poses[0].matrix, scene.source.points) if scene.poses else None
    # The same points whatever the scale, hence the same view.
    shown = np.concatenate([(before if after is None else after)[:_POINT_BUDGET], scene.target.points[:_POINT_BUDGET]])
    rotation = look_from(best_view(shown, scene.up), scene.up) if len(shown) else np.eye(3)

    note = "frames lie far apart: drawn side by side" if scene.start_shifted else "as the files came"
    _draw_frame(sheet, panels[0], "Before", note)
    _draw_clouds(sheet, panels[0], rotation, scene, before)

    _draw_frame(sheet, panels[1], *(_AFTER_LABELS[registration.status] if scene.poses else ("After", "")))
    _draw_frame(sheet, panels[2], "Residual", "source point to nearest target point")
    if after is None:
        for panel in panels[1:]:
            x, y = panel.left + panel.width // 2, panel.top + panel.height // 2
            sheet.text(x, y, "no pose could be formed", 24, _MUTED, "mm")
        return
    _draw_clouds(sheet, panels[1], rotation, scene, after)
    _draw_residual(sheet, panels[2], rotation, scene, after)


def _draw_frame(sheet: _Sheet, panel: _Panel, title: str, note: str) -> None:
    box = (panel.left, panel.top, panel.left + panel.width, panel.top + panel.height)
    sheet.box(box, _CARD, radius=12, outline=_LINE)
    sheet.text(panel.left + 20, panel.top + 29, title, 23, _INK, "lm")
    if _text_width(title, 23) + _text_width(note, 16) + 60 < panel.width:
        sheet.text(panel.left + panel.width - 20, panel.top + 30, note, 16, _MUTED, "rm")


def _draw_clouds(sheet: _Sheet, panel: _Panel, rotation: np.ndarray, scene: Scene, source: np.ndarray) -> None:
    points = np.concatenate([source, scene.target.points])
    if len(points) == 0:
        return
    camera, size = _fit(sheet, panel, points, rotation)
    picture = render([(source, SOURCE_COLOR), (scene.target.points, TARGET_COLOR)], camera, size, background=_CARD)
    _paste(sheet, panel, picture)
    bottom = panel.top + panel.height - 26
    x = panel.left + 20
    for color, label in ((SOURCE_COLOR, "source"), (TARGET_COLOR, "target")):
        sheet.dot(x, bottom, color)
        sheet.text(x + 20, bottom, label, 17, _INK, "lm")
        x += int(_text_width(label, 17)) + 44
    _draw_scale_bar(sheet, panel, camera.scale, scene.unit, bottom)


def _draw_residual(sheet: _Sheet, panel: _Panel, rotation: np.ndarray, scene: Scene, after: np.ndarray) -> None:
    camera, size = _fit(sheet, panel, np.concatenate([after, scene.target.points]), rotation)
    colors = colors_from_values(scene.poses[0].residual / scene.residual_limit)
    # Pushed back along the line of sight, the target stays where it is in the picture and hides no residual.
    behind = scene.target.points - rotation[2] * scene.residual_limit
    picture = render([(after, colors), (behind, NEUTRAL_COLOR)], camera, size, background=_CARD)
    _paste(sheet, panel, picture)

    bottom = panel.top + panel.height - 26
    left, width = panel.left + 20, 190
    shades = colors_from_values(np.linspace(0.0, 1.0, width * sheet.scale))
    sheet.pixels(left, bottom - 18, shades[None].repeat(12 * sheet.scale, axis=0))
    sheet.text(left, bottom + 6, "0", 15, _INK, "lm")
    limit = f"{format_length(scene.residual_limit, scene.unit)} or more"
    sheet.text(left + width, bottom + 6, limit, 15, _INK, "rm")
    sheet.dot(left + width + 22, bottom - 12, NEUTRAL_COLOR)
    sheet.text(left + width + 42, bottom - 12, "target", 15, _INK, "lm")
    _draw_scale_bar(sheet, panel, camera.scale, scene.unit, bottom)


def _fit(sheet: _Sheet, panel: _Panel, points: np.ndarray, rotation: np.ndarray) -> tuple[Camera, Size]:
    """Orthographic, so that the scale bar holds everywhere; the legend's strip at the bottom stays free."""
    strip = 44 * sheet.scale
    size = ((panel.width - 2) * sheet.scale, (panel.height - _PANEL_HEADER - 2) * sheet.scale)
    camera = fit_camera(points, rotation, (size[0], size[1] - 2 * strip), margin=0.03)
    center = camera.center - rotation[1] * (strip / 2) / camera.scale
    return Camera(rotation, center, camera.scale), size


def _paste(sheet: _Sheet, panel: _Panel, picture: np.ndarray) -> None:
    # Inset, so that the rounded border of the card survives.
    inset = 10 * sheet.scale
    sheet.pixels(panel.left + 11, panel.top + _PANEL_HEADER + 1, picture[:-inset, inset:-inset])


def _draw_scale_bar(sheet: _Sheet, panel: _Panel, pixels_per_unit: float, unit: str, y: int) -> None:
    per_unit = pixels_per_unit / sheet.scale
    wanted = 110 / per_unit
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(step * power for step in (1.0, 2.0, 5.0) if step * power <= wanted)
    right = panel.left + panel.width - 20
    left = right - round(length * per_unit)
    sheet.line((left, y - 10, left, y, right, y, right, y - 10), _INK)
    sheet.text((left + right) // 2, y - 14, format_length(length, unit), 15, _INK, "mm")


def _draw_footer(sheet: _Sheet, registration: Registration) -> None:
    source, target = registration.source, registration.target
    parts = [
        f"source {source.points:,} points",
        f"target {target.points:,} points",
        f"unit: {target.unit} ({target.unit_source})",
        f"engine: {registration.engine}",
        f"refine: {registration.refine}",
        f"voxel: {format_length(registration.voxel, target.unit)}",
        f"seed: {registration.seed}",
    ]
    codes = ", ".join(notice.code for notice in registration.warnings)
    if codes:
        parts.append(f"warnings: {codes}")
    line = "   |   ".join(part.replace(",", " ") if " points" in part else part for part in parts)
    sheet.text(_MARGIN, 868, _shorten(line, 16, _SIZE[0] - 2 * _MARGIN), 16, _MUTED, "lm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _text_width(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


def _printable(text: str) -> str:
    """`text` in the letters that Pillow's own font has; accents are dropped, other letters become "?".

    A font of the system would show more, and another picture on another machine.
    """
    plain = (letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" or letter == "°" else "?" for letter in plain)


def _shorten(text: str, size: int, width: float) -> str:
    """`text` with its middle cut out until it fits: both ends of a file name tell it apart."""
    text = _printable(text)
    if _text_width(text, size) <= width:
        return text
    keep = len(text)
    while keep > 2 and _text_width(f"{text[: keep // 2]}...{text[-(keep - keep // 2) :]}", size) > width:
        keep -= 1
    return f"{text[: keep // 2]}...{text[-(keep - keep // 2) :]}"
