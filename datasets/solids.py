"""Solids a ray can meet in closed form: boxes, frustums, open tubes, ellipsoids and bowls.

Everything a generated room holds is one `Solids`, a struct of arrays that the ray caster reads directly.
Each solid is a unit shape, stretched by `half` along its own axes and put at `center`:

    box        |x|, |y|, |z| <= 1
    frustum    x^2 + y^2 <= (1 + taper z)^2, |z| <= 1, closed by two discs; taper 0 is a cylinder
    tube       the wall of a frustum alone, seen from outside and from inside
    ellipsoid  x^2 + y^2 + z^2 <= 1
    bowl       the surface of the lower half of the ellipsoid, seen from both sides
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BOX, FRUSTUM, TUBE, ELLIPSOID, BOWL = range(5)


@dataclass(frozen=True)
class Solids:
    """S solids as arrays; lengths in metres."""

    # (S,) int64, one of BOX, FRUSTUM, TUBE, ELLIPSOID, BOWL.
    kind: NDArray[np.int64]
    # (S, 3) centres, in the frame the solids live in.
    center: Array
    # (S, 3, 3) rotations; the columns are a solid's own axes in that frame.
    axes: Array
    # (S, 3) half sizes along the own axes.
    half: Array
    # (S,) slope of the radius along z, in (-1, 1); read for frustums and tubes.
    taper: Array
    # (S,) probability that a depth sensor gets an answer from this surface: 0 for glass.
    response: Array

    def __len__(self) -> int:
        return len(self.kind)

    def moved(self, yaw: float, offset: ArrayLike) -> Solids:
        """Turned by `yaw` (rad) about the z axis of the frame, then shifted by `offset` (3,)."""
        turn = rotation(yaw)
        return replace(self, center=self.center @ turn.T + np.asarray(offset, np.float64), axes=turn @ self.axes)

    def bounding_radius(self) -> Array:
        """(S,) radius of a sphere about `center` that holds the solid."""
        widest = np.where(np.isin(self.kind, (FRUSTUM, TUBE)), 1.0 + np.abs(self.taper), 1.0)
        stretched = self.half * np.stack([widest, widest, np.ones_like(widest)], axis=1)
        round_radius = np.hypot(stretched[:, :2].max(axis=1), stretched[:, 2])
        radius = np.where(self.kind == BOX, np.linalg.norm(self.half, axis=1), round_radius)
        return np.where(np.isin(self.kind, (ELLIPSOID, BOWL)), self.half.max(axis=1), radius)


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Array:
    """(3, 3) turn by `roll` about x, then `pitch` about y, then `yaw` about z, in radians.

    >>> bool(np.allclose(rotation(np.pi / 2) @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    True
    """
    (cz, cy, cx), (sz, sy, sx) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )


def join(parts: Iterable[Solids]) -> Solids:
    """All solids of `parts`, in order."""
    listed = [_EMPTY, *parts]
    return Solids(
        kind=np.concatenate([p.kind for p in listed]),
        center=np.concatenate([p.center for p in listed]),
        axes=np.concatenate([p.axes for p in listed]),
        half=np.concatenate([p.half for p in listed]),
        taper=np.concatenate([p.taper for p in listed]),
        response=np.concatenate([p.response for p in listed]),
    )


def box(center: Sequence[float], size: Sequence[float], *, turn: Array | None = None, response: float = 1.0) -> Solids:
    """Box of full `size` (3,) about `center` (3,), turned by `turn` (3, 3)."""
    return _one(BOX, center, [0.5 * s for s in size], turn, 0.0, response)


def cylinder(
    center: Sequence[float],
    radius: float,
    height: float,
    *,
    taper: float = 0.0,
    turn: Array | None = None,
    is_open: bool = False,
) -> Solids:
    """Cylinder about its z axis, or a frustum of end radii `radius * (1 -+ taper)`; if `is_open`, its wall alone."""
    return _one(TUBE if is_open else FRUSTUM, center, [radius, radius, 0.5 * height], turn, taper, 1.0)


def ellipsoid(center: Sequence[float], radii: Sequence[float], *, turn: Array | None = None) -> Solids:
    """Ellipsoid of the three `radii`."""
    return _one(ELLIPSOID, center, radii, turn, 0.0, 1.0)


def bowl(center: Sequence[float], radii: Sequence[float], *, turn: Array | None = None) -> Solids:
    """Lower half of the surface of an ellipsoid; `center` lies in the plane of its rim."""
    return _one(BOWL, center, radii, turn, 0.0, 1.0)


def _one(
    kind: int, center: Sequence[float], half: Sequence[float], turn: Array | None, taper: float, response: float
) -> Solids:
    return Solids(
        kind=np.array([kind], np.int64),
        center=np.array([center], np.float64),
        axes=(np.eye(3) if turn is None else turn)[None].astype(np.float64),
        half=np.array([half], np.float64),
        taper=np.array([taper], np.float64),
        response=np.array([response], np.float64),
    )


_EMPTY = Solids(
    kind=np.zeros(0, np.int64),
    center=np.zeros((0, 3)),
    axes=np.zeros((0, 3, 3)),
    half=np.zeros((0, 3)),
    taper=np.zeros(0),
    response=np.zeros(0),
)
