"""Pictures of images with their oriented objects."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Objects whose longer side is shorter, in widths of a line, get no words: those would hide them.
_WORDY = 14.0


def class_colors(count: int) -> list[tuple[int, int, int]]:
    """A bright colour for each class, neighbors far apart on the wheel.

    >>> class_colors(2)
    [(255, 76, 76), (76, 128, 255)]
    """
    # The golden angle: whatever the count, new hues fall into the largest gaps.
    hues = [(0.618034 * number) % 1.0 for number in range(count)]
    return [
        (int(255 * red), int(255 * green), int(255 * blue))
        for red, green, blue in (colorsys.hsv_to_rgb(hue, 0.7, 1.0) for hue in hues)
    ]


def draw_objects(
    image: NDArray[np.uint8],
    quads: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    scores: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    """The image with an outline around each object and a legend of the classes in it.

    Of labels, without scores, the first edge is thicker: it often is the front.

    Args:
        image: (H, W, 3) uint8.
        quads: (n, 4, 2) pixels; corners that are not finite or far outside are left out.
        labels: (n,) numbers of the classes.
        classes: names.
        scores: (n,), written beside objects that are large enough.
    Returns:
        (H, W, 3) uint8.

    >>> square = np.array([[[4.0, 4.0], [20.0, 4.0], [20.0, 20.0], [4.0, 20.0]]])
    >>> drawn = draw_objects(np.zeros((64, 64, 3), np.uint8), square, np.array([0]), ("ship",))
    >>> drawn.shape, drawn[4, 10].tolist()
    ((64, 64, 3), [255, 76, 76])
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(image))
    pen, colors = ImageDraw.Draw(picture), class_colors(len(classes))
    line = max(1, round(max(height, width) / 900))
    letters = max(10, 10 * line)
    font = ImageFont.load_default(size=letters)
    usable = np.isfinite(quads).all(axis=(1, 2)) & (np.abs(quads) < 4 * max(height, width)).all(axis=(1, 2))
    for number in np.flatnonzero(usable):
        corners, color = [tuple(corner) for corner in quads[number]], colors[labels[number]]
        pen.line([*corners, corners[0]], fill=color, width=line, joint="curve")
        if scores is None:
            pen.line(corners[:2], fill=color, width=2 * line + 1)
        longest = np.linalg.norm(quads[number] - np.roll(quads[number], -1, axis=0), axis=1).max()
        if scores is not None and longest > _WORDY * line:
            x, y = quads[number].min(axis=0)
            place = float(np.clip(x, 0, width - 3 * letters)), float(np.clip(y - letters - line, 0, height))
            pen.text(place, f"{scores[number]:.2f}", fill=color, font=font, stroke_width=line, stroke_fill=(0, 0, 0))
    _legend(pen, font, line, labels[usable], classes, colors)
    return np.asarray(picture)


def _legend(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    line: int,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
) -> None:
    """Counts by class in the corner."""
    for row, label in enumerate(np.unique(labels)):
        words = f"{(labels == label).sum()} {classes[label]}"
        place = (3 * line, 3 * line + row * round(1.3 * max(10, 10 * line)))
        pen.text(place, words, fill=colors[label], font=font, stroke_width=line, stroke_fill=(0, 0, 0))
