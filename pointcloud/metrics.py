"""How good correspondences and poses are, in the words and with the thresholds of the field.

Per pair of clouds: PIR of superpoints, IR and NFMR of correspondences, rotation and translation error and three kinds
of success of a pose. Over a benchmark: means of the means of its scenes. Everything is computed in float64 on the CPU.
Points are rows (M, 3), poses `T_target_source` (4, 4); tensors and arrays are both taken. Lengths are in metres where
a default is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rotaware.geo import geodesic_distance, invert_transform, matrix_to_quaternion, special_procrustes, transform_points
from rotaware.geo.checks import require_choice, require_shape
from rotaware.kernels import knn

from .supervision import NodeOverlaps

Array = Tensor | np.ndarray

# 3DMatch: Deng et al., PPFNet, CVPR 2018 (inlier distance, inlier ratio of a match); Choi et al., CVPR 2015 (RMSE).
INLIER_DISTANCE = 0.1
MATCH_INLIER_RATIO = 0.05
REGISTRATION_RMSE = 0.2
# A source point overlaps where the target has a point this near: 1.5 voxels of 2.5 cm (Predator, CVPR 2021).
OVERLAP_DISTANCE = 0.0375
# Our own: close enough for ICP to finish.
SUCCESS_ROTATION_DEG = 15.0
SUCCESS_TRANSLATION = 0.30
# 4DMatch: Li and Harada, Lepard, CVPR 2022.
NONRIGID_DISTANCE = 0.04
ANCHOR_DISTANCE = 0.1
_FAR = 1e10


class SceneMeans(NamedTuple):
    """A quantity over a benchmark."""

    mean: float  # over the scenes, each counted once: the figure of the tables
    pair_mean: float  # over the pairs, each counted once
    scenes: Mapping[str, float]  # of each scene
    counts: Mapping[str, int]  # pairs of each scene


def patch_inlier_ratio(target: Tensor, source: Tensor, overlaps: NodeOverlaps) -> float:
    """PIR: share of matched superpoints whose patches overlap.

    Args:
        target: (P,) superpoints of the target.
        source: (P,) superpoints of the source they are matched with.
        overlaps: which overlap in truth.
    Returns:
        In [0, 1]; 0 for no matches.
    Raises:
        ValueError: a shape that does not fit.

    >>> true = NodeOverlaps(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0.9, 0.2]))
    >>> patch_inlier_ratio(torch.tensor([1, 1]), torch.tensor([1, 0]), true)
    0.5
    """
    require_shape("target", target, "P")
    require_shape("source", source, len(target))
    if not len(target):
        return 0.0
    true = set(zip(overlaps.target.tolist(), overlaps.source.tolist(), strict=True))
    return sum(pair in true for pair in zip(target.tolist(), source.tolist(), strict=True)) / len(target)


def inlier_ratio(
    source: Array,
    target: Array,
    transform: Array,
    *,
    radius: float = INLIER_DISTANCE,
    flow: Array | None = None,
) -> float:
    """IR: share of correspondences that the true motion brings nearer than `radius`.

    Args:
        source: (M, 3) points of the source.
        target: (M, 3) their partners.
        transform: (4, 4), the true pose.
        radius: 0.1 m on 3DMatch; `NONRIGID_DISTANCE` on 4DMatch.
        flow: (M, 3) displacement of each source point in a deforming scene, before the transform.
    Returns:
        In [0, 1]; 0 for no correspondences.
    Raises:
        ValueError: a shape that does not fit.

    >>> inlier_ratio(np.zeros((2, 3)), np.array([[0, 0, 0.05], [0, 0, 1.0]]), np.eye(4))
    0.5
    """
    start, partner = _float64("source", source, "M", 3), _float64("target", target, len(source), 3)
    pose = _float64("transform", transform, 4, 4)
    if flow is not None:
        start = start + _float64("flow", flow, len(source), 3)
    return _share(_distances(transform_points(pose, start), partner) < radius)


def feature_matching_recall(inlier_ratios: Sequence[float], *, threshold: float = MATCH_INLIER_RATIO) -> float:
    """FMR: share of pairs of clouds whose inlier ratio is above a threshold.

    The tables take it per scene first: `mean_over_scenes([ratio > 0.05 for ratio in ratios], scenes).mean`.

    Args:
        inlier_ratios: one per pair.
        threshold: 5 % on 3DMatch.
    Returns:
        In [0, 1]; 0 for no pairs.

    >>> feature_matching_recall([0.01, 0.05, 0.3, 0.4])
    0.5
    """
    return sum(ratio > threshold for ratio in inlier_ratios) / max(len(inlier_ratios), 1)


def nonrigid_feature_matching_recall(
    source: Array,
    target: Array,
    points: Array,
    flow: Array,
    transform: Array,
    *,
    neighbors: int = 3,
    anchor_distance: float = ANCHOR_DISTANCE,
    radius: float = NONRIGID_DISTANCE,
) -> float:
    """NFMR: share of points whose motion can be told from correspondences nearby.

    The motion of a point is the mean of those of the nearest matched points, weighted by the inverse distance. Matched
    points farther than `anchor_distance` count for nothing, unless all are that far: then they count alike.

    Args:
        source: (M, 3) matched points of the source, undeformed.
        target: (M, 3) their partners, in the frame of the target.
        points: (X, 3) points of the source to judge by, undeformed.
        flow: (X, 3) their true displacement, before the transform.
        transform: (4, 4), the true pose.
        neighbors: matched points per point.
        anchor_distance: see above.
        radius: largest error of a hit, exclusive.
    Returns:
        In [0, 1]; 0 without correspondences or without points.
    Raises:
        ValueError: a shape that does not fit.
    Source: Li and Harada, Lepard, CVPR 2022, section 5, and its released code.

    >>> cloud = np.random.default_rng(0).random((50, 3))
    >>> nonrigid_feature_matching_recall(cloud, cloud + 1, cloud, np.ones((50, 3)), np.eye(4))
    1.0
    """
    anchors, partners = _float64("source", source, "M", 3), _float64("target", target, len(source), 3)
    asked, shift = _float64("points", points, "X", 3), _float64("flow", flow, len(points), 3)
    truth = transform_points(_float64("transform", transform, 4, 4), asked + shift)
    if not (len(anchors) and len(asked)):
        return 0.0
    near = knn(anchors, min(neighbors, len(anchors)), queries=asked)
    distance = near.distance.clamp(min=1 / _FAR)
    weights = torch.where(distance > anchor_distance, _FAR, distance).reciprocal()
    weights = weights / weights.sum(1, keepdim=True)
    motion = ((partners - anchors)[near.index.long()] * weights[:, :, None]).sum(1)
    return _share(_distances(asked + motion, truth) < radius)


def rotation_error_deg(estimate: Array, truth: Array) -> float:
    """RRE: angle between the rotations of two poses, in degrees in [0, 180]; exact near 0 and 180 as well.

    Both are first replaced by the nearest rotations: those of the published ground truth are off by up to 1e-3.

    Args:
        estimate: (4, 4).
        truth: (4, 4).
    Raises:
        ValueError: a shape that does not fit.

    >>> rotation_error_deg(np.diag([-1.0, -1.0, 1.0, 1.0]), np.eye(4))
    180.0
    """
    rotations = [special_procrustes(pose[:3, :3]) for pose in _poses(estimate, truth)]
    return float(torch.rad2deg(geodesic_distance(*rotations)))


def translation_error(estimate: Array, truth: Array) -> float:
    """RTE: distance between the translations of two poses (4, 4), in their unit.

    It depends on where the origin of the source is: far from the cloud, a small turn is a large translation.

    Raises:
        ValueError: a shape that does not fit.

    >>> translation_error(np.eye(4), np.eye(4) + np.eye(4, k=3))
    1.0
    """
    ours, theirs = _poses(estimate, truth)
    return float(torch.linalg.vector_norm(ours[:3, 3] - theirs[:3, 3]))


def mean_displacement(points: Array, estimate: Array, truth: Array) -> float:
    """Mean distance between the places where two poses (4, 4) put points (N, 3).

    Below 0.2 m a pair counts as registered on the rotated 3DMatch benchmarks, taken over all points of the source.

    Raises:
        ValueError: a shape that does not fit, no points.

    >>> mean_displacement(np.zeros((5, 3)), np.eye(4), np.eye(4) + np.eye(4, k=3))
    1.0
    """
    rows = _float64("points", points, "N", 3)
    if not len(rows):
        raise ValueError("points: expected at least one, got none")
    ours, theirs = _poses(estimate, truth)
    return float(_distances(transform_points(ours, rows), transform_points(theirs, rows)).mean())


def information_rmse(estimate: Array, truth: Array, information: Array, *, corrected: bool = False) -> float:
    """What the 3DMatch benchmark takes for the root mean square error over overlapping points.

    Args:
        estimate: (4, 4).
        truth: (4, 4).
        information: (6, 6) of the pair, from `gt.info`: translation first.
        corrected: False for the official formula, which measures the error in the frame of the source and takes half of
            the rotation vector, while the matrix is for the frame of the target and the whole of it; a turn about the
            overlap then counts 1.7 times as much (median of 28 pairs). True puts both right.
    Returns:
        Metres; NaN if the matrix is zero, as for one pair of 3DLoMatch.
    Raises:
        ValueError: a shape that does not fit.
    Source: Choi et al., "Robust Reconstruction of Indoor Scenes", CVPR 2015, and the evaluation code of 3DMatch.

    >>> information_rmse(np.eye(4) + 0.5 * np.eye(4, k=3), np.eye(4), np.diag([100.0, 100, 100, 1, 1, 1]))
    0.5
    """
    ours, theirs = _poses(estimate, truth)
    matrix = _float64("information", information, 6, 6)
    error = ours @ invert_transform(theirs) if corrected else torch.linalg.inv(theirs) @ ours
    # Real part not negative.
    vector = matrix_to_quaternion(special_procrustes(error[:3, :3]))[1:]
    both = torch.cat([error[:3, 3], 2 * vector if corrected else vector])
    return float((both @ matrix @ both / matrix[0, 0]).clamp(min=0).sqrt())


def overlap_rmse(
    source: Array, target: Array, estimate: Array, truth: Array, *, radius: float = OVERLAP_DISTANCE
) -> float:
    """Root mean square distance between the places where two poses put the points that truly overlap.

    What `information_rmse` stands for, measured.

    Args:
        source: (N, 3).
        target: (M, 3).
        estimate: (4, 4).
        truth: (4, 4).
        radius: a point of the source overlaps if the target has one nearer than this at the truth.
    Returns:
        In the unit of the points; NaN if nothing overlaps.
    Raises:
        ValueError: a shape that does not fit, no points.

    >>> overlap_rmse(np.zeros((5, 3)), np.zeros((1, 3)), np.eye(4) + np.eye(4, k=3), np.eye(4))
    1.0
    """
    rows, others = _float64("source", source, "N", 3), _float64("target", target, "M", 3)
    if not (len(rows) and len(others)):
        raise ValueError(f"source, target: expected at least one point each, got {len(rows)} and {len(others)}")
    ours, theirs = _poses(estimate, truth)
    places = transform_points(theirs, rows)
    near = knn(others, 1, queries=places).distance[:, 0] < radius
    return float(_distances(transform_points(ours, rows), places)[near].square().mean().sqrt())


def is_registered(
    estimate: Array,
    truth: Array,
    *,
    rotation_deg: float = SUCCESS_ROTATION_DEG,
    translation: float = SUCCESS_TRANSLATION,
) -> bool:
    """Success of a pose by its rotation and translation error: neither is above its bound.

    >>> is_registered(np.eye(4), np.eye(4))
    True
    """
    return rotation_error_deg(estimate, truth) <= rotation_deg and translation_error(estimate, truth) <= translation


def is_registered_3dmatch(
    estimate: Array, truth: Array, information: Array, *, rmse: float = REGISTRATION_RMSE, corrected: bool = False
) -> bool:
    """Success of a pose as the 3DMatch benchmark counts it: `information_rmse` is at most 0.2 m. NaN is a failure.

    >>> is_registered_3dmatch(np.eye(4), np.eye(4), np.eye(6))
    True
    """
    return information_rmse(estimate, truth, information, corrected=corrected) <= rmse


def is_registered_rotated(points: Array, estimate: Array, truth: Array, *, distance: float = REGISTRATION_RMSE) -> bool:
    """Success of a pose as the rotated 3DMatch benchmarks count it: `mean_displacement` is below 0.2 m.

    >>> is_registered_rotated(np.zeros((5, 3)), np.eye(4), np.eye(4))
    True
    """
    return mean_displacement(points, estimate, truth) < distance


def scored_pairs(pairs: Sequence[tuple[int, int]], *, official: bool = True) -> list[bool]:
    """Which pairs of fragments of one scene count for registration recall on 3DMatch: those that are not consecutive.

    Args:
        pairs: (i, j) with i < j, in the order of `gt.log`.
        official: the official scorer also loses the first pair of a file, since it keeps places in a table in which 0
            stands for nothing: 1719 instead of 1726 pairs of 3DLoMatch. False counts it.

    >>> scored_pairs([(0, 2), (1, 2), (1, 3)])
    [False, False, True]
    """
    return [j - i > 1 and not (official and place == 0) for place, (i, j) in enumerate(pairs)]


def mean_over_scenes(
    values: Sequence[float], scenes: Sequence[str], *, statistic: Literal["mean", "median"] = "mean"
) -> SceneMeans:
    """The mean over scenes of the mean over the pairs of each, as in all tables of 3DMatch.

    Args:
        values: one per pair; booleans make a recall.
        scenes: the scene of each pair.
        statistic: what to take of the pairs of a scene; the rotation and translation errors of the tables are medians,
            over successful pairs.
    Returns:
        NaN without pairs.
    Raises:
        ValueError: not one scene per value, an unknown statistic.

    >>> mean_over_scenes([True, True, False, True], ["kitchen", "kitchen", "hotel", "kitchen"]).mean
    0.5
    """
    require_choice("statistic", statistic, ("mean", "median"))
    if len(values) != len(scenes):
        raise ValueError(f"scenes: expected one for each of {len(values)} values, got {len(scenes)}")
    numbers = np.asarray(values, dtype=np.float64)
    of_scene = {name: numbers[[scene == name for scene in scenes]] for name in dict.fromkeys(scenes)}
    taken = {name: float(getattr(np, statistic)(part)) for name, part in of_scene.items()}
    mean = float(np.mean(list(taken.values()))) if taken else float("nan")
    pair_mean = float(numbers.mean()) if len(numbers) else float("nan")
    return SceneMeans(mean, pair_mean, taken, {name: len(part) for name, part in of_scene.items()})


def expected_calibration_error(confidence: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> float:
    """ECE: how far stated confidences are from how often they are right, on average.

    Args:
        confidence: one per answer, in [0, 1].
        right: whether each answer was right.
        bins: of equal width; the gap of a bin is weighted by its answers.
    Returns:
        In [0, 1]; NaN without answers.
    Raises:
        ValueError: not one truth per confidence, a confidence outside [0, 1].
    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
    0.0
    """
    stated, true = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if stated.shape != true.shape:
        raise ValueError(f"right: expected one for each of {len(stated)} confidences, got {len(true)}")
    if not ((stated >= 0) & (stated <= 1)).all():
        raise ValueError("confidence: expected numbers in [0, 1]")
    if not len(stated):
        return float("nan")
    place = np.minimum((stated * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=stated - true, minlength=bins)
    return float(np.abs(gaps).sum() / len(stated))


def _float64(name: str, value: Array, *shape: int | str) -> Tensor:
    """A float64 tensor on the CPU of the given shape."""
    # Arrays are copied, since torch warns of those that cannot be written to.
    tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, dtype=np.float64))
    tensor = tensor.to("cpu", torch.float64)
    require_shape(name, tensor, *shape)
    return tensor


def _poses(estimate: Array, truth: Array) -> tuple[Tensor, Tensor]:
    return _float64("estimate", estimate, 4, 4), _float64("truth", truth, 4, 4)


def _distances(points: Tensor, others: Tensor) -> Tensor:
    return torch.linalg.vector_norm(points - others, dim=1)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else 0.0
