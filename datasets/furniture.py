"""Parametric furniture: every call draws new sizes, proportions and details.

A piece stands on the floor at the origin of its own frame: z up, x to its right, +y to its front, back towards -y.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .clutter import Generator, Top, monitor, shelf_row
from .solids import Solids, bowl, box, cylinder, ellipsoid, join, rotation


@dataclass(frozen=True)
class Piece:
    """Solids in the piece's frame, half sizes of its footprint, and where clutter may stand."""

    solids: Solids
    half_x: float
    half_y: float
    tops: tuple[Top, ...] = field(default=())


def table(g: Generator) -> Piece:
    """Rectangular or round table on four legs, slab sides, trestles or one column."""
    width, depth, height = g.uniform(0.8, 1.9), g.uniform(0.6, 1.0), g.uniform(0.45, 0.78)
    slab = g.uniform(0.02, 0.05)
    under = height - slab
    parts = []
    is_round = g.random() < 0.3
    if is_round:
        width = depth = g.uniform(0.7, 1.3)
        parts.append(cylinder([0, 0, height - slab / 2], width / 2, slab))
        parts.append(cylinder([0, 0, under / 2], g.uniform(0.03, 0.07), under))
        parts.append(cylinder([0, 0, 0.02], width * g.uniform(0.2, 0.35), 0.04, taper=-0.3))
    else:
        parts.append(box([0, 0, height - slab / 2], [width, depth, slab]))
        leg, inset = g.uniform(0.03, 0.08), g.uniform(0.02, 0.1)
        x, y = width / 2 - inset - leg / 2, depth / 2 - inset - leg / 2
        style = g.integers(3)
        for sx in (-1, 1):
            if style == 2:
                parts.append(box([sx * x, 0, under / 2], [leg, 2 * y, under]))
                continue
            for sy in (-1, 1):
                at = [sx * x, sy * y, under / 2]
                parts.append(box(at, [leg, leg, under]) if style else cylinder(at, leg / 2, under, taper=0.25))
        if g.random() < 0.6:
            drop = g.uniform(0.06, 0.12)
            parts.append(box([0, y, under - drop / 2], [2 * x, 0.02, drop]))
            parts.append(box([0, -y, under - drop / 2], [2 * x, 0.02, drop]))
    shrink = 0.35 if is_round else 0.45
    return Piece(join(parts), width / 2, depth / 2, (Top(0, 0, height, shrink * width, shrink * depth),))


def chair(g: Generator) -> Piece:
    """Four-legged chair with a slatted or solid back, sometimes with arms."""
    width, depth, seat = g.uniform(0.38, 0.52), g.uniform(0.38, 0.5), g.uniform(0.42, 0.5)
    leg, back = g.uniform(0.025, 0.045), g.uniform(0.35, 0.6)
    lean = rotation(0.0, 0.0, g.uniform(0.05, 0.25))
    x, y = width / 2 - leg / 2, depth / 2 - leg / 2
    parts = [box([0, 0, seat], [width, depth, g.uniform(0.03, 0.08)])]
    parts += [box([sx * x, sy * y, seat / 2], [leg, leg, seat]) for sx in (-1, 1) for sy in (-1, 1)]
    pivot = np.array([0.0, -y, seat])

    def leaned(cx: float, cz: float, size: list[float]) -> Solids:
        return box(list(pivot + lean @ [cx, 0.0, cz]), size, turn=lean)

    if g.random() < 0.5:
        parts.append(leaned(0, back * 0.62, [width, 0.03, back * 0.75]))
    else:
        slats = int(g.integers(2, 6))
        parts += [leaned(0, back * (0.3 + 0.7 * (k + 0.5) / slats), [width, 0.02, 0.05]) for k in range(slats)]
    parts += [leaned(sx * x, back / 2, [leg, leg, back]) for sx in (-1, 1)]
    if g.random() < 0.35:
        arm = seat + g.uniform(0.16, 0.25)
        for sx in (-1, 1):
            parts.append(box([sx * width / 2, 0, arm], [0.05, depth, 0.03]))
            parts.append(box([sx * width / 2, y, (seat + arm) / 2], [0.04, 0.04, arm - seat]))
    return Piece(join(parts), width / 2 + 0.03, depth / 2 + 0.08)


def office_chair(g: Generator) -> Piece:
    """Swivel chair: star foot, column, cushion and a rounded back."""
    seat, radius, spin = g.uniform(0.42, 0.55), g.uniform(0.26, 0.34), g.uniform(0, 2 * np.pi)
    parts = [cylinder([0, 0, seat / 2], 0.03, seat), ellipsoid([0, 0, seat], [0.27, 0.26, g.uniform(0.05, 0.09)])]
    for k in range(5):
        a = spin + 2 * np.pi * k / 5
        parts.append(
            box([0.5 * radius * np.cos(a), 0.5 * radius * np.sin(a), 0.1], [radius, 0.04, 0.03], turn=rotation(a))
        )
        parts.append(ellipsoid([radius * np.cos(a), radius * np.sin(a), 0.04], [0.035, 0.035, 0.04]))
    back = g.uniform(0.4, 0.65)
    lean = rotation(0.0, 0.0, g.uniform(0.05, 0.3))
    parts.append(ellipsoid([0, -0.28, seat + 0.1 + back / 2], [0.24, 0.05, back / 2], turn=lean))
    parts.append(box([0, -0.26, seat + 0.08], [0.06, 0.03, 0.3], turn=lean))
    if g.random() < 0.6:
        for sx in (-1, 1):
            parts.append(box([sx * 0.28, -0.02, seat + 0.22], [0.06, 0.28, 0.03]))
            parts.append(box([sx * 0.28, -0.02, seat + 0.1], [0.03, 0.06, 0.24]))
    return Piece(join(parts), 0.33, 0.36)


def sofa(g: Generator) -> Piece:
    """One to three seats with arms, separate cushions, pillows, sometimes a corner part."""
    seats = int(g.integers(1, 4))
    arm, depth, seat = g.uniform(0.12, 0.25), g.uniform(0.75, 1.0), g.uniform(0.36, 0.46)
    each, back, rise = g.uniform(0.52, 0.75), g.uniform(0.15, 0.28), g.uniform(0.3, 0.5)
    inner = seats * each
    width = inner + 2 * arm
    parts = [box([0, 0, seat / 2], [inner, depth, seat - 0.12])]
    parts.append(box([0, back / 2 - depth / 2, (seat + rise) / 2], [width, back, seat + rise]))
    arm_height = seat + g.uniform(0.12, 0.25)
    for sx in (-1, 1):
        at = sx * (inner + arm) / 2
        parts.append(box([at, 0, arm_height / 2], [arm, depth, arm_height]))
        if g.random() < 0.5:
            roll = rotation(0.0, 0.0, np.pi / 2)
            parts.append(cylinder([at, 0, arm_height], arm * 0.55, depth, turn=roll))
    lean = rotation(0.0, 0.0, g.uniform(0.1, 0.3))
    for k in range(seats):
        x = (k + 0.5) * each - inner / 2
        parts.append(box([x, back / 2, seat], [each * 0.96, depth - back, g.uniform(0.1, 0.18)]))
        parts.append(box([x, back - depth / 2 + 0.06, seat + rise * 0.5], [each * 0.94, 0.14, rise], turn=lean))
        if g.random() < 0.4:
            tilt = rotation(g.uniform(-0.6, 0.6), 0.0, 0.5)
            parts.append(ellipsoid([x, back - depth / 2 + 0.26, seat + 0.27], [0.22, 0.08, 0.2], turn=tilt))
    half_y = depth / 2
    if seats > 1 and g.random() < 0.35:
        length = g.uniform(0.5, 0.8)
        side = g.choice([-1.0, 1.0])
        parts.append(box([side * (inner - each) / 2, half_y + length / 2, seat / 2], [each, length, seat]))
        half_y += length
    return Piece(join(parts), width / 2, half_y)


def tub_armchair(g: Generator) -> Piece:
    """Armchair with a round shell around a cushion."""
    radius, seat = g.uniform(0.34, 0.45), g.uniform(0.36, 0.44)
    height = seat + g.uniform(0.2, 0.4)
    parts = [cylinder([0, 0, seat / 2 + 0.03], radius * 0.95, seat - 0.06, taper=0.05)]
    steps = 9
    for k in range(steps):
        a = np.pi * (1.0 + (k - 0.5 * (steps - 1)) / steps * 1.25) + np.pi / 2
        at = [radius * np.cos(a), radius * np.sin(a), height / 2]
        parts.append(box(at, [0.1, 0.5 * radius, height], turn=rotation(a)))
    parts.append(ellipsoid([0, 0.02, seat], [radius * 0.85, radius * 0.85, 0.09]))
    return Piece(join(parts), radius + 0.07, radius + 0.07)


def shelf(g: Generator) -> Piece:
    """Open shelves with rows of books, boxes, bowls and gaps."""
    width, depth, height = g.uniform(0.6, 1.6), g.uniform(0.24, 0.42), g.uniform(0.8, 2.1)
    boards = int(max(2, round(height / g.uniform(0.28, 0.45))))
    thick = g.uniform(0.018, 0.035)
    parts = [box([sx * (width - thick) / 2, 0, height / 2], [thick, depth, height]) for sx in (-1, 1)]
    if g.random() < 0.6:
        parts.append(box([0, -depth / 2 + 0.005, height / 2], [width, 0.01, height]))
    levels = np.linspace(0.08, height - thick / 2, boards + 1) + g.uniform(-0.04, 0.04, boards + 1)
    levels[-1] = height - thick / 2
    for k, z in enumerate(levels):
        parts.append(box([0, 0, z], [width - 2 * thick, depth, thick]))
        gap = (levels[k + 1] if k < boards else z + 0.35) - z - thick
        parts += shelf_row(g, width - 2 * thick - 0.02, depth, z + thick / 2, gap)
    return Piece(join(parts), width / 2, depth / 2)


def cabinet(g: Generator) -> Piece:
    """Cupboard, drawers or wardrobe; fronts stand proud with handles, and some doors or drawers are open."""
    width, depth = g.uniform(0.45, 1.6), g.uniform(0.35, 0.6)
    height = g.uniform(0.5, 1.0) if g.random() < 0.6 else g.uniform(1.4, 2.1)
    columns, rows = int(max(1, round(width / g.uniform(0.4, 0.6)))), int(max(1, round(height / g.uniform(0.3, 0.9))))
    body = depth - 0.03
    parts = [box([0, -0.015, height / 2], [width, body, height])]
    if g.random() < 0.5:
        parts.append(box([0, 0, height + 0.012], [width + 0.03, depth + 0.02, 0.025]))
    cell_x, cell_z = width / columns, (height - 0.08) / rows
    reach = 0.0
    front = depth / 2
    for i in range(columns):
        for k in range(rows):
            x, z = (i + 0.5) * cell_x - width / 2, 0.08 + (k + 0.5) * cell_z
            size = [cell_x * 0.94, 0.022, cell_z * 0.94]
            pick = g.random()
            if pick < 0.12 and cell_x < 0.7:
                side, swing = g.choice([-1.0, 1.0]), g.uniform(0.5, 1.8)
                turn = rotation(side * swing)
                hinge = np.array([side * -size[0] / 2, 0.0, 0.0])
                at = np.array([x, front, z]) + hinge - turn @ hinge
                parts.append(box(list(at), size, turn=turn))
                reach = max(reach, size[0] * np.sin(swing))
            elif pick < 0.22:
                out = g.uniform(0.05, 0.3)
                parts.append(box([x, front - 0.01 + out / 2, z], [size[0], out, size[2]]))
                reach = max(reach, out)
            else:
                parts.append(box([x, front - 0.011, z], size))
                parts.append(box([x + 0.3 * size[0], front + 0.012, z], [0.025, 0.03, min(0.12, size[2] * 0.5)]))
    half_y = depth / 2 + reach
    top = Top(0, 0, height + 0.025, 0.45 * width, 0.4 * depth)
    return Piece(join(parts), width / 2, half_y, (top,) if height < 1.5 else ())


def desk(g: Generator) -> Piece:
    """Desk with a drawer block, monitors, keyboard, and room for clutter."""
    width, depth, height = g.uniform(1.1, 1.8), g.uniform(0.6, 0.85), g.uniform(0.7, 0.78)
    side = g.choice([-1.0, 1.0])
    block = g.uniform(0.35, 0.5)
    parts = [box([0, 0, height - 0.015], [width, depth, 0.03])]
    parts.append(box([side * (width - block) / 2, 0, height / 2 - 0.03], [block, depth * 0.9, height - 0.07]))
    for k in range(3):
        z = 0.15 + 0.2 * k
        parts.append(box([side * (width - block) / 2, depth * 0.46, z], [block * 0.92, 0.02, 0.17]))
    parts += [
        box([-side * (width / 2 - 0.04), sy * (depth / 2 - 0.05), height / 2 - 0.02], [0.05, 0.05, height - 0.04])
        for sy in (-1, 1)
    ]
    for k in range(int(g.integers(1, 3))):
        parts.append(monitor(g).moved(g.uniform(-0.4, 0.4), [side * -0.1 + 0.55 * k * side, -depth * 0.2, height]))
    parts.append(
        box([-0.1 * side, depth * 0.25, height + 0.015], [0.42, 0.14, 0.025], turn=rotation(g.uniform(-0.2, 0.2)))
    )
    return Piece(join(parts), width / 2, depth / 2, (Top(-side * width * 0.32, 0, height, 0.15 * width, 0.4 * depth),))


def bed(g: Generator) -> Piece:
    """Bed with headboard, mattress, blanket folds and pillows; its head is at the back."""
    width, length, height = g.uniform(0.9, 1.8), g.uniform(1.9, 2.15), g.uniform(0.4, 0.6)
    parts = [box([0, 0, height * 0.3], [width + 0.05, length, height * 0.4])]
    parts.append(box([0, 0.03, height * 0.75], [width, length - 0.08, height * 0.5]))
    parts.append(box([0, -length / 2, height + 0.1], [width + 0.1, 0.06, 2 * g.uniform(0.35, 0.55)]))
    for k in range(1 if width < 1.2 else 2):
        x = 0.0 if width < 1.2 else (k - 0.5) * width * 0.5
        tilt = rotation(g.uniform(-0.2, 0.2), 0.0, g.uniform(0.0, 0.4))
        parts.append(ellipsoid([x, -length / 2 + 0.3, height + 0.06], [0.32, 0.2, 0.09], turn=tilt))
    for _ in range(int(g.integers(2, 6))):
        at = [g.uniform(-0.35, 0.35) * width, g.uniform(-0.1, 0.42) * length, height - 0.02]
        radii = [g.uniform(0.15, 0.5), g.uniform(0.06, 0.25), g.uniform(0.05, 0.14)]
        parts.append(ellipsoid(at, radii, turn=rotation(g.uniform(0, np.pi))))
    return Piece(join(parts), width / 2 + 0.06, length / 2 + 0.03)


def floor_lamp(g: Generator) -> Piece:
    """Foot, pole and an open shade."""
    height, shade = g.uniform(1.3, 1.8), g.uniform(0.14, 0.26)
    tall = g.uniform(0.2, 0.35)
    parts = [cylinder([0, 0, 0.015], g.uniform(0.12, 0.18), 0.03), cylinder([0, 0, height / 2], 0.015, height)]
    parts.append(cylinder([0, 0, height], shade, tall, taper=-g.uniform(0.0, 0.5), is_open=True))
    parts.append(ellipsoid([0, 0, height], [0.04, 0.04, 0.06]))
    return Piece(join(parts), 0.18, 0.18)


def plant(g: Generator) -> Piece:
    """Pot, stem and a cluster of leaves as flat ellipsoids."""
    pot, tall = g.uniform(0.1, 0.24), g.uniform(0.18, 0.42)
    crown, rise = g.uniform(0.2, 0.42), g.uniform(0.25, 0.9)
    parts = [cylinder([0, 0, tall / 2], pot, tall, taper=g.uniform(0.05, 0.3), is_open=True)]
    parts.append(cylinder([0, 0, tall * 0.4], pot * 0.9, tall * 0.8))
    parts.append(cylinder([0, 0, tall + rise / 2], 0.015, rise))
    for _ in range(int(g.integers(14, 36))):
        direction = g.standard_normal(3)
        direction /= np.linalg.norm(direction)
        at = np.array([0, 0, tall + rise]) + direction * crown * [1, 1, 0.8] * g.uniform(0.4, 1.0)
        at[2] = max(at[2], tall)
        turn = rotation(*g.uniform(0, 2 * np.pi, 3))
        parts.append(ellipsoid(list(at), [g.uniform(0.05, 0.14), g.uniform(0.03, 0.07), 0.012], turn=turn))
    return Piece(join(parts), max(pot, 0.7 * crown), max(pot, 0.7 * crown))


def box_stack(g: Generator) -> Piece:
    """Cartons on top of and beside one another, each turned a little, some with open flaps."""
    parts, z, width, depth = [], 0.0, g.uniform(0.35, 0.6), g.uniform(0.3, 0.5)
    half = 0.5 * float(np.hypot(width, depth)) * 0.9
    for _ in range(int(g.integers(1, 5))):
        tall = g.uniform(0.15, 0.4)
        parts.append(
            box([*g.uniform(-0.04, 0.04, 2), z + tall / 2], [width, depth, tall], turn=rotation(g.uniform(-0.5, 0.5)))
        )
        z += tall
        width, depth = width * g.uniform(0.7, 1.0), depth * g.uniform(0.7, 1.0)
    if g.random() < 0.5:
        for side in (-1, 1):
            turn = rotation(0.0, side * g.uniform(0.3, 1.2))
            parts.append(box([side * width * 0.6, 0, z + 0.03], [width * 0.5, depth * 0.9, 0.008], turn=turn))
    return Piece(join(parts), half, half)


def bin_or_barrel(g: Generator) -> Piece:
    """Open waste bin, barrel, umbrella stand or round stool."""
    radius, tall = g.uniform(0.12, 0.3), g.uniform(0.3, 0.75)
    parts = [cylinder([0, 0, tall / 2], radius, tall, taper=g.uniform(-0.15, 0.25), is_open=True)]
    pick = g.random()
    if pick < 0.4:
        parts.append(cylinder([0, 0, tall], radius * 1.1, 0.05))
    elif pick < 0.7:
        for _ in range(int(g.integers(2, 6))):
            lean = rotation(g.uniform(0, 6.3), g.uniform(-0.25, 0.25), g.uniform(-0.25, 0.25))
            parts.append(cylinder([0, 0, tall], g.uniform(0.012, 0.05), tall * g.uniform(1.0, 1.6), turn=lean))
    else:
        parts.append(ellipsoid([0, 0, tall * 0.6], [radius * 0.9, radius * 0.9, tall * 0.35]))
    return Piece(join(parts), radius * 1.2, radius * 1.2)


def steps(g: Generator) -> Piece:
    """A flight of stairs to a platform, or library steps, with a rail."""
    count, width = int(g.integers(2, 7)), g.uniform(0.4, 1.0)
    rise, run = g.uniform(0.15, 0.22), g.uniform(0.2, 0.3)
    total = count * run
    parts = []
    for k in range(count):
        y, height = total / 2 - (k + 0.5) * run, (k + 1) * rise
        parts.append(box([0, y, height / 2], [width, run, height]))
    for sx in (-1, 1):
        parts.append(cylinder([sx * width / 2, -total / 2 + 0.05, count * rise / 2 + 0.45], 0.02, count * rise + 0.9))
        parts.append(cylinder([sx * width / 2, total / 2 - 0.05, rise / 2 + 0.45], 0.02, rise + 0.9))
        slope = np.arctan2((count - 1) * rise, total - 0.1)
        length = float(np.hypot((count - 1) * rise, total - 0.1))
        turn = rotation(0.0, 0.0, np.pi / 2 - slope)
        parts.append(cylinder([sx * width / 2, 0, (count + 1) * rise / 2 + 0.9], 0.025, length, turn=turn))
    return Piece(join(parts), width / 2 + 0.04, total / 2)


def tub(g: Generator) -> Piece:
    """Bath, basin or large bowl on a foot."""
    long, wide, deep = g.uniform(0.3, 0.75), g.uniform(0.28, 0.4), g.uniform(0.2, 0.4)
    rim = deep + g.uniform(0.1, 0.45)
    parts = [bowl([0, 0, rim], [long, wide, deep]), cylinder([0, 0, (rim - deep) / 2 + 0.03], wide * 0.5, rim - deep)]
    for _ in range(int(g.integers(0, 5))):
        at = [g.uniform(-0.5, 0.5) * long, g.uniform(-0.4, 0.4) * wide, rim - 0.6 * deep]
        parts.append(ellipsoid(at, [*g.uniform(0.06, 0.14, 3)]))
    return Piece(join(parts), long, wide)


def arc_bench(g: Generator) -> Piece:
    """Curved counter or bench: an arc of slabs on a closed front."""
    radius, height, thick = g.uniform(0.7, 1.2), g.uniform(0.45, 1.05), g.uniform(0.3, 0.45)
    span, count = g.uniform(1.2, 2.2), 10
    pitch = span / count
    parts = []
    for k in range(count):
        a = np.pi / 2 + (k - 0.5 * (count - 1)) * pitch
        turn = rotation(a)
        at = turn @ [radius, 0, 0] - [0, radius * 0.85, 0]
        side = radius * pitch * 1.15
        parts.append(box([at[0], at[1], height - 0.02], [thick, side, 0.04], turn=turn))
        parts.append(box([at[0], at[1], height / 2 - 0.02], [thick * 0.7, side, height - 0.04], turn=turn))
    return Piece(join(parts), radius * np.sin(min(span / 2, np.pi / 2)) + 0.15, 0.35 * radius + 0.1)


def coat_rack(g: Generator) -> Piece:
    """Pole with hooks and hanging coats."""
    height = g.uniform(1.6, 1.9)
    parts = [cylinder([0, 0, height / 2], 0.025, height), cylinder([0, 0, 0.03], 0.2, 0.06, taper=-0.4)]
    for k in range(int(g.integers(1, 5))):
        a, length = 1.6 * k + g.uniform(-0.3, 0.3), g.uniform(0.3, 0.5)
        at = [0.16 * np.cos(a), 0.16 * np.sin(a), height - 0.15 - length]
        parts.append(ellipsoid(at, [0.1, 0.18, length], turn=rotation(a, g.uniform(-0.08, 0.08))))
    return Piece(join(parts), 0.3, 0.3)
