"""Other views of a pair of scans whose truth stays known: turned, shaken, thinned, cropped.

Every function takes a pair of any dataset here and returns a new one; poses, flow and rows of points follow. All
randomness comes from the `numpy.random.Generator` given. The sensor is taken to be at the origin and stays there:
scans turn about it, so normals that faced it still do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rotaware.geo import random_rotations

from .fourdmatch import DeformingPair, share_matched
from .indoor_scenes import RegistrationPair, measured_overlap
from .solids import Array

Pair = TypeVar("Pair", RegistrationPair, DeformingPair)

# Metres, the full width of the uniform noise of the released code of RoITr.
NOISE = 0.005
# Points that the released code of RoITr keeps of a scan, in training and in test.
MOST_POINTS = 30_000


class BenchmarkRotation(NamedTuple):
    """How the rotated benchmarks turn a pair."""

    # (3, 3), x' = R x.
    rotation: Array
    # Whether the source turns; otherwise the target does.
    turns_source: bool


def rotation_about_fixed_axes(angles: ArrayLike) -> Array:
    """(3, 3) turn by `angles[0]` about z, then `angles[1]` about y, then `angles[2]` about x; radians.

    With uniform angles it is not uniform over rotations; the released code of RoITr draws it so.

    >>> rotation_about_fixed_axes([np.pi / 2, 0, 0]).round(6)[:, 0].tolist()
    [0.0, 1.0, 0.0]
    """
    (cz, cy, cx), (sz, sy, sx) = np.cos(angles), np.sin(angles)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return about_x @ about_y @ about_z


def benchmark_rotation(index: int) -> BenchmarkRotation:
    """The rotation of pair `index`, from 0, of Rotated 3DMatch and Rotated 3DLoMatch.

    Raises:
        ValueError: `index` is no integer in [0, 2^32).
    Source: Yu et al., "RoITr", CVPR 2023, its released code: legacy generator seeded with the index.

    >>> benchmark_rotation(0).rotation[0].round(6).tolist(), benchmark_rotation(0).turns_source
    ([0.206856, -0.065511, -0.976176], True)
    """
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < 2**32:
        raise ValueError(f"index: expected an integer in [0, 2^32), got {index!r}")
    # The numbers of the benchmark are those of the legacy generator.
    draws = np.random.RandomState(index).random_sample(4)
    return BenchmarkRotation(rotation_about_fixed_axes(2 * np.pi * draws[:3]), bool(draws[3] > 0.5))


def turned(pair: Pair, *, source: Array | None = None, target: Array | None = None) -> Pair:
    """The pair with one or both scans turned about their origins by (3, 3) rotations; None leaves a scan as it is.

    >>> cloud = np.eye(3, dtype=np.float32)
    >>> pair = RegistrationPair(cloud, cloud, np.eye(4), 1.0, "a pair")
    >>> turned(pair, target=np.diag([-1.0, -1.0, 1.0])).T_target_source.diagonal().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    changes: dict[str, Any] = {}
    frames = []
    for name, rotation in (("source", source), ("target", target)):
        frame = np.eye(4)
        if rotation is not None:
            frame[:3, :3] = rotation
            changes[name] = _rotated(getattr(pair, name), rotation)
            if name == "source" and isinstance(pair, DeformingPair):
                changes["flow"] = _rotated(pair.flow, rotation)
        frames.append(frame)
    if pair.T_target_source is not None:
        changes["T_target_source"] = frames[1] @ pair.T_target_source @ frames[0].T
    return replace(pair, **changes)


def benchmark_turned(pair: Pair, index: int) -> Pair:
    """The pair as number `index` of a rotated benchmark has it; see `benchmark_rotation`."""
    rotation, turns_source = benchmark_rotation(index)
    return turned(pair, source=rotation) if turns_source else turned(pair, target=rotation)


def shaken(pair: Pair, generator: np.random.Generator, noise: float = NOISE) -> Pair:
    """Uniform noise of full width `noise`, metres, on every coordinate of both scans; the truth stays.

    >>> cloud = np.zeros((9, 3), np.float32)
    >>> pair = shaken(RegistrationPair(cloud, cloud, np.eye(4), 1.0, "a pair"), np.random.default_rng(0))
    >>> bool(0 < abs(pair.source).max() <= NOISE / 2)
    True
    """
    clouds = (pair.source, pair.target)
    source, target = (cloud + generator.uniform(-0.5, 0.5, cloud.shape) * noise for cloud in clouds)
    return replace(pair, source=source.astype(np.float32), target=target.astype(np.float32))


def published_augmentation(pair: Pair, generator: np.random.Generator, noise: float = NOISE) -> Pair:
    """As RoITr was trained: one scan, by a coin, turned by three uniform angles about fixed axes; then noise.

    Source: Yu et al., "RoITr", CVPR 2023, its released code.
    """
    rotation = rotation_about_fixed_axes(generator.uniform(0, 2 * np.pi, 3))
    turns_source = generator.uniform() > 0.5
    return shaken(turned(pair, **{"source" if turns_source else "target": rotation}), generator, noise)


def uniform_augmentation(pair: Pair, generator: np.random.Generator, noise: float = NOISE) -> Pair:
    """Both scans turned, each by a rotation uniform over SO(3); then noise.

    >>> cloud = np.eye(3, dtype=np.float32)
    >>> pair = RegistrationPair(cloud, cloud, np.eye(4), 1.0, "a pair")
    >>> view = uniform_augmentation(pair, np.random.default_rng(0), noise=0.0)
    >>> bool(np.allclose(view.source @ view.T_target_source[:3, :3].T, view.target, atol=1e-6))
    True
    """
    seed = torch.Generator().manual_seed(int(generator.integers(2**62)))
    source, target = random_rotations(2, dtype=torch.float64, generator=seed).numpy()
    return shaken(turned(pair, source=source, target=target), generator, noise)


def random_subset(pair: Pair, generator: np.random.Generator, most: int = MOST_POINTS) -> Pair:
    """At most `most` random points of each scan, in random order where any are left out.

    With a generator seeded per pair, as `np.random.default_rng([seed, index])`, a pair is always thinned alike.

    Raises:
        ValueError: `most` is not positive.
    """
    if most < 1:
        raise ValueError(f"most: expected a positive integer, got {most}")
    return _of_rows(
        pair,
        *(
            generator.permutation(len(cloud))[:most] if len(cloud) > most else np.arange(len(cloud))
            for cloud in (pair.source, pair.target)
        ),
    )


def random_crop(pair: Pair, generator: np.random.Generator, share: float) -> Pair:
    """Each scan cut by a random plane, which takes away a random share of its points, up to `share`.

    What is left keeps its order.

    Raises:
        ValueError: `share` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: expected a number in [0, 1), got {share}")
    rows = []
    for cloud in (pair.source, pair.target):
        along = cloud @ generator.standard_normal(3)
        kept = len(cloud) - int(len(cloud) * generator.uniform(0, share))
        rows.append(np.sort(np.argsort(along, kind="stable")[:kept]))
    return _of_rows(pair, *rows)


def _rotated(rows: NDArray[np.float32], rotation: Array) -> NDArray[np.float32]:
    return (rows.astype(np.float64) @ rotation.T).astype(np.float32)


def _of_rows(pair: Pair, source: NDArray[np.int64], target: NDArray[np.int64]) -> Pair:
    """The pair with these rows of its scans only, in this order, and the overlap that is left."""
    if len(source) == len(pair.source) and len(target) == len(pair.target):
        return pair
    changes: dict[str, Any] = {"source": pair.source[source], "target": pair.target[target]}
    if isinstance(pair, DeformingPair):
        new_source, new_target = _new_rows(source, len(pair.source)), _new_rows(target, len(pair.target))
        changes["flow"] = pair.flow[source]
        matches = np.column_stack([new_source[pair.correspondences[:, 0]], new_target[pair.correspondences[:, 1]]])
        matches = matches[(matches >= 0).all(axis=1)]
        changes |= {"correspondences": matches, "overlap": share_matched(matches, len(source))}
        if pair.metric_index is not None:
            judged = new_source[pair.metric_index]
            changes["metric_index"] = judged[judged >= 0]
    elif pair.T_target_source is not None:
        changes["overlap"] = measured_overlap(changes["source"], changes["target"], pair.T_target_source)
    return replace(pair, **changes)


def _new_rows(kept: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) where each old row went, -1 for those left out."""
    rows = np.full(count, -1)
    rows[kept] = np.arange(len(kept))
    return rows
