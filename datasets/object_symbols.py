"""What a viewer would say about a Shepard-Metzler object, and how two descriptions are related."""

from __future__ import annotations

from functools import cache

import numpy as np

from .shepard_metzler import Path, mirrored_path, positions, reversed_path, rotated_path

# Degrees above the object from which it is seen, distance of the camera, and edge of a cube.
ELEVATION = 25.0
DISTANCE = 25.0
EDGE = 2.0
# Classes of a decision: same, turn the source by +90, by -90, by 180 degrees, mirror.
RELATIONS = ("same", "+90", "-90", "180", "mirror")
# Degrees by which the second to fourth turn the source.
ACTIONS = {1: 90, 2: -90, 3: 180}
# By quadrants between target and source.
_OF_SAME, _OF_MIRROR = (0, 1, 3, 2), (4, 2, 3, 1)


def quadrant(azimuth: float) -> int:
    """Which quarter of the circle the camera is in: 0 from -45 to 45 degrees, then on to larger azimuths.

    >>> [quadrant(azimuth) for azimuth in (0, 44, 45, 180, 300, 315, -46)]
    [0, 0, 1, 2, 3, 0, 3]
    """
    return int(((azimuth + 45.0) % 360.0) // 90.0)


def camera_position(azimuth: float, elevation: float = ELEVATION) -> np.ndarray:
    """(3,) of a camera that looks at the origin; angles in degrees.

    >>> camera_position(90, 0).round(6).tolist()
    [25.0, 0.0, 0.0]
    """
    a, e = np.radians([azimuth, elevation])
    return DISTANCE * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])


@cache
def describe(path: Path, quarter: int, *, centred: bool = True) -> Path:
    """The moves of an object as a viewer in a quadrant sees them, from the end that is nearer to him.

    Args:
        path: of the object in the world.
        quarter: of `quadrant`; the viewer stands in the middle of it, 25 degrees above.
        centred: whether the object is centred where the camera looks, as in the pictures; False begins at its first
            cube, as the code of the paper does, so that the nearer end depends on how the path is written.

    >>> from rotaware.datasets import parse_path, path_text
    >>> [path_text(describe(parse_path("UUUBBRRFF"), quarter)) for quarter in range(2)]
    ['BBLLFFDDD', 'RRBBLLDDD']
    """
    places = EDGE * positions(path).astype(np.float64)
    if centred:
        places = places - places.mean(axis=0)
    camera = camera_position(90.0 * quarter)
    first, last = (float(np.linalg.norm(place - camera)) for place in (places[0], places[-1]))
    return rotated_path(reversed_path(path) if last < first else path, _seen_from(quarter))


@cache
def _seen_from(quarter: int) -> np.ndarray:
    """By -90 degrees a quadrant about Y, which brings the viewer in front."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter % 4]
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], dtype=np.float64)


def relation(target: int, source: int, mirror: bool) -> int:
    """What to decide about a pair, as a number of `RELATIONS`.

    Args:
        target: quadrant of the first view.
        source: quadrant of the second view, before it was mirrored.
        mirror: whether the second picture is mirrored.

    >>> [RELATIONS[relation(0, source, False)] for source in range(4)]
    ['same', '-90', '180', '+90']
    """
    return (_OF_MIRROR if mirror else _OF_SAME)[(target - source) % 4]


def describe_source(path: Path, quarter: int, mirror: bool) -> Path:
    """Description of the second object of a trial: mirrored, it is seen from the other side of the vertical plane.

    Args:
        path: of the object that is not mirrored.
        quarter: of the view, before it was mirrored.
        mirror: whether it is.
    """
    return describe(mirrored_path(path), (-quarter) % 4) if mirror else describe(path, quarter)
