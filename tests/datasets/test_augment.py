"""Augmented pairs: the truth still holds, each law of randomness is what it says, and seeds decide everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from rotaware.datasets.augment import (
    NOISE,
    benchmark_rotation,
    benchmark_turned,
    published_augmentation,
    random_crop,
    random_subset,
    rotation_about_fixed_axes,
    shaken,
    turned,
    uniform_augmentation,
)
from rotaware.datasets.fourdmatch import DeformingPair
from rotaware.datasets.indoor_scenes import RegistrationPair, measured_overlap

AnyPair = RegistrationPair | DeformingPair
# Noise moves both ends of a correspondence, each by up to half the diagonal of a cube.
FARTHEST = NOISE * np.sqrt(3) + 1e-5
AUGMENTATIONS: dict[str, Callable[[Any, np.random.Generator], Any]] = {
    "published": published_augmentation,
    "uniform": uniform_augmentation,
    "shaken": shaken,
    "subset": lambda pair, generator: random_subset(pair, generator, 150),
    "crop": lambda pair, generator: random_crop(pair, generator, 0.6),
    "all": lambda pair, generator: random_crop(
        random_subset(uniform_augmentation(pair, generator), generator, 150), generator, 0.6
    ),
}


def pose(seed: int) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    T[:3, 3] = np.random.default_rng(seed).uniform(-1, 1, 3)
    return T


def rigid_pair(seed: int = 0, count: int = 200) -> RegistrationPair:
    """The second half of the source is the first half of the target."""
    points = np.random.default_rng(seed).uniform(-1, 1, (count + count // 2, 3)).astype(np.float32)
    T = pose(seed)
    target = points[count // 2 :] @ T[:3, :3].T + T[:3, 3]
    return RegistrationPair(points[:count], target.astype(np.float32), T, 0.5, "a pair")


def deforming_pair(seed: int = 0, count: int = 200) -> DeformingPair:
    """The same points in another order, after they flowed and moved."""
    generator = np.random.default_rng(seed)
    source = generator.uniform(-1, 1, (count, 3)).astype(np.float32)
    flow = (0.3 * np.sin(3 * source)).astype(np.float32)
    T = pose(seed)
    order = generator.permutation(count)
    target = ((source + flow) @ T[:3, :3].T + T[:3, 3])[order].astype(np.float32)
    matches = np.column_stack([order, np.arange(count)])
    return DeformingPair(source, target, T, flow, matches, generator.permutation(count)[:50], 1.0, "a pair")


def gaps(pair: DeformingPair) -> np.ndarray:
    """(C,) how far apart corresponding points are at the truth."""
    source, target = pair.correspondences.T
    T = pair.T_target_source
    there = (pair.source + pair.flow)[source] @ T[:3, :3].T + T[:3, 3]
    return np.linalg.norm(there - pair.target[target], axis=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_the_truth_still_holds(augment: Callable[..., Any]) -> None:
    for seed in range(6):
        rigid = augment(rigid_pair(seed), np.random.default_rng(seed))
        R = rigid.T_target_source[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) > 0
        found = measured_overlap(rigid.source, rigid.target, rigid.T_target_source, distance=FARTHEST)
        assert found == pytest.approx(rigid.overlap, abs=0.02)
        deforming = augment(deforming_pair(seed), np.random.default_rng(seed))
        assert len(deforming.correspondences) > 5
        assert gaps(deforming).max() < FARTHEST
        assert len(deforming.flow) == len(deforming.source)
        assert deforming.overlap == len(deforming.correspondences) / len(deforming.source)
        assert {each.dtype for each in (rigid.source, rigid.target, deforming.flow)} == {np.dtype("f4")}


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("make", [rigid_pair, deforming_pair])
def test_the_generator_decides(make: Callable[[], AnyPair], augment: Callable[..., Any]) -> None:
    given, untouched = make(), make()
    first = augment(given, np.random.default_rng([7, 1]))
    np.random.seed(3)
    again, other = (augment(given, np.random.default_rng([7, k])) for k in (1, 2))
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(again, name))
        np.testing.assert_array_equal(getattr(given, name), getattr(untouched, name))
    assert not (np.array_equal(first.source, other.source) and np.array_equal(first.target, other.target))


@pytest.mark.parametrize("name", ["subset", "crop"])
def test_rows_follow_the_points_that_are_left(name: str) -> None:
    given = deforming_pair(3)
    assert given.metric_index is not None
    pair = AUGMENTATIONS[name](given, np.random.default_rng(0))
    rows, columns = (
        cKDTree(whole).query(part)[1] for whole, part in ((given.source, pair.source), (given.target, pair.target))
    )
    assert len(rows) < 200 and len(columns) < 200
    np.testing.assert_array_equal(pair.source, given.source[rows])
    np.testing.assert_array_equal(pair.flow, given.flow[rows])
    assert set(rows[pair.metric_index]) == set(rows) & set(given.metric_index)
    named = {(int(rows[i]), int(columns[j])) for i, j in pair.correspondences}
    kept = {(i, j) for i, j in given.correspondences.tolist() if i in set(rows) and j in set(columns)}
    assert named == kept


def test_axes_are_fixed_and_z_comes_first() -> None:
    for angles in np.random.default_rng(0).uniform(0, 7, (20, 3)):
        # In lower case the axes are fixed; they come in this order.
        expected = Rotation.from_euler("zyx", angles).as_matrix()
        np.testing.assert_allclose(rotation_about_fixed_axes(angles), expected, atol=1e-12)


def test_the_rotated_benchmark_has_its_published_numbers() -> None:
    """Specification of RoITr, 2.2, step 5."""
    rotation, turns_source = benchmark_rotation(0)
    np.testing.assert_allclose(rotation[0], [0.206856, -0.065511, -0.976176], atol=5e-7)
    np.testing.assert_allclose(rotation, rotation_about_fixed_axes([3.448297, 4.493667, 3.787274]), atol=1e-6)
    assert turns_source


@pytest.mark.parametrize("index", [0, 1, 2, 1622, 1780])
def test_the_rotated_benchmark_is_that_of_the_legacy_generator(index: int) -> None:
    state = np.random.get_state()
    np.random.seed(index)
    angles, coin = np.random.rand(3) * 2 * np.pi, np.random.rand()
    np.random.set_state(state)
    rotation, turns_source = benchmark_rotation(index)
    np.testing.assert_allclose(rotation, Rotation.from_euler("zyx", angles).as_matrix(), atol=1e-12)
    assert turns_source == (coin > 0.5)
    # The generator of the whole process is left alone.
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state, strict=True))


def test_the_rotated_benchmark_turns_one_scan() -> None:
    given = deforming_pair()
    sides = set()
    for index in range(8):
        (rotation, turns_source), pair = benchmark_rotation(index), benchmark_turned(given, index)
        still, moves = ("target", "source") if turns_source else ("source", "target")
        np.testing.assert_array_equal(getattr(pair, still), getattr(given, still))
        np.testing.assert_allclose(getattr(pair, moves), getattr(given, moves) @ rotation.T, atol=1e-6)
        assert gaps(pair).max() < 1e-5
        sides.add(moves)
    assert sides == {"source", "target"}


@pytest.mark.parametrize("index", [-1, 2**32, 1.5, True, "0"])
def test_an_index_that_is_none(index: Any) -> None:
    with pytest.raises(ValueError, match=rf"index: expected an integer in \[0, 2\^32\), got {index!r}"):
        benchmark_rotation(index)


def test_turns_compose() -> None:
    given = deforming_pair()
    a, b, c, d = Rotation.random(4, rng=np.random.default_rng(0)).as_matrix()
    twice, once = (
        turned(turned(given, source=a, target=b), source=c, target=d),
        turned(given, source=c @ a, target=d @ b),
    )
    for name in ("source", "target", "T_target_source", "flow"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), atol=2e-6)


def test_published_augmentation_turns_one_scan_and_uniform_both() -> None:
    given = rigid_pair()
    for augment, expected in (
        (published_augmentation, {(True, False), (False, True)}),
        (uniform_augmentation, {(True, True)}),
    ):
        found = []
        for seed in range(40):
            noisy, quiet = (augment(given, np.random.default_rng(seed), noise) for noise in (NOISE, 0.0))
            found.append((abs(quiet.source - given.source).max() > 0, abs(quiet.target - given.target).max() > 0))
            # The noise comes last, and the truth is that of the clean scans.
            np.testing.assert_array_equal(noisy.T_target_source, quiet.T_target_source)
            assert 0.4 * NOISE < abs(noisy.source - quiet.source).max() < 0.501 * NOISE
            # About the sensor at the origin.
            np.testing.assert_allclose(*(np.linalg.norm(p.source, axis=1) for p in (quiet, given)), atol=1e-5)
        assert set(found) == expected
        assert all(found.count(side) > 8 for side in expected)


def test_uniform_rotations_are_uniform() -> None:
    axes = np.eye(3, dtype=np.float32)
    given = RegistrationPair(axes, axes, np.eye(4), 1.0, "axes")
    sources, poses, published = [], [], []
    for seed in range(1500):
        pair = uniform_augmentation(given, np.random.default_rng(seed), noise=0.0)
        assert pair.T_target_source is not None
        sources.append(pair.source)
        poses.append(pair.T_target_source[:3, :3])
        published.append(rotation_about_fixed_axes(np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)))
    # By Archimedes each coordinate of a point uniform on the sphere is uniform; the pose between two such turns too.
    for images in (np.stack(sources), np.stack(poses)):
        for i, j in np.ndindex(3, 3):
            assert kstest(images[:, i, j], "uniform", args=(-1, 2)).pvalue > 1e-3
    assert kstest(np.stack(published)[:, 0, 2], "uniform", args=(-1, 2)).pvalue < 1e-6


def test_noise_is_uniform_and_of_full_width() -> None:
    cloud = np.zeros((4000, 3), np.float32)
    pair = shaken(RegistrationPair(cloud, cloud, np.eye(4), 1.0, "a pair"), np.random.default_rng(0), 0.01)
    for shift in (pair.source, pair.target):
        assert kstest(shift.ravel(), "uniform", args=(-0.005, 0.01)).pvalue > 1e-3
    assert not np.array_equal(pair.source, pair.target)


def test_a_subset_has_exactly_so_many_points() -> None:
    given = rigid_pair()
    pair = random_subset(given, np.random.default_rng(0), 150)
    rows = cKDTree(given.source).query(pair.source)[1]
    assert len(set(rows)) == len(pair.source) == len(pair.target) == 150
    assert not np.array_equal(rows, np.sort(rows))
    assert not np.array_equal(rows, cKDTree(given.target).query(pair.target)[1])
    for most in (200, 300):
        assert random_subset(given, np.random.default_rng(0), most) is given
    many = replace(given, source=np.zeros((31_000, 3), np.float32))
    assert random_subset(many, np.random.default_rng(0)).source.shape == (30_000, 3)
    with pytest.raises(ValueError, match="most: expected a positive integer, got 0"):
        random_subset(given, np.random.default_rng(0), 0)


def test_a_crop_lies_on_one_side_of_a_plane() -> None:
    given, shares = rigid_pair(), []
    for seed in range(40):
        pair = random_crop(given, np.random.default_rng(seed), 0.5)
        shares += [1 - len(pair.source) / 200, 1 - len(pair.target) / 200]
        rows = cKDTree(given.source).query(pair.source)[1]
        assert np.all(np.diff(rows) > 0), "order is kept"
        # The normal is the first thing drawn.
        along = given.source @ np.random.default_rng(seed).standard_normal(3)
        assert along[rows].max() <= np.delete(along, rows).min(initial=np.inf)
    assert min(shares) >= 0 and max(shares) <= 0.5
    assert kstest(shares, "uniform", args=(0, 0.5)).pvalue > 1e-3
    assert random_crop(given, np.random.default_rng(0), 0) is given
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"share: expected a number in \[0, 1\), got {share}"):
            random_crop(given, np.random.default_rng(0), share)


def test_scans_of_different_rooms_have_no_truth() -> None:
    given = replace(rigid_pair(), T_target_source=None, overlap=0.0)
    for augment in AUGMENTATIONS.values():
        pair = augment(given, np.random.default_rng(0))
        assert pair.T_target_source is None and pair.overlap == 0
