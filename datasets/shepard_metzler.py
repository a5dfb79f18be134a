"""Shepard-Metzler objects: ten cubes along a path with three right-angled turns, and what can be said about them.

Shepard and Metzler, Science 1971; conventions of Khazoum et al., arXiv 2512.13517. A path is nine moves from cube to
cube, each one of six directions as a viewer sees them: X right, Y up, Z toward the viewer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rotaware.geo.volumes import cube_rotations

LETTERS = "LDBRUF"  # left, down, back, right, up, front
MOVES = 9
# Codes of the letters; a move and its opposite are 3 apart.
VECTORS: NDArray[np.int64] = np.array([[-1, 0, 0], [0, -1, 0], [0, 0, -1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
_ARMS = 4
Path = tuple[int, ...]


def parse_path(text: str) -> Path:
    """Codes of a path written in letters, such as "UUUBBRRFF".

    Raises:
        ValueError: a letter that is none, not nine moves, not four arms, or cubes that lie in each other.

    >>> parse_path("UUUBBRRFF")
    (4, 4, 4, 2, 2, 3, 3, 5, 5)
    """
    odd = sorted(set(text) - set(LETTERS))
    if odd or len(text) != MOVES:
        raise ValueError(f"path: expected {MOVES} letters of {LETTERS}, got {text!r}")
    path = tuple(LETTERS.index(letter) for letter in text)
    for before, after in itertools.pairwise(path):
        if after == opposite(before):
            raise ValueError(f"path {text!r}: expected no move back, got {LETTERS[before]}{LETTERS[after]}")
    if len(set(map(tuple, positions(path).tolist()))) < MOVES + 1:
        raise ValueError(f"path {text!r}: expected {MOVES + 1} cubes apart, got some in each other")
    arms = len(list(itertools.groupby(path)))
    if arms != _ARMS:
        raise ValueError(f"path {text!r}: expected {_ARMS} straight arms, got {arms}")
    return path


def path_text(path: Path) -> str:
    """A path in letters."""
    return "".join(LETTERS[code] for code in path)


def opposite(code: int) -> int:
    """The move back."""
    return (code + 3) % 6


def reversed_path(path: Path) -> Path:
    """The same object, read from its other end.

    >>> path_text(reversed_path(parse_path("UUUBBRRFF")))
    'BBLLFFDDD'
    """
    return tuple(opposite(code) for code in reversed(path))


def mirrored_path(path: Path) -> Path:
    """The object in a mirror at X = 0: left and right change places."""
    return tuple({0: 3, 3: 0}.get(code, code) for code in path)


def rotated_path(path: Path, rotation: NDArray[np.float64]) -> Path:
    """The object turned by a rotation of the cube (3, 3) on (X, Y, Z)."""
    codes = _turned_codes(rotation)
    return tuple(codes[code] for code in path)


def _turned_codes(rotation: NDArray[np.float64]) -> tuple[int, ...]:
    """What becomes of each direction."""
    turned = np.rint(VECTORS @ np.asarray(rotation).T).astype(np.int64)
    return tuple((turned[:, None] == VECTORS).all(axis=2).argmax(axis=1).tolist())


def positions(path: Path) -> NDArray[np.int64]:
    """(10, 3) places of the cubes, the first one at the origin."""
    return np.concatenate([np.zeros((1, 3), np.int64), VECTORS[list(path)].cumsum(axis=0)])


@cache
def _turns() -> tuple[tuple[int, ...], ...]:
    """`_turned_codes` of the 24 rotations of the cube."""
    return tuple(_turned_codes(rotation) for rotation in cube_rotations().numpy())


def canonical_path(path: Path) -> Path:
    """The first, in the order of codes, of all paths that are this object in some pose, read from either end."""
    return min(tuple(codes[code] for code in each) for each in (path, reversed_path(path)) for codes in _turns())


@cache
def enumerate_objects(*, moves: int = MOVES, touching: bool = False, achiral: bool = False) -> tuple[Path, ...]:
    """All objects of four arms, as canonical paths, in order: 294, which are 147 mirror pairs.

    Args:
        moves: of the path; others than 9 make larger and smaller objects of the same kind, such as for pretraining.
        touching: also those where cubes that do not follow each other share a face.
        achiral: also those that are a rotation of their mirror image, for which same or mirrored cannot be told.

    >>> len(enumerate_objects()), len(enumerate_objects(achiral=True))
    (294, 363)
    """
    if moves < _ARMS:
        raise ValueError(f"moves: expected at least {_ARMS}, got {moves}")
    found = set()
    for turns in itertools.combinations(range(1, moves), _ARMS - 1):
        lengths = np.diff([0, *turns, moves])
        for third in range(6):
            if third % 3 == 2:  # along the second arm
                continue
            for fourth in range(6):
                if fourth % 3 == third % 3:
                    continue
                path = tuple(np.repeat([4, 2, third, fourth], lengths).tolist())
                if _is_simple(path, touching):
                    found.add(canonical_path(path))
    return tuple(sorted(path for path in found if achiral or canonical_path(mirrored_path(path)) != path))


def _is_simple(path: Path, touching: bool) -> bool:
    places = positions(path)
    apart = np.abs(places[:, None] - places).sum(axis=2)
    beyond = np.triu(np.ones(apart.shape, bool), 2)
    return bool((apart[beyond] > (0 if touching else 1)).all())


@dataclass(frozen=True)
class ObjectSplit:
    """Objects for training, validation and test; an object and its mirror image are in the same part."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]


def split_objects(seed: int = 0, *, pairs: tuple[int, int, int] = (110, 8, 29)) -> ObjectSplit:
    """The 294 objects by mirror pairs.

    Args:
        seed: of the order.
        pairs: how many for training, validation and test.

    >>> [len(part) for part in vars(split_objects()).values()]
    [220, 16, 58]
    """
    objects = enumerate_objects()
    both = sorted({tuple(sorted((path, canonical_path(mirrored_path(path))))) for path in objects})
    if min(pairs) < 0 or sum(pairs) > len(both):
        raise ValueError(f"pairs: expected at most {len(both)} in all, got {pairs}")
    order = np.random.default_rng([0x53, seed]).permutation(len(both))
    ends = np.cumsum((0, *pairs))
    parts = [
        tuple(path for number in order[start:end] for path in both[number]) for start, end in itertools.pairwise(ends)
    ]
    return ObjectSplit(*parts)


def _about(axis: int, quarters: int) -> NDArray[np.float64]:
    """By quarter turns, as the right hand shows."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    matrix = np.eye(3)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


# Which face is up: with any view from the side, all orientations along the axes.
POSES: tuple[NDArray[np.float64], ...] = (
    _about(0, 0), _about(0, 1), _about(0, 2), _about(0, 3), _about(2, 1), _about(2, 3),
)  # fmt: skip


def posed_paths(objects: Sequence[Path]) -> tuple[Path, ...]:
    """Each object in each of the six poses, pose by pose of an object."""
    return tuple(rotated_path(path, pose) for path in objects for pose in POSES)
