"""Joint point-pair histograms: what the neighborhood of a point looks like, whatever its pose."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from rotaware.geo.threads import run_in_pieces
from rotaware.kernels import radius_search

# Radius in voxels with the bins of (distance, angle to the line, angle between normals, signed torsion). Two radii: the
# small one survives the border of the overlap, the large one tells similar corners apart.
SCALES: tuple[tuple[float, tuple[int, int, int, int]], ...] = ((6.0, (4, 6, 6, 3)), (12.0, (5, 6, 6, 4)))


@numba.njit(cache=True, nogil=True)
def _histograms(points, normals, offsets, neighbors, radius, bins, start, stop, out):  # type: ignore[no-untyped-def]
    nd, na, nb, nt = bins
    for i in range(start, stop):
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        ux, uy, uz = normals[i, 0], normals[i, 1], normals[i, 2]
        total = 0
        for e in range(offsets[i], offsets[i + 1]):
            j = neighbors[e]
            dx, dy, dz = points[j, 0] - px, points[j, 1] - py, points[j, 2] - pz
            dist = np.sqrt(dx * dx + dy * dy + dz * dz)
            if dist < 1e-9:
                continue
            dx, dy, dz = dx / dist, dy / dist, dz / dist
            mx, my, mz = normals[j, 0], normals[j, 1], normals[j, 2]
            to_line = min(1.0, max(-1.0, ux * dx + uy * dy + uz * dz))
            between = min(1.0, max(-1.0, ux * mx + uy * my + uz * mz))
            torsion = mx * (uy * dz - uz * dy) + my * (uz * dx - ux * dz) + mz * (ux * dy - uy * dx)
            # Linear sharing between adjacent bins: a small change of the surface makes a small change of the histogram.
            fd = dist / radius * nd - 0.5
            fa = np.arccos(to_line) / np.pi * na - 0.5
            fb = np.arccos(between) / np.pi * nb - 0.5
            ft = (torsion + 1.0) * 0.5 * nt - 0.5
            d0, a0, b0, t0 = int(np.floor(fd)), int(np.floor(fa)), int(np.floor(fb)), int(np.floor(ft))
            for kd in range(2):
                wd = fd - d0 if kd else 1.0 - (fd - d0)
                qd = min(max(d0 + kd, 0), nd - 1)
                for ka in range(2):
                    wa = wd * (fa - a0 if ka else 1.0 - (fa - a0))
                    qa = qd * na + min(max(a0 + ka, 0), na - 1)
                    for kb in range(2):
                        wb = wa * (fb - b0 if kb else 1.0 - (fb - b0))
                        qb = (qa * nb + min(max(b0 + kb, 0), nb - 1)) * nt
                        for kt in range(2):
                            wt = wb * (ft - t0 if kt else 1.0 - (ft - t0))
                            out[i, qb + min(max(t0 + kt, 0), nt - 1)] += wt
            total += 1
        if total > 0:
            for q in range(out.shape[1]):
                out[i, q] = np.sqrt(out[i, q] / total)


def pair_histograms(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Describe every point by joint histograms of the point pair features of its neighborhood.

    For each neighbor within a radius: distance, angle between normal and connecting line, angle between the two
    normals, and the signed triple product n1 . (d x n2), which tells a corner from its mirror image. The joint
    distribution is kept (not its marginals, as in FPFH) and its square root taken, so that the Euclidean distance
    between descriptors is the Hellinger distance between distributions (Rusu et al., ICRA 2009; Arandjelovic and
    Zisserman, CVPR 2012).

    Args:
        points: (N, 3) float64, in voxels.
        normals: (N, 3) float64 unit vectors, consistently oriented.
    Returns:
        (N, D) float32. Invariant to rotation and translation of points and normals together.

    >>> points = np.random.default_rng(0).uniform(0, 10, (50, 3))
    >>> pair_histograms(points, points / np.linalg.norm(points, axis=1, keepdims=True)).shape
    (50, 1152)
    """
    cloud = torch.from_numpy(np.ascontiguousarray(points))
    blocks = []
    for radius, bins in SCALES:
        near = radius_search(cloud, radius, exclude_self=True)
        offsets, index = near.offsets.numpy(), near.index.numpy()
        block = np.zeros((len(points), int(np.prod(bins))), dtype=np.float32)

        def fill(start: int, stop: int) -> None:
            _histograms(points, normals, offsets, index, radius, bins, start, stop, block)  # noqa: B023

        run_in_pieces(fill, len(points), smallest=128)
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def reversed_histograms(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (N, D) of the same points with all normals turned over: the first angle becomes pi minus itself.

    >>> points = np.random.default_rng(0).uniform(0, 10, (50, 3))
    >>> normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    >>> turned = reversed_histograms(pair_histograms(points, normals))
    >>> bool(np.allclose(turned, pair_histograms(points, -normals), atol=1e-5))
    True
    """
    blocks, start = [], 0
    for _, bins in SCALES:
        size = int(np.prod(bins))
        block = descriptors[:, start : start + size].reshape(-1, *bins)[:, :, ::-1]
        blocks.append(block.reshape(-1, size))
        start += size
    return np.concatenate(blocks, axis=1)


# Effective number of bins of the small histogram: below the first, a flat patch; from the second, a shape of its own.
_FLAT, _DISTINCT = 8.0, 30.0


def distinctiveness(descriptors: np.ndarray) -> np.ndarray:
    """How much of a place of its own each descriptor (N, D) describes, (N,) in [0.02, 1].

    A plane fills few bins, and any patch of plane resembles any other: matches between them agree with each other by
    the dozen and prove nothing. The measure is the participation ratio 1 / sum(p^2) of the small histogram.

    >>> plane = np.zeros((1, 1152), dtype=np.float32)
    >>> plane[0, :4] = 0.5
    >>> round(float(distinctiveness(plane)[0]), 3)
    0.02
    """
    size = int(np.prod(SCALES[0][1]))
    effective = 1.0 / np.maximum(np.square(np.square(descriptors[:, :size])).sum(axis=1), 1e-9)
    return np.clip((effective - _FLAT) / (_DISTINCT - _FLAT), 0.02, 1.0)


# Fixed block shape: the same products in the same order whatever the number of threads.
_ROWS = 256


def mutual_matches(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of rows that are each other's nearest descriptor.

    Args:
        source, target: (N, D), (M, D) float32.
    Returns:
        Rows of `source` and rows of `target`, both (K,) int64, and the similarity (K,) float32 in [0, 1]: the
        Bhattacharyya coefficient, averaged over the scales.

    >>> mutual_matches(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[::-1])[1].tolist()
    [2, 1, 0]
    """
    n, m = len(source), len(target)
    half = np.square(target).sum(axis=1) / 2.0
    transposed = np.ascontiguousarray(target.T)
    to_target = np.zeros(n, dtype=np.int64)
    to_source = np.zeros(m, dtype=np.int64)
    value_of_target = np.full(m, -np.inf, dtype=np.float32)

    def block(start: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        # Nearest in Euclidean distance: |s|^2 is constant along a row and added where columns are compared.
        rows = source[start : start + _ROWS]
        affinity = rows @ transposed - half
        best = affinity.argmax(axis=1)
        affinity -= np.square(rows).sum(axis=1)[:, None] / 2.0
        winner = affinity.argmax(axis=0)
        return start, best, winner, affinity[winner, np.arange(m)]

    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        for start, best, winner, value in pool.map(block, range(0, n, _ROWS)):
            to_target[start : start + len(best)] = best
            better = value > value_of_target
            value_of_target[better] = value[better]
            to_source[better] = start + winner[better]
    rows = np.flatnonzero(to_source[to_target] == np.arange(n))
    matched = to_target[rows]
    similarity = np.einsum("ij,ij->i", source[rows], target[matched]) / len(SCALES)
    return rows, matched, np.clip(similarity, 0.0, 1.0)
