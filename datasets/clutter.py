"""Small things that stand on furniture: every call draws new sizes and details."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .solids import Solids, bowl, box, cylinder, ellipsoid, join, rotation

Generator = np.random.Generator


@dataclass(frozen=True)
class Top:
    """A level rectangle things can stand on: centre x, y, height z, half sizes; metres."""

    x: float
    y: float
    z: float
    half_x: float
    half_y: float


def clutter(g: Generator, top: Top, count: int) -> Solids:
    """Up to `count` small things at random places and yaw angles on `top`."""
    parts = []
    for _ in range(count):
        x, y = top.x + g.uniform(-1, 1) * top.half_x, top.y + g.uniform(-1, 1) * top.half_y
        parts.append(_SMALL[g.integers(len(_SMALL))](g).moved(g.uniform(0, 2 * np.pi), [x, y, top.z]))
    return join(parts)


def shelf_row(g: Generator, width: float, depth: float, z: float, gap: float) -> list[Solids]:
    """Things standing side by side on one board."""
    parts: list[Solids] = []
    x = -width / 2
    while x < width / 2 - 0.06:
        size = g.uniform(0.02, 0.06) if g.random() < 0.6 else g.uniform(0.08, 0.3)
        size = min(size, width / 2 - x)
        tall, deep = gap * g.uniform(0.4, 0.92), depth * g.uniform(0.4, 0.9)
        at, front = x + size / 2, g.uniform(-0.04, 0.04)
        pick = g.random()
        if pick < 0.72:
            turn = rotation(g.uniform(-0.2, 0.2), g.uniform(-0.12, 0.12))
            parts.append(box([at, front, z + tall / 2], [size * 0.95, deep, tall], turn=turn))
        elif pick < 0.86 and size > 0.05:
            parts.append(cylinder([at, front, z + tall / 2], min(size, depth) / 2, tall, taper=g.uniform(-0.3, 0.3)))
        elif size > 0.05:
            parts.append(ellipsoid([at, front, z + tall / 2], [size / 2, min(size, depth) / 2, tall / 2]))
        x += size + (g.uniform(0.05, 0.3) if g.random() < 0.25 else 0.004)
    return parts


def monitor(g: Generator) -> Solids:
    """Screen on a foot; the dark panel answers a sensor poorly."""
    width, height = g.uniform(0.4, 0.65), g.uniform(0.26, 0.38)
    lift = g.uniform(0.08, 0.16)
    tilt = rotation(0.0, 0.0, g.uniform(-0.1, 0.2))
    return join(
        [
            cylinder([0, -0.02, 0.01], g.uniform(0.09, 0.13), 0.02),
            box([0, -0.04, lift], [0.05, 0.03, 2 * lift]),
            box([0, 0, lift + height / 2], [width, 0.04, height], turn=tilt),
            box([0, 0.015, lift + height / 2], [width * 0.94, 0.02, height * 0.92], turn=tilt, response=0.5),
        ]
    )


def _carton(g: Generator) -> Solids:
    size = g.uniform([0.06, 0.05, 0.04], [0.3, 0.22, 0.25])
    return box([0, 0, size[2] / 2], list(size))


def _books(g: Generator) -> Solids:
    parts, z = [], 0.0
    for _ in range(int(g.integers(1, 6))):
        thick = g.uniform(0.015, 0.05)
        size = [g.uniform(0.14, 0.24), g.uniform(0.18, 0.3), thick]
        parts.append(box([0, 0, z + thick / 2], size, turn=rotation(g.uniform(-0.4, 0.4))))
        z += thick
    return join(parts)


def _bottle(g: Generator) -> Solids:
    radius, tall = g.uniform(0.03, 0.06), g.uniform(0.1, 0.24)
    neck = cylinder([0, 0, tall * 1.2], radius * 0.4, tall * 0.5)
    return join([cylinder([0, 0, tall / 2], radius, tall), ellipsoid([0, 0, tall], [radius, radius, radius]), neck])


def _mug(g: Generator) -> Solids:
    radius, tall = g.uniform(0.035, 0.06), g.uniform(0.07, 0.12)
    return cylinder([0, 0, tall / 2], radius, tall, taper=g.uniform(0, 0.2), is_open=True)


def _fruit_bowl(g: Generator) -> Solids:
    radius, deep = g.uniform(0.1, 0.18), g.uniform(0.05, 0.1)
    parts = [bowl([0, 0, deep], [radius, radius, deep])]
    for a in np.arange(int(g.integers(2, 5))) * 1.7:
        parts.append(ellipsoid([0.5 * radius * np.cos(a), 0.5 * radius * np.sin(a), deep], [0.04, 0.045, 0.04]))
    return join(parts)


def _table_lamp(g: Generator) -> Solids:
    tall, shade = g.uniform(0.22, 0.4), g.uniform(0.08, 0.15)
    foot = ellipsoid([0, 0, tall * 0.3], [0.06, 0.06, tall * 0.3])
    pole = cylinder([0, 0, tall / 2], 0.012, tall)
    return join([foot, pole, cylinder([0, 0, tall], shade, shade * 1.3, taper=-0.3, is_open=True)])


def _laptop(g: Generator) -> Solids:
    lean = rotation(0.0, 0.0, g.uniform(0.1, 0.6))
    lid = box([0, -0.13, 0.13], [0.34, 0.015, 0.23], turn=lean, response=0.8)
    return join([box([0, 0, 0.012], [0.34, 0.24, 0.02]), lid])


def _ball(g: Generator) -> Solids:
    radii = g.uniform(0.04, 0.14, 3)
    return ellipsoid([0, 0, radii[2]], list(radii))


def _teddy(g: Generator) -> Solids:
    r = g.uniform(0.06, 0.1)
    parts = [ellipsoid([0, 0, r], [r, 0.9 * r, 1.1 * r]), ellipsoid([0, 0.02, 2.5 * r], [0.7 * r, 0.7 * r, 0.7 * r])]
    for sx in (-1, 1):
        parts.append(ellipsoid([sx * 0.6 * r, 0, 3.1 * r], [0.3 * r, 0.15 * r, 0.3 * r]))
        parts.append(ellipsoid([sx * 0.7 * r, 0.9 * r, 0.4 * r], [0.35 * r, 0.7 * r, 0.35 * r]))
        parts.append(ellipsoid([sx * r, 0.4 * r, 1.4 * r], [0.3 * r, 0.6 * r, 0.3 * r]))
    return join(parts)


_SMALL: tuple[Callable[[Generator], Solids], ...] = (
    _carton,
    _carton,
    _books,
    _books,
    _bottle,
    _mug,
    _fruit_bowl,
    _table_lamp,
    _laptop,
    _ball,
    _teddy,
)
