"""Which pairs of many scans are worth registering: for each scan, those whose most distinctive places agree best."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from rotaware.geo.files import write_whole

from .canonical import apply, automatic_voxel, canonical_frame, clean
from .cloud import PointCloud
from .descriptors import mutual_matches, reversed_histograms
from .estimators import Matches, hypotheses, places
from .view import view_of

# Partners proposed for each scan.
PER_SCAN = 10
# Most distinctive points that are compared, and matches on which a pose must agree. On 15 generated and 4 real
# fragments, 4 partners of 18 then held 82 % of the overlaps above 20 %; with 600 points it was 45 %.
POINTS = 1500
MATCHES = 300


@dataclass(frozen=True)
class Signature:
    """The most distinctive points of a scan."""

    voxel: np.ndarray  # () edge, in the scan's unit
    points: np.ndarray  # (P, 3) in voxels
    normals: np.ndarray  # (P, 3)
    descriptors: np.ndarray  # (P, D) float16
    distinctiveness: np.ndarray  # (P,)


def signature(cloud: PointCloud) -> Signature:
    """The signature of a scan, at the voxel that suits it alone; as invariant as registration."""
    points = clean(cloud.points, "scan").points
    frame = canonical_frame(points)
    points = apply(frame, points)
    sensor = None if cloud.viewpoint is None else apply(frame, cloud.viewpoint[None])[0]
    voxel = automatic_voxel([points])
    view = view_of(points, voxel, sensor)
    best = np.argsort(-view.distinctiveness, kind="stable")[:POINTS]
    return Signature(
        np.array(voxel),
        view.points[best],
        view.normals[best],
        view.descriptors[best].astype(np.float16),
        view.distinctiveness[best].astype(np.float64),
    )


def likely_pairs(signatures: Sequence[Signature], per_scan: int = PER_SCAN) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, in which one scan is among the `per_scan` that agree best with the other.

    One more scan adds only pairs of its own: it can push others out, never in.
    """
    count = len(signatures)
    scores = np.full((count, count), -np.inf)
    for i, j in combinations(range(count), 2):
        scores[i, j] = scores[j, i] = _agreement(signatures[i], signatures[j])
    best = np.argsort(-scores, axis=1, kind="stable")[:, : min(per_scan, count - 1)]
    return sorted({(min(i, int(j)), max(i, int(j))) for i in range(count) for j in best[i]})


def _agreement(source: Signature, target: Signature) -> float:
    """Places that agree on one pose, whichever side the source was seen from."""
    # In voxels of the larger size, as in registration.
    voxel = max(float(source.voxel), float(target.voxel))
    moving, fixed = source.points * (source.voxel / voxel), target.points * (target.voxel / voxel)
    theirs = target.descriptors.astype(np.float32)
    agreed = 0.0
    for side in (1.0, -1.0):
        ours = source.descriptors.astype(np.float32)
        rows, partners, similarity = mutual_matches(ours if side > 0 else reversed_histograms(ours), theirs)
        weights = similarity * np.minimum(source.distinctiveness[rows], target.distinctiveness[partners])
        best = np.argsort(-weights, kind="stable")[:MATCHES]
        rows, partners = rows[best], partners[best]
        matches = Matches(
            moving[rows], fixed[partners], side * source.normals[rows], target.normals[partners], weights[best]
        )
        agreed = max([agreed, *(places(matches, pose) for pose in hypotheses(matches, 1)[0])])
    return agreed


def write_signature(path: Path, found: Signature) -> None:
    """Write a signature, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **vars(found))
    write_whole(path, buffer.getvalue())


def read_signature(path: Path) -> Signature | None:
    """The signature in a file of `write_signature`; None if there is none, or it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return Signature(**arrays)
    except (OSError, ValueError, TypeError, BadZipFile):
        return None
