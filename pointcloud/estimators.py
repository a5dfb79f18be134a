"""From correspondences to candidate poses."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch

from rotaware.geo import kabsch

from .canonical import apply

# Two correspondences agree when the distance between their points, in voxels, and the angles of their normals with the
# connecting line and with each other, as cosines, are about the same in both clouds.
LENGTH_TOLERANCE = 2.0
COSINE_TOLERANCE = 0.35
GROUP = 24
INLIER_DISTANCE = 2.5
INLIER_COSINE = 0.7
# Edge of a place, in voxels: the small radius of the descriptors.
PLACE = 6.0
# Poses closer than this are one hypothesis.
SAME_ANGLE = np.radians(10.0)
SAME_SHIFT = 5.0


@dataclass(frozen=True)
class Matches:
    """Putative correspondences with their local geometry, all in voxels; rows of source and target belong together."""

    source: np.ndarray  # (M, 3)
    target: np.ndarray  # (M, 3)
    source_normals: np.ndarray  # (M, 3)
    target_normals: np.ndarray  # (M, 3)
    weights: np.ndarray  # (M,)

    def __len__(self) -> int:
        return len(self.source)


@numba.njit(cache=True, nogil=True)
def _compatible(ps, pt, ns, nt, length_tolerance, cosine_tolerance, bits):  # type: ignore[no-untyped-def]
    """Set bit j of row i when correspondences i and j can belong to one rigid motion."""
    m = ps.shape[0]
    for i in range(m):
        for j in range(i + 1, m):
            sx, sy, sz = ps[j, 0] - ps[i, 0], ps[j, 1] - ps[i, 1], ps[j, 2] - ps[i, 2]
            tx, ty, tz = pt[j, 0] - pt[i, 0], pt[j, 1] - pt[i, 1], pt[j, 2] - pt[i, 2]
            ls = np.sqrt(sx * sx + sy * sy + sz * sz)
            lt = np.sqrt(tx * tx + ty * ty + tz * tz)
            if abs(ls - lt) > length_tolerance or min(ls, lt) < 1.0:
                continue
            between = ns[i, 0] * ns[j, 0] + ns[i, 1] * ns[j, 1] + ns[i, 2] * ns[j, 2]
            between -= nt[i, 0] * nt[j, 0] + nt[i, 1] * nt[j, 1] + nt[i, 2] * nt[j, 2]
            if abs(between) > cosine_tolerance:
                continue
            # Angles with the connecting line are reliable only when the line is long against the noise.
            slack = cosine_tolerance + length_tolerance / min(ls, lt)
            first = (ns[i, 0] * sx + ns[i, 1] * sy + ns[i, 2] * sz) / ls
            first -= (nt[i, 0] * tx + nt[i, 1] * ty + nt[i, 2] * tz) / lt
            if abs(first) > slack:
                continue
            second = (ns[j, 0] * sx + ns[j, 1] * sy + ns[j, 2] * sz) / ls
            second -= (nt[j, 0] * tx + nt[j, 1] * ty + nt[j, 2] * tz) / lt
            if abs(second) > slack:
                continue
            bits[i, j >> 6] |= np.uint64(1) << np.uint64(j & 63)
            bits[j, i >> 6] |= np.uint64(1) << np.uint64(i & 63)


@numba.njit(cache=True, nogil=True)
def _popcount(word):  # type: ignore[no-untyped-def]
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True, nogil=True)
def _second_order(bits, group, support, members):  # type: ignore[no-untyped-def]
    """For every seed: the `group` compatible matches that share most compatible matches with it."""
    m, words = bits.shape
    for i in range(m):
        shared = np.zeros(m, np.int64)
        for j in range(m):
            if j != i and (bits[i, j >> 6] >> np.uint64(j & 63)) & np.uint64(1):
                count = np.uint64(0)
                for w in range(words):
                    count += _popcount(bits[i, w] & bits[j, w])
                shared[j] = np.int64(count) + 1
        order = np.argsort(-shared, kind="mergesort")
        total = 0
        for k in range(min(group, m)):
            if shared[order[k]] > 0:
                members[i, k] = order[k]
                total += shared[order[k]]
        support[i] = total


@numba.njit(cache=True, nogil=True)
def _score(ps, pt, ns, nt, weights, poses, distance, cosine, scores):  # type: ignore[no-untyped-def]
    for c in range(poses.shape[0]):
        T = poses[c]
        total = 0.0
        for i in range(ps.shape[0]):
            squared = 0.0
            dot = 0.0
            for a in range(3):
                moved = T[a, 0] * ps[i, 0] + T[a, 1] * ps[i, 1] + T[a, 2] * ps[i, 2] + T[a, 3]
                squared += (moved - pt[i, a]) ** 2
                dot += (T[a, 0] * ns[i, 0] + T[a, 1] * ns[i, 1] + T[a, 2] * ns[i, 2]) * nt[i, a]
            if squared < distance * distance and dot > cosine:
                total += weights[i] * (1.0 - squared / (distance * distance))
        scores[c] = total


def pose_from_pairs(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares rigid motions, (..., N, 3) onto (..., N, 3) -> (..., 4, 4) float64."""
    rotation, translation = kabsch(
        torch.from_numpy(source), torch.from_numpy(target), weights=torch.from_numpy(weights)
    )[:2]
    poses = np.zeros((*source.shape[:-2], 4, 4))
    poses[..., :3, :3] = rotation.numpy()
    poses[..., :3, 3] = translation.numpy()
    poses[..., 3, 3] = 1.0
    return poses


def inliers(matches: Matches, pose: np.ndarray, distance: float = INLIER_DISTANCE) -> np.ndarray:
    """(M,) bool: matches that `pose` brings within `distance` voxels with normals that agree."""
    residual = np.linalg.norm(apply(pose, matches.source) - matches.target, axis=1)
    aligned = ((matches.source_normals @ pose[:3, :3].T) * matches.target_normals).sum(axis=1)
    return (residual < distance) & (aligned > INLIER_COSINE)


def pose_difference(first: np.ndarray, second: np.ndarray, centre: np.ndarray) -> tuple[float, float]:
    """Angle in radians between two poses, and the distance between their images of `centre`."""
    cosine = (np.trace(first[:3, :3].T @ second[:3, :3]) - 1.0) / 2.0
    shift = apply(first, centre[None]) - apply(second, centre[None])
    return float(np.arccos(np.clip(cosine, -1.0, 1.0))), float(np.linalg.norm(shift))


def same_pose(first: np.ndarray, second: np.ndarray, centre: np.ndarray) -> bool:
    """True when two poses (voxels) are one answer, judged at `centre` (3,)."""
    angle, shift = pose_difference(first, second, centre)
    return angle < SAME_ANGLE and shift < SAME_SHIFT


def distinct(poses: np.ndarray, centre: np.ndarray, limit: int) -> list[int]:
    """Indices of at most `limit` poses (P, 4, 4), in order, skipping those that are `same_pose` as an earlier one."""
    turns, places = poses[:, :3, :3], poses[:, :3, :3] @ centre + poses[:, :3, 3]
    kept: list[int] = []
    free = np.ones(len(poses), dtype=bool)
    for c in range(len(poses)):
        if len(kept) == limit:
            break
        if free[c]:
            kept.append(c)
            cosine = (np.einsum("pij,ij->p", turns, turns[c]) - 1.0) / 2.0
            near = np.linalg.norm(places - places[c], axis=1) < SAME_SHIFT
            free &= ~(near & (np.arccos(np.clip(cosine, -1.0, 1.0)) < SAME_ANGLE))
    return kept


def hypotheses(matches: Matches, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidate poses that many correspondences agree on.

    Second order spatial compatibility (Chen et al., SC2-PCR, CVPR 2022) with the angles of oriented normals added to
    the distances: every correspondence collects the ones that share most compatible partners with it, each group gives
    a pose, poses are scored on all correspondences and polished on their inliers. Deterministic: nothing is drawn.

    Args:
        matches: M correspondences, in voxels.
        limit: most poses to return.
    Returns:
        (H, 4, 4) float64 mutually distinct poses, best first, and their scores (H,): inliers weighted by
        1 - (residual / 2.5 voxels)^2.
    """
    m = len(matches)
    if m < 3:
        return np.zeros((0, 4, 4)), np.zeros(0)
    local = (matches.source, matches.target, matches.source_normals, matches.target_normals)
    bits = np.zeros((m, (m + 63) // 64), dtype=np.uint64)
    _compatible(*local, LENGTH_TOLERANCE, COSINE_TOLERANCE, bits)
    support = np.zeros(m, dtype=np.int64)
    members = np.full((m, GROUP), -1, dtype=np.int64)
    _second_order(bits, GROUP, support, members)
    seeds = np.flatnonzero((members >= 0).sum(axis=1) >= 2)
    if len(seeds) == 0:
        return np.zeros((0, 4, 4)), np.zeros(0)
    groups = np.concatenate([seeds[:, None], members[seeds]], axis=1)
    weights = np.where(groups >= 0, matches.weights[groups], 0.0)
    poses = pose_from_pairs(matches.source[groups], matches.target[groups], weights)
    scores = _scores(matches, poses)
    order = np.argsort(-scores, kind="stable")
    poses = poses[order][distinct(poses[order], matches.source.mean(axis=0), 2 * limit)]
    poses = _polished(matches, poses)
    scores = _scores(matches, poses)
    order = np.argsort(-scores, kind="stable")
    kept = order[distinct(poses[order], matches.source.mean(axis=0), limit)]
    return poses[kept], scores[kept]


def _scores(matches: Matches, poses: np.ndarray) -> np.ndarray:
    scores = np.empty(len(poses))
    local = (matches.source, matches.target, matches.source_normals, matches.target_normals, matches.weights)
    _score(*local, poses, INLIER_DISTANCE, INLIER_COSINE, scores)
    return scores


def support(matches: Matches, pose: np.ndarray) -> float:
    """Weight of the matches that `pose` explains, each discounted by 1 - (residual / 2.5 voxels)^2."""
    return float(_scores(matches, pose[None])[0]) if len(matches) else 0.0


def places(matches: Matches, pose: np.ndarray) -> float:
    """Like `support`, counting only the best match of every cell of 6 voxels.

    Matches side by side describe the same neighborhood and are right or wrong together; places are independent.
    """
    good = np.flatnonzero(inliers(matches, pose))
    if len(good) == 0:
        return 0.0
    residual = np.linalg.norm(apply(pose, matches.source[good]) - matches.target[good], axis=1)
    weights = matches.weights[good] * (1.0 - (residual / INLIER_DISTANCE) ** 2)
    cells, cell = np.unique(np.floor(matches.source[good] / PLACE).astype(np.int64), axis=0, return_inverse=True)
    best = np.zeros(len(cells))
    np.maximum.at(best, cell.ravel(), weights)
    return float(best.sum())


def _polished(matches: Matches, poses: np.ndarray) -> np.ndarray:
    """Least squares on the inliers, a few times; all poses at once."""
    source, target = (np.repeat(each[None], len(poses), axis=0) for each in (matches.source, matches.target))
    for _ in range(3):
        good = np.stack([inliers(matches, pose) for pose in poses])
        weights = np.where(good, matches.weights, 0.0)
        enough = good.sum(axis=1) >= 3
        poses = np.where(enough[:, None, None], pose_from_pairs(source, target, weights), poses)
    return poses
