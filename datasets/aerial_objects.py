"""Things as they look from above: outlines in their own frame, drawn part by part.

x points ahead, y to the right; length and width of an object are 2, from -1 to 1, before both are scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Color = tuple[int, int, int]
# An outline (P, 2), and its colour.
Part = tuple[Array, Color]


@dataclass(frozen=True)
class Kind:
    """A class of objects."""

    length: tuple[float, float]  # metres, least and most
    aspect: tuple[float, float]  # length over width
    height: float  # metres, for the shadow
    draw: Callable[[np.random.Generator], list[Part]]  # the first part is the whole outline


_GLASS: Color = (35, 40, 48)


def _outline(*points: tuple[float, float]) -> Array:
    """Points of the right half, from the front to the back, and their mirror images."""
    right = np.array(points, dtype=np.float64)
    return np.concatenate([right, (right * [1.0, -1.0])[::-1]])


def _rectangle(left: float, right: float, half: float) -> Array:
    return np.array([[left, -half], [right, -half], [right, half], [left, half]])


def _circle(radius: float, corners: int = 40, centre: tuple[float, float] = (0.0, 0.0)) -> Array:
    angle = 2.0 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + centre


def shade(color: Color, factor: float) -> Color:
    """Darker or lighter."""
    red, green, blue = (int(np.clip(channel * factor, 0, 255)) for channel in color)
    return red, green, blue


def _any(generator: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    return shade(colors[int(generator.integers(len(colors)))], float(generator.uniform(0.85, 1.1)))


_PAINT: tuple[Color, ...] = (
    (225, 225, 225),
    (40, 42, 46),
    (120, 125, 130),
    (150, 30, 30),
    (40, 60, 120),
    (190, 180, 150),
)


def _car(generator: np.random.Generator) -> list[Part]:
    body = _any(generator, _PAINT)
    outline = _outline((1, 0.55), (0.85, 0.9), (0.4, 1), (-0.7, 1), (-0.95, 0.85), (-1, 0.5))
    roof = _outline((0.15, 0.72), (-0.55, 0.72))
    glass = _outline((0.42, 0.78), (0.15, 0.72))
    return [
        (outline, body),
        (glass, _GLASS),
        (roof, shade(body, 1.1)),
        (_rectangle(-0.75, -0.55, 0.7), _GLASS),
    ]


def _lorry(generator: np.random.Generator) -> list[Part]:
    load = _any(generator, ((210, 210, 205), (170, 120, 70), (90, 110, 140), (120, 120, 120), (185, 60, 50)))
    cab = _any(generator, _PAINT)
    parts = [
        (_rectangle(-1, 1, 1), shade(load, 0.8)),
        (_rectangle(-0.97, 0.62, 0.95), load),
        (_outline((1, 0.75), (0.95, 0.9), (0.7, 0.9)), cab),
        (_rectangle(0.86, 0.93, 0.7), (30, 34, 40)),
    ]
    if generator.uniform() < 0.5:
        parts += [(_rectangle(x - 0.01, x + 0.01, 0.95), shade(load, 0.7)) for x in np.linspace(-0.8, 0.45, 6)]
    return parts


def _ship(generator: np.random.Generator) -> list[Part]:
    hull = _any(generator, ((230, 230, 232), (90, 60, 55), (60, 70, 85), (200, 200, 190), (140, 60, 50)))
    deck = _any(generator, ((200, 185, 150), (150, 155, 160), (130, 80, 70), (215, 215, 210)))
    outline = _outline((1, 0.02), (0.8, 0.45), (0.5, 0.85), (0.1, 1), (-0.7, 0.98), (-0.95, 0.85), (-1, 0.7))
    parts = [(outline, hull), (outline * [0.93, 0.8] - [0.01, 0.0], deck)]
    house = float(generator.uniform(-0.75, -0.2))
    parts += [
        (_rectangle(house - 0.12, house + 0.12, 0.62), shade(deck, 1.2)),
        (_rectangle(house - 0.05, house + 0.06, 0.4), (235, 235, 235)),
        (_rectangle(house + 0.07, house + 0.1, 0.5), _GLASS),
    ]
    for x in np.arange(house + 0.25, 0.6, 0.22):
        parts.append((_rectangle(x, x + 0.15, 0.55), shade(deck, float(generator.uniform(0.7, 1.15)))))
    return parts


def _plane(generator: np.random.Generator) -> list[Part]:
    paint = _any(generator, ((235, 236, 238), (215, 218, 222), (180, 185, 190), (225, 220, 205)))
    sweep, root, tip = float(generator.uniform(0.1, 0.5)), 0.34, 0.1
    wing = _outline((0.28, 0.08), (0.28 - sweep, 1.0), (0.28 - sweep - tip, 1.0), (0.28 - root, 0.08))
    tail = _outline((-0.72, 0.05), (-0.86, 0.38), (-0.98, 0.38), (-0.95, 0.05))
    body = _outline((1, 0.01), (0.93, 0.07), (0.75, 0.1), (-0.6, 0.09), (-1, 0.02))
    engines = [
        (_rectangle(0.1, 0.32, 0.035) + np.array([-0.5 * sweep * abs(y), y]), shade(paint, 0.75)) for y in (-0.36, 0.36)
    ]
    fin = (_rectangle(-1, -0.7, 0.015), _any(generator, ((170, 40, 45), (40, 70, 150), (70, 75, 80))))
    glass = (_rectangle(0.88, 0.92, 0.05), _GLASS)
    return [
        (body, paint),
        (wing, shade(paint, 0.93)),
        *engines,
        (tail, shade(paint, 0.93)),
        (body, paint),
        fin,
        glass,
    ]


def _tank(generator: np.random.Generator) -> list[Part]:
    roof = _any(generator, ((235, 235, 232), (200, 205, 200), (165, 150, 130), (120, 140, 130)))
    parts = [(_circle(1.0), shade(roof, 0.8)), (_circle(0.94), roof)]
    for angle in np.arange(0, np.pi, np.pi / 4):
        spoke = _rectangle(-0.93, 0.93, 0.012)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        parts.append((spoke @ turn, shade(roof, 0.92)))
    return [*parts, (_circle(0.1), shade(roof, 0.7))]


KINDS: dict[str, Kind] = {
    "plane": Kind((22.0, 60.0), (0.95, 1.15), 8.0, _plane),
    "ship": Kind((10.0, 90.0), (2.8, 5.5), 5.0, _ship),
    "small-vehicle": Kind((4.0, 5.5), (1.9, 2.5), 1.5, _car),
    "large-vehicle": Kind((9.0, 20.0), (3.2, 5.5), 3.5, _lorry),
    "storage-tank": Kind((12.0, 45.0), (1.0, 1.0), 10.0, _tank),
}


def building(generator: np.random.Generator) -> list[Part]:
    """A roof: nothing that is looked for."""
    roof = _any(generator, ((150, 80, 65), (120, 120, 122), (185, 180, 172), (95, 90, 88), (165, 145, 120)))
    parts = [(_rectangle(-1, 1, 1), roof)]
    if generator.uniform() < 0.6:
        parts.append((np.array([[-1, 0], [1, 0], [1, 1], [-1, 1.0]]), shade(roof, 0.82)))
    for _ in range(int(generator.integers(0, 4))):
        x, y = generator.uniform(-0.8, 0.8, 2)
        parts.append(
            (_rectangle(-0.06, 0.06, 0.06) + np.array([x, y]), shade(roof, float(generator.uniform(0.6, 1.3))))
        )
    return parts


def tree(generator: np.random.Generator) -> list[Part]:
    """A crown of leaves."""
    leaves = _any(generator, ((60, 85, 45), (75, 95, 55), (45, 70, 40)))
    crown = _circle(1.0, 14) * generator.uniform(0.75, 1.0, (14, 1))
    return [(crown, leaves), (crown * 0.55 + generator.uniform(-0.2, 0.2, 2), shade(leaves, 1.25))]
