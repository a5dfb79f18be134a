"""Trials of mental rotation: two pictures of an object, one of them perhaps mirrored, turned apart about the vertical.

Every item of a set is decided by the seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .object_symbols import describe, describe_source, quadrant, relation
from .shepard_metzler import Path, mirrored_path

# Degrees about the vertical, those of the experiment.
DISPARITIES = (0, 60, 120, 180)


@dataclass(frozen=True)
class MentalTrial:
    """A pair of views: the target stays, the source is the one that is turned."""

    target: Path
    target_azimuth: float  # degrees
    source: Path
    source_azimuth: float
    disparity: int
    mirror: bool
    # What to decide, of `RELATIONS`, and both descriptions by heart.
    relation: int
    target_symbols: Path
    source_symbols: Path


class MentalTrials:
    """Trials of each object in each pose: at every disparity as many same as mirrored ones.

    Args:
        paths: of the objects, posed.
        seed: of all azimuths.
        disparities: degrees.
        repeats: same trials, and mirrored ones, per path and disparity.

    >>> from rotaware.datasets import posed_paths, split_objects
    >>> len(MentalTrials(posed_paths(split_objects().test)))
    11136
    """

    def __init__(
        self, paths: Sequence[Path], *, seed: int = 0, disparities: Sequence[int] = DISPARITIES, repeats: int = 4
    ) -> None:
        if not paths or not disparities or repeats < 1:
            raise ValueError(
                f"paths, disparities, repeats: expected some, got {len(paths)}, {len(disparities)} and {repeats}"
            )
        self.paths, self.seed, self.disparities, self.repeats = tuple(paths), seed, tuple(disparities), repeats

    def __len__(self) -> int:
        return len(self.paths) * len(self.disparities) * 2 * self.repeats

    def __getitem__(self, number: int) -> MentalTrial:
        """A trial; paths come first, then disparities, then whether it is mirrored, then repeats."""
        if not 0 <= number < len(self):
            raise IndexError(f"number: expected 0 to {len(self) - 1}, got {number}")
        rest, _ = divmod(number, self.repeats)
        rest, mirror = divmod(rest, 2)
        which, place = divmod(rest, len(self.disparities))
        generator = np.random.default_rng([0x4D, self.seed, number])
        return mental_trial(
            self.paths[which],
            float(generator.uniform(0, 360)),
            self.disparities[place],
            mirror=bool(mirror),
            clockwise=bool(generator.integers(2)),
        )


def mental_trial(path: Path, azimuth: float, disparity: int, *, mirror: bool, clockwise: bool = False) -> MentalTrial:
    """A trial from the first view of an object.

    A mirrored object seen from the opposite azimuth is the mirrored picture of the object, so that the disparity keeps
    its meaning: at 0 the second picture is the first one mirrored.

    >>> from rotaware.datasets import RELATIONS, parse_path
    >>> RELATIONS[mental_trial(parse_path("UUUBBRRFF"), 10.0, 60, mirror=False).relation]
    '-90'
    """
    away = azimuth + (-disparity if clockwise else disparity)
    seen, turned = quadrant(azimuth), quadrant(away)
    return MentalTrial(
        target=path,
        target_azimuth=azimuth % 360.0,
        source=mirrored_path(path) if mirror else path,
        source_azimuth=(-away if mirror else away) % 360.0,
        disparity=disparity,
        mirror=mirror,
        relation=relation(seen, turned, mirror),
        target_symbols=describe(path, seen),
        source_symbols=describe_source(path, turned, mirror),
    )


@dataclass(frozen=True)
class DescribedView:
    """A view with what is to be said about it."""

    path: Path
    azimuth: float
    quadrant: int
    symbols: Path


class DescribedViews:
    """Views of each object in each pose, as many in every quadrant, spread evenly within it.

    Args:
        paths: of the objects, posed.
        seed: of all azimuths.
        per_quadrant: views of a path in each.

    >>> from rotaware.datasets import posed_paths, split_objects
    >>> len(DescribedViews(posed_paths(split_objects().train[:200])))
    201600
    """

    def __init__(self, paths: Sequence[Path], *, seed: int = 0, per_quadrant: int = 42) -> None:
        if not paths or per_quadrant < 1:
            raise ValueError(f"paths, per_quadrant: expected some, got {len(paths)} and {per_quadrant}")
        self.paths, self.seed, self.per_quadrant = tuple(paths), seed, per_quadrant

    def __len__(self) -> int:
        return len(self.paths) * 4 * self.per_quadrant

    def __getitem__(self, number: int) -> DescribedView:
        """A view; paths come first, then quadrants."""
        if not 0 <= number < len(self):
            raise IndexError(f"number: expected 0 to {len(self) - 1}, got {number}")
        rest, _ = divmod(number, self.per_quadrant)
        which, quarter = divmod(rest, 4)
        generator = np.random.default_rng([0x44, self.seed, number])
        azimuth = float((90 * quarter - 45 + 90 * generator.uniform()) % 360.0)
        path = self.paths[which]
        # Where rounding has crossed the border, the view is that of the quadrant it is in.
        quarter = quadrant(azimuth)
        return DescribedView(path, azimuth, quarter, describe(path, quarter))
