"""What a benchmark is: pairs of files of scans, and what is known about each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cloud_files import read_cloud
from .fourdmatch import DeformingPair, read_deforming_pair
from .indoor_scenes import RegistrationPair
from .poses import nearest_pose
from .solids import Array

# Reads a file of a scan into (N, 3) points.
Reader = Callable[[Path], NDArray[Any]]
_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, eq=False)
class BenchmarkPair:
    """Two scans and the truth about them, not read yet."""

    scene: str
    # Files of the scans; one and the same for a deforming pair.
    source: Path
    target: Path
    # Numbers of the fragments: j and i of gt.log, frames of KITTI, the place in the list for others.
    source_id: int
    target_id: int
    # (4, 4) as published, not quite orthonormal; None for scans that do not overlap. `load` has the nearest rotation.
    T_target_source: Array | None
    # As listed; None if nobody says.
    overlap: float | None
    # (6, 6) of gt.info, translation first.
    information: Array | None = None
    # A pair of 4DMatch: `load` gives a `DeformingPair`.
    deforming: bool = False

    @property
    def name(self) -> str:
        """Unique within the benchmark, and fit for a file name."""
        return _UNSAFE.sub("_", f"{self.scene}_{self.target_id}_{self.source_id}").lstrip(".")

    def load(self, read: Reader | None = None) -> RegistrationPair | DeformingPair:
        """Both scans, and the pose made exact.

        Args:
            read: reads the file of a scan into (N, 3) points, whose type is kept; None reads `.pth`, `.npy` and the
                `.bin` of KITTI, as float32.
        Returns:
            A `DeformingPair` if `deforming`. An overlap that nobody states is NaN.
        Raises:
            FileNotFoundError: a scan is missing.
            ValueError: a scan is damaged; names it.
        """
        if self.deforming:
            return read_deforming_pair(self.source, self.name)
        source, target = ((read or read_cloud)(path) for path in (self.source, self.target))
        pose = None if self.T_target_source is None else nearest_pose(self.T_target_source)
        overlap = float("nan") if self.overlap is None else self.overlap
        return RegistrationPair(source, target, pose, overlap, self.name)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Pairs to be registered, in the order of their list.

    Raises:
        ValueError: no pairs, two of one name, or a scene whose name is no name of a folder.

    >>> pair = BenchmarkPair("kitchen", Path("b.npy"), Path("a.npy"), 1, 0, np.eye(4), 0.4)
    >>> Benchmark("mine", Path("."), (pair,)).fragments
    {'kitchen': 2}
    """

    name: str
    root: Path
    pairs: tuple[BenchmarkPair, ...]
    # Number of fragments of each scene, for the header of est.log; one more than the highest number unless given.
    fragments: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(f"{self.name}: expected at least one pair, got none")
        counts: dict[str, int] = {}
        places: dict[str, int] = {}
        for place, pair in enumerate(self.pairs):
            if pair.scene in ("", ".", "..") or re.search(r"[/\\\0]", pair.scene):
                raise ValueError(
                    f"{self.name}, pair {place}: expected the name of a folder as scene, got {pair.scene!r}"
                )
            if pair.name in places:
                raise ValueError(f"{self.name}: pairs {places[pair.name]} and {place} are both {pair.name}")
            places[pair.name] = place
            counts[pair.scene] = max(counts.get(pair.scene, 0), pair.source_id + 1, pair.target_id + 1)
        object.__setattr__(self, "fragments", counts | dict(self.fragments))

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes, in the order of the pairs."""
        return tuple(dict.fromkeys(pair.scene for pair in self.pairs))


def disjoint_pairs(benchmark: Benchmark, count: int, seed: int = 0) -> tuple[BenchmarkPair, ...]:
    """Pairs of scans of different scenes, which have no pose: what a registration should refuse.

    Scenes of different names are taken for different places. That holds for the test scenes of 3DMatch, not for its
    training list, where some flats come in several parts.

    Args:
        count: pairs, all different.
        seed: chooses them; the same ones on any machine.
    Raises:
        ValueError: a benchmark of deforming pairs or with fewer than two scenes, or too few scans for so many pairs.

    >>> pairs = [BenchmarkPair(s, Path(s, "1.npy"), Path(s, "0.npy"), 1, 0, np.eye(4), 0.4) for s in ("den", "hall")]
    >>> benchmark = Benchmark("mine", Path("."), tuple(pairs))
    >>> sorted(pair.name for pair in disjoint_pairs(benchmark, 8))[:3]
    ['den+hall_0_0', 'den+hall_0_1', 'den+hall_1_0']
    """
    if any(pair.deforming for pair in benchmark.pairs):
        raise ValueError(f"{benchmark.name}: expected scans that are rigid, got deforming ones")
    scans: dict[str, dict[Path, int]] = {}
    for pair in benchmark.pairs:
        if pair.T_target_source is not None:
            known = scans.setdefault(pair.scene, {})
            known.setdefault(pair.source, pair.source_id)
            known.setdefault(pair.target, pair.target_id)
    every = [(scene, path, number) for scene in sorted(scans) for path, number in sorted(scans[scene].items())]
    possible = len(every) ** 2 - sum(len(of_scene) ** 2 for of_scene in scans.values())
    if not 0 <= count <= possible:
        raise ValueError(
            f"count: expected at most {possible}, the pairs of the {len(every)} scans in {len(scans)} scenes of "
            f"{benchmark.name}, got {count}"
        )
    generator = np.random.default_rng([0xD15, seed])
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < count:
        source, target = (int(place) for place in generator.integers(len(every), size=2))
        if every[source][0] != every[target][0]:
            drawn[source, target] = None
    return tuple(_disjoint(every[source], every[target]) for source, target in drawn)


def _disjoint(source: tuple[str, Path, int], target: tuple[str, Path, int]) -> BenchmarkPair:
    return BenchmarkPair(f"{target[0]}+{source[0]}", source[1], target[1], source[2], target[2], None, 0.0)
