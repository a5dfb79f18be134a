"""Poses from scored correspondences with outliers: RANSAC, and local-to-global registration."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from .estimators import pose_from_pairs

# Minimal samples are drawn and solved in blocks of this many.
_BLOCK = 10_000


@dataclass(frozen=True)
class PoseEstimate:
    """A pose and the correspondences it explains."""

    T_target_source: np.ndarray  # (4, 4) float64
    inlier: np.ndarray  # (M,) bool
    residual: float  # root mean square over the inliers, in the unit of the points; infinite without inliers


def weighted_procrustes(source: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Rigid motion (4, 4) that brings `source` onto `target` with least weighted squared error.

    Args:
        source, target: (M, 3) corresponding points, any common unit.
        weights: (M,) not negative; None weighs all alike.
    Raises:
        ValueError: shapes that do not fit, fewer than 3 correspondences with weight.

    >>> points = np.random.default_rng(0).normal(size=(10, 3))
    >>> bool(np.allclose(weighted_procrustes(points, points + 1.0)[:3, 3], 1.0))
    True
    """
    source, target, weights = _checked(source, target, weights)
    return pose_from_pairs(source, target, weights)


def ransac(
    source: np.ndarray,
    target: np.ndarray,
    *,
    radius: float,
    iterations: int = 50_000,
    edge_ratio: float = 0.9,
    seed: int = 0,
) -> PoseEstimate:
    """Random sample consensus on triples of correspondences, then least squares on the inliers.

    All iterations are run: the answer depends on the seed, not on when a loop stopped. Samples whose sides differ in
    length by more than `edge_ratio` are passed over (Fischler and Bolles, 1981; the edge test is Open3D's).

    Args:
        source, target: (M, 3) corresponding points, any common unit.
        radius: largest distance of an inlier after the motion, same unit.
        iterations: samples drawn.
        edge_ratio: in [0, 1): least ratio between corresponding sides of a sample.
        seed: of the sampling.
    Raises:
        ValueError: shapes that do not fit, fewer than 3 correspondences, options out of range.

    >>> rng = np.random.default_rng(1)
    >>> source = rng.normal(size=(100, 3)); target = source + 1.0; target[:70] = rng.normal(size=(70, 3))
    >>> int(ransac(source, target, radius=0.01, iterations=2000).inlier.sum())
    30
    """
    source, target, weights = _checked(source, target, None)
    _require_range("radius", radius, 0.0, np.inf)
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    if not 0.0 <= edge_ratio < 1.0:
        raise ValueError(f"edge_ratio: expected a number in [0, 1), got {edge_ratio}")
    generator = np.random.default_rng(seed)
    # Least squares over everything, should no sample be plausible.
    best_pose, best_count = pose_from_pairs(source, target, weights), -1
    for start in range(0, iterations, _BLOCK):
        samples = generator.integers(len(source), size=(min(_BLOCK, iterations - start), 3))
        samples = samples[_plausible(source, target, samples, edge_ratio)]
        if len(samples) == 0:
            continue
        poses = pose_from_pairs(source[samples], target[samples], np.ones(samples.shape))
        counts = np.empty(len(poses), dtype=np.int64)
        _count_inliers(source, target, poses, radius**2, counts)
        winner = int(np.argmax(counts))
        if counts[winner] > best_count:
            best_pose, best_count = poses[winner], int(counts[winner])
    return _polished(source, target, weights, best_pose, radius, rounds=3)


def local_to_global_registration(
    source: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    groups: np.ndarray,
    *,
    radius: float = 0.1,
    smallest_group: int = 3,
    rounds: int = 5,
) -> PoseEstimate:
    """One pose per group of correspondences, the one that most of all correspondences support, then refinement.

    Needs no sampling: groups, such as pairs of matched patches, are small and mostly right or mostly wrong
    (Qin et al., GeoTransformer, CVPR 2022, section 3.4).

    Args:
        source, target: (M, 3) corresponding points.
        weights: (M,) confidences, not negative.
        groups: (M,) integers, the patch pair of each correspondence.
        radius: inlier distance, in the unit of the points (0.1 m in the paper).
        smallest_group: groups with fewer correspondences make no candidate; without any, all of them make one.
        rounds: refinements on the inliers.
    Raises:
        ValueError: shapes that do not fit, fewer than 3 correspondences with weight, options out of range.

    >>> points = np.random.default_rng(0).normal(size=(20, 3))
    >>> found = local_to_global_registration(points, points + 1.0, np.ones(20), np.arange(20) // 5)
    >>> bool(np.allclose(found.T_target_source[:3, 3], 1.0)), int(found.inlier.sum())
    (True, 20)
    """
    source, target, weights = _checked(source, target, weights)
    _require_range("radius", radius, 0.0, np.inf)
    groups = np.asarray(groups)
    if groups.shape != (len(source),) or groups.dtype.kind not in "iu":
        raise ValueError(f"groups: expected integers of shape ({len(source)},), got {groups.dtype} {groups.shape}")
    labels, label, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = [np.flatnonzero(label == each) for each in range(len(labels)) if sizes[each] >= smallest_group]
    # Groups of different size are padded with a repeated member of weight zero.
    longest = max((len(each) for each in members), default=0)
    if members:
        rows = np.stack([np.pad(each, (0, longest - len(each)), mode="edge") for each in members])
        real = np.stack([np.arange(longest) < len(each) for each in members])
        poses = pose_from_pairs(source[rows], target[rows], np.where(real, weights[rows], 0.0))
    else:
        poses = pose_from_pairs(source, target, weights)[None]
    counts = np.empty(len(poses), dtype=np.int64)
    _count_inliers(source, target, poses, radius**2, counts)
    return _polished(source, target, weights, poses[int(np.argmax(counts))], radius, rounds)


@numba.njit(cache=True, nogil=True)
def _count_inliers(source, target, poses, squared_radius, counts):  # type: ignore[no-untyped-def]
    for c in range(poses.shape[0]):
        T = poses[c]
        count = 0
        for i in range(source.shape[0]):
            squared = 0.0
            for a in range(3):
                moved = T[a, 0] * source[i, 0] + T[a, 1] * source[i, 1] + T[a, 2] * source[i, 2] + T[a, 3]
                squared += (moved - target[i, a]) ** 2
            if squared < squared_radius:
                count += 1
        counts[c] = count


def _plausible(source: np.ndarray, target: np.ndarray, samples: np.ndarray, edge_ratio: float) -> np.ndarray:
    """(S,) bool: triples of three different rows whose sides are about as long in both clouds."""
    keep = np.ones(len(samples), dtype=bool)
    for first, second in ((0, 1), (1, 2), (2, 0)):
        i, j = samples[:, first], samples[:, second]
        ls = np.linalg.norm(source[i] - source[j], axis=1)
        lt = np.linalg.norm(target[i] - target[j], axis=1)
        keep &= (i != j) & (np.minimum(ls, lt) > edge_ratio * np.maximum(ls, lt))
    return keep


def _polished(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray, pose: np.ndarray, radius: float, rounds: int
) -> PoseEstimate:
    for _ in range(rounds):
        inlier = _residuals(source, target, pose) < radius
        if (weights[inlier] > 0).sum() < 3:
            break
        pose = pose_from_pairs(source, target, np.where(inlier, weights, 0.0))
    residuals = _residuals(source, target, pose)
    inlier = residuals < radius
    spread = float(np.sqrt(np.square(residuals[inlier]).mean())) if inlier.any() else float("inf")
    return PoseEstimate(pose, inlier, spread)


def _residuals(source: np.ndarray, target: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return np.linalg.norm(source @ pose[:3, :3].T + pose[:3, 3] - target, axis=1)


def _checked(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    source, target = (np.ascontiguousarray(each, dtype=np.float64) for each in (source, target))
    if source.ndim != 2 or source.shape[1] != 3 or source.shape != target.shape:
        raise ValueError(f"source, target: expected the same shape (M, 3), got {source.shape} and {target.shape}")
    given = np.ones(len(source)) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != (len(source),):
        raise ValueError(f"weights: expected shape ({len(source)},), got {given.shape}")
    if not (given >= 0).all():
        raise ValueError("weights: expected numbers that are not negative")
    if (given > 0).sum() < 3:
        raise ValueError(f"correspondences: expected at least 3 with weight, got {int((given > 0).sum())}")
    return source, target, given


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"{name}: expected a number above {low:g}, got {value}")
