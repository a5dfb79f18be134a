"""Descriptors: equal under motion, different under reflection, and matched exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.descriptors import SCALES, mutual_matches, pair_histograms, reversed_histograms


def oriented_surface(seed: int, count: int = 700) -> tuple[np.ndarray, np.ndarray]:
    """A wavy surface without symmetry, in voxels, and its upward normals."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 25, (2, count))
    z = 2 * np.sin(0.35 * x + 0.15 * y + seed) + 1.5 * np.cos(0.3 * y) + 0.02 * x * y
    dx = 0.7 * np.cos(0.35 * x + 0.15 * y + seed) + 0.02 * y
    dy = 0.3 * np.cos(0.35 * x + 0.15 * y + seed) - 0.45 * np.sin(0.3 * y) + 0.02 * x
    normals = np.stack([-dx, -dy, np.ones(count)], axis=1)
    return np.stack([x, y, z], axis=1), normals / np.linalg.norm(normals, axis=1, keepdims=True)


def slow_histograms(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The definition, pair by pair and bin by bin."""
    rows = []
    for i, (p, u) in enumerate(zip(points, normals, strict=True)):
        blocks = []
        for radius, bins in SCALES:
            block, total = np.zeros(bins), 0
            for j, (q, m) in enumerate(zip(points, normals, strict=True)):
                line = q - p
                distance = np.linalg.norm(line)
                if i == j or distance > radius:
                    continue
                line = line / distance
                shares = [
                    distance / radius,
                    np.arccos(np.clip(u @ line, -1, 1)) / np.pi,
                    np.arccos(np.clip(u @ m, -1, 1)) / np.pi,
                    (np.linalg.det([m, u, line]) + 1) / 2,
                ]
                pieces = []
                for share, size in zip(shares, bins, strict=True):
                    # A tent of one bin's width about every centre; beyond the outermost centres, all to that bin.
                    place = np.clip(share * size - 0.5, 0, size - 1)
                    pieces.append(np.maximum(0.0, 1.0 - np.abs(np.arange(size) - place)))
                block += np.einsum("a,b,c,d->abcd", *pieces)
                total += 1
            blocks.append(np.sqrt(block.ravel() / max(total, 1)))
        rows.append(np.concatenate(blocks))
    return np.array(rows)


@pytest.fixture
def one_thread_then_two() -> Iterator[list[int]]:
    before = torch.get_num_threads()
    yield [1, 2]
    torch.set_num_threads(before)


def test_histograms_are_those_of_the_definition() -> None:
    points, normals = oriented_surface(0, 60)
    np.testing.assert_allclose(pair_histograms(points, normals), slow_histograms(points, normals), atol=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_histograms_do_not_change_under_motion(seed: int) -> None:
    points, normals = oriented_surface(seed)
    rng = np.random.default_rng(seed)
    rotation, shift = Rotation.random(rng=rng).as_matrix(), 100 * rng.normal(size=3)
    moved = pair_histograms(points @ rotation.T + shift, normals @ rotation.T)
    np.testing.assert_allclose(moved, pair_histograms(points, normals), atol=1e-4)


def test_histograms_follow_the_row_order() -> None:
    points, normals = oriented_surface(1)
    order = np.random.default_rng(0).permutation(len(points))
    shuffled = pair_histograms(points[order], normals[order])
    np.testing.assert_allclose(shuffled, pair_histograms(points, normals)[order], atol=1e-4)


def test_histograms_are_roots_of_distributions() -> None:
    points, normals = oriented_surface(2, 300)
    points = np.concatenate([points, [[1e3, 0, 0]]])
    descriptors = pair_histograms(points, np.concatenate([normals, [[1.0, 0, 0]]]))
    start = 0
    for _, bins in SCALES:
        stop = start + int(np.prod(bins))
        np.testing.assert_allclose(np.square(descriptors[:-1, start:stop]).sum(axis=1), 1.0, atol=1e-5)
        start = stop
    assert descriptors.shape == (301, start)
    assert descriptors.dtype == np.float32
    # Nothing near: no distribution.
    assert not descriptors[-1].any()


def test_mirror_image_is_described_differently() -> None:
    points, normals = oriented_surface(0)
    flip = np.array([1.0, 1.0, -1.0])
    gap = np.linalg.norm(pair_histograms(points * flip, normals * flip) - pair_histograms(points, normals), axis=1)
    moved = np.linalg.norm(pair_histograms(points + 5.0, normals) - pair_histograms(points, normals), axis=1)
    assert np.median(gap) > 0.1
    assert moved.max() < 1e-2


def test_reversed_histograms_are_those_of_turned_normals() -> None:
    points, normals = oriented_surface(3)
    descriptors = pair_histograms(points, normals)
    turned = reversed_histograms(descriptors)
    np.testing.assert_allclose(turned, pair_histograms(points, -normals), atol=1e-4)
    np.testing.assert_array_equal(reversed_histograms(turned), descriptors)
    assert np.median(np.linalg.norm(turned - descriptors, axis=1)) > 0.1


def test_mutual_matches_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    source, target = (np.sqrt(rng.dirichlet(np.full(40, 0.3), n)).astype(np.float32) for n in (600, 517))
    target[:200] = source[100:300] + 0.01 * rng.normal(size=(200, 40)).astype(np.float32)
    squared = np.square(source.astype(np.float64)[:, None] - target.astype(np.float64)[None]).sum(axis=2)
    to_target, to_source = squared.argmin(axis=1), squared.argmin(axis=0)
    mutual = np.flatnonzero(to_source[to_target] == np.arange(600))
    rows, partners, similarity = mutual_matches(source, target)
    np.testing.assert_array_equal(rows, mutual)
    np.testing.assert_array_equal(partners, to_target[mutual])
    expected = np.clip((source[rows] * target[partners]).sum(axis=1) / len(SCALES), 0, 1)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    assert set(range(100, 300)) <= set(rows.tolist())


def test_matches_are_mutual_and_one_to_one() -> None:
    points, normals = oriented_surface(1)
    first, second = pair_histograms(points, normals), pair_histograms(points[::2] + 0.1, normals[::2])
    rows, partners, similarity = mutual_matches(first, second)
    back_rows, back_partners, back_similarity = mutual_matches(second, first)
    assert len(np.unique(rows)) == len(np.unique(partners)) == len(rows)
    assert dict(zip(rows.tolist(), partners.tolist(), strict=True)) == dict(
        zip(back_partners.tolist(), back_rows.tolist(), strict=True)
    )
    np.testing.assert_allclose(np.sort(similarity), np.sort(back_similarity), atol=1e-6)
    assert ((similarity >= 0) & (similarity <= 1)).all()


def test_threads_do_not_change_a_bit(one_thread_then_two: list[int]) -> None:
    (points, normals), (other, other_normals) = oriented_surface(4), oriented_surface(5)
    results = []
    for threads in one_thread_then_two:
        torch.set_num_threads(threads)
        first, second = pair_histograms(points, normals), pair_histograms(other, other_normals)
        results.append([first, second, *mutual_matches(first, second)])
    for single, double in zip(*results, strict=True):
        np.testing.assert_array_equal(single, double)
