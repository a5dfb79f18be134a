"""The overview picture of a registration: before, after, residual map, and the verdict in words."""

from __future__ import annotations

import os
import unicodedata
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from .rasteriser import (
    NEUTRAL_COLOR,
    SOURCE_COLOR,
    TARGET_COLOR,
    Camera,
    Color,
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
    Raises:
        ValueError: an array is not (N, 3).
    """
    scene = build_scene(registration, source_points, target_points, budget=_POINT_BUDGET, max_poses=1)
    image = Image.new("RGB", _SIZE, _PAGE)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, registration, scene, source_name, target_name)
    width = (_SIZE[0] - 2 * _MARGIN - 2 * _GUTTER) // 3
    panels = [_Panel(_MARGIN + k * (width + _GUTTER), _PANEL_TOP, width, _PANEL_HEIGHT) for k in range(3)]
    _draw_panels(image, draw, registration, scene, panels)
    _draw_footer(draw, registration)
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    write_atomically(Path(path), buffer.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all, with the permissions of any new file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_header(
    draw: ImageDraw.ImageDraw, registration: Registration, scene: Scene, source_name: str, target_name: str
) -> None:
    color = _STATUS_COLORS[registration.status]
    title = verdict_title(registration)
    draw.rectangle((0, 0, _SIZE[0], 8), fill=color)
    width = int(_text_width(title, 34)) + 44
    draw.rounded_rectangle((_MARGIN, 34, _MARGIN + width, 90), radius=10, fill=color)
    _text(draw, (_MARGIN + 22, 62), title, 34, _CARD, anchor="lm")

    x = _SIZE[0] - _MARGIN
    for name, value in reversed(headline(registration, scene)):
        _text(draw, (x, 60), value, 30, _INK, anchor="rm")
        _text(draw, (x, 94), name, 16, _MUTED, anchor="rm")
        x -= int(max(_text_width(value, 30), _text_width(name, 16))) + 44
    room = x - (_MARGIN + width + 24)
    each = (room - 130) / 2
    for row, (dot, name, role) in enumerate(
        ((SOURCE_COLOR, source_name, "source"), (TARGET_COLOR, target_name, "target"))
    ):
        y = 48 + row * 29
        left = _MARGIN + width + 28
        draw.ellipse((left, y - 6, left + 12, y + 6), fill=dot)
        _text(draw, (left + 22, y), role, 16, _MUTED, anchor="lm")
        _text(draw, (left + 82, y), _shorten(name, 20, max(each * 2, 120)), 20, _INK, anchor="lm")
    _text(draw, (_MARGIN, 132), _shorten(reason_sentence(registration), 21, _SIZE[0] - 2 * _MARGIN), 21, _INK, "lm")


def _draw_panels(
    image: Image.Image, draw: ImageDraw.ImageDraw, registration: Registration, scene: Scene, panels: list[_Panel]
) -> None:
    before = transform(scene.start, scene.source)
    after = transform(scene.poses[0].matrix, scene.source) if scene.poses else None
    shown = np.concatenate([before if after is None else after, scene.target])
    size = (panels[0].width - 2, panels[0].height - _PANEL_HEADER - 2)
    rotation = look_from(best_view(shown, scene.up), scene.up) if len(shown) else np.eye(3)

    note = "frames lie far apart: drawn side by side" if scene.start_shifted else "as the files came"
    _draw_frame(draw, panels[0], "Before", note)
    _draw_clouds(image, draw, panels[0], rotation, size, scene, before)

    _draw_frame(draw, panels[1], *(_AFTER_LABELS[registration.status] if scene.poses else ("After", "")))
    _draw_frame(draw, panels[2], "Residual", "source point to nearest target point")
    if after is None:
        for panel in panels[1:]:
            center = (panel.left + panel.width // 2, panel.top + panel.height // 2)
            _text(draw, center, "no pose could be formed", 24, _MUTED, anchor="mm")
        return
    _draw_clouds(image, draw, panels[1], rotation, size, scene, after)
    _draw_residual(image, draw, panels[2], rotation, size, scene, after)


def _draw_frame(draw: ImageDraw.ImageDraw, panel: _Panel, title: str, note: str) -> None:
    box = (panel.left, panel.top, panel.left + panel.width, panel.top + panel.height)
    draw.rounded_rectangle(box, radius=12, fill=_CARD, outline=_LINE, width=1)
    _text(draw, (panel.left + 20, panel.top + 29), title, 23, _INK, anchor="lm")
    right = panel.left + panel.width - 20
    if _text_width(title, 23) + _text_width(note, 16) + 60 < panel.width:
        _text(draw, (right, panel.top + 30), note, 16, _MUTED, anchor="rm")


def _draw_clouds(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    panel: _Panel,
    rotation: np.ndarray,
    size: tuple[int, int],
    scene: Scene,
    source: np.ndarray,
) -> None:
    points = np.concatenate([source, scene.target])
    if len(points) == 0:
        return
    camera = _fit(points, rotation, size)
    picture = render([(source, SOURCE_COLOR), (scene.target, TARGET_COLOR)], camera, size, background=_CARD)
    _paste(image, panel, picture)
    bottom = panel.top + panel.height - 26
    x = panel.left + 20
    for color, label in ((SOURCE_COLOR, "source"), (TARGET_COLOR, "target")):
        draw.ellipse((x, bottom - 6, x + 12, bottom + 6), fill=color)
        _text(draw, (x + 20, bottom), label, 17, _INK, anchor="lm")
        x += int(_text_width(label, 17)) + 44
    _draw_scale_bar(draw, panel, camera.scale, scene.unit, bottom)


def _draw_residual(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    panel: _Panel,
    rotation: np.ndarray,
    size: tuple[int, int],
    scene: Scene,
    after: np.ndarray,
) -> None:
    camera = _fit(np.concatenate([after, scene.target]), rotation, size)
    colors = colors_from_values(scene.poses[0].residual / scene.residual_limit)
    # Pushed back along the line of sight, the target stays where it is in the picture and hides no residual.
    behind = scene.target - rotation[2] * scene.residual_limit
    picture = render([(after, colors), (behind, NEUTRAL_COLOR)], camera, size, background=_CARD)
    _paste(image, panel, picture)

    bottom = panel.top + panel.height - 26
    bar_left, bar_width = panel.left + 20, 190
    bar = colors_from_values(np.linspace(0.0, 1.0, bar_width))[None].repeat(12, axis=0)
    image.paste(Image.fromarray(bar), (bar_left, bottom - 18))
    _text(draw, (bar_left, bottom + 6), "0", 15, _INK, anchor="lm")
    limit = f"{format_length(scene.residual_limit, scene.unit)} or more"
    _text(draw, (bar_left + bar_width, bottom + 6), limit, 15, _INK, anchor="rm")
    draw.ellipse((bar_left + bar_width + 22, bottom - 18, bar_left + bar_width + 34, bottom - 6), fill=NEUTRAL_COLOR)
    _text(draw, (bar_left + bar_width + 42, bottom - 12), "target", 15, _INK, anchor="lm")
    _draw_scale_bar(draw, panel, camera.scale, scene.unit, bottom)


def _fit(points: np.ndarray, rotation: np.ndarray, size: tuple[int, int]) -> Camera:
    """Orthographic, so that the scale bar holds everywhere; the legend's strip at the bottom stays free."""
    strip = 44
    camera = fit_camera(points, rotation, (size[0], size[1] - 2 * strip), margin=0.03)
    center = camera.center - rotation[1] * (strip / 2) / camera.scale
    return Camera(rotation, center, camera.scale)


def _paste(image: Image.Image, panel: _Panel, picture: np.ndarray) -> None:
    # Inset, so that the rounded border of the card survives.
    inset = 10
    crop = Image.fromarray(picture[:-inset, inset:-inset])
    image.paste(crop, (panel.left + 1 + inset, panel.top + _PANEL_HEADER + 1))


def _draw_scale_bar(draw: ImageDraw.ImageDraw, panel: _Panel, scale: float, unit: str, y: int) -> None:
    wanted = 110 / scale
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(step * power for step in (1.0, 2.0, 5.0) if step * power <= wanted)
    right = panel.left + panel.width - 20
    left = right - round(length * scale)
    label = format_length(length, unit)
    draw.line((left, y - 10, left, y, right, y, right, y - 10), fill=_INK, width=2)
    _text(draw, ((left + right) // 2, y - 14), label, 15, _INK, anchor="mm")


def _draw_footer(draw: ImageDraw.ImageDraw, registration: Registration) -> None:
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
    _text(draw, (_MARGIN, 868), _shorten(line, 16, _SIZE[0] - 2 * _MARGIN), 16, _MUTED, anchor="lm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _text_width(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


def _text(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, size: int, color: Color, anchor: str
) -> None:
    draw.text(position, _printable(text), font=_font(size), fill=color, anchor=anchor)


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
