"""One generated room: walls with openings, fittings, and furniture placed without collisions.

World frame: z up, floor at z = 0, the middle of the floor at the origin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .clutter import Generator, clutter
from .furniture import (
    Piece,
    arc_bench,
    bed,
    bin_or_barrel,
    box_stack,
    cabinet,
    chair,
    coat_rack,
    desk,
    floor_lamp,
    office_chair,
    plant,
    shelf,
    sofa,
    steps,
    table,
    tub,
    tub_armchair,
)
from .solids import Array, Solids, box, cylinder, ellipsoid, join, rotation

# Builders and how often each is drawn.
_AGAINST_WALL: tuple[tuple[Callable[[Generator], Piece], float], ...] = (
    (shelf, 3.0),
    (cabinet, 3.0),
    (sofa, 1.5),
    (desk, 2.0),
    (bed, 1.0),
    (steps, 0.5),
    (table, 0.7),
)
_FREE_STANDING: tuple[tuple[Callable[[Generator], Piece], float], ...] = (
    (table, 2.0),
    (chair, 2.5),
    (office_chair, 1.5),
    (sofa, 0.7),
    (tub_armchair, 1.2),
    (floor_lamp, 1.0),
    (plant, 1.6),
    (box_stack, 1.6),
    (bin_or_barrel, 1.2),
    (steps, 0.4),
    (tub, 0.7),
    (arc_bench, 0.5),
    (coat_rack, 0.7),
    (cabinet, 0.6),
)
# Metres kept between two pieces, and draws of a place before a piece is left out.
_GAP = 0.04
_PLACE_TRIES = 12


@dataclass(frozen=True)
class Room:
    """A furnished room."""

    solids: Solids
    # (S,) int64: 0 for walls, floor, ceiling and fittings, k > 0 for the k-th piece of furniture.
    piece: NDArray[np.int64]
    # (2,) half sizes of the floor, metres.
    half: Array
    # Metres.
    height: float


@dataclass(frozen=True)
class _Footprint:
    """Rectangle on the floor: centre (2,), yaw, half sizes (2,)."""

    center: Array
    yaw: float
    half: Array

    def corners(self) -> Array:
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return self.center + (signs * self.half) @ rotation(self.yaw)[:2, :2].T

    def overlaps(self, other: _Footprint) -> bool:
        """Separating axis test, on rectangles grown by the gap."""
        mine, theirs = self.corners(), other.corners()
        for yaw in (self.yaw, other.yaw):
            axes = rotation(yaw)[:2, :2]
            a, b = mine @ axes, theirs @ axes
            if np.any(a.max(0) + _GAP < b.min(0)) or np.any(b.max(0) + _GAP < a.min(0)):
                return False
        return True


def furnished_room(seed: int) -> Room:
    """The room of a seed: 3 to 7 m a side, 8 to 25 pieces of furniture where they fit.

    Args:
        seed: non-negative; checked by the callers.

    >>> room = furnished_room(0)
    >>> bool((room.half >= 1.5).all() and (room.half <= 3.5).all() and room.piece.max() >= 8)
    True
    """
    g = np.random.default_rng([0x400, seed])
    half = g.uniform(1.5, 3.5, 2)
    # A wide and a long room need not both be at their largest: keep typical flats and offices.
    half *= np.minimum(1.0, np.sqrt(8.0 / (half[0] * half[1])))
    half = np.maximum(half, 1.5)
    height = g.uniform(2.3, 3.1)
    shell, blocked = _shell(g, half, height)
    parts, owner = [shell], [np.zeros(len(shell), np.int64)]
    wanted = int(g.integers(12, 26))
    placed = 0
    # Wall pieces first, the middle of the room after them; smaller things still fit when it is crowded.
    for k in range(3 * wanted):
        if placed == wanted:
            break
        is_wall_piece = placed < 0.4 * wanted and k < wanted
        catalogue = _AGAINST_WALL if is_wall_piece else _FREE_STANDING
        weights = np.array([w for _, w in catalogue])
        piece = catalogue[g.choice(len(catalogue), p=weights / weights.sum())][0](g)
        spot = _find_place(g, piece, half, blocked, is_wall_piece)
        if spot is None:
            continue
        blocked.append(spot)
        placed += 1
        laden = [piece.solids, *(clutter(g, top, int(g.integers(2, 13))) for top in piece.tops)]
        solids = join(laden).moved(spot.yaw, [*spot.center, 0.0])
        parts.append(solids)
        owner.append(np.full(len(solids), placed))
    return Room(join(parts), np.concatenate(owner), half, height)


def _find_place(
    g: Generator, piece: Piece, half: Array, blocked: list[_Footprint], is_wall_piece: bool
) -> _Footprint | None:
    size = np.array([piece.half_x, piece.half_y])
    for _ in range(_PLACE_TRIES):
        if is_wall_piece:
            side = int(g.integers(4))
            # Turned so that the piece's +y looks into the room from wall `side`.
            yaw = side * np.pi / 2 + (g.normal(0.0, 0.04) if g.random() < 0.7 else 0.0)
            reach, run = half[(side + 1) % 2], half[side % 2]
            along = g.uniform(-1.0, 1.0) * max(run - size[0] - 0.05, 0.0)
            off = reach - size[1] - g.uniform(0.02, 0.12) - 0.05 * size[0]
            center = rotation(side * np.pi / 2)[:2, :2] @ [along, -off]
        else:
            yaw = g.uniform(0.0, 2 * np.pi)
            center = g.uniform(-1.0, 1.0, 2) * (half - 0.2)
        spot = _Footprint(center, yaw, size)
        if np.any(np.abs(spot.corners()) > half) or any(spot.overlaps(other) for other in blocked):
            continue
        return spot
    return None


def _shell(g: Generator, half: Array, height: float) -> tuple[Solids, list[_Footprint]]:
    """Floor, ceiling, four walls with fittings, and the rectangles furniture must keep clear of."""
    parts = [box([0, 0, -0.1], [2 * half[0] + 1, 2 * half[1] + 1, 0.2])]
    blocked: list[_Footprint] = []
    if g.random() < 0.7:
        parts.append(box([0, 0, height + 0.1], [2 * half[0] + 1, 2 * half[1] + 1, 0.2]))
        parts += _ceiling(g, half, height)
    for side in range(4):
        run, reach = half[side % 2], half[(side + 1) % 2]
        wall, door = _wall(g, run, height)
        yaw = side * np.pi / 2
        parts.append(wall.moved(yaw, [*(rotation(yaw)[:2, :2] @ [0.0, -reach]), 0.0]))
        if door is not None:
            center = rotation(yaw)[:2, :2] @ [door, 0.5 - reach]
            blocked.append(_Footprint(center, yaw, np.array([0.5, 0.5])))
    for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        pick = g.random()
        if pick < 0.25:
            # Chimney breasts, shafts and built-in corners break the rectangle.
            size = g.uniform(0.15, 0.9, 2)
            center = np.array([sx, sy]) * (half - size / 2)
            parts.append(box([*center, height / 2], [*size, height]))
            blocked.append(_Footprint(center, 0.0, size / 2))
        elif pick < 0.4:
            radius = g.uniform(0.02, 0.1)
            center = np.array([sx, sy]) * (half - radius - 0.06)
            parts.append(cylinder([*center, height / 2], radius, height))
            blocked.append(_Footprint(center, 0.0, np.full(2, radius)))
    if g.random() < 0.3:
        radius, center = g.uniform(0.1, 0.25), g.uniform(-0.5, 0.5, 2) * half
        pillar = [*center, height / 2]
        is_round = g.random() < 0.5
        parts.append(cylinder(pillar, radius, height) if is_round else box(pillar, [2 * radius, 1.6 * radius, height]))
        blocked.append(_Footprint(center, 0.0, np.full(2, radius)))
    if g.random() < 0.6:
        size = g.uniform(0.3, 0.7, 2) * half * 2
        center = g.uniform(-0.3, 0.3, 2) * half
        parts.append(box([*center, 0.004], [*size, 0.02], turn=rotation(g.uniform(-0.3, 0.3))))
    return join(parts), blocked


def _ceiling(g: Generator, half: Array, height: float) -> list[Solids]:
    """A hanging lamp, sometimes beams."""
    drop = g.uniform(0.3, 0.8)
    at = [*(g.uniform(-0.4, 0.4, 2) * half), height - drop]
    parts = [cylinder([at[0], at[1], height - drop / 2], 0.01, drop)]
    radius = g.uniform(0.12, 0.28)
    if g.random() < 0.5:
        parts.append(cylinder(at, radius, radius, taper=-0.5, is_open=True))
    else:
        parts.append(ellipsoid(at, [radius, radius, 0.8 * radius]))
    if g.random() < 0.3:
        for x in np.arange(-half[0] + g.uniform(0.3, 0.9), half[0], g.uniform(0.7, 1.3)):
            parts.append(box([x, 0, height - 0.08], [0.12, 2 * half[1], 0.16]))
    return parts


def _wall(g: Generator, run: float, height: float) -> tuple[Solids, float | None]:
    """Wall of half length `run`: its inner face is y = 0 and the room lies at y > 0. Also the door's x, if any."""
    parts: list[Solids] = []
    thick = 0.3
    door = None
    # Openings as (left, right, bottom, top), from left to right; at most one per slot of the wall.
    openings: list[tuple[float, float, float, float]] = []
    slots = np.linspace(-run + 0.15, run - 0.15, 1 + max(1, int(run / 0.9)))
    for left, right in pairwise(slots):
        pick = g.random()
        if pick < 0.22 and door is None and right - left > 0.95:
            width = g.uniform(0.75, 0.92)
            door = g.uniform(left + width / 2, right - width / 2)
            openings.append((door - width / 2, door + width / 2, 0.0, g.uniform(1.95, 2.15)))
            parts += _door(g, *openings[-1])
        elif pick < 0.5:
            width = (right - left) * g.uniform(0.6, 0.95)
            middle = g.uniform(left + width / 2, right - width / 2)
            sill = g.uniform(0.5, 1.1)
            openings.append((middle - width / 2, middle + width / 2, sill, g.uniform(sill + 0.7, height - 0.1)))
            parts += _window(g, *openings[-1])
        else:
            parts += _decoration(g, left, right, height)
    edge = -run - thick
    for left, right, bottom, top in [*openings, (run + thick, run + thick, 0.0, height)]:
        parts.append(box([(edge + left) / 2, -thick / 2, height / 2], [left - edge, thick, height]))
        if right > left:
            middle, width = (left + right) / 2, right - left
            parts.append(box([middle, -thick / 2, (top + height) / 2], [width, thick, height - top]))
            if bottom > 0:
                parts.append(box([middle, -thick / 2, bottom / 2], [width, thick, bottom]))
        edge = right
    parts += _skirting(g, run, openings)
    return join(parts), door


def _skirting(g: Generator, run: float, openings: list[tuple[float, float, float, float]]) -> list[Solids]:
    if g.random() < 0.2:
        return []
    tall, deep = g.uniform(0.06, 0.16), g.uniform(0.012, 0.03)
    parts, edge = [], -run
    doors = [(left, right) for left, right, bottom, _ in openings if bottom == 0.0]
    for left, right in [*doors, (run, run)]:
        parts.append(box([(edge + left) / 2, deep / 2, tall / 2], [max(left - edge, 1e-3), deep, tall]))
        edge = right
    return parts


def _door(g: Generator, left: float, right: float, bottom: float, top: float) -> list[Solids]:
    """Frame and leaf; the leaf is closed, or open into the room or away from it."""
    middle, width, tall = (left + right) / 2, right - left, top - bottom
    parts = [box([x, 0.0, tall / 2], [0.07, 0.05, tall]) for x in (left, right)]
    parts.append(box([middle, 0.0, top], [width + 0.07, 0.05, 0.07]))
    side = g.choice([-1.0, 1.0])
    swing = 0.0 if g.random() < 0.5 else g.uniform(-1.5, 1.5)
    hinge = np.array([middle + side * width / 2, -0.1, tall / 2])
    leaf = [box([-side * width / 2, 0, 0], [width * 0.98, 0.04, tall * 0.99])]
    leaf += [box([-side * width / 2, 0.02, z * tall], [width * 0.6, 0.02, 0.3 * tall]) for z in (-0.22, 0.22)]
    leaf.append(cylinder([-side * width * 0.92, 0.05, 0.0], 0.02, 0.12, turn=rotation(0.0, np.pi / 2)))
    parts += [part.moved(swing, hinge) for part in leaf]
    if swing != 0.0 and g.random() < 0.5:
        depth = g.uniform(0.9, 1.8)
        parts.append(box([middle, -depth, top / 2], [width + 1.5, 0.1, top]))
    return parts


def _window(g: Generator, left: float, right: float, bottom: float, top: float) -> list[Solids]:
    """Recess with bars, glass that returns nothing, a sill, sometimes a radiator, a blind or curtains."""
    middle, width, tall = (left + right) / 2, right - left, top - bottom
    level = (top + bottom) / 2
    depth = -g.uniform(0.08, 0.25)
    parts = [box([middle, depth - 0.02, level], [width, 0.01, tall], response=0.0)]
    for k in range(int(g.integers(2, 5))):
        parts.append(box([left + k * width / 3, depth, level], [0.06, 0.06, tall]))
    for z in (bottom + 0.03, top - 0.03, bottom + tall * g.uniform(0.4, 0.7)):
        parts.append(box([middle, depth, z], [width, 0.06, 0.06]))
    sill = g.uniform(0.08, 0.25)
    parts.append(box([middle, sill / 2 - 0.05, bottom - 0.02], [width + 0.1, sill + 0.1, 0.035]))
    pick = g.random()
    if pick < 0.5 and bottom > 0.55:
        ribs = max(2, int(width / g.uniform(0.08, 0.14)))
        for x in np.linspace(left + 0.05, right - 0.05, ribs):
            parts.append(box([x, 0.07, bottom * 0.5], [0.05, 0.08, bottom * 0.7]))
    if g.random() < 0.35:
        fold, side = g.uniform(0.04, 0.07), 0.25 * width
        for x in (*np.arange(left - 0.1, left + side, fold), *np.arange(right - side, right + 0.1, fold)):
            parts.append(cylinder([x, 0.1 + 0.02 * np.sin(40 * x), (top + 0.2) / 2], fold * 0.6, top + 0.1))
    elif g.random() < 0.4:
        drop = tall * g.uniform(0.2, 0.8)
        parts.append(box([middle, 0.02, top - drop / 2], [width + 0.06, 0.02, drop]))
    return parts


def _decoration(g: Generator, left: float, right: float, height: float) -> list[Solids]:
    """Pictures with frames, wall shelves, clocks, pipes, panels or nothing on a stretch of wall."""
    middle, width = (left + right) / 2, right - left
    pick, z = g.random(), g.uniform(1.2, 1.9)
    if pick < 0.4:
        parts = []
        for _ in range(int(g.integers(1, 4))):
            half_x, half_z = g.uniform(0.15, 0.38, 2)
            x, level = middle + g.uniform(-0.3, 0.3) * width, z + g.uniform(-0.3, 0.3)
            bar = g.uniform(0.02, 0.05)
            parts.append(box([x, 0.008, level], [2 * half_x, 0.016, 2 * half_z]))
            for s in (-1, 1):
                parts.append(box([x + s * half_x, 0.02, level], [bar, 0.04, 2 * half_z + bar]))
                parts.append(box([x, 0.02, level + s * half_z], [2 * half_x + bar, 0.04, bar]))
        return parts
    if pick < 0.6:
        parts = [box([middle, 0.11, z], [width * g.uniform(0.5, 0.95), 0.22, 0.03])]
        x = middle - 0.3 * width
        while x < middle + 0.3 * width:
            size = g.uniform(0.03, 0.14)
            tall = g.uniform(0.08, 0.32)
            parts.append(box([x + size / 2, 0.11, z + 0.015 + tall / 2], [size, g.uniform(0.1, 0.2), tall]))
            x += size + g.uniform(0.0, 0.1)
        return parts
    if pick < 0.7:
        return [cylinder([middle, 0.02, z], g.uniform(0.1, 0.2), 0.05, turn=rotation(0.0, 0.0, np.pi / 2))]
    if pick < 0.82:
        x, radius = g.uniform(left, right), g.uniform(0.015, 0.05)
        return [cylinder([x + d, radius + 0.02, height / 2], radius, height) for d in (0.0, 3 * radius)]
    if pick < 0.92:
        wide, tall = g.uniform([0.5, 0.3], [1.1, 0.65])
        return [
            box([middle, 0.04, z], [wide, 0.08, tall]),
            box([middle, 0.082, z], [wide * 0.95, 0.01, tall * 0.93], response=0.4),
        ]
    return []
